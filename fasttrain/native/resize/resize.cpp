#include "resize/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "resize/kernels.h"

namespace fasttrain {

namespace {

// One direction of a plane: its samples per pixel, its first sample and its number of samples.
struct Extent {
    double density;
    int origin;
    int samples;
};

// Fills in the weights of one output, for the samples at the distances offset, offset + 1, ... from its
// centre. Returns the difference between one and the sum of the rounded weights.
using WeighOutput = int(ResizeAxis& axis, uint16_t* weights, int count, float offset, float inverse);

int weigh_triangle(ResizeAxis&, uint16_t* weights, int count, float offset, float inverse) {
    // The sum of 1 - |k + offset| / support over k < count, of which `before` have k + offset < 0. The closed
    // form takes one division and one pass.
    const auto before = static_cast<float>(std::clamp(static_cast<int>(1 - offset), 0, count));
    const auto all = static_cast<float>(count);
    const float distances =
        all * offset + all * (all - 1) / 2 - 2 * (before * offset + before * (before - 1) / 2);
    const float factor = 65536.0f / (all - distances * inverse);
    int rest = 65536;
    for (int k = 0; k < count; ++k) {
        const float exact = factor * (1.0f - std::fabs(static_cast<float>(k) + offset) * inverse);
        const int weight = static_cast<int>(std::clamp(exact + 0.5f, 0.0f, 65535.0f));
        weights[k] = static_cast<uint16_t>(weight);
        rest -= weight;
    }
    return rest;
}

// Keys' cubic convolution with a = -0.5.
float cubic(float x) {
    const float inner = (1.5f * x - 2.5f) * x * x + 1.0f;
    const float outer = ((-0.5f * x + 2.5f) * x - 4.0f) * x + 2.0f;
    return x < 1.0f ? inner : x < 2.0f ? outer : 0.0f;
}

int weigh_cubic(ResizeAxis& axis, uint16_t* weights, int count, float offset, float inverse) {
    float* const exact = axis.exact.data();
    for (int k = 0; k < count; ++k) exact[k] = cubic(std::fabs(static_cast<float>(k) + offset) * inverse);
    float sum = 0;
    for (int k = 0; k < count; ++k) sum += exact[k];
    const float factor = static_cast<float>(1 << kSignedBits) / sum;
    int rest = 1 << kSignedBits;
    for (int k = 0; k < count; ++k) {
        const int weight = static_cast<int>(std::floor(factor * exact[k] + 0.5f));
        weights[k] = static_cast<uint16_t>(weight);
        rest -= weight;
    }
    return rest;
}

// The greatest weights. The cubic filter's are signed, and up to 1.125.
constexpr int kMostTriangle = 65535;
constexpr int kMostCubic = 32767;

template <WeighOutput kWeigh, int kMost>
void weigh_outputs(ResizeAxis& axis, double begin, double scale, double shrinking, double support,
                   int outputs) {
    const auto inverse = static_cast<float>(1.0 / shrinking);
    uint16_t* weights = axis.weights.data();
    for (int i = 0; i < outputs; ++i, weights += axis.taps) {
        const double centre = begin + (i + 0.5) * scale;
        const int first = std::max(axis.low, static_cast<int>(centre - support + 0.5));
        const int count = std::min(axis.high, static_cast<int>(centre + support + 0.5)) - first;
        const auto offset = static_cast<float>(first + 0.5 - centre);
        const int rest = kWeigh(axis, weights, count, offset, inverse);
        // The weights must sum to one, or a flat image would change. 65535 represents a single weight of one.
        uint16_t& nearest = weights[std::clamp(static_cast<int>(centre) - first, 0, count - 1)];
        nearest = static_cast<uint16_t>(std::clamp(nearest + rest, 0, kMost));
        axis.first[static_cast<size_t>(i)] = first;
        axis.count[static_cast<size_t>(i)] = count;
    }
}

// Computes an axis as Pillow's precompute_coeffs does, but uses only samples that the pixels touch.
void set_axis(ResizeAxis& axis, const Extent& extent, int first_pixel, int pixels, int outputs,
              Filter filter) {
    const AxisSource source{extent.density, extent.origin, extent.samples, first_pixel,
                            pixels,         outputs,       false,          filter};
    if (axis.source == source) return;
    axis.source = {};  // until it is complete
    const double begin = first_pixel * extent.density;
    const double end = (first_pixel + pixels) * extent.density;
    axis.low = std::max(extent.origin, static_cast<int>(std::floor(begin)));
    axis.high = std::min(extent.origin + extent.samples, static_cast<int>(std::ceil(end)));
    const double scale = (end - begin) / outputs;
    const double shrinking = std::max(scale, 1.0);
    const double support = filter == Filter::cubic ? 2 * shrinking : shrinking;
    axis.taps = static_cast<int>(std::ceil(support)) * 2 + 1;
    axis.first.resize(static_cast<size_t>(outputs));
    axis.count.resize(static_cast<size_t>(outputs));
    axis.weights.resize(static_cast<size_t>(outputs) * static_cast<size_t>(axis.taps));
    if (filter == Filter::cubic) {
        axis.exact.resize(static_cast<size_t>(axis.taps));
        weigh_outputs<weigh_cubic, kMostCubic>(axis, begin, scale, shrinking, support, outputs);
    } else {
        weigh_outputs<weigh_triangle, kMostTriangle>(axis, begin, scale, shrinking, support, outputs);
    }
    axis.source = source;
}

// Derives the weights of chroma from the luma's. `Weight` is the type of a weight, and `kOne` stands for 1.
template <class Weight, int kOne>
void halve_weights(ResizeAxis& axis, const ResizeAxis& luma) {
    constexpr int kMost = std::numeric_limits<Weight>::max();
    const size_t outputs = luma.first.size();
    const uint16_t* from = luma.weights.data();
    uint16_t* weights = axis.weights.data();
    for (size_t i = 0; i < outputs; ++i, from += luma.taps, weights += axis.taps) {
        const int begin = luma.first[i];
        const int taps = luma.count[i];
        const int first = std::max(axis.low, (begin - 1) >> 1);
        const int count = std::min(axis.high, ((begin + taps) >> 1) + 1) - first;
        const auto at = [&](int finer) {
            const auto k = static_cast<unsigned>(finer - begin);
            return k < static_cast<unsigned>(taps) ? static_cast<Weight>(from[k]) : 0;
        };
        int rest = kOne;
        int largest = 0;
        for (int k = 0; k < count; ++k) {
            const int finer = 2 * (first + k);
            int quarters = at(finer - 1) + 3 * (at(finer) + at(finer + 1)) + at(finer + 2);
            if (first + k == axis.low) quarters += at(finer);
            if (first + k == axis.high - 1) quarters += at(finer + 1);
            const int weight = std::min((quarters + 2) >> 2, kMost);
            weights[k] = static_cast<uint16_t>(weight);
            rest -= weight;
            if (weight > static_cast<Weight>(weights[largest])) largest = k;
        }
        const int corrected = static_cast<Weight>(weights[largest]) + rest;
        weights[largest] = static_cast<uint16_t>(std::min(corrected, kMost));
        axis.first[i] = first;
        axis.count[i] = count;
    }
}

// Computes the axis of chroma at half the luma's resolution: the luma's weights, combined with libjpeg's
// "fancy" upsampling. There an upsampled value is three quarters of the chroma sample that covers it and one
// quarter of that sample's neighbour.
void set_half_axis(ResizeAxis& axis, const ResizeAxis& luma) {
    AxisSource source = luma.source;
    source.half = true;
    if (axis.source == source) return;
    axis.source = {};  // until it is complete
    const size_t outputs = luma.first.size();
    axis.low = luma.low / 2;
    axis.high = (luma.high + 1) / 2;
    axis.taps = luma.taps / 2 + 2;
    axis.first.resize(outputs);
    axis.count.resize(outputs);
    axis.weights.resize(outputs * static_cast<size_t>(axis.taps));
    if (source.filter == Filter::cubic)
        halve_weights<int16_t, 1 << kSignedBits>(axis, luma);
    else
        halve_weights<uint16_t, 65536>(axis, luma);
    axis.source = source;
}

// Returns the axis of chroma, given the luma's in axes[0]. It is the same one if the resolutions are equal.
const ResizeAxis& chroma_axis(ResizeAxis axes[2], const Extent& chroma, const Extent& luma, int first_pixel,
                              int pixels, int outputs, Filter filter) {
    if (chroma.density == luma.density) return axes[0];
    if (chroma.density * 2 == luma.density)
        set_half_axis(axes[1], axes[0]);
    else
        set_axis(axes[1], chroma, first_pixel, pixels, outputs, filter);
    return axes[1];
}

size_t padded(int length) {
    return (static_cast<size_t>(length) + kVector - 1) / kVector * kVector;
}

// Returns memory for `size` bytes. The vector grows by doubling, so most photographs need no reallocation.
uint8_t* room(std::vector<uint8_t>& buffer, size_t size) {
    if (buffer.size() < size + kResizeSlack) buffer.resize(size + kResizeSlack);
    return buffer.data();
}

// Resizes `plane` horizontally: weights its columns into the output's columns, each of down.high - down.low
// rows, and transposes these into rows.
const uint8_t* resize_across(const Plane& plane, const ResizeAxis& across, const ResizeAxis& down, bool flip,
                             int width, WeighLines* weigh, std::vector<uint8_t>& columns,
                             std::vector<uint8_t>& rows) {
    const int height = down.high - down.low;
    const size_t stride = padded(height);
    uint8_t* made = room(columns, stride * padded(width));
    const uint8_t* from = plane.data + (down.low - plane.top);
    for (int x = 0; x < width; ++x) {
        const auto i = static_cast<size_t>(x);
        const uint8_t* first = from + static_cast<size_t>(across.first[i] - plane.left) * plane.stride;
        weigh(first, plane.stride, across.count[i],
              across.weights.data() + i * static_cast<size_t>(across.taps), height,
              made + static_cast<size_t>(flip ? width - 1 - x : x) * stride);
    }
    uint8_t* turned = room(rows, stride * padded(width));
    transpose(made, stride, static_cast<int>(padded(width)), static_cast<int>(stride), turned, padded(width));
    return turned;
}

}  // namespace

void resize_planes(const Plane* planes, Colour colour, const CropBox& box, bool flip, OutputSize size,
                   Filter filter, ResizeScratch& scratch, uint8_t* out) {
    const int count = colour == Colour::grey ? 1 : 3;
    WeighLines* const weigh = weigh_lines(filter);
    const auto columns_of = [](const Plane& plane) {
        return Extent{plane.across, plane.left, plane.columns};
    };
    const auto rows_of = [](const Plane& plane) { return Extent{plane.down, plane.top, plane.rows}; };
    const Extent columns = columns_of(planes[0]);
    const Extent lines_down = rows_of(planes[0]);
    set_axis(scratch.horizontal[0], columns, box.left, box.width, size.width, filter);
    set_axis(scratch.vertical[0], lines_down, box.top, box.height, size.height, filter);
    const ResizeAxis* across[3];
    const ResizeAxis* down[3];
    across[0] = &scratch.horizontal[0];
    down[0] = &scratch.vertical[0];
    if (count == 3) {
        across[1] = across[2] = &chroma_axis(scratch.horizontal, columns_of(planes[1]), columns, box.left,
                                             box.width, size.width, filter);
        down[1] = down[2] = &chroma_axis(scratch.vertical, rows_of(planes[1]), lines_down, box.top,
                                         box.height, size.height, filter);
    }
    const uint8_t* rows[3];
    for (int i = 0; i < count; ++i)
        rows[i] = resize_across(planes[i], *across[i], *down[i], flip, size.width, weigh, scratch.columns,
                                scratch.rows[i]);
    const size_t stride = padded(size.width);
    const size_t row_bytes = static_cast<size_t>(size.width) * 3;
    const size_t total = row_bytes * static_cast<size_t>(size.height);
    uint8_t* lines[3];
    uint8_t* spare = room(scratch.columns, stride * 6);
    for (int i = 0; i < 3; ++i) lines[i] = spare + static_cast<size_t>(i) * stride;
    for (int y = 0; y < size.height; ++y) {
        for (int i = 0; i < count; ++i) {
            const ResizeAxis& axis = *down[i];
            const auto at = static_cast<size_t>(y);
            weigh(rows[i] + static_cast<size_t>(axis.first[at] - axis.low) * stride, stride, axis.count[at],
                  axis.weights.data() + at * static_cast<size_t>(axis.taps), size.width, lines[i]);
        }
        // Full vectors may extend beyond a row's end into the next row, which is written later, but not
        // beyond the image's end.
        const size_t begin = static_cast<size_t>(y) * row_bytes;
        const bool fits = begin + stride * 3 <= total;
        uint8_t* to = fits ? out + begin : spare + 3 * stride;
        convert_line(lines[0], lines[count == 1 ? 0 : 1], lines[count == 1 ? 0 : 2], colour, size.width, to);
        if (!fits) std::memcpy(out + begin, to, row_bytes);
    }
}

}  // namespace fasttrain
