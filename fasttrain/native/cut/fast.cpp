#include "cut/fast.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <numeric>

#include "cut/damage.h"
#include "cut/tokens.h"
#include "jpeg/markers.h"
#include "jpeg/segments.h"

namespace fasttrain {

namespace {

constexpr size_t kKeptTokens = size_t{1} << 24;

// A thread's working memory, kept from one image to the next unless it became huge.
struct CutScratch {
    std::vector<Segment> segments;
    std::vector<uint8_t> bytes;  // of one segment, without stuffing
    std::vector<Token> tokens;
    std::vector<size_t> token_ends;  // of each MCU
    TokenTable dc[3];
    TokenTable ac[3];
};

class FastCutter {
  public:
    FastCutter(const jpeg_decompress_struct& src, const jpeg_compress_struct& dst, CutScratch& scratch,
               std::vector<uint8_t>& out)
        : src_(src), dst_(dst), scratch_(scratch), out_(out) {
        const bool grey = src.num_components == 1;
        mcu_h_ = grey ? 1 : src.max_h_samp_factor;
        mcu_v_ = grey ? 1 : src.max_v_samp_factor;
        columns_ = blocks_in(src.image_width, mcu_h_);
        rows_ = blocks_in(src.image_height, mcu_v_);
        interval_ =
            dst.restart_in_rows > 0 ? std::min<size_t>(columns_, 65535) : size_t{dst.restart_interval};
    }

    bool run(const uint8_t* scan, size_t size) {
        scan_ = scan;
        size_ = size;
        if (!lay_out() || !find_intervals() || !all_intervals_found()) return false;
        out_.clear();
        put_header();
        if (dst_.optimize_coding) {
            if (read_mcus([&](size_t, const Token* begin, const Token* end) { keep(begin, end); }) !=
                    mcus() ||
                !optimise())
                return false;
            put_scan_header();
            TokenWriter writer(out_);
            set_codes(writer);
            const Token* begin = scratch_.tokens.data();
            for (size_t mcu = 0; mcu < columns_ * rows_; ++mcu) {
                const Token* end = scratch_.tokens.data() + scratch_.token_ends[mcu];
                write(writer, mcu, begin, end);
                begin = end;
            }
            finish(writer);
            return true;
        }
        take_standard_codes();
        put_scan_header();
        TokenWriter writer(out_);
        set_codes(writer);
        if (read_mcus([&](size_t mcu, const Token* begin, const Token* end) {
                write(writer, mcu, begin, end);
            }) != mcus())
            return false;
        finish(writer);
        return true;
    }

    double intact(const uint8_t* scan, size_t size) {
        std::vector<uint8_t> corrected(scan, scan + size);
        correct_restart_numbers(corrected);
        scan_ = corrected.data();
        size_ = size;
        if (!lay_out() || !find_intervals()) return 0;
        if (!all_intervals_found()) {  // otherwise a wrong number may hide missing intervals
            scan_ = scan;
            find_intervals();
        }
        return static_cast<double>(intact_mcus()) / static_cast<double>(mcus());
    }

  private:
    static size_t blocks_in(JDIMENSION pixels, int factor) {
        const auto side = static_cast<size_t>(8 * factor);
        return (pixels + side - 1) / side;
    }

    bool lay_out() {
        for (int c = 0; c < src_.num_components; ++c) {
            const jpeg_component_info& from = src_.comp_info[c];
            const jpeg_component_info& to = dst_.comp_info[c];
            const JHUFF_TBL* dc = src_.dc_huff_tbl_ptrs[from.dc_tbl_no];
            const JHUFF_TBL* ac = src_.ac_huff_tbl_ptrs[from.ac_tbl_no];
            if (!scratch_.dc[c].build(dc->bits + 1, dc->huffval, true)) return false;
            if (!scratch_.ac[c].build(ac->bits + 1, ac->huffval, false)) return false;
            const int across = src_.num_components == 1 ? 1 : from.h_samp_factor;
            const int down = src_.num_components == 1 ? 1 : from.v_samp_factor;
            const int last_across = static_cast<int>(from.width_in_blocks - 1) % across;
            const int last_down = static_cast<int>(from.height_in_blocks - 1) % down;
            for (int i = 0; i < across * down; ++i) {
                if (layout_.blocks == kMaxBlocks) return false;
                layout_.block[layout_.blocks++] = {c,
                                                   &scratch_.dc[c],
                                                   &scratch_.ac[c],
                                                   static_cast<Token>(2 * to.dc_tbl_no) << 24,
                                                   static_cast<Token>(2 * to.ac_tbl_no + 1) << 24,
                                                   max_dc(*src_.quant_tbl_ptrs[from.quant_tbl_no]),
                                                   i % across > last_across,
                                                   i / across > last_down};
            }
        }
        return true;
    }

    // Finds the restart intervals, up to the first marker that isn't the next restart marker.
    bool find_intervals() {
        if (size_ > std::numeric_limits<uint32_t>::max()) return false;
        end_ = find_segments(scan_, 0, size_, wanted_intervals(), scratch_.segments);
        return true;
    }
    size_t wanted_intervals() const { return (mcus() - 1) / source_interval() + 1; }
    bool all_intervals_found() const {
        return end_.marker == kEoi && scratch_.segments.size() == wanted_intervals();
    }

    size_t mcus() const { return columns_ * rows_; }
    size_t source_interval() const { return src_.restart_interval != 0 ? src_.restart_interval : mcus(); }

    // Calls `each(mcu, begin, end)` with the tokens of each MCU, in order. Returns the number of MCUs before
    // the first error.
    template <typename Each>
    size_t read_mcus(Each each) {
        TokenReader reader;
        const uint8_t* end = nullptr;
        kept_ = 0;
        scratch_.token_ends.clear();
        for (size_t mcu = 0, left = 0; mcu < mcus(); ++mcu) {
            if (left == 0) {
                const size_t interval = mcu / source_interval();
                if (interval == scratch_.segments.size()) return mcu;
                const SegmentBytes bytes =
                    read_segment(scan_, size_, scratch_.segments[interval], scratch_.bytes);
                reader.begin(bytes.data);
                end = bytes.data + bytes.length;
                left = std::min(source_interval(), mcus() - mcu);
            }
            if (interval_ != 0 && mcu % interval_ == 0) std::fill_n(reader.passed_on, 3, 0);
            if (scratch_.tokens.size() < kept_ + kMaxMcuTokens)
                scratch_.tokens.resize(2 * scratch_.tokens.size() + kMaxMcuTokens);
            Token* const tokens = scratch_.tokens.data() + kept_;
            const Token* const read = read_mcu(reader, layout_, mcu % columns_ == columns_ - 1,
                                               mcu / columns_ == rows_ - 1, tokens);
            if (read == nullptr || reader.position() > end) return mcu;
            if (--left == 0 && reader.position() != end) return mcu;
            each(mcu, tokens, read);
        }
        return mcus();
    }

    // Counts the MCUs that are known to be intact. Wrong bytes may happen to be valid codes. Then MCUs are
    // missing or superfluous at the end of their interval, and none of the interval counts.
    size_t intact_mcus() {
        const size_t read = read_mcus([](size_t, const Token*, const Token*) {});
        const size_t interval = read / source_interval();
        if (read == mcus() || interval == scratch_.segments.size()) return read;
        const size_t first = interval * source_interval();
        const bool is_last = read + 1 == std::min(first + source_interval(), mcus());
        const bool cut_off = interval + 1 == scratch_.segments.size() && end_.marker == kNoMarker;
        const SegmentBytes bytes = read_segment(scan_, size_, scratch_.segments[interval], scratch_.bytes);
        const uint8_t* const end = bytes.data + bytes.length;
        TokenReader reader;
        reader.begin(bytes.data);
        const auto read_one = [&] {
            return read_mcu(reader, layout_, false, false, scratch_.tokens.data()) != nullptr &&
                   reader.position() <= end;
        };
        const auto ends_soundly = [&] { return reader.position() == end && reader.only_ones_left(); };
        for (size_t mcu = first; mcu < read; ++mcu) read_one();
        if (ends_soundly() && !cut_off) return first;
        if (!is_last || !read_one()) return read;
        while (!ends_soundly())
            if (!read_one()) return read + 1;  // stray bytes follow
        return first;
    }

    void keep(const Token* begin, const Token* end) {
        for (const Token* token = begin; token != end; ++token) ++frequencies_[*token >> 16];
        kept_ += static_cast<size_t>(end - begin);
        scratch_.token_ends.push_back(kept_);
    }

    void write(TokenWriter& writer, size_t mcu, const Token* begin, const Token* end) const {
        if (interval_ != 0 && mcu != 0 && mcu % interval_ == 0)
            writer.write_marker(static_cast<uint8_t>(restart_marker(mcu / interval_ - 1)));
        writer.write(begin, end);
    }

    static void finish(TokenWriter& writer) {
        writer.write_marker(kEoi);
        writer.finish();
    }

    bool optimise() {
        for (int table = 0; table < kTokenTables; ++table)
            if (is_used(table) && !make_optimal(frequencies_ + table * 256, codes_[table])) return false;
        return true;
    }

    void take_standard_codes() {
        for (int table = 0; table < kTokenTables; ++table) {
            const JHUFF_TBL* from =
                (table % 2 == 0 ? dst_.dc_huff_tbl_ptrs : dst_.ac_huff_tbl_ptrs)[table / 2];
            const auto count = std::accumulate(from->bits + 1, from->bits + 17, size_t{0});
            std::copy(from->bits + 1, from->bits + 17, codes_[table].counts);
            codes_[table].symbols.assign(from->huffval, from->huffval + count);
        }
    }

    void set_codes(TokenWriter& writer) const {
        for (int table = 0; table < kTokenTables; ++table)
            if (is_used(table)) writer.set_code(table, codes_[table]);
    }

    // Returns whether a table is needed. As in libjpeg's jpeg_set_colorspace, the second pair is for chroma
    // only.
    bool is_used(int table) const {
        return table < 2 || std::any_of(dst_.comp_info, dst_.comp_info + dst_.num_components,
                                        [](const jpeg_component_info& c) { return c.dc_tbl_no == 1; });
    }

    void put(std::initializer_list<int> bytes) {
        for (const int byte : bytes) out_.push_back(static_cast<uint8_t>(byte));
    }
    void put16(unsigned value) { put({static_cast<int>(value >> 8), static_cast<int>(value & 255)}); }
    void put_marker(int marker, size_t length) {
        put({0xFF, marker});
        put16(static_cast<unsigned>(length + 2));
    }

    // Writes the header, with the markers in libjpeg's order.
    void put_header() {
        put({0xFF, kSoi});
        if (dst_.write_JFIF_header) {
            put_marker(kApp0, 14);
            put({'J', 'F', 'I', 'F', 0, dst_.JFIF_major_version, dst_.JFIF_minor_version, dst_.density_unit});
            put16(dst_.X_density);
            put16(dst_.Y_density);
            put({0, 0});
        }
        if (dst_.write_Adobe_marker) {
            put_marker(kApp14, 12);
            put({'A', 'd', 'o', 'b', 'e', 0, 100, 0, 0, 0, 0, dst_.jpeg_color_space == JCS_YCbCr ? 1 : 0});
        }
        bool baseline = true;
        unsigned written = 0;
        for (int c = 0; c < dst_.num_components; ++c) {
            const int index = dst_.comp_info[c].quant_tbl_no;
            const JQUANT_TBL& table = *dst_.quant_tbl_ptrs[index];
            const bool wide = std::any_of(table.quantval, table.quantval + 64, [](int q) { return q > 255; });
            if (wide) baseline = false;
            if ((written >> index & 1) == 0) put_quantisation(index, table, wide);
            written |= 1u << index;
        }
        put_marker(baseline ? kSof0 : kSof1, static_cast<size_t>(6 + 3 * dst_.num_components));
        put({8});
        put16(dst_.image_height);
        put16(dst_.image_width);
        put({dst_.num_components});
        for (int c = 0; c < dst_.num_components; ++c) {
            const jpeg_component_info& component = dst_.comp_info[c];
            put({component.component_id, component.h_samp_factor << 4 | component.v_samp_factor,
                 component.quant_tbl_no});
        }
    }

    void put_quantisation(int index, const JQUANT_TBL& table, bool wide) {
        put_marker(kDqt, wide ? 129 : 65);
        put({index | (wide ? 0x10 : 0)});
        for (const uint8_t place : kNatural) {
            if (wide) put({table.quantval[place] >> 8});
            put({table.quantval[place] & 255});
        }
    }

    void put_scan_header() {
        for (int table = 0; table < kTokenTables; ++table) {
            if (!is_used(table)) continue;
            const HuffmanSpec& code = codes_[table];
            put_marker(kDht, 17 + code.symbols.size());
            put({table / 2 | (table % 2) << 4});
            out_.insert(out_.end(), std::begin(code.counts), std::end(code.counts));
            out_.insert(out_.end(), code.symbols.begin(), code.symbols.end());
        }
        if (interval_ != 0) {
            put_marker(kDri, 2);
            put16(static_cast<unsigned>(interval_));
        }
        put_marker(kSos, static_cast<size_t>(4 + 2 * dst_.num_components));
        put({dst_.num_components});
        for (int c = 0; c < dst_.num_components; ++c)
            put({dst_.comp_info[c].component_id,
                 dst_.comp_info[c].dc_tbl_no << 4 | dst_.comp_info[c].ac_tbl_no});
        put({0, 63, 0});
    }

    const jpeg_decompress_struct& src_;
    const jpeg_compress_struct& dst_;
    CutScratch& scratch_;
    std::vector<uint8_t>& out_;
    const uint8_t* scan_ = nullptr;
    size_t size_ = 0;
    int mcu_h_;
    int mcu_v_;
    size_t columns_;  // of MCUs
    size_t rows_;
    size_t interval_;  // of the restart markers to write; 0: none
    TokenLayout layout_;
    SegmentsEnd end_{};
    size_t kept_ = 0;  // tokens
    uint32_t frequencies_[kTokenTables * 256] = {};
    HuffmanSpec codes_[kTokenTables];
};

}  // namespace

bool suits_cut_fast(const jpeg_decompress_struct& src) {
    const int count = src.num_components;
    if (src.progressive_mode || src.arith_code || (count != 1 && count != 3) || src.comps_in_scan != count ||
        src.Ss != 0 || src.Se != 63 || src.Ah != 0 || src.Al != 0)
        return false;
    for (int c = 0; c < count; ++c) {
        const jpeg_component_info* component = src.cur_comp_info[c];
        // The tables' numbers may be any bytes: libjpeg only checks them when it starts the scan.
        for (const int table : {component->quant_tbl_no, component->dc_tbl_no, component->ac_tbl_no})
            if (table < 0 || table > 3) return false;
        if (component != src.comp_info + c || src.quant_tbl_ptrs[component->quant_tbl_no] == nullptr ||
            src.dc_huff_tbl_ptrs[component->dc_tbl_no] == nullptr ||
            src.ac_huff_tbl_ptrs[component->ac_tbl_no] == nullptr)
            return false;
    }
    return true;
}

bool has_reduced_factors(const jpeg_decompress_struct& src) {
    int h = 0;
    int v = 0;
    for (int c = 0; c < src.num_components; ++c) {
        h = std::gcd(h, src.comp_info[c].h_samp_factor);
        v = std::gcd(v, src.comp_info[c].v_samp_factor);
    }
    return src.num_components == 1 || (h == 1 && v == 1);
}

bool cut_fast(const jpeg_decompress_struct& src, const jpeg_compress_struct& dst, const uint8_t* scan,
              size_t size, std::vector<uint8_t>& out) {
    thread_local CutScratch scratch;
    if (!has_reduced_factors(src)) return false;  // the MCUs change
    const bool done = FastCutter(src, dst, scratch, out).run(scan, size);
    if (scratch.tokens.size() > kKeptTokens) scratch = {};
    return done;
}

double intact_share(const jpeg_decompress_struct& src, const jpeg_compress_struct& dst, const uint8_t* scan,
                    size_t size) {
    CutScratch scratch;
    std::vector<uint8_t> unused;
    return FastCutter(src, dst, scratch, unused).intact(scan, size);
}

}  // namespace fasttrain
