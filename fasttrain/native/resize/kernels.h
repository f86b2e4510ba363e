#pragma once

#include <cstddef>
#include <cstdint>

#include "resize/resize.h"

namespace fasttrain {

// Lines are handled in whole vectors of so many samples: sources are readable and targets writable to a
// multiple.
constexpr size_t kVector = 32;

// out[i] = the sum over k < taps of weights[k] / 65536 * lines[k * stride + i], rounded.
void weigh_lines(const uint8_t* lines, size_t stride, int taps, const uint16_t* weights, int length,
                 uint8_t* out);

// `lines` lines of `length` samples (both multiples of 16) into `length` lines of `lines` samples.
void transpose(const uint8_t* from, size_t from_stride, int lines, int length, uint8_t* to, size_t to_stride);

// Interleaved RGB rows into three transposed planes.
void split_rgb(const uint8_t* rows, size_t row_stride, int width, int height, uint8_t* const planes[3],
               size_t stride);

// Three lines of samples to interleaved RGB.
void convert_line(const uint8_t* first, const uint8_t* second, const uint8_t* third, Colour colour,
                  int length, uint8_t* out);

}  // namespace fasttrain
