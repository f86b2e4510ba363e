#pragma once

#include <vector>

#include "cut/fast.h"
#include "decode/decode.h"
#include "decode/tables.h"
#include "jpeg/entropy.h"

namespace fasttrain {

struct DecodeScratch::Buffers {
    DecodeTables tables;
    McuCoefficients coefficients[2] = {};
    std::vector<Segment> segments;
    std::vector<uint8_t> bytes[2];  // segments without stuffing, or libjpeg's rows
    std::vector<uint8_t> samples;   // of the planes
    Plane planes[3];
    Colour colour = Colour::grey;
    ResizeScratch resize;
};

// Returns the size to decode 8 x 8 blocks to: the smallest of 8, 4 and 2 that leaves at least twice the
// output's samples for the filter, or 8 if none does. Means of samples, followed by the triangle filter, are
// then close to the triangle filter alone.
int reduced_block(double samples_across, double samples_down, OutputSize size);

// Both functions decode at least `box` into planes, samples and colour of `buffers`. With `limits`, the
// complete scan is checked as cut_jpeg would check it, and JpegError is thrown if it isn't intact.
void decode_rectangle(const uint8_t* data, size_t size, const CropBox& box, OutputSize output,
                      DecodeScratch::Buffers& buffers, const ScanLimits* limits = nullptr);
void decode_with_libjpeg(const uint8_t* data, size_t size, const CropBox& box, OutputSize output,
                         DecodeScratch::Buffers& buffers);

// Makes three planes in `buffers`, with `rows` rows and `columns` columns each, at `left`, `top`.
void make_rgb_planes(int left, int top, int columns, int rows, double scale, DecodeScratch::Buffers& buffers,
                     uint8_t* planes[3]);

}  // namespace fasttrain
