#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fasttrain {

// A box in pixels of the photograph, with the rows top .. top + height - 1.
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
    double across;  // samples per pixel of the photograph, horizontally and vertically
    double down;
};

constexpr size_t kResizeSlack = 64;

enum class Colour { grey, ycc, rgb };

// triangle: bilinear. cubic: bicubic with a = -0.5, as in Pillow and torchvision.
enum class Filter { triangle, cubic };

// The numbers that determine an axis: samples per pixel, the plane's first sample and number of samples, the
// box's first pixel and number of pixels, and the number of output pixels.
struct AxisSource {
    double density = 0;
    int origin = 0;
    int samples = 0;
    int first_pixel = 0;
    int pixels = 0;
    int outputs = 0;
    bool half = false;  // derived from the luma's axis, which the other fields describe
    Filter filter = Filter::triangle;

    bool operator==(const AxisSource& other) const {
        return density == other.density && origin == other.origin && samples == other.samples &&
               first_pixel == other.first_pixel && pixels == other.pixels && outputs == other.outputs &&
               half == other.half && filter == other.filter;
    }
};

// The first sample, the number of samples and the weights of each output along one axis. An axis is kept
// between calls, because planes and photographs often have the same one.
struct ResizeAxis {
    AxisSource source;
    std::vector<int> first;
    std::vector<int> count;
    std::vector<uint16_t> weights;  // `taps` for each output; the cubic filter's are signed
    std::vector<float> exact;       // the cubic filter's weights of one output before rounding
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

// Resizes `box` of the planes to `size`, and writes size.height * size.width * 3 bytes, RGB as JFIF defines
// it. There is one plane, or there are three, of which the second and third have the same resolution.
//
// The antialiased filter is that of Pillow and torchvision (plain bilinear or bicubic if it enlarges). It is
// applied horizontally, rounded to 8 bits, and then vertically. The result is mirrored if `flip`. Chroma of
// half the luma's resolution is upsampled in the same step, like libjpeg's "fancy" upsampling. A component's
// samples are assumed to be in the centre of the pixels that they cover. Only samples that `box` touches are
// used.
//
// The triangle's weights have 16 bits and its sums 8 fractional bits, so each pass is within 0.5 + n / 256
// grey levels of the exact result for n taps: within 0.55 when shrinking to a quarter. The cubic filter's
// sums are exact and its weights have 14 fractional bits, with the same bound.
void resize_planes(const Plane* planes, Colour colour, const CropBox& box, bool flip, OutputSize size,
                   Filter filter, ResizeScratch& scratch, uint8_t* out);

}  // namespace fasttrain
