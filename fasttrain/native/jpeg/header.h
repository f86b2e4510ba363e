#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "jpeg/errors.h"

namespace fasttrain {

constexpr uint64_t kMaxPixels = 500'000'000;
constexpr int kMaxComponents = 4;

// Throws JpegError for a picture of more than kMaxPixels.
void check_pixels(uint64_t width, uint64_t height);

struct Component {
    int id = 0;
    int h = 1;  // sampling factors
    int v = 1;
    int quantisation = 0;  // the number of its table
    int dc = 0;            // of its Huffman tables in the first scan
    int ac = 0;
};

// Everything before the entropy-coded data of the first scan.
struct JpegHeader {
    uint32_t width = 0;
    uint32_t height = 0;
    int precision = 0;
    int sof = 0;  // the marker
    int component_count = 0;
    std::array<Component, kMaxComponents> components{};
    uint32_t restart_interval = 0;
    int adobe_transform = -1;  // -1: no Adobe APP14
    bool jfif = false;
    bool all_in_scan = false;  // the first scan has all components, in their order
    size_t size_offset = 0;    // of SOF's height (2 bytes), followed by its width
    size_t scan_offset = 0;    // of the first entropy-coded byte

    bool progressive() const;
    bool sequential_huffman() const;
    // In pixels, of an interleaved scan; 8 for one component, whose factors the standard says to ignore.
    uint32_t mcu_width() const;
    uint32_t mcu_height() const;
    uint32_t mcus_per_row() const { return (width + mcu_width() - 1) / mcu_width(); }
    uint32_t mcu_rows() const { return (height + mcu_height() - 1) / mcu_height(); }
    // "4:2:0", "4:2:2", "4:4:0", "4:4:4", "4:1:1", "grey", "cmyk" (any 4 components) or "other".
    std::string sampling() const;
};

// A marker with the bytes after its length.
struct MarkerBody {
    int marker;
    const uint8_t* data;
    size_t length;
};

// Reads up to and including the first SOS, and calls `visit`, if given, for each marker on the way. Throws
// JpegError if it is not a JPEG, is truncated ("truncated: ..."), or has more than kMaxComponents components
// or kMaxPixels pixels.
JpegHeader parse_header(const uint8_t* data, size_t size,
                        const std::function<void(const MarkerBody&)>& visit = nullptr);

}  // namespace fasttrain
