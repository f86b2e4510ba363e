#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fasttrain {

// A Huffman code as DHT stores it: how many codes each length has, and the symbols, the shortest code first.
struct HuffmanSpec {
    uint8_t counts[16] = {};
    std::vector<uint8_t> symbols;
};

// Calls `each(index, code, length)` for every code, the shortest first (T.81, annex C), until a call returns
// false. Returns the last result. Also returns false if a code doesn't fit into its length, or consists of
// ones only, which JPEG forbids.
template <typename Each>
bool for_each_code(const uint8_t counts[16], Each each) {
    uint32_t code = 0;
    size_t index = 0;
    for (uint32_t length = 1; length <= 16; ++length, code <<= 1) {
        const uint32_t end = code + counts[length - 1];
        if (end > code && end >= 1u << length) return false;
        for (; code < end; ++code, ++index)
            if (!each(index, code, length)) return false;
    }
    return true;
}

// Decodes codes of any length, one at a time. Fast decoders add a look-up table for the short codes.
class HuffmanCode {
  public:
    struct Found {
        uint32_t length;  // 0: no code begins like this
        uint8_t symbol;
    };

    // Calls `each(symbol, code, length)` as for_each_code does. Also returns false if a code has no symbol.
    template <typename Each>
    bool build(const uint8_t counts[16], const uint8_t* symbols, size_t symbol_count, Each each) {
        if (!set(counts, symbols, symbol_count)) return false;
        return for_each_code(counts, [&](size_t index, uint32_t code, uint32_t length) {
            return each(symbols_[index], code, length);
        });
    }

    // Finds the code on top of `bits`, whose length must be at least `shortest`.
    Found find(uint64_t bits, uint32_t shortest) const {
        const auto word = static_cast<uint32_t>(bits >> 48);
        uint32_t length = shortest;
        while (length <= 16 && word >= limit_[length]) ++length;
        if (length > 16) return {0, 0};
        return {length, symbols_[(word >> (16 - length)) + static_cast<uint32_t>(offset_[length])]};
    }

  private:
    bool set(const uint8_t counts[16], const uint8_t* symbols, size_t symbol_count);

    uint32_t limit_[17];  // the first 16-bit word beyond the codes of this length
    int32_t offset_[17];  // added to a code of this length, gives its index in `symbols_`
    uint8_t symbols_[256];
};

// How far an AC symbol moves the index of the coefficient; kEndOfBlock is more than any index.
constexpr uint32_t kEndOfBlock = 64;
constexpr uint8_t kZeroRun = 0xF0;
// The longest values that follow a baseline symbol, in bits.
constexpr int kMaxDcSize = 11;
constexpr int kMaxAcSize = 10;

constexpr uint32_t ac_move(uint32_t symbol) {
    return (symbol & 15) == 0 && symbol != kZeroRun ? kEndOfBlock : (symbol >> 4) + 1;
}

// Makes the shortest code for symbols of these frequencies, with at most 16 bits (T.81, K.2). It equals
// libjpeg's, because ties are broken in the same way. Returns false if libjpeg gives up.
bool make_optimal(const uint32_t frequencies[256], HuffmanSpec& spec);

}  // namespace fasttrain
