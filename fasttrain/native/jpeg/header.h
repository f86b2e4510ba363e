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
    int quantisation = 0;  // number of the quantisation table
    int dc = 0;            // numbers of the Huffman tables in the first scan
    int ac = 0;
};

// Everything before the entropy-coded data of the first scan.
struct JpegHeader {
    uint32_t width = 0;
    uint32_t height = 0;
    int precision = 0;
    int sof = 0;  // the SOF marker
    int component_count = 0;
    std::array<Component, kMaxComponents> components{};
    uint32_t restart_interval = 0;
    int adobe_transform = -1;  // -1: no Adobe APP14
    bool jfif = false;
    bool all_in_scan = false;  // the first scan has all components, in their order
    size_t size_offset = 0;    // position of SOF's height (2 bytes), which is followed by its width
    size_t scan_offset = 0;    // position of the first entropy-coded byte

    bool progressive() const;
    bool sequential_huffman() const;
    // The size of an MCU of an interleaved scan, in pixels. It is 8 for one component, because the standard
    // says to ignore its sampling factors.
    uint32_t mcu_width() const;
    uint32_t mcu_height() const;
    uint32_t mcus_per_row() const { return (width + mcu_width() - 1) / mcu_width(); }
    uint32_t mcu_rows() const { return (height + mcu_height() - 1) / mcu_height(); }
    // "4:2:0", "4:2:2", "4:4:0", "4:4:4", "4:1:1", "grey", "cmyk" (any 4 components) or "other".
    std::string sampling() const;
};

// A marker and its content, which starts after the two bytes of the length.
struct MarkerBody {
    int marker;
    const uint8_t* data;
    size_t length;
};

// Reads a JPEG up to and including the first SOS, and calls `visit`, if given, for each marker. Throws
// JpegError if the data are not a JPEG, are truncated ("truncated: ..."), or have more than kMaxComponents
// components or kMaxPixels pixels.
JpegHeader parse_header(const uint8_t* data, size_t size,
                        const std::function<void(const MarkerBody&)>& visit = nullptr);

}  // namespace fasttrain
