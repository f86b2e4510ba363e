#include "jpeg/skip.h"

#include <algorithm>
#include <iterator>

#include "base/simd.h"

namespace fasttrain {

namespace {

constexpr int kPeek = SkipTable::kPeek;
constexpr uint16_t kEnds = 64;
constexpr uint16_t kTooLong = 128 << 8;
// A look-up needs kPeek bits, and the value of its last code up to 15 more.
static_assert(2 * (kPeek + 15) <= 56, "two look-ups after a refill");

struct SkipReader {
    const uint8_t* next;
    uint64_t bits;
    uint32_t count;

    // Afterwards `bits` has at least 56 bits.
    FASTTRAIN_INLINE void refill() {
        bits |= load_big_endian(next) >> count;
        next += (63 - count) >> 3;
        count |= 56;
    }
    FASTTRAIN_INLINE void drop(uint32_t dropped) {
        bits <<= dropped;
        count -= dropped;
    }
};

// Reads the difference from the last DC coefficient. Returns false if there is no valid code.
FASTTRAIN_INLINE bool read_dc(SkipReader& from, const CoefficientTable& dc, int& difference) {
    const int32_t entry = dc.entries[from.bits >> (64 - CoefficientTable::kPeek)];
    if ((entry >> 8 & 255) != CoefficientTable::kLong) {
        difference = entry >> 16;
        from.drop(entry & 63);
        return true;
    }
    const CoefficientSymbol symbol = read_symbol(from.bits, dc, true);
    difference = symbol.value;
    from.drop(symbol.drop);
    return symbol.drop != 0;
}

FASTTRAIN_INLINE bool skip_ac(SkipReader& from, const SkipTable& table, const CoefficientTable& ac) {
    uint32_t k = 0;
    uint32_t entry = 0;
    const auto step = [&] {
        entry = table.entries[from.bits >> (64 - kPeek)];
        k += entry >> 8;
        if (k >= 63) return false;
        from.drop(entry & 63);
        return (entry & kEnds) == 0;
    };
    for (;;) {
        from.refill();
        if (step() && step()) continue;
        if (k < 63) return true;
        // Read a single code: it is long, or it is the last coefficient, which no end-of-block code follows.
        k -= entry >> 8;
        from.refill();
        const CoefficientSymbol symbol = read_symbol(from.bits, ac, false);
        if (symbol.move == 0) return false;
        from.drop(symbol.drop);
        k += symbol.move;
        if (k >= 63) return k == 63 || symbol.move == kEndOfBlock;
    }
}

FASTTRAIN_INLINE bool skip_body(McuReader& reader, const SkipLayout& layout, int64_t count,
                                const uint8_t* end) {
    SkipReader from{reader.next, reader.bits, reader.count};
    for (; count > 0; --count) {
        for (int b = 0; b < layout.mcu.blocks; ++b) {
            from.refill();
            int difference;
            if (!read_dc(from, *layout.mcu.dc[b], difference)) return false;
            const int c = layout.mcu.component[b];
            const int value = reader.predictors[c] += difference;
            if (value < -layout.most_dc[c] - 1 || value > layout.most_dc[c]) return false;
            if (!skip_ac(from, *layout.ac[b], *layout.mcu.ac[b])) return false;
        }
        if (from.next - from.count / 8 > end) return false;
    }
    reader.next = from.next;
    reader.bits = from.bits;
    reader.count = from.count;
    return true;
}

#ifdef FASTTRAIN_X86
__attribute__((target("avx2,bmi,bmi2"))) bool skip_bmi2(McuReader& reader, const SkipLayout& layout,
                                                        int64_t count, const uint8_t* end) {
    return skip_body(reader, layout, count, end);
}
#endif

}  // namespace

void SkipTable::build(const uint8_t counts[16], const uint8_t* symbols) {
    // One code by itself: its length, the length of its value, and the move.
    struct Code {
        uint8_t length;
        uint8_t size;
        uint8_t move;
    };
    Code codes[1 << kPeek] = {};
    for_each_code(counts, [&](size_t index, uint32_t code, uint32_t length) {
        if (length > kPeek) return false;
        const uint8_t symbol = symbols[index];
        std::fill_n(codes + (code << (kPeek - length)), size_t{1} << (kPeek - length),
                    Code{static_cast<uint8_t>(length), static_cast<uint8_t>(symbol & 15),
                         static_cast<uint8_t>(ac_move(symbol))});
        return true;
    });
    for (uint32_t i = 0; i < 1u << kPeek; ++i) {
        uint32_t drop = 0;
        uint32_t move = 0;
        uint16_t entry = kTooLong;
        while (drop < kPeek) {
            const Code& code = codes[i << drop & ((1u << kPeek) - 1)];
            if (code.length == 0 || drop + code.length > kPeek) break;
            drop += code.length;
            const bool ends = code.move == kEndOfBlock;
            if (!ends) drop += code.size, move += code.move;
            entry = static_cast<uint16_t>(move << 8 | (ends ? kEnds : 0) | drop);
            if (ends) break;
        }
        entries[i] = entry;
    }
}

bool skip_mcus(McuReader& reader, const SkipLayout& layout, int64_t count, const uint8_t* end) {
#ifdef FASTTRAIN_X86
    if (simd_level() != Simd::plain) return skip_bmi2(reader, layout, count, end);
#endif
    return skip_body(reader, layout, count, end);
}

}  // namespace fasttrain
