#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jpeg/huffman.h"
#include "jpeg/segments.h"

namespace fasttrain {

// A coded symbol and the bits that follow it, independent of the Huffman code. Bits 0..15: the bits that
// follow; 16..23: the symbol; 24..25: the number of the table to write it with.
using Token = uint32_t;
constexpr int kTokenTables = 4;
constexpr int kMaxMcuTokens = kMaxBlocks * 64;

// A Huffman table for reading tokens. One look-up of the next kPeek bits gives a code's length and its
// symbol.
struct TokenTable {
    static constexpr int kPeek = 11;

    // Bits 0..7: the number of bits of the code and of those that follow; 8..15: how far the index moves, or
    // more than any index if the block ends or the code is long; 16..23: the symbol; 24..31: the number of
    // bits that follow.
    uint32_t entries[1 << kPeek];
    HuffmanCode code;
    bool dc;

    // Returns false if libjpeg rejects the table.
    bool build(const uint8_t counts[16], const uint8_t values[256], bool for_dc);
};

struct TokenBlock {
    int component;
    const TokenTable* dc;
    const TokenTable* ac;
    Token dc_base;  // the number of the table to write with, at its position in a token
    Token ac_base;
    int max_dc;
    // Whether the block is only padding in the last MCU of a row, or in the last row of MCUs.
    bool fills_column;
    bool fills_row;
};

struct TokenLayout {
    int blocks = 0;
    TokenBlock block[kMaxBlocks];
};

// The position in the source, and the last DC coefficients that were read and that were written.
struct TokenReader {
    const uint8_t* next = nullptr;
    uint64_t bits = 0;  // the next bit on top
    uint32_t count = 0;
    int read[3] = {};
    int passed_on[3] = {};

    void begin(const uint8_t* data) {
        next = data;
        bits = count = 0;
        read[0] = read[1] = read[2] = 0;
    }
    // One past the last byte from which at least one bit was read.
    const uint8_t* position() const { return next - count / 8; }
    // Whether the remaining bits of that byte are all ones, as encoders pad it.
    bool only_ones_left() const {
        const uint32_t left = count % 8;
        return left == 0 || bits >> (64 - left) == (uint64_t{1} << left) - 1;
    }
};

// Reads an MCU, and writes the tokens with which libjpeg would code the same coefficients to `out`, at most
// kMaxMcuTokens. Padding blocks are replaced by those of libjpeg. Returns the end of the tokens, or null if
// the bytes aren't an MCU or contain a coefficient that baseline can't code. May read kOverread bytes.
Token* read_mcu(TokenReader& reader, const TokenLayout& layout, bool last_column, bool last_row, Token* out);

// Appends entropy-coded data to `out`.
class TokenWriter {
  public:
    explicit TokenWriter(std::vector<uint8_t>& out) : out_(out), used_(out.size()) {}

    void set_code(int table, const HuffmanSpec& spec);
    void write(const Token* begin, const Token* end);
    // Pads the last byte with ones, and writes a marker.
    void write_marker(uint8_t marker);
    // Shortens `out` to its content. Must be called last.
    void finish() { out_.resize(used_); }

  private:
    uint8_t* make_room(size_t bytes);

    // Bits 0..26: the code, shifted left by the number of bits that follow it; 27..31: the length of both.
    uint32_t codes_[kTokenTables * 256] = {};
    std::vector<uint8_t>& out_;
    size_t used_;
    uint64_t bits_ = 0;  // the last bit at the bottom
    int free_ = 64;
};

}  // namespace fasttrain
