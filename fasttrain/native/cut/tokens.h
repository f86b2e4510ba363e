#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jpeg/huffman.h"
#include "jpeg/segments.h"

namespace fasttrain {

// A coded symbol and the bits that follow it, on their way from one Huffman code to another. Bits 0..15: the
// bits; 16..23: the symbol; 24..25: the table, of four, to write it with.
using Token = uint32_t;
constexpr int kTokenTables = 4;
constexpr int kMaxMcuTokens = kMaxBlocks * 64;

// A Huffman table for reading tokens: one look-up of the next kPeek bits gives a code's length and its
// symbol.
struct TokenTable {
    static constexpr int kPeek = 11;

    // Bits 0..7: length of the code and of the bits that follow; 8..15: how far the index moves, or more than
    // any index if the block ends or the code is long; 16..23: the symbol; 24..31: how many bits follow.
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
    Token dc_base;  // the table to write with, at its position in a token
    Token ac_base;
    int max_dc;
    // Whether it is only padding of the MCU if that is the last of its row, or in the last row.
    bool fills_column;
    bool fills_row;
};

struct TokenLayout {
    int blocks = 0;
    TokenBlock block[kMaxBlocks];
};

// The position in the source, and the last DC coefficients read and passed on.
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
    // One past the last byte that was begun.
    const uint8_t* position() const { return next - count / 8; }
    // Whether the rest of that byte is padded as an encoder does it.
    bool only_ones_left() const {
        const uint32_t left = count % 8;
        return left == 0 || bits >> (64 - left) == (uint64_t{1} << left) - 1;
    }
};

// Reads an MCU and writes its tokens, as libjpeg would code the same coefficients, to `out`, at most
// kMaxMcuTokens. Returns their end. Padding blocks are replaced by those of libjpeg. May read kOverread
// bytes. Returns null if the bytes aren't an MCU or hold a coefficient that baseline can't code.
Token* read_mcu(TokenReader& reader, const TokenLayout& layout, bool last_column, bool last_row, Token* out);

// Appends entropy-coded data to `out`.
class TokenWriter {
  public:
    explicit TokenWriter(std::vector<uint8_t>& out) : out_(out), used_(out.size()) {}

    void set_code(int table, const HuffmanSpec& spec);
    void write(const Token* begin, const Token* end);
    // Pads the last byte with ones first.
    void write_marker(uint8_t marker);
    // Must be called last: until then `out` is longer than its content.
    void finish() { out_.resize(used_); }

  private:
    uint8_t* make_room(size_t bytes);

    // Bits 0..26: the code, with room for the bits that follow it; 27..31: the length of both.
    uint32_t codes_[kTokenTables * 256] = {};
    std::vector<uint8_t>& out_;
    size_t used_;
    uint64_t bits_ = 0;  // the last bit at the bottom
    int free_ = 64;
};

}  // namespace fasttrain
