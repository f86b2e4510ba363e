#pragma once

#include <cstddef>
#include <cstdint>

#include "resize/resize.h"

namespace fasttrain {

// Lines are processed in vectors of this many samples, so sources must be readable and targets writable up to
// a multiple of it.
constexpr size_t kVector = 32;

// out[i] = the sum over k < taps of weights[k] * lines[k * stride + i], rounded. The triangle's weights are
// multiplied by 65536. The cubic's are signed and multiplied by 1 << kSignedBits, and its sums are clamped to
// 0 .. 255.
using WeighLines = void(const uint8_t* lines, size_t stride, int taps, const uint16_t* weights, int length,
                        uint8_t* out);
constexpr int kSignedBits = 14;  // an enlarging cubic has weights up to 1.125
WeighLines* weigh_lines(Filter filter);

// Transposes `lines` lines of `length` samples (both multiples of 16) into `length` lines of `lines` samples.
void transpose(const uint8_t* from, size_t from_stride, int lines, int length, uint8_t* to, size_t to_stride);

// Splits interleaved RGB rows into three transposed planes.
void split_rgb(const uint8_t* rows, size_t row_stride, int width, int height, uint8_t* const planes[3],
               size_t stride);

// Converts three lines of samples of `colour` to one line of interleaved RGB.
void convert_line(const uint8_t* first, const uint8_t* second, const uint8_t* third, Colour colour,
                  int length, uint8_t* out);

}  // namespace fasttrain
