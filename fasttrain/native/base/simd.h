#pragma once

#include <cstdint>
#include <cstring>

#define FASTTRAIN_INLINE inline __attribute__((always_inline))
#if defined(FASTTRAIN_GENERIC_VECTORS)
// For tests: behave like a machine without vector instructions.
#elif defined(__x86_64__)
#define FASTTRAIN_X86 1
#elif defined(__aarch64__)
#define FASTTRAIN_NEON 1
#endif

namespace fasttrain {

// The vector instructions to use. plain: those that every machine of the architecture has (SSE2 or NEON).
enum class Simd { plain, avx2, avx512 };

// The widest level of this machine, or a narrower one chosen by a test.
extern Simd chosen_simd_level;
inline Simd simd_level() {
    return chosen_simd_level;
}
// Chooses a level. Returns false if the machine lacks it. Must not be called while a pool is decoding.
bool set_simd_level(Simd level);

FASTTRAIN_INLINE uint64_t big_endian(uint64_t word) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return __builtin_bswap64(word);
#else
    return word;
#endif
}

FASTTRAIN_INLINE uint64_t load_big_endian(const uint8_t* at) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    return big_endian(word);
}

}  // namespace fasttrain
