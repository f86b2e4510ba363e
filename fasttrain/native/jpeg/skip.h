#pragma once

#include <cstddef>
#include <cstdint>

#include "jpeg/entropy.h"

namespace fasttrain {

// A Huffman table for skipping AC coefficients. One look-up of the next kPeek bits skips all codes that end
// within them, with their values, up to the end of the block.
struct SkipTable {
    static constexpr int kPeek = 11;

    // Bits 0..5: how many bits to drop; 6: the block ends; 8..15: how far the index moves before that, or
    // more than any index if the first code is longer.
    uint16_t entries[1 << kPeek];

    // `counts` and `symbols` must form a valid code.
    void build(const uint8_t counts[16], const uint8_t* symbols);
};

struct SkipLayout {
    McuLayout mcu;
    const SkipTable* ac[kMaxBlocks] = {};
    // A component's DC coefficients lie in -most_dc - 1 .. most_dc.
    int most_dc[3] = {};
};

// Skips `count` MCUs and decodes only their DC coefficients. May read kOverread bytes from `end`. Returns
// false if the bytes up to there aren't such MCUs.
bool skip_mcus(McuReader& reader, const SkipLayout& layout, int64_t count, const uint8_t* end);

}  // namespace fasttrain
