#include "resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "resize_kernels.h"

namespace fasttrain {

namespace {

// As Pillow's precompute_coeffs, with taps clamped to the samples that [begin, end) touches.
void set_axis(ResizeAxis& axis, double begin, double end, int origin, int samples, int outputs) {
    axis.low = std::max(origin, static_cast<int>(std::floor(begin)));
    axis.high = std::min(origin + samples, static_cast<int>(std::ceil(end)));
    const double scale = (end - begin) / outputs;
    const double support = std::max(scale, 1.0);
    const auto inverse = static_cast<float>(1.0 / support);
    axis.taps = static_cast<int>(std::ceil(support)) * 2 + 1;
    axis.first.resize(static_cast<size_t>(outputs));
    axis.count.resize(static_cast<size_t>(outputs));
    axis.weights.resize(static_cast<size_t>(outputs) * static_cast<size_t>(axis.taps));
    uint16_t* weights = axis.weights.data();
    for (int i = 0; i < outputs; ++i, weights += axis.taps) {
        const double centre = begin + (i + 0.5) * scale;
        const int first = std::max(axis.low, static_cast<int>(centre - support + 0.5));
        const int count = std::min(axis.high, static_cast<int>(centre + support + 0.5)) - first;
        // The sum of 1 - |k + offset| / support over k < count, of which `before` have k + offset < 0: in
        // closed form, for one division and one pass.
        const auto offset = static_cast<float>(first + 0.5 - centre);
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
        // The weights sum to one, or a flat picture would change; 65535 stands for one alone.
        uint16_t& nearest = weights[std::clamp(static_cast<int>(centre) - first, 0, count - 1)];
        nearest = static_cast<uint16_t>(std::clamp(nearest + rest, 0, 65535));
        axis.first[static_cast<size_t>(i)] = first;
        axis.count[static_cast<size_t>(i)] = count;
    }
}

size_t padded(int length) {
    return (static_cast<size_t>(length) + kVector - 1) / kVector * kVector;
}

// Reserves by the vector's own growth, which doubles: no reallocation for most photographs.
uint8_t* room(std::vector<uint8_t>& buffer, size_t size) {
    if (buffer.size() < size + kResizeSlack) buffer.resize(size + kResizeSlack);
    return buffer.data();
}

// Columns of `plane` weighted into the output's columns, each of axis.high - axis.low rows, then turned into
// rows.
const uint8_t* resize_across(const Plane& plane, const ResizeAxis& across, const ResizeAxis& down, bool flip,
                             int width, std::vector<uint8_t>& columns, std::vector<uint8_t>& rows) {
    const int height = down.high - down.low;
    const size_t stride = padded(height);
    uint8_t* made = room(columns, stride * padded(width));
    const uint8_t* from = plane.data + (down.low - plane.top);
    for (int x = 0; x < width; ++x) {
        const auto i = static_cast<size_t>(x);
        const uint8_t* first = from + static_cast<size_t>(across.first[i] - plane.left) * plane.stride;
        weigh_lines(first, plane.stride, across.count[i],
                    across.weights.data() + i * static_cast<size_t>(across.taps), height,
                    made + static_cast<size_t>(flip ? width - 1 - x : x) * stride);
    }
    uint8_t* turned = room(rows, stride * padded(width));
    transpose(made, stride, static_cast<int>(padded(width)), static_cast<int>(stride), turned, padded(width));
    return turned;
}

}  // namespace

void resize_planes(const Plane* planes, Colour colour, const CropBox& box, bool flip, OutputSize size,
                   ResizeScratch& scratch, uint8_t* out) {
    const int count = colour == Colour::grey ? 1 : 3;
    // Planes of one resolution share their taps.
    const bool alike =
        count == 1 || (planes[0].across == planes[1].across && planes[0].down == planes[1].down);
    const uint8_t* rows[3];
    for (int i = 0; i < count; ++i) {
        const Plane& plane = planes[i];
        ResizeAxis& across = scratch.horizontal[i > 0 && !alike];
        ResizeAxis& down = scratch.vertical[i > 0 && !alike];
        if (i == 0 || (i == 1 && !alike)) {
            set_axis(across, box.left * plane.across, (box.left + box.width) * plane.across, plane.left,
                     plane.columns, size.width);
            set_axis(down, box.top * plane.down, (box.top + box.height) * plane.down, plane.top, plane.rows,
                     size.height);
        }
        rows[i] = resize_across(plane, across, down, flip, size.width, scratch.columns, scratch.rows[i]);
    }
    const size_t stride = padded(size.width);
    const size_t row_bytes = static_cast<size_t>(size.width) * 3;
    const size_t total = row_bytes * static_cast<size_t>(size.height);
    uint8_t* lines[3];
    uint8_t* spare = room(scratch.columns, stride * 6);
    for (int i = 0; i < 3; ++i) lines[i] = spare + static_cast<size_t>(i) * stride;
    for (int y = 0; y < size.height; ++y) {
        for (int i = 0; i < count; ++i) {
            const ResizeAxis& down = scratch.vertical[i > 0 && !alike];
            const auto at = static_cast<size_t>(y);
            weigh_lines(rows[i] + static_cast<size_t>(down.first[at] - down.low) * stride, stride,
                        down.count[at], down.weights.data() + at * static_cast<size_t>(down.taps), size.width,
                        lines[i]);
        }
        // Whole vectors run over a row's end into the next row, which is written later; not over the
        // picture's end.
        const size_t begin = static_cast<size_t>(y) * row_bytes;
        const bool fits = begin + stride * 3 <= total;
        uint8_t* to = fits ? out + begin : spare + 3 * stride;
        convert_line(lines[0], lines[count == 1 ? 0 : 1], lines[count == 1 ? 0 : 2], colour, size.width, to);
        if (!fits) std::memcpy(out + begin, to, row_bytes);
    }
}

}  // namespace fasttrain
