#include "resize/kernels.h"

#include <algorithm>

namespace fasttrain {

// The coefficients of ITU-R BT.601 at full range, as JFIF requires, times 2^14. A chroma sample's distance
// from 128 is the upper byte of 16 bits, so its products with them have 6 fractional bits.
constexpr uint16_t kRedCr = 22970, kGreenCb = 5638, kGreenCr = 11700, kBlueCb = 29032;

}  // namespace fasttrain

#define FASTTRAIN_KERNELS "resize/kernels.inc"
#include "base/each_target.h"

namespace fasttrain {

WeighLines* weigh_lines(Filter filter) {
    FASTTRAIN_DISPATCH(weigh_lines(filter));
}

void transpose(const uint8_t* from, size_t from_stride, int lines, int length, uint8_t* to,
               size_t to_stride) {
    FASTTRAIN_DISPATCH(transpose(from, from_stride, lines, length, to, to_stride));
}

void split_rgb(const uint8_t* rows, size_t row_stride, int width, int height, uint8_t* const planes[3],
               size_t stride) {
    FASTTRAIN_DISPATCH(split_rgb(rows, row_stride, width, height, planes, stride));
}

void convert_line(const uint8_t* first, const uint8_t* second, const uint8_t* third, Colour colour,
                  int length, uint8_t* out) {
    FASTTRAIN_DISPATCH(convert_line(first, second, third, colour, length, out));
}

}  // namespace fasttrain
