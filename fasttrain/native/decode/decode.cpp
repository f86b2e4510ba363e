#include "decode/decode.h"

#include <algorithm>
#include <cstring>

#include "cut/cut.h"
#include "decode/scratch.h"
#include "jpeg/header.h"
#include "resize/kernels.h"

namespace fasttrain {

namespace {

constexpr double kReducingGap = 2;

std::string describe(int height, int width) {
    return std::to_string(height) + " x " + std::to_string(width);
}

void read_raw(const Photograph& photograph, const CropBox& box, DecodeScratch::Buffers& buffers) {
    uint8_t* planes[3];
    make_rgb_planes(box.left, box.top, box.width, box.height, 1, buffers, planes);
    const size_t row = static_cast<size_t>(photograph.width) * 3;
    split_rgb(photograph.data + static_cast<size_t>(box.top) * row + static_cast<size_t>(box.left) * 3, row,
              box.width, box.height, planes, buffers.planes[0].stride);
}

}  // namespace

DecodeScratch::DecodeScratch() : buffers_(std::make_unique<Buffers>()) {}
DecodeScratch::~DecodeScratch() = default;
DecodeScratch::DecodeScratch(DecodeScratch&&) noexcept = default;

void DecodeScratch::trim() {
    const Buffers& b = *buffers_;
    size_t held = b.bytes[0].capacity() + b.bytes[1].capacity() + b.samples.capacity() +
                  b.segments.capacity() * sizeof(Segment) + b.resize.columns.capacity();
    for (const auto& rows : b.resize.rows) held += rows.capacity();
    for (int i = 0; i < 2; ++i)
        held += 2 * (b.resize.horizontal[i].weights.capacity() + b.resize.vertical[i].weights.capacity());
    if (held > kKeptBytes) buffers_ = std::make_unique<Buffers>();
}

int reduced_block(double samples_across, double samples_down, OutputSize size) {
    const double ratio = std::min(samples_across / size.width, samples_down / size.height);
    return ratio >= 4 * kReducingGap ? 2 : ratio >= 2 * kReducingGap ? 4 : 8;
}

void make_rgb_planes(int left, int top, int columns, int rows, double scale, DecodeScratch::Buffers& buffers,
                     uint8_t* planes[3]) {
    const size_t stride = static_cast<size_t>(rows);
    const size_t plane_size = stride * static_cast<size_t>(columns);
    if (buffers.samples.size() < 3 * plane_size + kResizeSlack)
        buffers.samples.resize(3 * plane_size + kResizeSlack);
    for (size_t c = 0; c < 3; ++c) {
        planes[c] = buffers.samples.data() + c * plane_size;
        buffers.planes[c] = {planes[c], stride, left, top, columns, rows, scale, scale};
    }
    buffers.colour = Colour::rgb;
}

namespace {

void decode(const Photograph& photograph, const CropBox& box, bool flip, OutputSize size, Filter filter,
            DecodeScratch& scratch, uint8_t* out, const ScanLimits* limits) {
    DecodeScratch::Buffers& buffers = scratch.buffers();
    int height = photograph.height;
    int width = photograph.width;
    bool ours = false;
    if (photograph.storage == Storage::jpeg) {
        ours = buffers.tables.read(photograph.data, photograph.length);
        height = static_cast<int>(buffers.tables.header.height);
        width = static_cast<int>(buffers.tables.header.width);
        if (height != photograph.height || width != photograph.width)
            throw JpegError("the index says " + describe(photograph.height, photograph.width) +
                            " pixels, but the JPEG has " + describe(height, width));
    } else if (height <= 0 || width <= 0 ||
               static_cast<uint64_t>(height) * static_cast<uint64_t>(width) * 3 != photograph.length) {
        throw JpegError("raw pixels: " + std::to_string(photograph.length) + " bytes aren't a picture of " +
                        describe(height, width) + " pixels with 3 bytes each");
    }
    if (box.top < 0 || box.left < 0 || box.height <= 0 || box.width <= 0 || box.height > height - box.top ||
        box.width > width - box.left)
        throw JpegError("box outside of the picture: " + describe(box.height, box.width) + " pixels from " +
                        std::to_string(box.top) + ", " + std::to_string(box.left) +
                        " on are empty or not inside " + describe(height, width));
    if (limits != nullptr && (!ours || buffers.tables.header.scan_offset != limits->begin))
        throw JpegError("unsupported: this JPEG can't be checked while it is decoded");
    if (photograph.storage == Storage::raw)
        read_raw(photograph, box, buffers);
    else if (ours)
        decode_rectangle(photograph.data, photograph.length, box, size, buffers, limits);
    else
        decode_with_libjpeg(photograph.data, photograph.length, box, size, buffers);
    resize_planes(buffers.planes, buffers.colour, box, flip, size, filter, buffers.resize, out);
}

}  // namespace

void decode_crop(const Photograph& photograph, const CropBox& box, bool flip, OutputSize size, Filter filter,
                 DecodeScratch& scratch, uint8_t* out) {
    decode(photograph, box, flip, size, filter, scratch, out, nullptr);
}

namespace {

// Scales `part` to the square `side`, in proportion to `box`, rounded, as `loaders.plan.letterbox_size` does.
int in_proportion(int part, int longer, int side) {
    return std::max(1, static_cast<int>((int64_t{2} * side * part + longer) / (int64_t{2} * longer)));
}

// Moves rows of `inner`, at the start of `out`, to the middle of the square `size`, and fills the rest.
void put_in_the_middle(uint8_t* out, OutputSize inner, OutputSize size) {
    const size_t row = size_t{3} * static_cast<size_t>(inner.width);
    const size_t full_row = size_t{3} * static_cast<size_t>(size.width);
    const int top = (size.height - inner.height) / 2;
    const size_t left = size_t{3} * static_cast<size_t>((size.width - inner.width) / 2);
    for (int y = size.height - 1; y >= 0; --y) {  // from the end, because rows only move towards it
        uint8_t* to = out + static_cast<size_t>(y) * full_row;
        const int from = y - top;
        if (from < 0 || from >= inner.height) continue;
        std::memmove(to + left, out + static_cast<size_t>(from) * row, row);
    }
    for (int y = 0; y < size.height; ++y) {
        uint8_t* to = out + static_cast<size_t>(y) * full_row;
        if (y < top || y >= top + inner.height) {
            std::memset(to, kLetterboxGrey, full_row);
        } else {
            std::memset(to, kLetterboxGrey, left);
            std::memset(to + left + row, kLetterboxGrey, full_row - left - row);
        }
    }
}

void turn_upside_down(uint8_t* out, OutputSize size) {
    const size_t row = size_t{3} * static_cast<size_t>(size.width);
    uint8_t* above = out;
    uint8_t* below = out + static_cast<size_t>(size.height) * row;
    while (above + row < below) {
        below -= row;
        std::swap_ranges(above, above + row, below);
        above += row;
    }
}

}  // namespace

void decode_planned(const Photograph& photograph, const CropBox& box, uint32_t flags, OutputSize size,
                    DecodeScratch& scratch, uint8_t* out) {
    const int longer = std::max(box.height, box.width);
    const bool letterbox = (flags & kLetterbox) != 0 && longer >= 1;
    OutputSize inner = size;
    if (letterbox)
        inner = {in_proportion(box.height, longer, size.height),
                 in_proportion(box.width, longer, size.width)};
    const Filter filter = (flags & kBicubic) != 0 ? Filter::cubic : Filter::triangle;
    decode_crop(photograph, box, (flags & kMirrored) != 0, inner, filter, scratch, out);
    if ((flags & kUpsideDown) != 0) turn_upside_down(out, inner);
    if (letterbox) put_in_the_middle(out, inner, size);
}

void decode_intact_crop(const uint8_t* jpeg, size_t length, const CropBox& box, bool flip, OutputSize size,
                        Filter filter, DecodeScratch& scratch, uint8_t* out) {
    const std::optional<ScanLimits> limits = limits_of_only_scan(jpeg, length);
    const auto photograph = [&]() -> Photograph {
        const JpegHeader header = parse_header(jpeg, length);
        return {jpeg, length, static_cast<int>(header.height), static_cast<int>(header.width), Storage::jpeg};
    };
    if (limits) {
        try {
            return decode(photograph(), box, flip, size, filter, scratch, out, &*limits);
        } catch (const JpegError&) {
            // cut_jpeg decides below whether the file is intact.
        }
    }
    cut_jpeg(jpeg, length, Interval::kNone, false, 1);
    decode_crop(photograph(), box, flip, size, filter, scratch, out);
}

}  // namespace fasttrain
