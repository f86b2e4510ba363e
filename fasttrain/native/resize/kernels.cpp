#include "resize/kernels.h"

#include <algorithm>
#include <cstring>

#include "base/simd.h"

#ifdef FASTTRAIN_X86
#include <immintrin.h>
#endif

namespace fasttrain {

namespace {

constexpr int kChunk = 64;

uint16_t rounding_of(int taps) {
    return static_cast<uint16_t>(
        128 + std::min(taps / 2, 100));  // each product is rounded down, by a half on average
}

// Plain loops of fixed length, which compilers turn into each target's vectors.
template <int kSize>
FASTTRAIN_INLINE void weigh_some(const uint8_t* line, size_t stride, int taps, const uint16_t* weights,
                                 uint8_t* out) {
    uint16_t sums[kSize];
    for (int i = 0; i < kSize; ++i) sums[i] = rounding_of(taps);
    for (int k = 0; k < taps; ++k, line += stride) {
        const uint32_t weight = weights[k];
        for (int i = 0; i < kSize; ++i)
            sums[i] = static_cast<uint16_t>(sums[i] + ((static_cast<uint32_t>(line[i]) << 8) * weight >> 16));
    }
    for (int i = 0; i < kSize; ++i) out[i] = static_cast<uint8_t>(sums[i] >> 8);
}

FASTTRAIN_INLINE void weigh_body(const uint8_t* lines, size_t stride, int taps, const uint16_t* weights,
                                 int length, uint8_t* out) {
    int x = 0;
    for (; x + kChunk <= length; x += kChunk) weigh_some<kChunk>(lines + x, stride, taps, weights, out + x);
    for (; x < length; x += kChunk / 2) weigh_some<kChunk / 2>(lines + x, stride, taps, weights, out + x);
}

// a * b / 65536, rounded down.
FASTTRAIN_INLINE int16_t multiply_high(int16_t a, int16_t b) {
    return static_cast<int16_t>(static_cast<int32_t>(a) * b >> 16);
}

FASTTRAIN_INLINE uint8_t to_sample(int value) {
    return static_cast<uint8_t>(std::clamp(value >> 6, 0, 255));
}

// ITU-R BT.601 at full range, as JFIF says, times 2^14: products of a chroma sample's distance from 128, as
// the upper byte of 16 bits, have 6 bits beyond the point.
constexpr int16_t kRedCr = 22970, kGreenCb = 5638, kGreenCr = 11700, kBlueCb = 29032;

FASTTRAIN_INLINE void ycc_body(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int length,
                               uint8_t* out) {
    for (int x = 0; x < length; ++x) {
        const auto luma = static_cast<int16_t>((y[x] << 6) + 32);
        const auto blue = static_cast<int16_t>((cb[x] - 128) * 256);
        const auto red = static_cast<int16_t>((cr[x] - 128) * 256);
        out[3 * x] = to_sample(luma + multiply_high(red, kRedCr));
        out[3 * x + 1] = to_sample(luma - multiply_high(blue, kGreenCb) - multiply_high(red, kGreenCr));
        out[3 * x + 2] = to_sample(luma + multiply_high(blue, kBlueCb));
    }
}

FASTTRAIN_INLINE void interleave_body(const uint8_t* first, const uint8_t* second, const uint8_t* third,
                                      int length, uint8_t* out) {
    for (int x = 0; x < length; ++x) {
        out[3 * x] = first[x];
        out[3 * x + 1] = second[x];
        out[3 * x + 2] = third[x];
    }
}

void split_tile(const uint8_t* rgb, size_t row_stride, int across, int down, uint8_t tiles[3][16][16]) {
    for (int row = 0; row < down; ++row, rgb += row_stride)
        for (int x = 0; x < across; ++x)
            for (int colour = 0; colour < 3; ++colour) tiles[colour][row][x] = rgb[3 * x + colour];
}

#ifdef FASTTRAIN_X86

// Two samples at a time as one 16-bit number, each multiplied as its upper byte: no unpacking and no packing,
// which compilers don't find.
template <int kVectors>
__attribute__((target("avx2"))) FASTTRAIN_INLINE void weigh_pairs(const uint8_t* line, size_t stride,
                                                                  int taps, const uint16_t* weights,
                                                                  uint8_t* out) {
    const __m256i high_byte = _mm256_set1_epi16(static_cast<int16_t>(0xFF00));
    __m256i upper[kVectors];
    __m256i lower[kVectors];
    for (int i = 0; i < kVectors; ++i)
        upper[i] = lower[i] = _mm256_set1_epi16(static_cast<int16_t>(rounding_of(taps)));
    for (int k = 0; k < taps; ++k, line += stride) {
        const __m256i weight = _mm256_set1_epi16(static_cast<int16_t>(weights[k]));
        for (int i = 0; i < kVectors; ++i) {
            const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line) + i);
            upper[i] =
                _mm256_add_epi16(upper[i], _mm256_mulhi_epu16(_mm256_and_si256(pairs, high_byte), weight));
            lower[i] = _mm256_add_epi16(lower[i], _mm256_mulhi_epu16(_mm256_slli_epi16(pairs, 8), weight));
        }
    }
    for (int i = 0; i < kVectors; ++i)
        _mm256_storeu_si256(
            reinterpret_cast<__m256i*>(out) + i,
            _mm256_or_si256(_mm256_and_si256(upper[i], high_byte), _mm256_srli_epi16(lower[i], 8)));
}

__attribute__((target("avx2"))) void weigh_avx2(const uint8_t* lines, size_t stride, int taps,
                                                const uint16_t* weights, int length, uint8_t* out) {
    int x = 0;
    for (; x + 128 <= length; x += 128) weigh_pairs<4>(lines + x, stride, taps, weights, out + x);
    for (; x + 64 <= length; x += 64) weigh_pairs<2>(lines + x, stride, taps, weights, out + x);
    for (; x < length; x += 32) weigh_pairs<1>(lines + x, stride, taps, weights, out + x);
}

#ifdef __clang__
__attribute__((target("avx512bw,avx512vl"), min_vector_width(512)))
#else
__attribute__((target("avx512bw,avx512vl,prefer-vector-width=512")))
#endif
void weigh_avx512(
    const uint8_t* lines, size_t stride, int taps, const uint16_t* weights, int length, uint8_t* out) {
    weigh_body(lines, stride, taps, weights, length, out);
}

// Shuffles between three vectors of 16 samples and the 48 bytes of RGB that they make.
struct ShuffleMasks {
    alignas(16) int8_t join[3][3][16];   // [third of the 48][colour]
    alignas(16) int8_t split[3][3][16];  // [colour][third of the 48]
    constexpr ShuffleMasks() : join(), split() {
        for (int third = 0; third < 3; ++third)
            for (int colour = 0; colour < 3; ++colour)
                for (int i = 0; i < 16; ++i) {
                    const int joined = i + 16 * third;
                    join[third][colour][i] = static_cast<int8_t>(joined % 3 == colour ? joined / 3 : -128);
                    const int from = 3 * i + colour;
                    split[colour][third][i] = static_cast<int8_t>(from / 16 == third ? from % 16 : -128);
                }
    }
};
constexpr ShuffleMasks kShuffles;

__attribute__((target("avx2"))) FASTTRAIN_INLINE __m128i shuffle_three(__m128i a, __m128i b, __m128i c,
                                                                       const int8_t masks[3][16]) {
    const auto* at = reinterpret_cast<const __m128i*>(masks);
    return _mm_or_si128(
        _mm_or_si128(_mm_shuffle_epi8(a, _mm_load_si128(at)), _mm_shuffle_epi8(b, _mm_load_si128(at + 1))),
        _mm_shuffle_epi8(c, _mm_load_si128(at + 2)));
}

__attribute__((target("avx2"))) void split_tile_avx2(const uint8_t* rgb, size_t row_stride,
                                                     uint8_t tiles[3][16][16]) {
    for (size_t row = 0; row < 16; ++row, rgb += row_stride) {
        const auto* from = reinterpret_cast<const __m128i*>(rgb);
        const __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1), c = _mm_loadu_si128(from + 2);
        for (size_t colour = 0; colour < 3; ++colour)
            _mm_store_si128(reinterpret_cast<__m128i*>(tiles[colour][row]),
                            shuffle_three(a, b, c, kShuffles.split[colour]));
    }
}

__attribute__((target("avx2"))) FASTTRAIN_INLINE void interleave_16_avx2(__m128i first, __m128i second,
                                                                         __m128i third, uint8_t* out) {
    for (int i = 0; i < 3; ++i)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out) + i,
                         shuffle_three(first, second, third, kShuffles.join[i]));
}

__attribute__((target("avx2"))) void interleave_avx2(const uint8_t* first, const uint8_t* second,
                                                     const uint8_t* third, int length, uint8_t* out) {
    for (int x = 0; x < length; x += 16)
        interleave_16_avx2(_mm_loadu_si128(reinterpret_cast<const __m128i*>(first + x)),
                           _mm_loadu_si128(reinterpret_cast<const __m128i*>(second + x)),
                           _mm_loadu_si128(reinterpret_cast<const __m128i*>(third + x)), out + 3 * x);
}

// The upper or lower eight of each half of 32 samples, as the upper bytes of 16-bit numbers.
template <bool kUpper>
__attribute__((target("avx2"))) FASTTRAIN_INLINE __m256i widen(__m256i samples) {
    const __m256i zero = _mm256_setzero_si256();
    return kUpper ? _mm256_unpackhi_epi8(zero, samples) : _mm256_unpacklo_epi8(zero, samples);
}

template <bool kUpper>
__attribute__((target("avx2"))) FASTTRAIN_INLINE void ycc_sixteen(__m256i y, __m256i cb, __m256i cr,
                                                                  __m256i rgb[3]) {
    const __m256i centre = _mm256_set1_epi16(-32768);
    const __m256i luma = _mm256_add_epi16(_mm256_srli_epi16(widen<kUpper>(y), 2), _mm256_set1_epi16(32));
    const __m256i blue = _mm256_xor_si256(widen<kUpper>(cb), centre);
    const __m256i red = _mm256_xor_si256(widen<kUpper>(cr), centre);
    const __m256i green = _mm256_add_epi16(_mm256_mulhi_epi16(blue, _mm256_set1_epi16(kGreenCb)),
                                           _mm256_mulhi_epi16(red, _mm256_set1_epi16(kGreenCr)));
    rgb[0] = _mm256_srai_epi16(_mm256_add_epi16(luma, _mm256_mulhi_epi16(red, _mm256_set1_epi16(kRedCr))), 6);
    rgb[1] = _mm256_srai_epi16(_mm256_sub_epi16(luma, green), 6);
    rgb[2] =
        _mm256_srai_epi16(_mm256_add_epi16(luma, _mm256_mulhi_epi16(blue, _mm256_set1_epi16(kBlueCb))), 6);
}

__attribute__((target("avx2"))) void ycc_avx2(const uint8_t* y, const uint8_t* cb, const uint8_t* cr,
                                              int length, uint8_t* out) {
    for (int x = 0; x < length; x += 32) {
        const __m256i lumas = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(y + x));
        const __m256i blues = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(cb + x));
        const __m256i reds = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(cr + x));
        __m256i lower[3];
        __m256i upper[3];
        ycc_sixteen<false>(lumas, blues, reds, lower);
        ycc_sixteen<true>(lumas, blues, reds, upper);
        for (int i = 0; i < 3; ++i) lower[i] = _mm256_packus_epi16(lower[i], upper[i]);
        interleave_16_avx2(_mm256_castsi256_si128(lower[0]), _mm256_castsi256_si128(lower[1]),
                           _mm256_castsi256_si128(lower[2]), out + 3 * x);
        interleave_16_avx2(_mm256_extracti128_si256(lower[0], 1), _mm256_extracti128_si256(lower[1], 1),
                           _mm256_extracti128_si256(lower[2], 1), out + 3 * x + 48);
    }
}

// SSE2 is part of x86-64.
void transpose_16(const uint8_t* from, size_t from_stride, uint8_t* to, size_t to_stride) {
    __m128i a[16];
    __m128i b[16];
    for (size_t i = 0; i < 16; ++i)
        a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * from_stride));
    // Four rounds of a perfect shuffle of the 16 lines are a transposition.
    for (int round = 0; round < 4; ++round) {
        for (int i = 0; i < 8; ++i) {
            b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
            b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
        }
        std::copy(b, b + 16, a);
    }
    for (size_t i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * to_stride), a[i]);
}

#else

void transpose_16(const uint8_t* from, size_t from_stride, uint8_t* to, size_t to_stride) {
    for (size_t i = 0; i < 16; ++i)
        for (size_t j = 0; j < 16; ++j) to[j * to_stride + i] = from[i * from_stride + j];
}

#endif

}  // namespace

void weigh_lines(const uint8_t* lines, size_t stride, int taps, const uint16_t* weights, int length,
                 uint8_t* out) {
#ifdef FASTTRAIN_X86
    if (simd_level() == Simd::avx512) return weigh_avx512(lines, stride, taps, weights, length, out);
    if (simd_level() == Simd::avx2) return weigh_avx2(lines, stride, taps, weights, length, out);
#endif
    weigh_body(lines, stride, taps, weights, length, out);
}

void transpose(const uint8_t* from, size_t from_stride, int lines, int length, uint8_t* to,
               size_t to_stride) {
    for (int y = 0; y < length; y += 16)
        for (int x = 0; x < lines; x += 16)
            transpose_16(from + static_cast<size_t>(x) * from_stride + static_cast<size_t>(y), from_stride,
                         to + static_cast<size_t>(y) * to_stride + static_cast<size_t>(x), to_stride);
}

void split_rgb(const uint8_t* rows, size_t row_stride, int width, int height, uint8_t* const planes[3],
               size_t stride) {
    const int across = std::min(16, width);
    const int down = std::min(16, height);
    // The last tiles overlap the ones before, so that all are whole where the picture is no smaller.
    for (int top = 0; top < height; top += 16)
        for (int left = 0; left < width; left += 16) {
            const auto x = static_cast<size_t>(std::min(left, width - across));
            const auto y = static_cast<size_t>(std::min(top, height - down));
            const uint8_t* from = rows + y * row_stride + x * 3;
            alignas(16) uint8_t tiles[3][16][16];
#ifdef FASTTRAIN_X86
            if (across == 16 && down == 16 && simd_level() != Simd::plain)
                split_tile_avx2(from, row_stride, tiles);
            else
#endif
                split_tile(from, row_stride, across, down, tiles);
            for (int c = 0; c < 3; ++c) {
                uint8_t* to = planes[c] + x * stride + y;
                if (across == 16 && down == 16) {
                    transpose_16(tiles[c][0], 16, to, stride);
                    continue;
                }
                for (int i = 0; i < across; ++i)
                    for (int j = 0; j < down; ++j)
                        to[static_cast<size_t>(i) * stride + static_cast<size_t>(j)] = tiles[c][j][i];
            }
        }
}

void convert_line(const uint8_t* first, const uint8_t* second, const uint8_t* third, Colour colour,
                  int length, uint8_t* out) {
#ifdef FASTTRAIN_X86
    if (simd_level() != Simd::plain) {
        if (colour == Colour::ycc) return ycc_avx2(first, second, third, length, out);
        return interleave_avx2(first, second, third, length, out);
    }
#endif
    if (colour == Colour::ycc) return ycc_body(first, second, third, length, out);
    interleave_body(first, second, third, length, out);
}

}  // namespace fasttrain
