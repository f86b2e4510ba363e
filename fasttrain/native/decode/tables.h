#pragma once

#include <cstddef>
#include <cstdint>

#include "jpeg/entropy.h"
#include "jpeg/header.h"
#include "jpeg/skip.h"
#include "resize/resize.h"

namespace fasttrain {

// A thread's tables. They are reused if a file has the same Huffman tables as the previous one.
struct DecodeTables {
    JpegHeader header;
    Colour colour = Colour::grey;
    uint16_t quantisation[4][64];  // in natural order
    CoefficientTable dc[4];
    CoefficientTable ac[4];
    SkipTable skip[4];
    bool skip_made[4] = {};
    std::vector<uint8_t> huffman_bytes[8];  // as in DHT; dc, then ac

    // Returns the table for `ac[index]`, built on first use.
    const SkipTable& skip_table(int index);

    // Returns true if our own decoder can read this file: Huffman, 8 bits, one scan of one component or of
    // three with chroma at the luma's resolution or half of it, and all tables present. Returns false if
    // libjpeg must read it. Throws JpegError if it is not a JPEG.
    bool read(const uint8_t* data, size_t size);
};

}  // namespace fasttrain
