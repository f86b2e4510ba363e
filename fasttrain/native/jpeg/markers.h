#pragma once

#include <cstddef>
#include <cstdint>

namespace fasttrain {

// The second byte of each marker (ITU-T T.81, table B.1); the first is FF.
enum Marker : int {
    kStuffing = 0x00,  // not a marker: the FF before it belongs to the data
    kTem = 0x01,
    kSof0 = 0xC0,  // baseline
    kSof1 = 0xC1,  // extended sequential, Huffman
    kSof2 = 0xC2,  // progressive, Huffman
    kDht = 0xC4,
    kSof6 = 0xC6,  // differential progressive, Huffman
    kJpg = 0xC8,
    kSof10 = 0xCA,  // progressive, arithmetic
    kDac = 0xCC,
    kSof14 = 0xCE,  // differential progressive, arithmetic
    kSof15 = 0xCF,
    kRst0 = 0xD0,
    kRst7 = 0xD7,
    kSoi = 0xD8,
    kEoi = 0xD9,
    kSos = 0xDA,
    kDqt = 0xDB,
    kDri = 0xDD,
    kApp0 = 0xE0,   // JFIF
    kApp14 = 0xEE,  // Adobe
    kFill = 0xFF,   // fills up before a marker
};

constexpr int kNoMarker = -1;

constexpr int restart_marker(size_t number) {
    return kRst0 | static_cast<int>(number & 7);
}

// The zig-zag order: the place in an 8 x 8 block, row by row, of each coefficient in the order of the file.
constexpr uint8_t kNatural[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,
                                  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
                                  35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
                                  58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

}  // namespace fasttrain
