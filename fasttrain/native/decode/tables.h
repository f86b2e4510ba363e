#pragma once

#include <cstddef>
#include <cstdint>

#include "jpeg/entropy.h"
#include "jpeg/header.h"
#include "jpeg/skip.h"
#include "resize/resize.h"

namespace fasttrain {

// A thread's decoding tables. A Huffman table is only rebuilt if it differs from the previous file's.
struct DecodeTables {
    JpegHeader header;
    Colour colour = Colour::grey;
    uint16_t quantisation[4][64];  // in natural order
    CoefficientTable dc[4];
    CoefficientTable ac[4];
    SkipTable skip[4];
    bool skip_made[4] = {};
    std::vector<uint8_t> huffman_bytes[8];  // the tables' bytes in DHT: four for DC, then four for AC

    // Returns the table for `ac[index]`, built on first use.
    const SkipTable& skip_table(int index);

    // Reads the header and tables of a file. Returns true if our own decoder can read it: Huffman coding, 8
    // bits, one scan with one component or with three whose chroma has the luma's resolution or half of it,
    // and all tables present. Returns false if libjpeg must read it. Throws JpegError if it isn't a JPEG.
    bool read(const uint8_t* data, size_t size);
};

}  // namespace fasttrain
