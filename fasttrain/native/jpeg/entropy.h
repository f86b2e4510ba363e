#pragma once

#include <cstddef>
#include <cstdint>

#include "jpeg/huffman.h"
#include "jpeg/segments.h"

namespace fasttrain {

// A Huffman table for decoding coefficients. One look-up of the next kPeek bits gives the code and, if both
// fit into these bits, the value that follows it.
struct CoefficientTable {
    static constexpr int kPeek = 10;
    static constexpr int kLong = 128;

    // Bits 0..7: how many bits to drop; 8..15: how far the index moves, kEndOfBlock at the end of the block;
    // 16..31: the value. If the code or its value is too long, nothing is dropped, the move is kLong, and
    // 16..31 hold the code's length (0: over kPeek; 4 bits), the value's size (4 bits) and the move (7 bits).
    int32_t entries[1 << kPeek];
    HuffmanCode code;
    bool valid = false;
    bool baseline = false;  // all symbols are allowed in a baseline JPEG

    // Returns false, and leaves the table invalid, if libjpeg rejects it, or a size can't be decoded.
    bool build(const uint8_t counts[16], const uint8_t* values, size_t value_count, bool dc);
};

// For a bad code `move` is 0, unlike for any AC code, and so is `drop`, unlike for any DC code.
struct CoefficientSymbol {
    int16_t value;
    uint8_t drop;  // how many bits the code and its value take
    uint8_t move;  // as in CoefficientTable
};

// Decodes the symbol on top of `bits`, of any length.
CoefficientSymbol read_symbol(uint64_t bits, const CoefficientTable& table, bool dc);

constexpr int kMaxPairs = kMaxBlocks / 2;

// The tables that the blocks of an MCU use.
struct McuLayout {
    int blocks = 0;
    int component[kMaxBlocks] = {};
    const CoefficientTable* dc[kMaxBlocks] = {};
    const CoefficientTable* ac[kMaxBlocks] = {};
};

// The coefficients of an MCU. Blocks are stored in pairs for the IDCT: row r of block b is the 8 values from
// index (b / 2) * 128 + r * 16 + (b % 2) * 8.
struct alignas(64) McuCoefficients {
    int16_t values[kMaxPairs * 128];
    int last[kMaxBlocks];  // zigzag index of each block's last coefficient
};

// A position in the data of a restart interval. The position within a byte and the DC predictors carry over
// from one MCU to the next.
struct McuReader {
    explicit McuReader(const uint8_t* data) : begin(data), next(data) {}
    // The number of bytes from which at least one bit was read.
    size_t bytes_read() const { return static_cast<size_t>(next - begin) - count / 8; }

    const uint8_t* begin;
    const uint8_t* next;
    uint64_t bits = 0;  // the next bit on top
    uint32_t count = 0;
    int predictors[3] = {};
};

// Decodes one MCU into `out.values`, which must be zero. May read kOverread bytes from `reader.next`. Returns
// false if the bytes aren't an MCU. The caller checks the position.
bool decode_mcu(McuReader& reader, const McuLayout& layout, McuCoefficients& out);

// Decodes two independent MCUs at once: while one waits for a look-up, the other proceeds.
bool decode_two_mcus(McuReader& first, McuReader& second, const McuLayout& layout, McuCoefficients& first_out,
                     McuCoefficients& second_out);

}  // namespace fasttrain
