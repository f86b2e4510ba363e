#include "jpeg/entropy.h"

#include <algorithm>
#include <iterator>

#include "base/simd.h"

namespace fasttrain {

namespace {

constexpr int kPeek = CoefficientTable::kPeek;
constexpr int kLong = CoefficientTable::kLong;

// The position of zigzag index k in a block whose rows are 16 values apart.
constexpr uint8_t kPlace[64] = {0,   1,   16,  32,  17,  2,  3,  18, 33,  48,  64,  49,  34, 19,  4,   5,
                                20,  35,  50,  65,  80,  96, 81, 66, 51,  36,  21,  6,   7,  22,  37,  52,
                                67,  82,  97,  112, 113, 98, 83, 68, 53,  38,  23,  39,  54, 69,  84,  99,
                                114, 115, 100, 85,  70,  55, 71, 86, 101, 116, 117, 102, 87, 103, 118, 119};

int extend(uint32_t bits, int size) {
    return bits < 1u << (size - 1) ? static_cast<int>(bits) - (1 << size) + 1 : static_cast<int>(bits);
}

int move_of(int symbol, bool dc) {
    return dc ? 0 : static_cast<int>(ac_move(static_cast<uint32_t>(symbol)));
}

__attribute__((noinline)) CoefficientSymbol decode_long(uint64_t bits, const CoefficientTable& table,
                                                        int32_t entry, bool dc) {
    int length = entry >> 16 & 15;
    int size = entry >> 20 & 15;
    int move = entry >> 24 & 127;
    if (length == 0) {
        const HuffmanCode::Found found = table.code.find(bits, kPeek + 1);
        if (found.length == 0) return {0, 0, 0};
        length = static_cast<int>(found.length);
        size = dc ? found.symbol : found.symbol & 15;
        move = move_of(found.symbol, dc);
    }
    const int value = size > 0 ? extend(static_cast<uint32_t>(bits << length >> (64 - size)), size) : 0;
    return {static_cast<int16_t>(value), static_cast<uint8_t>(length + size), static_cast<uint8_t>(move)};
}

// Decodes one MCU. Everything is inlined and no address is passed on, so that all state stays in registers.
class McuDecoder {
  public:
    FASTTRAIN_INLINE McuDecoder(McuReader& reader, const McuLayout& layout, McuCoefficients& coefficients)
        : next_(reader.next),
          bits_(reader.bits),
          count_(reader.count),
          reader_(reader),
          layout_(layout),
          coefficients_(coefficients) {
        begin_block();
    }

    // Afterwards `bits_` has at least 56 bits, enough for four steps.
    FASTTRAIN_INLINE void refill() {
        count_ &= 63;
        bits_ |= load_big_endian(next_) >> count_;
        next_ += (63 - count_) >> 3;
        count_ |= 56;
    }

    // Does one look-up. Returns false if it isn't just another coefficient, and attend() must be called.
    FASTTRAIN_INLINE bool step() {
        entry_ = table_->entries[bits_ >> (64 - kPeek)];
        bits_ <<= entry_ & 63;
        count_ -= static_cast<uint32_t>(entry_);  // its upper bits are ignored until refill() drops them
        k_ += entry_ >> 8 & 255;
        if (stopped()) return false;
        place_[kPlace[k_]] = static_cast<int16_t>(entry_ >> 16);
        return true;
    }

    FASTTRAIN_INLINE bool stopped() const { return k_ >= 63; }

    // Handles long codes, the 64th coefficient and the end of a block. Returns false at the end of the MCU. A
    // refill is needed before the next step.
    FASTTRAIN_INLINE bool attend() {
        int move = entry_ >> 8 & 255;
        int value = entry_ >> 16;
        if (move == kLong) {
            refill();
            const CoefficientSymbol symbol = decode_long(bits_, *table_, entry_, false);
            drop(symbol.drop);
            move = symbol.move;
            value = symbol.value;
            k_ += move - kLong;
            good_ &= move != 0;
        }
        if (k_ <= 63 && move != 0) {
            place_[kPlace[k_]] = static_cast<int16_t>(value);
            if (k_ < 63) return true;
        } else {
            good_ &= move == static_cast<int>(kEndOfBlock);
            k_ -= static_cast<int>(kEndOfBlock);
        }
        coefficients_.last[block_] = k_;
        if (!good_ || ++block_ == layout_.blocks) return false;
        begin_block();
        return true;
    }

    FASTTRAIN_INLINE bool finish() {
        reader_.next = next_;
        reader_.bits = bits_;
        reader_.count = count_ & 63;
        return good_;
    }

  private:
    FASTTRAIN_INLINE void drop(int count) {
        bits_ <<= count;
        count_ -= static_cast<uint32_t>(count);
    }

    FASTTRAIN_INLINE void begin_block() {
        refill();
        const CoefficientTable& dc = *layout_.dc[block_];
        const int32_t entry = dc.entries[bits_ >> (64 - kPeek)];
        int difference = entry >> 16;
        if ((entry >> 8 & 255) == kLong) {
            const CoefficientSymbol symbol = decode_long(bits_, dc, entry, true);
            good_ &= symbol.drop != 0;
            difference = symbol.value;
            drop(symbol.drop);
        } else {
            drop(entry & 63);
        }
        table_ = layout_.ac[block_];
        place_ = coefficients_.values + block_ / 2 * 128 + block_ % 2 * 8;
        int& predictor = reader_.predictors[layout_.component[block_]];
        predictor += difference;
        place_[0] = static_cast<int16_t>(predictor);
        k_ = 0;
    }

    const uint8_t* next_;
    uint64_t bits_;
    uint32_t count_;
    int32_t entry_ = 0;
    int k_ = 0;
    const CoefficientTable* table_ = nullptr;
    int16_t* place_ = nullptr;
    int block_ = 0;
    bool good_ = true;
    McuReader& reader_;
    const McuLayout& layout_;
    McuCoefficients& coefficients_;
};

FASTTRAIN_INLINE void run_alone(McuDecoder& decoder) {
    for (;;) {
        decoder.refill();
        if (decoder.step() && decoder.step() && decoder.step() && decoder.step()) continue;
        if (!decoder.attend()) return;
    }
}

FASTTRAIN_INLINE bool decode_one_body(McuReader& reader, const McuLayout& layout, McuCoefficients& out) {
    McuDecoder decoder(reader, layout, out);
    run_alone(decoder);
    return decoder.finish();
}

FASTTRAIN_INLINE bool decode_two_body(McuReader& first, McuReader& second, const McuLayout& layout,
                                      McuCoefficients& first_out, McuCoefficients& second_out) {
    McuDecoder a(first, layout, first_out);
    McuDecoder b(second, layout, second_out);
    for (;;) {
        a.refill();
        b.refill();
        if (a.step() && b.step() && a.step() && b.step() && a.step() && b.step() && a.step() && b.step())
            continue;
        if (a.stopped()) {
            if (a.attend()) continue;
            run_alone(b);
        } else {
            if (b.attend()) continue;
            run_alone(a);
        }
        break;
    }
    const bool a_good = a.finish();
    return b.finish() && a_good;
}

}  // namespace

bool CoefficientTable::build(const uint8_t counts[16], const uint8_t* values, size_t value_count, bool dc) {
    std::fill(std::begin(entries), std::end(entries), kLong << 8);
    baseline = true;
    const auto add = [&](int symbol, uint32_t code_bits, uint32_t code_length) {
        const auto length = static_cast<int>(code_length);
        const int size = dc ? symbol : symbol & 15;
        if (dc && size > kMaxDcSize) return false;
        if (!dc && size > kMaxAcSize) baseline = false;
        if (length > kPeek) return true;
        const int move = move_of(symbol, dc);
        int32_t* place = entries + (code_bits << (kPeek - length));
        if (length + size > kPeek) {
            const int32_t entry = move << 24 | size << 20 | length << 16 | kLong << 8;
            std::fill(place, place + (1 << (kPeek - length)), entry);
            return true;
        }
        const int rest = kPeek - length - size;
        for (uint32_t bits = 0; bits < 1u << size; ++bits, place += 1 << rest) {
            const int value = size > 0 ? extend(bits, size) : 0;
            const int32_t entry =
                static_cast<int32_t>(static_cast<uint32_t>(value) << 16) | move << 8 | (length + size);
            std::fill(place, place + (1 << rest), entry);
        }
        return true;
    };
    return valid = code.build(counts, values, value_count, add);
}

CoefficientSymbol read_symbol(uint64_t bits, const CoefficientTable& table, bool dc) {
    const int32_t entry = table.entries[bits >> (64 - kPeek)];
    if ((entry >> 8 & 255) == kLong) return decode_long(bits, table, entry, dc);
    return {static_cast<int16_t>(entry >> 16), static_cast<uint8_t>(entry & 63),
            static_cast<uint8_t>(entry >> 8 & 255)};
}

#ifdef FASTTRAIN_X86
namespace {

// Shifts by a register that don't change the flags (BMI2) shorten the chain from look-up to look-up.
__attribute__((target("avx2,bmi,bmi2"))) bool decode_one_bmi2(McuReader& reader, const McuLayout& layout,
                                                              McuCoefficients& out) {
    return decode_one_body(reader, layout, out);
}
__attribute__((target("avx2,bmi,bmi2"))) bool decode_two_bmi2(McuReader& first, McuReader& second,
                                                              const McuLayout& layout,
                                                              McuCoefficients& first_out,
                                                              McuCoefficients& second_out) {
    return decode_two_body(first, second, layout, first_out, second_out);
}

}  // namespace
#endif

bool decode_mcu(McuReader& reader, const McuLayout& layout, McuCoefficients& out) {
#ifdef FASTTRAIN_X86
    if (simd_level() != Simd::plain) return decode_one_bmi2(reader, layout, out);
#endif
    return decode_one_body(reader, layout, out);
}

bool decode_two_mcus(McuReader& first, McuReader& second, const McuLayout& layout, McuCoefficients& first_out,
                     McuCoefficients& second_out) {
#ifdef FASTTRAIN_X86
    if (simd_level() != Simd::plain) return decode_two_bmi2(first, second, layout, first_out, second_out);
#endif
    return decode_two_body(first, second, layout, first_out, second_out);
}

}  // namespace fasttrain
