#include "cut/tokens.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/simd.h"

namespace fasttrain {

namespace {

constexpr int kPeek = TokenTable::kPeek;
constexpr uint32_t kLong = 128;
constexpr int kMaxStep = kPeek + kMaxAcSize;
constexpr int kCodeBits = 27;  // 16 and the 11 that may follow

// Returns 0 if baseline has no such symbol.
uint32_t make_entry(uint32_t symbol, uint32_t length, bool dc) {
    const uint32_t size = dc ? symbol : symbol & 15;
    if (size > static_cast<uint32_t>(dc ? kMaxDcSize : kMaxAcSize)) return 0;
    return size << 24 | symbol << 16 | (dc ? 0 : ac_move(symbol)) << 8 | (length + size);
}

__attribute__((noinline)) uint32_t find_long(uint64_t bits, const TokenTable& table) {
    const HuffmanCode::Found found = table.code.find(bits, 1);
    return found.length == 0 ? 0 : make_entry(found.symbol, found.length, table.dc);
}

uint32_t size_of(int value) {
    return value == 0 ? 0 : 32 - static_cast<uint32_t>(__builtin_clz(static_cast<unsigned>(std::abs(value))));
}

FASTTRAIN_INLINE bool has_ff(uint64_t word) {
    return (word & 0x8080808080808080 & ~(word + 0x0101010101010101)) != 0;
}

FASTTRAIN_INLINE uint8_t* put_word(uint64_t word, size_t bytes, uint8_t* to) {
    if (!has_ff(word)) {
        const uint64_t ordered = big_endian(word);
        std::memcpy(to, &ordered, 8);
        return to + bytes;
    }
    for (size_t i = 0; i < bytes; ++i) {
        *to = static_cast<uint8_t>(word >> (56 - 8 * i));
        if (*to++ == 0xFF) *to++ = 0;
    }
    return to;
}

// Reads bits. No address is passed on, so that all state stays in registers.
struct BitReader {
    const uint8_t* next;
    uint64_t bits;
    uint32_t count;

    // Afterwards `bits` has at least 56 bits.
    FASTTRAIN_INLINE void refill() {
        bits |= load_big_endian(next) >> count;
        next += (63 - count) >> 3;
        count |= 56;
    }
    FASTTRAIN_INLINE uint32_t look_up(const TokenTable& table) const {
        return table.entries[bits >> (64 - kPeek)];
    }
    // Reads the code of `entry`, and returns the bits that follow it.
    FASTTRAIN_INLINE uint32_t take(uint32_t entry) {
        const uint32_t drop = entry & 255;
        const auto value = static_cast<uint32_t>(bits >> (-drop & 63)) & ((1u << (entry >> 24)) - 1);
        bits <<= drop & 63;
        count -= drop;
        return value;
    }
};

// Reads a DC coefficient, and writes its difference from the last one that was written. Returns false if it
// is out of range.
FASTTRAIN_INLINE bool read_dc(BitReader& from, TokenReader& reader, const TokenBlock& block, Token*& out) {
    from.refill();
    uint32_t entry = from.look_up(*block.dc);
    if ((entry & 255) == 0 && (entry = find_long(from.bits, *block.dc)) == 0) return false;
    const auto bits = static_cast<int>(from.take(entry));
    const int size = static_cast<int>(entry >> 24);
    int& value = reader.read[block.component];
    value += size == 0 || bits >> (size - 1) != 0 ? bits : bits - (1 << size) + 1;
    if (value < -block.max_dc - 1 || value > block.max_dc) return false;
    const int difference = value - reader.passed_on[block.component];
    const uint32_t out_size = size_of(difference);
    const auto out_bits = static_cast<uint32_t>(difference - (difference < 0)) & ((1u << out_size) - 1);
    *out++ = block.dc_base | out_size << 16 | out_bits;
    return true;
}

FASTTRAIN_INLINE bool read_ac(BitReader& from, const TokenBlock& block, Token*& out) {
    const TokenTable& table = *block.ac;
    const Token base = block.ac_base;
    Token* to = out;
    uint32_t k = 0;
    uint32_t entry = 0;
    const auto step = [&] {
        entry = from.look_up(table);
        k += entry >> 8 & 255;
        if (k >= 63) return false;
        const Token symbol = base | (entry & 0xFF0000);
        *to++ = symbol | from.take(entry);
        return true;
    };
    const auto has_bits = [&] { return from.count >= static_cast<uint32_t>(kMaxStep); };
    for (;;) {
        from.refill();
        if (step() && step() && (!has_bits() || (step() && (!has_bits() || step())))) continue;
        if ((entry >> 8 & 255) == kLong) {
            from.refill();
            k -= kLong;
            if ((entry = find_long(from.bits, table)) == 0) return false;
            k += entry >> 8 & 255;
        }
        const Token symbol = entry & 0xFF0000;
        const uint32_t value = from.take(entry);
        if ((entry >> 8 & 255) != kEndOfBlock) {
            if (k > 63) return false;
            *to++ = base | symbol | value;
            if (k < 63) continue;
            if (symbol != uint32_t{kZeroRun} << 16) break;
        }
        while ((to[-1] & 0xFF0000) == uint32_t{kZeroRun} << 16) --to;
        *to++ = base;
        break;
    }
    out = to;
    return true;
}

FASTTRAIN_INLINE Token* read_mcu_body(TokenReader& reader, const TokenLayout& layout, bool last_column,
                                      bool last_row, Token* out) {
    BitReader from{reader.next, reader.bits, reader.count};
    for (int b = 0; b < layout.blocks; ++b) {
        const TokenBlock& block = layout.block[b];
        Token* const begin = out;
        if (!read_dc(from, reader, block, out) || !read_ac(from, block, out)) return nullptr;
        if ((last_column && block.fills_column) || (last_row && block.fills_row)) {
            // Replace a padding block by one with the previous DC coefficient and no AC coefficients.
            out = begin;
            *out++ = block.dc_base;
            *out++ = block.ac_base;
        } else {
            reader.passed_on[block.component] = reader.read[block.component];
        }
    }
    reader.next = from.next;
    reader.bits = from.bits;
    reader.count = from.count;
    return out;
}

#ifdef FASTTRAIN_X86
__attribute__((target("avx2,bmi,bmi2"))) Token* read_mcu_bmi2(TokenReader& reader, const TokenLayout& layout,
                                                              bool last_column, bool last_row, Token* out) {
    return read_mcu_body(reader, layout, last_column, last_row, out);
}
#endif

}  // namespace

bool TokenTable::build(const uint8_t counts[16], const uint8_t values[256], bool for_dc) {
    dc = for_dc;
    std::fill(std::begin(entries), std::end(entries), kLong << 8);
    return code.build(counts, values, 256, [&](uint8_t symbol, uint32_t bits, uint32_t length) {
        if (dc && symbol > 15) return false;
        const uint32_t entry = make_entry(symbol, length, dc);
        if (length <= kPeek && entry != 0)
            std::fill_n(entries + (bits << (kPeek - length)), size_t{1} << (kPeek - length), entry);
        return true;
    });
}

Token* read_mcu(TokenReader& reader, const TokenLayout& layout, bool last_column, bool last_row, Token* out) {
#ifdef FASTTRAIN_X86
    if (simd_level() != Simd::plain) return read_mcu_bmi2(reader, layout, last_column, last_row, out);
#endif
    return read_mcu_body(reader, layout, last_column, last_row, out);
}

void TokenWriter::set_code(int table, const HuffmanSpec& spec) {
    for_each_code(spec.counts, [&](size_t index, uint32_t code, uint32_t length) {
        const uint32_t symbol = spec.symbols[index];
        const uint32_t size = symbol & 15;  // also right for DC symbols, which are below 12
        codes_[table * 256 + static_cast<int>(symbol)] = (length + size) << kCodeBits | code << size;
        return true;
    });
}

uint8_t* TokenWriter::make_room(size_t bytes) {
    if (out_.size() < used_ + bytes) out_.resize(std::max(out_.capacity(), 2 * out_.size() + bytes));
    return out_.data() + used_;
}

void TokenWriter::write(const Token* begin, const Token* end) {
    // A token fills at most four bytes, and each may need a zero after it.
    uint8_t* to = make_room(static_cast<size_t>(end - begin) * 8 + 16);
    uint64_t bits = bits_;
    int free = free_;
    for (const Token* token = begin; token != end; ++token) {
        const uint32_t code = codes_[*token >> 16];
        const auto length = static_cast<int>(code >> kCodeBits);
        const uint64_t value = (code & ((1u << kCodeBits) - 1)) | (*token & 0xFFFF);
        free -= length;
        if (free < 0) {
            to = put_word(bits << (length + free) | value >> -free, 8, to);
            free += 64;
            bits = value;
        } else {
            bits = bits << length | value;
        }
    }
    bits_ = bits;
    free_ = free;
    used_ = static_cast<size_t>(to - out_.data());
}

void TokenWriter::write_marker(uint8_t marker) {
    uint8_t* to = make_room(32);
    const int padding = free_ & 7;
    const int left = free_ - padding;
    if (left < 64)
        to = put_word((((bits_ + 1) << padding) - 1) << left, static_cast<size_t>(64 - left) / 8, to);
    *to++ = 0xFF;
    *to++ = marker;
    used_ = static_cast<size_t>(to - out_.data());
    bits_ = 0;
    free_ = 64;
}

}  // namespace fasttrain
