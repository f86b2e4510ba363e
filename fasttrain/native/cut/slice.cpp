#include "cut/slice.h"

#include <algorithm>
#include <cstring>
#include <limits>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace fasttrain {

namespace {

McuRange mcus_with_margin(uint32_t start, uint32_t length, uint32_t mcu, uint32_t mcus) {
    const uint32_t first = start / mcu;
    const uint32_t last = (start + length - 1) / mcu;
    return {first == 0 ? 0 : first - 1, std::min(last + 2, mcus)};
}

// Collects the restart markers of one scan, which must be exactly `wanted`, numbered in turn.
class MarkerCollector {
  public:
    MarkerCollector(const uint8_t* data, size_t size, uint32_t* markers, uint32_t wanted)
        : data_(data), size_(size), markers_(markers), wanted_(wanted) {}

    // Returns the offset of EOI.
    size_t collect(size_t at) {
        at = collect_vectors(at);
        while (!eoi_found_ && at < size_) {
            const void* hit = std::memchr(data_ + at, 0xFF, size_ - at);
            if (hit == nullptr) break;
            at = static_cast<size_t>(static_cast<const uint8_t*>(hit) - data_);
            take(at);
            ++at;
        }
        if (!eoi_found_) throw JpegError("truncated: no EOI");
        if (count_ != wanted_) throw JpegError("corrupt: too few restart markers for the picture's size");
        return eoi_;
    }

  private:
    void take(size_t at) {
        if (at + 1 >= size_) return;
        const uint8_t next = data_[at + 1];
        if (next == 0x00 || next == 0xFF) return;
        if ((next & 0xF8) == 0xD0) {
            if (count_ == wanted_)
                throw JpegError("corrupt: too many restart markers for the picture's size");
            if ((next & 7) != (count_ & 7)) throw JpegError("corrupt: restart markers out of order");
            markers_[count_++] = static_cast<uint32_t>(at);
        } else if (next == 0xD9) {
            eoi_found_ = true;
            eoi_ = at;
        } else {
            throw JpegError("unsupported: more than one scan, or a marker inside it");
        }
    }

    size_t collect_vectors(size_t at) {
#if defined(__SSE2__)
        // Markers are a few dozen bytes apart: memchr's start-up would cost more than its search.
        const __m128i ff = _mm_set1_epi8(static_cast<char>(0xFF));
        while (at + 32 < size_ && !eoi_found_) {
            const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data_ + at));
            const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data_ + at + 16));
            uint32_t hits = static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(low, ff))) |
                            static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(high, ff))) << 16;
            for (; hits != 0 && !eoi_found_; hits &= hits - 1)
                take(at + static_cast<size_t>(__builtin_ctz(hits)));
            at += 32;
        }
#endif
        return at;
    }

    const uint8_t* data_;
    size_t size_;
    uint32_t* markers_;
    uint32_t wanted_;
    uint32_t count_ = 0;
    size_t eoi_ = 0;
    bool eoi_found_ = false;
};

// Writes runs of restart segments, numbering their markers anew.
class SegmentWriter {
  public:
    SegmentWriter(const uint8_t* data, const JpegHeader& header, const std::vector<uint32_t>& markers,
                  size_t eoi, uint8_t* to)
        : data_(data), scan_(header.scan_offset), markers_(markers), eoi_(eoi), to_(to) {}

    void write(McuRange segments) {
        if (!first_) put_marker(next_number());
        first_ = false;
        const size_t from = begin(segments.begin);
        const size_t bytes = end(segments.end - 1) - from;
        std::memcpy(to_, data_ + from, bytes);
        for (uint32_t i = segments.begin; i + 1 < segments.end; ++i)
            to_[markers_[i] - from + 1] = next_number();
        to_ += bytes;
    }

    void finish() { put_marker(0xD9); }

    size_t bytes(McuRange segments) const { return end(segments.end - 1) - begin(segments.begin) + 2; }

  private:
    size_t begin(uint32_t segment) const { return segment == 0 ? scan_ : markers_[segment - 1] + size_t{2}; }
    size_t end(uint32_t segment) const { return segment == markers_.size() ? eoi_ : markers_[segment]; }
    uint8_t next_number() { return static_cast<uint8_t>(0xD0 | (restarts_++ & 7)); }
    void put_marker(uint8_t marker) {
        *to_++ = 0xFF;
        *to_++ = marker;
    }

    const uint8_t* data_;
    size_t scan_;
    const std::vector<uint32_t>& markers_;
    size_t eoi_;
    uint8_t* to_;
    uint32_t restarts_ = 0;
    bool first_ = true;
};

void check_can_slice(const JpegHeader& header, const Box& box, size_t size) {
    if (!header.sequential_huffman() || header.scan_component_count != header.component_count)
        throw JpegError("unsupported: only one interleaved baseline scan can be sliced");
    if (size > std::numeric_limits<uint32_t>::max()) throw JpegError("too large: over 4 GiB");
    const bool inside = box.height >= 1 && box.width >= 1 && box.top < header.height &&
                        box.left < header.width && box.height <= header.height - box.top &&
                        box.width <= header.width - box.left;
    if (!inside) throw JpegError("box: empty or outside the picture");
}

// The restart segments of one MCU row.
McuRange run(const JpegHeader& header, const SlicePlan& plan, uint32_t row) {
    if (header.restart_interval != 1) return {row, row + 1};
    const uint32_t first = row * header.mcus_per_row();
    return {first + plan.columns.begin, first + plan.columns.end};
}

void put16(uint8_t* at, uint32_t value) {
    at[0] = static_cast<uint8_t>(value >> 8);
    at[1] = static_cast<uint8_t>(value);
}

}  // namespace

SlicePlan plan_slice(const uint8_t* data, size_t size, const JpegHeader& header, const Box& box,
                     SliceScratch& scratch) {
    check_can_slice(header, box, size);
    const uint32_t per_row = header.mcus_per_row();
    const uint32_t mcu_rows = header.mcu_rows();
    const bool by_mcu = header.restart_interval == 1;
    if (!by_mcu && header.restart_interval != per_row)
        throw JpegError("uncut: no restart marker after every MCU or every MCU row");
    const uint64_t segments = by_mcu ? uint64_t{per_row} * mcu_rows : mcu_rows;
    // A segment has at least one byte, and all but the last a marker: a bound on what a lying size can
    // allocate.
    if (segments * 3 > size + 2) throw JpegError("truncated: too short for the picture's size");

    SlicePlan plan;
    scratch.markers.resize(static_cast<size_t>(segments - 1));
    MarkerCollector collector(data, size, scratch.markers.data(), static_cast<uint32_t>(segments - 1));
    plan.eoi = collector.collect(header.scan_offset);

    plan.rows = mcus_with_margin(box.top, box.height, header.mcu_height(), mcu_rows);
    plan.columns =
        by_mcu ? mcus_with_margin(box.left, box.width, header.mcu_width(), per_row) : McuRange{0, per_row};

    const uint32_t top = plan.rows.begin * header.mcu_height();
    const uint32_t left = plan.columns.begin * header.mcu_width();
    plan.slice.top = box.top - top;
    plan.slice.left = box.left - left;
    plan.slice.height = std::min(plan.rows.count() * header.mcu_height(), header.height - top);
    plan.slice.width = std::min(plan.columns.count() * header.mcu_width(), header.width - left);

    const SegmentWriter measure(data, header, scratch.markers, plan.eoi, nullptr);
    plan.bytes = header.scan_offset;
    for (uint32_t row = plan.rows.begin; row < plan.rows.end; ++row)
        plan.bytes += measure.bytes(run(header, plan, row));
    return plan;
}

void write_slice(const uint8_t* data, const JpegHeader& header, const SlicePlan& plan,
                 const SliceScratch& scratch, uint8_t* to) {
    std::memcpy(to, data, header.scan_offset);
    put16(to + header.size_offset, plan.slice.height);
    put16(to + header.size_offset + 2, plan.slice.width);
    SegmentWriter writer(data, header, scratch.markers, plan.eoi, to + header.scan_offset);
    for (uint32_t row = plan.rows.begin; row < plan.rows.end; ++row) writer.write(run(header, plan, row));
    writer.finish();
}

Slice slice_jpeg(const uint8_t* data, size_t size, const JpegHeader& header, const Box& box,
                 SliceScratch& scratch, std::vector<uint8_t>& out) {
    const SlicePlan plan = plan_slice(data, size, header, box, scratch);
    const size_t start = out.size();
    out.resize(start + plan.bytes);
    write_slice(data, header, plan, scratch, out.data() + start);
    return plan.slice;
}

}  // namespace fasttrain
