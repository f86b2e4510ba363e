#include "decode/idct.h"

#include <algorithm>
#include <cstring>

namespace fasttrain {

namespace {

constexpr int kConstBits = 13;
constexpr int kPass1Bits = 2;
constexpr int kDescale1 = kConstBits - kPass1Bits;
constexpr int kDescale2 = kConstBits + kPass1Bits + 3;
// Coefficients up to this zigzag index are in the top left 4 x 4 of a block.
constexpr int kLast4x4 = 9;

constexpr int fix(double value) {
    return static_cast<int>(value * (1 << kConstBits) + 0.5);
}
constexpr int k0298 = fix(0.298631336), k0390 = fix(0.390180644), k0541 = fix(0.541196100),
              k0765 = fix(0.765366865), k0899 = fix(0.899976223), k1175 = fix(1.175875602),
              k1501 = fix(1.501321110), k1847 = fix(1.847759065), k1961 = fix(1.961570560),
              k2053 = fix(2.053119869), k2562 = fix(2.562915447), k3072 = fix(3.072711026);

template <class Columns>
void fill_columns(Columns samples, uint8_t* at, size_t stride) {
    for (size_t x = 0; x < sizeof(samples); ++x) std::memcpy(at + x * stride, &samples, sizeof(samples));
}

void fill_dc(const IdctPair& pair) {
    for (int side = 0; side < 2; ++side) {
        int16_t& dc = pair.coefficients[side * 8];
        const int value = static_cast<int16_t>(dc * pair.quantisation[side * 8]);
        const uint64_t samples =
            static_cast<uint64_t>(std::clamp(((value + 4) >> 3) + 128, 0, 255)) * 0x0101010101010101u;
        dc = 0;
        if (pair.size == 8)
            fill_columns(samples, pair.at[side], pair.stride[side]);
        else if (pair.size == 4)
            fill_columns(static_cast<uint32_t>(samples), pair.at[side], pair.stride[side]);
        else
            fill_columns(static_cast<uint16_t>(samples), pair.at[side], pair.stride[side]);
    }
}

}  // namespace

}  // namespace fasttrain

#define FASTTRAIN_KERNELS "decode/idct.inc"
#include "base/each_target.h"

namespace fasttrain {

void idct(const IdctPair& pair) {
    if (pair.last == 0) return fill_dc(pair);
    FASTTRAIN_DISPATCH(idct(pair));
}

}  // namespace fasttrain
