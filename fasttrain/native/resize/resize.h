#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fasttrain {

// In pixels of the photograph: rows top .. top + height - 1.
struct CropBox {
    int top;
    int left;
    int height;
    int width;
};

struct OutputSize {
    int height;
    int width;
};

// A decoded rectangle of one component, transposed: the sample in column x and row y of the component (not of
// the rectangle) is at data[(x - left) * stride + y - top]. kResizeSlack bytes may be read beyond its end.
struct Plane {
    const uint8_t* data;
    size_t stride;
    int left;
    int top;
    int columns;
    int rows;
    double across;  // samples a pixel of the photograph, horizontally
    double down;
};

constexpr size_t kResizeSlack = 64;

enum class Colour { grey, ycc, rgb };

// triangle: bilinear. cubic: bicubic with a = -0.5, as Pillow's and torchvision's.
enum class Filter { triangle, cubic };

// The numbers that an axis is made from: a plane's samples a pixel, its first sample and their number, the
// box's first pixel and their number, and the output's.
struct AxisSource {
    double density = 0;
    int origin = 0;
    int samples = 0;
    int first_pixel = 0;
    int pixels = 0;
    int outputs = 0;
    bool half = false;  // derived from the luma's axis, which is the rest
    Filter filter = Filter::triangle;

    bool operator==(const AxisSource& other) const {
        return density == other.density && origin == other.origin && samples == other.samples &&
               first_pixel == other.first_pixel && pixels == other.pixels && outputs == other.outputs &&
               half == other.half && filter == other.filter;
    }
};

// Taps and weights of one axis; kept between calls because neighbouring planes and photographs share them.
struct ResizeAxis {
    AxisSource source;
    std::vector<int> first;
    std::vector<int> count;
    std::vector<uint16_t> weights;  // `taps` for each output; the cubic's are signed
    std::vector<float> exact;       // the cubic's of one output
    int taps = 0;
    int low = 0;
    int high = 0;
};

struct ResizeScratch {
    ResizeAxis horizontal[2];
    ResizeAxis vertical[2];
    std::vector<uint8_t> columns;
    std::vector<uint8_t> rows[3];
};

// Resizes `box` of the planes (one, or three, the second and third alike) to `size` with an antialiased
// filter of Pillow and torchvision (plain bilinear or bicubic when it enlarges): horizontally, rounded to 8
// bits, then vertically. Mirrors the result if `flip`, and converts it to RGB as JFIF defines it. Chroma of
// half the luma's resolution is upsampled like libjpeg's "fancy" upsampling, in the same step. A component's
// samples are assumed to be in the centre of the pixels that they cover; taps are clamped to the samples that
// `box` touches. Writes size.height * size.width * 3 bytes.
//
// The triangle's weights have 16 bits and its sums 8 fractional bits, so each pass is within 0.5 + n / 256
// grey levels of the exact result for n taps: 0.55 at 4 to 1. The cubic's sums are exact and its weights have
// 14 fractional bits, with the same bound.
void resize_planes(const Plane* planes, Colour colour, const CropBox& box, bool flip, OutputSize size,
                   Filter filter, ResizeScratch& scratch, uint8_t* out);

}  // namespace fasttrain
