#pragma once

#include <cstddef>
#include <cstdint>

#include "jpeg/entropy.h"
#include "jpeg/header.h"
#include "jpeg/skip.h"
#include "resize/resize.h"

namespace fasttrain {

// A thread's tables; a file whose Huffman tables are the last file's takes them as they are.
struct DecodeTables {
    JpegHeader header;
    Colour colour = Colour::grey;
    uint16_t quantisation[4][64];  // in natural order
    CoefficientTable dc[4];
    CoefficientTable ac[4];
    SkipTable skip[4];
    bool skip_made[4] = {};
    std::vector<uint8_t> huffman_bytes[8];  // as in DHT; dc, then ac

    // The one of `ac[index]`, made when it is first asked for.
    const SkipTable& skip_table(int index);

    // True if our own decoder takes this file: Huffman, 8 bits, one scan of one component or of three with
    // chroma at the luma's resolution or half of it, and all tables there; false if libjpeg must. Throws
    // JpegError for what isn't a JPEG.
    bool read(const uint8_t* data, size_t size);
};

}  // namespace fasttrain
