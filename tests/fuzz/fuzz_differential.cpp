// Photographs that libjpeg takes without a warning must have its pixels: as they are, cut, and sliced.
//
// At its own size a photograph equals libjpeg's to the rounding of chroma. Resized, it is within the rounding
// of two passes of libjpeg's RGB, resized without any rounding; or, where planes are resized before they
// become RGB, of libjpeg's planes, upsampled and resized the same way. `planar` says which files may take
// that second path, which doesn't clip colours at the photograph's size and sees nothing outside of the box.
//
// Two kinds of files are left out, as libjpeg doesn't agree with itself about them: FF FF 00 inside of the
// data, and coefficients that no picture has, which overflow the IDCT's 16 bits with vector instructions
// alone.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <vector>

#include "cut/cut.h"
#include "decode/decode.h"
#include "decode/scratch.h"
#include "header_mutator.h"
#include "jpeg/header.h"
#include "libjpeg_reference.h"
#include "cut/slice.h"

namespace {

using namespace fasttrain;

constexpr uint64_t kMostPixels = 10'000;  // larger ones only cost time
// Our chroma and libjpeg's are each rounded to whole levels, which blue doubles.
constexpr double kWholeTolerance = 3;
// Each of two passes is within 0.55 of the exact one, and the result is rounded.
constexpr double kRgbTolerance = 1.7;
// The same of luma, and of chroma times 1.772.
constexpr double kPlanarTolerance = 4;
// The sum of a cubic's weights without their signs, which the first pass's error is multiplied by.
constexpr double kCubicGain = 1.25;

[[noreturn]] void find(const char* what, double apart = 0) {
    std::fprintf(stderr, "DIFFERENCE: %s, %.2f levels\n", what, apart);
    std::abort();
}

// Chroma components alike, at the luma's resolution or half of it.
bool planar(const JpegHeader& header) {
    const auto& f = header.components;
    const auto fits = [](int all, int part) { return all == part || all == 2 * part; };
    return header.component_count == 1 ||
           (header.component_count == 3 && f[1].h == f[2].h && f[1].v == f[2].v && fits(f[0].h, f[1].h) &&
            fits(f[0].v, f[1].v) && (f[0].h == f[1].h || header.width > 4));
}

bool has_fill_bytes(const std::vector<uint8_t>& jpeg, const JpegHeader& header) {
    static constexpr uint8_t kFill[] = {0xFF, 0xFF, 0x00};
    const auto scan = jpeg.begin() + static_cast<std::ptrdiff_t>(header.scan_offset);
    return std::search(scan, jpeg.end(), std::begin(kFill), std::end(kFill)) != jpeg.end();
}

// False where ours refuses the file.
bool decode(const std::vector<uint8_t>& jpeg, const JpegHeader& header, const CropBox& box, OutputSize size,
            Filter filter, std::vector<uint8_t>& out) {
    static DecodeScratch scratch;
    const Photograph photograph{jpeg.data(), jpeg.size(), static_cast<int>(header.height),
                                static_cast<int>(header.width), Storage::jpeg};
    out.resize(static_cast<size_t>(size.height * size.width) * 3);
    try {
        decode_crop(photograph, box, false, size, filter, scratch, out.data());
    } catch (const JpegError&) {
        return false;
    }
    return true;
}

// `rgb` is libjpeg's of the same photograph.
void compare(const std::vector<uint8_t>& jpeg, const JpegHeader& header, const Reference& rgb,
             const CropBox& box, OutputSize size, Filter filter) {
    std::vector<uint8_t> got;
    const CropBox all{0, 0, static_cast<int>(header.height), static_cast<int>(header.width)};
    const OutputSize same{all.height, all.width};
    if (!decode(jpeg, header, all, same, filter, got)) return;
    const double whole = largest_difference(got, rgb);
    if (whole > kWholeTolerance) find("at its own size", whole);

    if (!decode(jpeg, header, box, size, filter, got)) return;
    // Where a crop is large, libjpeg decodes at a half or a quarter, and our planes are averaged.
    const int block = reduced_block(box.width, box.height, size);
    Reference scaled;
    if (block != 8 && !read_rgb(jpeg, block, scaled)) return;
    const double from_rgb = resized_difference(got, block == 8 ? rgb : scaled, box, size, filter);
    const double gain = filter == Filter::cubic ? kCubicGain : 1;
    if (from_rgb <= kRgbTolerance * gain) return;
    if (!planar(header)) find("resized", from_rgb);
    Reference planes;
    if (!read_planes(jpeg, planes)) find("no planes");
    Reference means = planes;
    for (ReferencePlane& plane : means.planes)
        average(plane, 8 / reduced_block(box.width * plane.across, box.height * plane.down, size));
    const double from_planes = std::min(resized_difference(got, planes, box, size, filter),
                                        resized_difference(got, means, box, size, filter));
    if (from_planes > kPlanarTolerance * gain) find("resized planes", from_planes);
}

void compare_slice(const std::vector<uint8_t>& cut, const Reference& rgb, const CropBox& box) {
    static SliceScratch scratch;
    const Box wanted{static_cast<uint32_t>(box.top), static_cast<uint32_t>(box.left),
                     static_cast<uint32_t>(box.height), static_cast<uint32_t>(box.width)};
    std::vector<uint8_t> bytes;
    const Slice slice =
        slice_jpeg(cut.data(), cut.size(), parse_header(cut.data(), cut.size()), wanted, scratch, bytes);
    Reference part;
    if (!read_rgb(bytes, 8, part)) find("libjpeg refuses a slice");
    for (size_t c = 0; c < 3; ++c)
        for (int y = 0; y < box.height; ++y)
            for (int x = 0; x < box.width; ++x)
                if (part.planes[c].at(static_cast<int>(slice.left) + x, static_cast<int>(slice.top) + y) !=
                    rgb.planes[c].at(box.left + x, box.top + y))
                    find("a slice");
}

}  // namespace

// The first bytes choose the box, the output's size, the cut and the filter, as fuzz_decode has them.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    if (size < kChoiceBytes) return 0;
    const std::vector<uint8_t> jpeg(bytes + kChoiceBytes, bytes + size);
    JpegHeader header;
    try {
        header = parse_header(jpeg.data(), jpeg.size());
    } catch (const JpegError&) {
        return 0;
    }
    if (uint64_t{header.width} * header.height > kMostPixels) return 0;
    Reference rgb;
    if (has_fill_bytes(jpeg, header) || !read_rgb(jpeg, 8, rgb) || !coefficients_are_in_range(jpeg)) return 0;
    const int height = static_cast<int>(header.height), width = static_cast<int>(header.width);
    CropBox box{bytes[2] % height, bytes[3] % width, 0, 0};
    box.height = 1 + bytes[4] * 4 % (height - box.top);
    box.width = 1 + bytes[5] * 4 % (width - box.left);
    const OutputSize output{1 + bytes[7] % 16 * 3, 1 + bytes[7] / 16 * 5};
    const Filter filter = (bytes[6] & 16) != 0 ? Filter::cubic : Filter::triangle;
    compare(jpeg, header, rgb, box, output, filter);

    std::vector<uint8_t> cut;
    try {
        cut = cut_jpeg(jpeg.data(), jpeg.size(), bytes[6] & 4 ? Interval::kRow : Interval::kMcu,
                       (bytes[6] & 8) != 0, 1);
    } catch (const JpegError&) {
        return 0;
    }
    Reference again;
    if (!read_rgb(cut, 8, again)) find("libjpeg refuses a cut photograph");
    for (size_t c = 0; c < 3; ++c)
        if (again.planes[c].samples != rgb.planes[c].samples) find("a cut");
    compare(cut, parse_header(cut.data(), cut.size()), rgb, box, output, filter);
    compare_slice(cut, rgb, box);
    return 0;
}
