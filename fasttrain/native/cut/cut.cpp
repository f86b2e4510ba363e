#include "cut/cut.h"

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <exception>
#include <numeric>
#include <string>
#include <utility>

#include <jpeglib.h>
#include <jerror.h>

#include "cut/damage.h"
#include "cut/fast.h"
#include "jpeg/libjpeg_errors.h"

namespace fasttrain {

namespace {

// Huffman coding needs at least one bit per block. Arithmetic coding has no such minimum that would expose a
// false size, so its memory is limited.
constexpr long kMaxArithmeticMemory = 1L << 29;

bool means_truncated(int code) {
    return code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER || code == JERR_INPUT_EOF ||
           code == JERR_INPUT_EMPTY || code == JERR_SOF_NO_SOS;
}

// libjpeg's own memory destination leaves a dangling pointer if writing fails half-way.
struct Destination {
    jpeg_destination_mgr base;
    std::vector<uint8_t>* out;
};

bool grow(Destination* destination, size_t size) {
    try {
        destination->out->resize(size);
    } catch (const std::exception&) {
        return false;
    }
    return true;
}

void destination_init(j_compress_ptr dst) {
    auto* destination = reinterpret_cast<Destination*>(dst->dest);
    destination->base.next_output_byte = destination->out->data();
    destination->base.free_in_buffer = destination->out->size();
}

boolean destination_full(j_compress_ptr dst) {
    auto* destination = reinterpret_cast<Destination*>(dst->dest);
    const size_t used = destination->out->size();
    if (!grow(destination, 2 * used)) ERREXIT1(dst, JERR_OUT_OF_MEMORY, 0);
    destination->base.next_output_byte = destination->out->data() + used;
    destination->base.free_in_buffer = used;
    return TRUE;
}

void destination_end(j_compress_ptr dst) {
    auto* destination = reinterpret_cast<Destination*>(dst->dest);
    destination->out->resize(destination->out->size() - destination->base.free_in_buffer);
}

// What turns a picture with an EXIF orientation upright: transpose it first, then mirror it.
struct Turn {
    bool transpose;
    bool mirror_x;
    bool mirror_y;
    bool any() const { return transpose || mirror_x || mirror_y; }
};

Turn turn_of(int orientation) {
    switch (orientation) {
        case 1:
            return {false, false, false};
        case 2:
            return {false, true, false};
        case 3:
            return {false, true, true};
        case 4:
            return {false, false, true};
        case 5:
            return {true, false, false};
        case 6:
            return {true, true, false};
        case 7:
            return {true, true, true};
        case 8:
            return {true, false, true};
        default:
            throw JpegError("orientation: " + std::to_string(orientation) +
                            " is not one of EXIF's values 1 to 8");
    }
}

void turn_block(const JCOEF* from, JCOEF* to, const Turn& turn) {
    for (int v = 0; v < DCTSIZE; ++v) {
        for (int u = 0; u < DCTSIZE; ++u) {
            const int value = turn.transpose ? from[u * DCTSIZE + v] : from[v * DCTSIZE + u];
            const bool negate = (turn.mirror_x && (u & 1)) != (turn.mirror_y && (v & 1));
            to[v * DCTSIZE + u] = static_cast<JCOEF>(negate ? -value : value);
        }
    }
}

// Returns whether all coefficients are values that 8-bit samples can give and baseline Huffman codes can
// hold: DC in -1024..1023 at most (so that differences have 11 bits), AC in -1023..1023.
bool all_in_range(const JBLOCK* blocks, JDIMENSION count, int max_dc) {
    unsigned out_of_range = 0;
    for (JDIMENSION b = 0; b < count; ++b) {
        const JCOEF* block = blocks[b];
        out_of_range |=
            static_cast<unsigned>(block[0] < -max_dc - 1) | static_cast<unsigned>(block[0] > max_dc);
        for (int k = 1; k < DCTSIZE2; ++k)
            out_of_range |= static_cast<unsigned>(block[k] < -1023) | static_cast<unsigned>(block[k] > 1023);
    }
    return out_of_range == 0;
}

void clamp_all(JBLOCK* blocks, JDIMENSION count, int max_dc) {
    for (JDIMENSION b = 0; b < count; ++b) {
        blocks[b][0] = static_cast<JCOEF>(std::clamp<int>(blocks[b][0], -max_dc - 1, max_dc));
        for (int k = 1; k < DCTSIZE2; ++k) blocks[b][k] = std::clamp<JCOEF>(blocks[b][k], -1023, 1023);
    }
}

JDIMENSION round_up(JDIMENSION value, int unit) {
    const JDIMENSION step = static_cast<JDIMENSION>(unit);
    return (value + step - 1) / step * step;
}

enum class How { kFast, kLibjpeg, kRepair };

class Cutter {
  public:
    Cutter(const uint8_t* data, size_t size, Interval interval, bool optimize, int orientation, How how)
        : data_(data),
          size_(size),
          interval_(interval),
          optimize_(optimize),
          turn_(turn_of(orientation)),
          how_(how),
          errors_(how == How::kRepair ? Tolerated::kDamage : Tolerated::kNothing, &log_) {
        errors_.watch(src_);
        errors_.watch(dst_);
    }
    Cutter(const Cutter&) = delete;
    Cutter& operator=(const Cutter&) = delete;
    ~Cutter() {
        jpeg_destroy_compress(&dst_);
        jpeg_destroy_decompress(&src_);
    }

    std::optional<ScanLimits> limits_of_only_scan() {
        if (size_ == 0) throw JpegError("truncated: the file is empty");
        if (setjmp(errors_.escape) != 0) refuse();
        read_header();
        if (!suits_cut_fast(src_) || !has_reduced_factors(src_)) return std::nullopt;
        ScanLimits limits{size_ - src_.src->bytes_in_buffer, {}};
        for (int c = 0; c < src_.num_components; ++c)
            limits.most_dc[c] = max_dc(*src_.quant_tbl_ptrs[src_.comp_info[c].quant_tbl_no]);
        return limits;
    }

    std::vector<uint8_t> run() {
        if (size_ == 0) throw JpegError("truncated: the file is empty");
        out_.resize(size_ + size_ / 8 + 1024);
        if (setjmp(errors_.escape) != 0) refuse();
        jpeg_create_compress(&dst_);
        read_header();
        const bool one_scan = suits_cut_fast(src_);
        if (how_ == How::kFast && one_scan && !turn_.any()) {
            set_parameters();
            const jpeg_source_mgr& rest = *src_.src;
            if (cut_fast(src_, dst_, rest.next_input_byte, rest.bytes_in_buffer, out_))
                return std::move(out_);
            out_.resize(std::max(out_.size(), size_));
        }
        if (how_ == How::kRepair && one_scan) {
            set_parameters();
            intact_ = intact_share(src_, dst_, src_.src->next_input_byte, src_.src->bytes_in_buffer);
        }
        read_coefficients();
        if (how_ == How::kRepair && !one_scan) intact_ = log_.intact(src_);
        set_parameters();
        write();
        return std::move(out_);
    }

    double intact() const { return intact_; }

  private:
    [[noreturn]] void refuse() const {
        const bool truncated = means_truncated(errors_.code());
        throw JpegError((truncated ? "truncated: " : "corrupt or unsupported: ") +
                        std::string(errors_.message()));
    }

    // Locals here must not have destructors: libjpeg's errors jump over them.

    void read_header() {
        jpeg_create_decompress(&src_);
        src_.progress = errors_.monitor();
        jpeg_mem_src(&src_, data_, static_cast<unsigned long>(size_));
        jpeg_read_header(&src_, TRUE);
        check_pixels(src_.image_width, src_.image_height);
        if (src_.data_precision != 8)
            throw JpegError("unsupported: " + std::to_string(src_.data_precision) +
                            " bits per sample; only 8 are supported");
        check_plausible();
    }

    void read_coefficients() {
        coefficients_ = jpeg_read_coefficients(&src_);
        if (src_.progressive_mode && how_ != How::kRepair) check_progression();
        check_range();
    }

    void check_plausible() {
        if (src_.arith_code) {
            src_.mem->max_memory_to_use = kMaxArithmeticMemory;
            return;
        }
        uint64_t blocks = 0;
        for (int i = 0; i < src_.num_components; ++i)
            blocks += uint64_t{src_.comp_info[i].width_in_blocks} * src_.comp_info[i].height_in_blocks;
        if (blocks > uint64_t{size_} * 8)
            throw JpegError("truncated: too short, with " + std::to_string(size_) +
                            " bytes, for a picture of " + std::to_string(src_.image_height) + " x " +
                            std::to_string(src_.image_width));
    }

    // Decoders smooth a progressive image whose last scans are missing, but not the same image in baseline.
    void check_progression() {
        for (int i = 0; i < src_.num_components; ++i)
            for (int k = 0; k < DCTSIZE2; ++k)
                if (src_.coef_bits[i][k] != 0) throw JpegError("truncated: progressive scans are missing");
    }

    // libjpeg-turbo's SIMD encoder doesn't check that a coefficient has a Huffman code. It would write
    // garbage.
    void check_range() {
        for (int i = 0; i < src_.num_components; ++i) {
            const jpeg_component_info& component = src_.comp_info[i];
            const int most = component.quant_table == nullptr ? 1023 : max_dc(*component.quant_table);
            for (JDIMENSION row = 0; row < component.height_in_blocks; ++row) {
                const JBLOCKROW blocks = src_.mem->access_virt_barray(reinterpret_cast<j_common_ptr>(&src_),
                                                                      coefficients_[i], row, 1, TRUE)[0];
                if (all_in_range(blocks, component.width_in_blocks, most)) continue;
                if (how_ == How::kRepair)
                    clamp_all(blocks, component.width_in_blocks, most);
                else
                    throw JpegError("corrupt or unsupported: DCT coefficient out of range");
            }
        }
    }

    void set_parameters() {
        jpeg_copy_critical_parameters(&src_, &dst_);
        // Pillow and others invert CMYK by the presence of Adobe's marker.
        if (dst_.num_components == 4) dst_.write_Adobe_marker = src_.saw_Adobe_marker;
        reduce_factors();
        dst_.optimize_coding = optimize_ ? TRUE : FALSE;
        dst_.restart_interval = interval_ == Interval::kMcu ? 1 : 0;
        dst_.restart_in_rows = interval_ == Interval::kRow ? 1 : 0;
    }

    void write() {
        if (turn_.any()) turn_picture();
        destination_.base.init_destination = destination_init;
        destination_.base.empty_output_buffer = destination_full;
        destination_.base.term_destination = destination_end;
        destination_.out = &out_;
        dst_.dest = &destination_.base;
        jpeg_write_coefficients(&dst_, coefficients_);
        jpeg_finish_compress(&dst_);
        jpeg_finish_decompress(&src_);
    }

    // Divides the sampling factors by their common divisor, because only their ratios matter to pixels. A
    // single component then has 1x1 (its MCU is always 8x8), and 2x2,2x2,2x2, which doesn't fit into an
    // interleaved scan, becomes 1x1,1x1,1x1.
    void reduce_factors() {
        int h = 0;
        int v = 0;
        for (int i = 0; i < dst_.num_components; ++i) {
            h = std::gcd(h, dst_.comp_info[i].h_samp_factor);
            v = std::gcd(v, dst_.comp_info[i].v_samp_factor);
        }
        for (int i = 0; i < dst_.num_components; ++i) {
            dst_.comp_info[i].h_samp_factor /= h;
            dst_.comp_info[i].v_samp_factor /= v;
        }
    }

    void turn_picture() {
        if (turn_.transpose) transpose_parameters();
        check_mirrors();
        auto* arrays = static_cast<jvirt_barray_ptr*>(
            src_.mem->alloc_small(reinterpret_cast<j_common_ptr>(&src_), JPOOL_IMAGE,
                                  sizeof(jvirt_barray_ptr) * static_cast<size_t>(dst_.num_components)));
        for (int i = 0; i < dst_.num_components; ++i) {
            const jpeg_component_info& to = dst_.comp_info[i];
            arrays[i] =
                src_.mem->request_virt_barray(reinterpret_cast<j_common_ptr>(&src_), JPOOL_IMAGE, TRUE,
                                              round_up(turned_blocks(i, true), to.h_samp_factor),
                                              round_up(turned_blocks(i, false), to.v_samp_factor),
                                              static_cast<JDIMENSION>(to.v_samp_factor));
        }
        src_.mem->realize_virt_arrays(reinterpret_cast<j_common_ptr>(&src_));
        for (int i = 0; i < dst_.num_components; ++i) turn_component(i, arrays[i]);
        coefficients_ = arrays;
    }

    JDIMENSION turned_blocks(int component, bool across) const {
        const jpeg_component_info& from = src_.comp_info[component];
        return across != turn_.transpose ? from.width_in_blocks : from.height_in_blocks;
    }

    void transpose_parameters() {
        std::swap(dst_.image_width, dst_.image_height);
#if JPEG_LIB_VERSION >= 70
        std::swap(dst_.jpeg_width, dst_.jpeg_height);
#endif
        std::swap(dst_.X_density, dst_.Y_density);
        for (int i = 0; i < dst_.num_components; ++i)
            std::swap(dst_.comp_info[i].h_samp_factor, dst_.comp_info[i].v_samp_factor);
        for (JQUANT_TBL* table : dst_.quant_tbl_ptrs) {
            if (table == nullptr) continue;
            for (int v = 0; v < DCTSIZE; ++v)
                for (int u = 0; u < v; ++u)
                    std::swap(table->quantval[v * DCTSIZE + u], table->quantval[u * DCTSIZE + v]);
        }
    }

    void check_mirrors() const {
        int h = 1;
        int v = 1;
        for (int i = 0; i < dst_.num_components; ++i) {
            h = std::max(h, dst_.comp_info[i].h_samp_factor);
            v = std::max(v, dst_.comp_info[i].v_samp_factor);
        }
        const JDIMENSION mcu_width = static_cast<JDIMENSION>(h * DCTSIZE);
        const JDIMENSION mcu_height = static_cast<JDIMENSION>(v * DCTSIZE);
        if (turn_.mirror_x && dst_.image_width % mcu_width != 0)
            throw JpegError("orientation: the mirrored width, " + std::to_string(dst_.image_width) +
                            " pixels, is not a multiple of the MCU's " + std::to_string(mcu_width));
        if (turn_.mirror_y && dst_.image_height % mcu_height != 0)
            throw JpegError("orientation: the mirrored height, " + std::to_string(dst_.image_height) +
                            " pixels, is not a multiple of the MCU's " + std::to_string(mcu_height));
    }

    void turn_component(int component, jvirt_barray_ptr to) {
        const auto common = reinterpret_cast<j_common_ptr>(&src_);
        const JDIMENSION columns = turned_blocks(component, true);
        const JDIMENSION rows = turned_blocks(component, false);
        for (JDIMENSION row = 0; row < rows; ++row) {
            JBLOCKROW to_row = src_.mem->access_virt_barray(common, to, row, 1, TRUE)[0];
            const JDIMENSION y = turn_.mirror_y ? rows - 1 - row : row;
            for (JDIMENSION column = 0; column < columns; ++column) {
                const JDIMENSION x = turn_.mirror_x ? columns - 1 - column : column;
                const JDIMENSION from_row = turn_.transpose ? x : y;
                const JDIMENSION from_column = turn_.transpose ? y : x;
                JBLOCKROW from =
                    src_.mem->access_virt_barray(common, coefficients_[component], from_row, 1, FALSE)[0];
                turn_block(from[from_column], to_row[column], turn_);
            }
        }
    }

    const uint8_t* data_;
    size_t size_;
    Interval interval_;
    bool optimize_;
    Turn turn_;
    How how_;
    double intact_ = 1;
    DamageLog log_;
    LibjpegErrors errors_;
    Destination destination_{};
    jpeg_decompress_struct src_{};
    jpeg_compress_struct dst_{};
    jvirt_barray_ptr* coefficients_ = nullptr;
    std::vector<uint8_t> out_;
};

}  // namespace

std::vector<uint8_t> cut_jpeg(const uint8_t* data, size_t size, Interval interval, bool optimize,
                              int orientation) {
    return Cutter(data, size, interval, optimize, orientation, How::kFast).run();
}

std::optional<ScanLimits> limits_of_only_scan(const uint8_t* data, size_t size) {
    return Cutter(data, size, Interval::kNone, false, 1, How::kFast).limits_of_only_scan();
}

std::vector<uint8_t> cut_with_libjpeg(const uint8_t* data, size_t size, Interval interval, bool optimize,
                                      int orientation) {
    return Cutter(data, size, interval, optimize, orientation, How::kLibjpeg).run();
}

Repaired repair_jpeg(const uint8_t* data, size_t size, Interval interval, bool optimize, int orientation) {
    Cutter cutter(data, size, interval, optimize, orientation, How::kRepair);
    std::vector<uint8_t> jpeg = cutter.run();
    return {std::move(jpeg), cutter.intact()};
}

}  // namespace fasttrain
