#include <algorithm>
#include <limits>

#include "decode/scratch.h"
#include "decode/idct.h"
#include "jpeg/markers.h"

namespace fasttrain {

namespace {

// The MCUs that hold the box: columns left .. right - 1, rows top .. bottom - 1.
struct McuRectangle {
    int left;
    int top;
    int right;
    int bottom;
};

struct PlaneTarget {
    uint8_t* data;
    size_t stride;
    size_t mcu_across;  // bytes from an MCU to the next one, to the right and down
    size_t mcu_down;
};

// A pair of blocks in an MCU: the arguments of its IDCT in the rectangle's first MCU, and the steps from
// there to other MCUs.
struct PairTarget {
    alignas(32) int16_t quantisation[128];
    IdctPair job;
    int second;  // number of the second block, or of the first if there is no second
    size_t across[2];
    size_t down[2];
};

class RectangleDecoder {
  public:
    RectangleDecoder(const uint8_t* data, size_t size, const CropBox& box, OutputSize output,
                     DecodeScratch::Buffers& buffers, const ScanLimits* limits)
        : data_(data), size_(size), limits_(limits), buffers_(buffers), tables_(buffers.tables) {
        per_row_ = static_cast<int>(tables_.header.mcus_per_row());
        const int width = static_cast<int>(tables_.header.mcu_width());
        const int height = static_cast<int>(tables_.header.mcu_height());
        rectangle_ = {box.left / width, box.top / height, (box.left + box.width - 1) / width + 1,
                      (box.top + box.height - 1) / height + 1};
        lay_out_blocks();
        find_data();
        lay_out_planes(box, output);
    }

    void decode() {
        if (interval_ == 1 && limits_ == nullptr) {
            for (int y = rectangle_.top; y < rectangle_.bottom; ++y) decode_row(y);
            return;
        }
        const int64_t begin = limits_ != nullptr ? 0 : rectangle_.top * int64_t{per_row_} / interval_;
        const int64_t end = limits_ != nullptr ? mcus() : last_mcu() + 1;
        for (int64_t first = begin * interval_; first < end; first += interval_)
            decode_segment(first, std::min(first + interval_, end));
    }

  private:
    int64_t mcus() const { return int64_t{per_row_} * tables_.header.mcu_rows(); }
    int64_t last_mcu() const { return (rectangle_.bottom - 1) * int64_t{per_row_} + rectangle_.right - 1; }

    void lay_out_blocks() {
        for (int c = 0; c < tables_.header.component_count; ++c) {
            const Component& component = tables_.header.components[c];
            for (int i = 0; i < component.h * component.v; ++i, ++layout_.blocks) {
                if (layout_.blocks == kMaxBlocks) throw JpegError("corrupt: more than 10 blocks in an MCU");
                layout_.component[layout_.blocks] = c;
                layout_.dc[layout_.blocks] = &tables_.dc[component.dc];
                layout_.ac[layout_.blocks] = &tables_.ac[component.ac];
            }
            if (limits_ != nullptr && !tables_.ac[component.ac].baseline)
                throw JpegError("corrupt: Huffman symbols that a baseline JPEG can't have");
            skip_.most_dc[c] = limits_ != nullptr ? limits_->most_dc[c] : std::numeric_limits<int>::max() / 2;
        }
        pair_count_ = (layout_.blocks + 1) / 2;
    }

    void find_data() {
        const JpegHeader& header = tables_.header;
        interval_ =
            header.restart_interval != 0 ? std::min<int64_t>(header.restart_interval, mcus()) : mcus();
        const int64_t needed = (limits_ != nullptr ? mcus() - 1 : last_mcu()) / interval_ + 1;
        // A block has at least two bits. This check prevents false sizes from causing huge allocations.
        const size_t available = size_ - header.scan_offset;
        if (static_cast<uint64_t>(last_mcu() + 1) * static_cast<uint64_t>(layout_.blocks) > available * 4)
            throw JpegError("truncated: " + std::to_string(available) +
                            " bytes are too few for the picture's size");
        const SegmentsEnd end =
            find_segments(data_, header.scan_offset, size_, static_cast<size_t>(needed), buffers_.segments);
        if (limits_ != nullptr && end.marker != kEoi)
            throw JpegError("corrupt: no EOI (the end marker) after the scan");
        if (static_cast<int64_t>(buffers_.segments.size()) < needed)
            throw JpegError("truncated or corrupt: the scan has " + std::to_string(buffers_.segments.size()) +
                            " restart intervals, but " + std::to_string(needed) + " are needed");
    }

    void lay_out_planes(const CropBox& box, OutputSize output) {
        const double mcu_width = tables_.header.mcu_width();
        const double mcu_height = tables_.header.mcu_height();
        int block[3];
        for (int c = 0; c < tables_.header.component_count; ++c)
            block[c] = reduced_block(box.width * tables_.header.components[c].h * 8 / mcu_width,
                                     box.height * tables_.header.components[c].v * 8 / mcu_height, output);
        // Both blocks of a pair go through the same IDCT, so their sizes must be equal.
        for (int b = 0; b + 1 < layout_.blocks; b += 2)
            if (block[layout_.component[b]] != block[layout_.component[b + 1]])
                std::fill(std::begin(block), std::end(block), 8);
        size_t sizes[3];
        size_t total = 0;
        for (int c = 0; c < tables_.header.component_count; ++c) {
            const Component& component = tables_.header.components[c];
            const int across = component.h * block[c];
            const int down = component.v * block[c];
            Plane& plane = buffers_.planes[c];
            plane.columns = (rectangle_.right - rectangle_.left) * across;
            plane.rows = (rectangle_.bottom - rectangle_.top) * down;
            plane.left = rectangle_.left * across;
            plane.top = rectangle_.top * down;
            plane.across = across / mcu_width;
            plane.down = down / mcu_height;
            plane.stride = static_cast<size_t>(plane.rows);
            targets_[c] = {nullptr, plane.stride, static_cast<size_t>(across) * plane.stride,
                           static_cast<size_t>(down)};
            sizes[c] = static_cast<size_t>(plane.columns) * plane.stride;
            total += sizes[c];
        }
        if (buffers_.samples.size() < total + kResizeSlack) buffers_.samples.resize(total + kResizeSlack);
        uint8_t* place = buffers_.samples.data();
        for (int c = 0; c < tables_.header.component_count; ++c, place += sizes[c - 1])
            buffers_.planes[c].data = targets_[c].data = place;
        buffers_.colour = tables_.colour;
        lay_out_pairs(block);
    }

    void lay_out_pairs(const int block[3]) {
        int index = 0;
        for (int c = 0; c < tables_.header.component_count; ++c)
            for (int i = 0; i < tables_.header.components[c].h * tables_.header.components[c].v;
                 ++i, ++index) {
                PairTarget& pair = pairs_[index / 2];
                const PlaneTarget& target = targets_[c];
                const int side = index % 2;
                const auto x = static_cast<size_t>(i % tables_.header.components[c].h * block[c]);
                const auto y = static_cast<size_t>(i / tables_.header.components[c].h * block[c]);
                if (side == 0)
                    pair.job = {nullptr, pair.quantisation, 0, block[c], {nullptr, unused_}, {0, 8}};
                pair.job.at[side] = target.data + x * target.stride + y;
                pair.job.stride[side] = target.stride;
                pair.second = index;
                pair.across[side] = target.mcu_across;
                pair.down[side] = target.mcu_down;
                for (int k = 0; k < 64; ++k)
                    pair.quantisation[k / 8 * 16 + side * 8 + k % 8] = static_cast<int16_t>(
                        tables_.quantisation[tables_.header.components[c].quantisation][k]);
            }
    }

    SegmentBytes read(int64_t interval, std::vector<uint8_t>& copy) {
        return read_segment(data_, size_, buffers_.segments[static_cast<size_t>(interval)], copy);
    }

    [[noreturn]] void fail(int64_t mcu) {
        for (McuCoefficients& coefficients : buffers_.coefficients) coefficients = {};
        throw JpegError("corrupt: invalid data in MCU " + std::to_string(mcu) + " of " +
                        std::to_string(mcus()));
    }

    // For an image with a restart marker after every MCU.
    void decode_row(int y) {
        const int64_t row = y * int64_t{per_row_};
        McuCoefficients* const made = buffers_.coefficients;
        for (int x = rectangle_.left; x < rectangle_.right;) {
            const SegmentBytes one = read(row + x, buffers_.bytes[0]);
            McuReader reader(one.data);
            if (x + 1 == rectangle_.right) {
                if (!decode_mcu(reader, layout_, made[0]) || !used_up(reader, one)) fail(row + x);
                transform(x++, y, made[0]);
                continue;
            }
            const SegmentBytes two = read(row + x + 1, buffers_.bytes[1]);
            McuReader other(two.data);
            if (!decode_two_mcus(reader, other, layout_, made[0], made[1]) || !used_up(reader, one) ||
                !used_up(other, two))
                fail(row + x);
            transform(x++, y, made[0]);
            transform(x++, y, made[1]);
        }
    }

    // Returns whether all bytes were used, except for fill bytes.
    static bool used_up(const McuReader& reader, const SegmentBytes& bytes) {
        const size_t read = reader.bytes_read();
        return read == bytes.length || (read < bytes.length && bytes.data[bytes.length - 1] == 0xFF);
    }

    // Decodes the MCUs from the first one of a restart interval up to `end`.
    void decode_segment(int64_t first, int64_t end) {
        const SegmentBytes bytes = read(first / interval_, buffers_.bytes[0]);
        const uint8_t* const bytes_end = bytes.data + bytes.length;
        McuCoefficients& made = buffers_.coefficients[0];
        McuReader reader(bytes.data);
        for (int64_t mcu = first; mcu < end;) {
            const auto y = static_cast<int>(mcu / per_row_);
            const auto x = static_cast<int>(mcu % per_row_);
            if (const int64_t count = std::min(mcus_before_rectangle(x, y), end - mcu); count > 0) {
                if (!skip_mcus(reader, skip_layout(), count, bytes_end)) fail(mcu);
                mcu += count;
                continue;
            }
            const int64_t row_end = std::min(mcu + rectangle_.right - x, end);
            for (int column = x; mcu < row_end; ++mcu, ++column) {
                if (!decode_mcu(reader, layout_, made) || reader.bytes_read() > bytes.length ||
                    !within_limits(made))
                    fail(mcu);
                transform(column, y, made);
            }
        }
        if (limits_ != nullptr && reader.bytes_read() != bytes.length) fail(end);
    }

    // Returns how many MCUs, from column x and row y on, come before the next one of the rectangle.
    int64_t mcus_before_rectangle(int x, int y) const {
        if (y < rectangle_.top) return int64_t{rectangle_.top - y} * per_row_ + rectangle_.left - x;
        if (y >= rectangle_.bottom) return mcus();
        if (x < rectangle_.left) return rectangle_.left - x;
        if (x < rectangle_.right) return 0;
        return y + 1 < rectangle_.bottom ? per_row_ + rectangle_.left - x : mcus();
    }

    const SkipLayout& skip_layout() {
        if (skip_.mcu.blocks == 0) {
            skip_.mcu = layout_;
            for (int b = 0; b < layout_.blocks; ++b)
                skip_.ac[b] = &tables_.skip_table(tables_.header.components[layout_.component[b]].ac);
        }
        return skip_;
    }

    bool within_limits(const McuCoefficients& made) const {
        if (limits_ == nullptr) return true;
        bool within = true;
        for (int b = 0; b < layout_.blocks; ++b) {
            const int dc = made.values[b / 2 * 128 + b % 2 * 8];
            const int most = limits_->most_dc[layout_.component[b]];
            within &= -most - 1 <= dc && dc <= most;
        }
        return within;
    }

    void transform(int x, int y, McuCoefficients& made) {
        const auto across = static_cast<size_t>(x - rectangle_.left);
        const auto down = static_cast<size_t>(y - rectangle_.top);
        for (int p = 0; p < pair_count_; ++p) {
            const PairTarget& pair = pairs_[p];
            IdctPair job = pair.job;
            job.coefficients = made.values + p * 128;
            job.last = std::max(made.last[2 * p], made.last[pair.second]);
            for (int side = 0; side < 2; ++side)
                job.at[side] += across * pair.across[side] + down * pair.down[side];
            idct(job);
        }
    }

    const uint8_t* data_;
    size_t size_;
    const ScanLimits* limits_;  // null: only the crop must be intact
    DecodeScratch::Buffers& buffers_;
    DecodeTables& tables_;
    int per_row_;
    int64_t interval_ = 1;
    McuRectangle rectangle_;
    McuLayout layout_;
    SkipLayout skip_;
    int pair_count_ = 0;
    PlaneTarget targets_[3];
    PairTarget pairs_[kMaxPairs] = {};
    uint8_t unused_[64];
};

}  // namespace

void decode_rectangle(const uint8_t* data, size_t size, const CropBox& box, OutputSize output,
                      DecodeScratch::Buffers& buffers, const ScanLimits* limits) {
    RectangleDecoder(data, size, box, output, buffers, limits).decode();
}

}  // namespace fasttrain
