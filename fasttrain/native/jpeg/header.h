#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace fasttrain {

// nanobind turns std::invalid_argument into ValueError.
class JpegError : public std::invalid_argument {
  public:
    using std::invalid_argument::invalid_argument;
};

constexpr uint64_t kMaxPixels = 500'000'000;
constexpr int kMaxComponents = 4;

// The zig-zag order: the place in an 8 x 8 block, row by row, of each coefficient as the file has them.
constexpr uint8_t kNatural[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,
                                  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
                                  35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
                                  58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

// Throws JpegError for a picture of more than kMaxPixels.
void check_pixels(uint64_t width, uint64_t height);

struct ComponentFactors {
    int h;
    int v;
};

// What stands before the first scan's entropy-coded data.
struct JpegHeader {
    uint32_t width = 0;
    uint32_t height = 0;
    int precision = 0;
    int sof = 0;  // second byte of the SOF marker, 0xC0..0xCF
    int component_count = 0;
    std::array<ComponentFactors, kMaxComponents> factors{};
    uint32_t restart_interval = 0;
    int adobe_transform = -1;  // -1: no Adobe APP14
    int scan_component_count = 0;
    size_t size_offset = 0;  // of SOF's height (2 bytes), followed by its width
    size_t scan_offset = 0;  // of the first entropy-coded byte

    bool progressive() const;
    bool sequential_huffman() const { return sof == 0xC0 || sof == 0xC1; }
    // In pixels, of an interleaved scan; 8 for one component, whose factors the standard says to ignore.
    uint32_t mcu_width() const;
    uint32_t mcu_height() const;
    uint32_t mcus_per_row() const { return (width + mcu_width() - 1) / mcu_width(); }
    uint32_t mcu_rows() const { return (height + mcu_height() - 1) / mcu_height(); }
    // "4:2:0", "4:2:2", "4:4:0", "4:4:4", "4:1:1", "grey", "cmyk" (any 4 components) or "other".
    std::string sampling() const;
};

// Reads up to and with the first SOS. Throws JpegError for what isn't a JPEG, is cut short ("truncated:
// ..."), has more than kMaxComponents components or kMaxPixels pixels.
JpegHeader parse_header(const uint8_t* data, size_t size);

}  // namespace fasttrain
