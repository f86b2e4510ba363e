#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "resize/resize.h"

// One component, row by row.
struct ReferencePlane {
    int width = 0;
    int height = 0;
    double across = 1;  // samples a pixel of the photograph
    double down = 1;
    std::vector<uint8_t> samples;
    uint8_t at(int x, int y) const {
        return samples[static_cast<size_t>(y) * static_cast<size_t>(width) + static_cast<size_t>(x)];
    }
};

enum class ReferenceColour { rgb, ycc };

// One plane (grey) or three.
struct Reference {
    ReferenceColour colour = ReferenceColour::rgb;
    std::vector<ReferencePlane> planes;
};

// libjpeg's RGB at `block` / 8 of the size. False where it refuses the file, or warns of made-up pixels.
bool read_rgb(const std::vector<uint8_t>& jpeg, int block, Reference& out);

// libjpeg's components, each at its own resolution, whole blocks of them; grey, YCbCr or RGB only.
bool read_planes(const std::vector<uint8_t>& jpeg, Reference& out);

// False where an 8-bit picture can't have the coefficients, and the IDCT's 16-bit sums may overflow.
bool coefficients_are_in_range(const std::vector<uint8_t>& jpeg);

// Replaces each `ratio` x `ratio` samples by their mean.
void average(ReferencePlane& plane, int ratio);

// The largest between `got`, RGB rows, and `rgb`.
int largest_difference(const std::vector<uint8_t>& got, const Reference& rgb);

// The same of `reference`'s `box`, in pixels of the photograph, resized to `size` by Pillow's antialiased
// `filter` without any rounding, clamped to 0 .. 255 after each direction, over the samples that the box
// touches; then turned into RGB. Planes of half the first one's resolution are upsampled first, as libjpeg
// does it.
double resized_difference(const std::vector<uint8_t>& got, const Reference& reference,
                          const fasttrain::CropBox& box, fasttrain::OutputSize size,
                          fasttrain::Filter filter);
