#include "decode/idct.h"

#include <algorithm>
#include <cstring>

#include "base/simd.h"

#ifdef FASTTRAIN_X86
#include <immintrin.h>
#endif

namespace fasttrain {

namespace {

constexpr int kConstBits = 13;
constexpr int kPass1Bits = 2;
constexpr int kDescale1 = kConstBits - kPass1Bits;
constexpr int kDescale2 = kConstBits + kPass1Bits + 3;
// A zigzag index up to which all is in the top left 4 x 4.
constexpr int kLast4x4 = 9;

constexpr int fix(double value) {
    return static_cast<int>(value * (1 << kConstBits) + 0.5);
}
constexpr int k0298 = fix(0.298631336), k0390 = fix(0.390180644), k0541 = fix(0.541196100),
              k0765 = fix(0.765366865), k0899 = fix(0.899976223), k1175 = fix(1.175875602),
              k1501 = fix(1.501321110), k1847 = fix(1.847759065), k1961 = fix(1.961570560),
              k2053 = fix(2.053119869), k2562 = fix(2.562915447), k3072 = fix(3.072711026);

uint8_t clamp_sample(int value) {
    return static_cast<uint8_t>(std::clamp(value, 0, 255));
}

int saturate16(int value) {
    return std::clamp(value, -32768, 32767);
}

// One row or column, in place. Broken coefficients wrap and saturate as they do in 16-bit vectors.
void idct_line(int* line, int step, int descale) {
    uint32_t in[8];
    for (int i = 0; i < 8; ++i) in[i] = static_cast<uint32_t>(line[i * step]);
    const uint32_t even2 = in[2] * (k0541 + k0765) + in[6] * k0541;
    const uint32_t even6 = in[2] * k0541 + in[6] * (k0541 - k1847);
    const uint32_t sum = ((in[0] + in[4]) << kConstBits) + (1u << (descale - 1));
    const uint32_t difference = ((in[0] - in[4]) << kConstBits) + (1u << (descale - 1));
    const uint32_t even[4] = {sum + even2, difference + even6, difference - even6, sum - even2};
    const auto in73 = static_cast<uint32_t>(static_cast<int16_t>(in[7] + in[3]));
    const auto in51 = static_cast<uint32_t>(static_cast<int16_t>(in[5] + in[1]));
    const uint32_t z3 = in73 * (k1175 - k1961) + in51 * k1175;
    const uint32_t z4 = in73 * k1175 + in51 * (k1175 - k0390);
    const uint32_t odd[4] = {
        in[1] * (k1501 - k0899) - in[7] * k0899 + z4, in[3] * (k3072 - k2562) - in[5] * k2562 + z3,
        in[5] * (k2053 - k2562) - in[3] * k2562 + z4, in[7] * (k0298 - k0899) - in[1] * k0899 + z3};
    for (int i = 0; i < 4; ++i) {
        line[i * step] = saturate16(static_cast<int32_t>(even[i] + odd[i]) >> descale);
        line[(7 - i) * step] = saturate16(static_cast<int32_t>(even[i] - odd[i]) >> descale);
    }
}

void idct_plain(const IdctPair& pair) {
    for (int side = 0; side < 2; ++side) {
        int block[64];
        for (int i = 0; i < 64; ++i) {
            const int from = i / 8 * 16 + side * 8 + i % 8;
            block[i] = static_cast<int16_t>(pair.coefficients[from] * pair.quantisation[from]);
        }
        for (int column = 0; column < 8; ++column) idct_line(block + column, 8, kDescale1);
        for (int row = 0; row < 8; ++row) idct_line(block + row * 8, 1, kDescale2);
        const int ratio = 8 / pair.size;
        const int shift = 2 * __builtin_ctz(static_cast<unsigned>(ratio));
        for (int x = 0; x < pair.size; ++x)
            for (int y = 0; y < pair.size; ++y) {
                int sum = 0;
                for (int i = 0; i < ratio * ratio; ++i)
                    sum += clamp_sample(block[(y * ratio + i / ratio) * 8 + x * ratio + i % ratio] + 128);
                pair.at[side][static_cast<size_t>(x) * pair.stride[side] + static_cast<size_t>(y)] =
                    static_cast<uint8_t>((sum + (1 << shift >> 1)) >> shift);
            }
    }
    std::memset(pair.coefficients, 0, 128 * sizeof(int16_t));
}

#ifdef FASTTRAIN_X86

uint8_t dc_sample(int coefficient, int quantisation) {
    return clamp_sample(((static_cast<int16_t>(coefficient * quantisation) + 4) >> 3) + 128);
}

#define FASTTRAIN_AVX2 __attribute__((target("avx2"))) static FASTTRAIN_INLINE

// Interleaved a and b times the two constants, summed: the 32-bit halves of a * first + b * second.
struct Wide {
    __m256i low;
    __m256i high;
};

FASTTRAIN_AVX2 Wide operator+(Wide a, Wide b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
FASTTRAIN_AVX2 Wide operator-(Wide a, Wide b) {
    return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
FASTTRAIN_AVX2 Wide interleave(__m256i a, __m256i b) {
    return {_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)};
}
FASTTRAIN_AVX2 Wide weigh(Wide both, int first, int second) {
    const __m256i weights =
        _mm256_set1_epi32(static_cast<int>(static_cast<uint32_t>(second) << 16) | (first & 0xFFFF));
    return {_mm256_madd_epi16(both.low, weights), _mm256_madd_epi16(both.high, weights)};
}
template <int kDescale>
FASTTRAIN_AVX2 __m256i descale(Wide value) {
    return _mm256_packs_epi32(_mm256_srai_epi32(value.low, kDescale),
                              _mm256_srai_epi32(value.high, kDescale));
}

// One pass over eight vectors of 2 x 8 values. kLow: the last four are zero.
template <int kDescale, bool kLow>
FASTTRAIN_AVX2 void idct_pass(__m256i v[8]) {
    Wide even[4];
    Wide odd[4];
    const __m256i half = _mm256_set1_epi32(1 << (kDescale - 1));
    const Wide rounding = {half, half};
    if (kLow) {
        const Wide v02 = interleave(v[0], v[2]);
        const Wide v13 = interleave(v[1], v[3]);
        const Wide base = weigh(v02, 1 << kConstBits, 0) + rounding;
        const Wide even2 = weigh(v02, 0, k0541 + k0765);
        const Wide even6 = weigh(v02, 0, k0541);
        even[0] = base + even2, even[1] = base + even6, even[2] = base - even6, even[3] = base - even2;
        odd[0] = weigh(v13, k1501 - k0899 + k1175 - k0390, k1175);
        odd[1] = weigh(v13, k1175, k3072 - k2562 + k1175 - k1961);
        odd[2] = weigh(v13, k1175 - k0390, k1175 - k2562);
        odd[3] = weigh(v13, k1175 - k0899, k1175 - k1961);
    } else {
        const Wide v04 = interleave(v[0], v[4]);
        const Wide v26 = interleave(v[2], v[6]);
        const Wide sum = weigh(v04, 1 << kConstBits, 1 << kConstBits) + rounding;
        const Wide difference = weigh(v04, 1 << kConstBits, -(1 << kConstBits)) + rounding;
        const Wide even2 = weigh(v26, k0541 + k0765, k0541);
        const Wide even6 = weigh(v26, k0541, k0541 - k1847);
        even[0] = sum + even2, even[1] = difference + even6, even[2] = difference - even6,
        even[3] = sum - even2;
        const Wide z = interleave(_mm256_add_epi16(v[7], v[3]), _mm256_add_epi16(v[5], v[1]));
        const Wide z3 = weigh(z, k1175 - k1961, k1175);
        const Wide z4 = weigh(z, k1175, k1175 - k0390);
        const Wide v17 = interleave(v[1], v[7]);
        const Wide v35 = interleave(v[3], v[5]);
        odd[0] = weigh(v17, k1501 - k0899, -k0899) + z4;
        odd[1] = weigh(v35, k3072 - k2562, -k2562) + z3;
        odd[2] = weigh(v35, -k2562, k2053 - k2562) + z4;
        odd[3] = weigh(v17, -k0899, k0298 - k0899) + z3;
    }
    for (int i = 0; i < 4; ++i) {
        v[i] = descale<kDescale>(even[i] + odd[i]);
        v[7 - i] = descale<kDescale>(even[i] - odd[i]);
    }
}

// The 8 x 8 of each half.
FASTTRAIN_AVX2 void transpose(__m256i v[8]) {
    __m256i a[8];
    __m256i b[8];
    for (int i = 0; i < 4; ++i) {
        a[2 * i] = _mm256_unpacklo_epi16(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi16(v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        b[4 * i] = _mm256_unpacklo_epi32(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm256_unpackhi_epi32(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm256_unpacklo_epi32(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm256_unpackhi_epi32(a[4 * i + 1], a[4 * i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        v[2 * i] = _mm256_unpacklo_epi64(b[i], b[i + 4]);
        v[2 * i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 4]);
    }
}

template <bool kLow>
FASTTRAIN_AVX2 void load_and_transform(const IdctPair& pair, __m256i v[8]) {
    auto* coefficients = reinterpret_cast<__m256i*>(pair.coefficients);
    const auto* quantisation = reinterpret_cast<const __m256i*>(pair.quantisation);
    for (int row = 0; row < 8; ++row) {
        if (kLow && row >= 4) {
            v[row] = _mm256_setzero_si256();
            continue;
        }
        v[row] =
            _mm256_mullo_epi16(_mm256_load_si256(coefficients + row), _mm256_load_si256(quantisation + row));
        _mm256_store_si256(coefficients + row, _mm256_setzero_si256());
    }
    idct_pass<kDescale1, kLow>(v);
    transpose(v);
    idct_pass<kDescale2, kLow>(v);
}

FASTTRAIN_AVX2 void store(const IdctPair& pair, int bytes, int x, __m128i first, __m128i second) {
    for (int side = 0; side < 2; ++side)
        std::memcpy(pair.at[side] + static_cast<size_t>(x) * pair.stride[side], side == 0 ? &first : &second,
                    static_cast<size_t>(bytes));
}

__attribute__((target("avx2"))) void fill_dc(const IdctPair& pair) {
    for (int side = 0; side < 2; ++side) {
        int16_t& dc = pair.coefficients[side * 8];
        const uint64_t samples = dc_sample(dc, pair.quantisation[side * 8]) * 0x0101010101010101u;
        dc = 0;
        for (int x = 0; x < pair.size; ++x)
            std::memcpy(pair.at[side] + static_cast<size_t>(x) * pair.stride[side], &samples,
                        static_cast<size_t>(pair.size));
    }
}

__attribute__((target("avx2"))) void idct_avx2(const IdctPair& pair) {
    if (pair.last == 0) return fill_dc(pair);
    __m256i v[8];
    if (pair.last <= kLast4x4)
        load_and_transform<true>(pair, v);
    else
        load_and_transform<false>(pair, v);
    const __m256i centre = _mm256_set1_epi8(-128);
    __m256i columns[4];  // of the first block: column 2i, column 2i + 1; then of the second
    for (int i = 0; i < 4; ++i)
        columns[i] = _mm256_xor_si256(_mm256_packs_epi16(v[2 * i], v[2 * i + 1]), centre);
    if (pair.size == 8) {
        for (int i = 0; i < 4; ++i) {
            const __m128i a = _mm256_castsi256_si128(columns[i]);
            const __m128i b = _mm256_extracti128_si256(columns[i], 1);
            store(pair, 8, 2 * i, a, b);
            store(pair, 8, 2 * i + 1, _mm_unpackhi_epi64(a, a), _mm_unpackhi_epi64(b, b));
        }
        return;
    }
    const __m256i ones = _mm256_set1_epi8(1);
    __m256i sums[4];  // of 2 x 2, in the low 4 x 16 bits of each half
    for (int i = 0; i < 4; ++i) {
        const __m256i pairs = _mm256_maddubs_epi16(columns[i], ones);
        sums[i] = _mm256_add_epi16(pairs, _mm256_unpackhi_epi64(pairs, pairs));
    }
    if (pair.size == 4) {
        for (int i = 0; i < 4; ++i) {
            const __m256i mean = _mm256_srli_epi16(_mm256_add_epi16(sums[i], _mm256_set1_epi16(2)), 2);
            const __m256i bytes = _mm256_packus_epi16(mean, mean);
            store(pair, 4, i, _mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
        }
        return;
    }
    for (int i = 0; i < 2; ++i) {
        const __m256i sum =
            _mm256_madd_epi16(_mm256_add_epi16(sums[2 * i], sums[2 * i + 1]), _mm256_set1_epi16(1));
        const __m256i mean = _mm256_srli_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(8)), 4);
        const __m256i words = _mm256_packs_epi32(mean, mean);
        const __m256i bytes = _mm256_packus_epi16(words, words);
        store(pair, 2, i, _mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    }
}

#endif

}  // namespace

void idct(const IdctPair& pair) {
#ifdef FASTTRAIN_X86
    if (simd_level() != Simd::plain) return idct_avx2(pair);
#endif
    idct_plain(pair);
}

}  // namespace fasttrain
