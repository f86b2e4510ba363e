// Includes FASTTRAIN_KERNELS, a file of functions on vectors (see base/vector.inc), once for each instruction
// set, each time in its own namespace. Compilers split wide vectors before they inline, so every function
// that handles them must itself be compiled for the instruction set.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "base/simd.h"

#if defined(FASTTRAIN_X86)
#include <immintrin.h>
#elif defined(FASTTRAIN_NEON)
#include <arm_neon.h>
#endif

// The instructions that every machine of the architecture has: SSE2 or NEON.
#define FASTTRAIN_VECTOR_BYTES 16
#define FASTTRAIN_WIDE_BYTES 16
namespace fasttrain::baseline {
namespace {
#include "base/vector.inc"
#include FASTTRAIN_KERNELS
}  // namespace
}  // namespace fasttrain::baseline

#ifdef FASTTRAIN_X86
#undef FASTTRAIN_VECTOR_BYTES
#undef FASTTRAIN_WIDE_BYTES
#define FASTTRAIN_VECTOR_BYTES 32
#define FASTTRAIN_WIDE_BYTES 32
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2")
#endif
namespace fasttrain::avx2 {
namespace {
#include "base/vector.inc"
#include FASTTRAIN_KERNELS
}  // namespace
}  // namespace fasttrain::avx2

#undef FASTTRAIN_WIDE_BYTES
#define FASTTRAIN_WIDE_BYTES 64
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512bw,avx512vl,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx512bw,avx512vl")
#endif
namespace fasttrain::avx512 {
namespace {
#include "base/vector.inc"
#include FASTTRAIN_KERNELS
}  // namespace
}  // namespace fasttrain::avx512
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define FASTTRAIN_DISPATCH(...)           \
    switch (simd_level()) {               \
        case Simd::avx512:                \
            return avx512::__VA_ARGS__;   \
        case Simd::avx2:                  \
            return avx2::__VA_ARGS__;     \
        default:                          \
            return baseline::__VA_ARGS__; \
    }
#else
#define FASTTRAIN_DISPATCH(...) return baseline::__VA_ARGS__
#endif
