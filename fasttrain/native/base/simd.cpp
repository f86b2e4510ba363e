#include "base/simd.h"

namespace fasttrain {

namespace {

Simd widest() {
#ifdef FASTTRAIN_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2")) return Simd::plain;
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) return Simd::avx512;
    return Simd::avx2;
#else
    return Simd::plain;
#endif
}

}  // namespace

Simd chosen_simd_level = widest();

bool set_simd_level(Simd level) {
    if (level > widest()) return false;
    chosen_simd_level = level;
    return true;
}

}  // namespace fasttrain
