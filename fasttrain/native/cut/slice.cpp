#include "cut/slice.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "jpeg/markers.h"

namespace fasttrain {

namespace {

McuRange mcus_with_margin(uint32_t start, uint32_t length, uint32_t mcu, uint32_t mcus) {
    const uint32_t first = start / mcu;
    const uint32_t last = (start + length - 1) / mcu;
    return {first == 0 ? 0 : first - 1, std::min(last + 2, mcus)};
}

// Finds the segments of one scan, which must be exactly `wanted` and end with EOI.
void find_all_segments(const uint8_t* data, size_t begin, size_t size, size_t wanted,
                       std::vector<Segment>& segments) {
    const SegmentsEnd end = find_segments(data, begin, size, wanted, segments);
    if (end.marker == kNoMarker) throw JpegError("truncated: no EOI (the end marker) after the scan");
    if (end.marker >= kRst0 && end.marker <= kRst7)
        throw JpegError(segments.size() == wanted ? "corrupt: too many restart markers for the picture's size"
                                                  : "corrupt: restart markers out of order");
    if (end.marker != kEoi)
        throw JpegError("unsupported: more than one scan, or a marker other than restarts inside the scan");
    if (segments.size() != wanted) throw JpegError("corrupt: too few restart markers for the picture's size");
}

// Writes runs of restart segments and renumbers their markers.
class SegmentWriter {
  public:
    SegmentWriter(const uint8_t* data, const std::vector<Segment>& segments, uint8_t* to)
        : data_(data), segments_(segments), to_(to) {}

    void write(McuRange run) {
        if (!first_) put_marker(next_number());
        first_ = false;
        const size_t from = segments_[run.begin].begin;
        const size_t bytes = segments_[run.end - 1].end - from;
        std::memcpy(to_, data_ + from, bytes);
        for (uint32_t i = run.begin; i + 1 < run.end; ++i) to_[segments_[i].end - from + 1] = next_number();
        to_ += bytes;
    }

    void finish() { put_marker(kEoi); }

  private:
    uint8_t next_number() { return static_cast<uint8_t>(restart_marker(restarts_++)); }
    void put_marker(int marker) {
        *to_++ = 0xFF;
        *to_++ = static_cast<uint8_t>(marker);
    }

    const uint8_t* data_;
    const std::vector<Segment>& segments_;
    uint8_t* to_;
    uint32_t restarts_ = 0;
    bool first_ = true;
};

void check_can_slice(const JpegHeader& header, const Box& box, size_t size) {
    if (!header.sequential_huffman() || !header.all_in_scan)
        throw JpegError("unsupported: only one interleaved baseline scan can be sliced");
    if (size > std::numeric_limits<uint32_t>::max())
        throw JpegError("too large: " + std::to_string(size) + " bytes; at most 4 GiB can be sliced");
    const bool inside = box.height >= 1 && box.width >= 1 && box.top < header.height &&
                        box.left < header.width && box.height <= header.height - box.top &&
                        box.width <= header.width - box.left;
    if (!inside)
        throw JpegError("box: " + std::to_string(box.height) + " x " + std::to_string(box.width) +
                        " pixels from " + std::to_string(box.top) + ", " + std::to_string(box.left) +
                        " on is empty or not inside the picture of " + std::to_string(header.height) +
                        " x " + std::to_string(header.width));
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
        throw JpegError(
            "uncut: no restart marker after every MCU or every row of MCUs; rewrite the JPEG with cut first");
    const uint64_t segments = by_mcu ? uint64_t{per_row} * mcu_rows : mcu_rows;
    // A segment has at least one byte, and all but the last one a marker: this limits what a false size can
    // allocate.
    if (segments * 3 > size + 2)
        throw JpegError("truncated: too short, with " + std::to_string(size) + " bytes, for a picture of " +
                        std::to_string(header.height) + " x " + std::to_string(header.width));

    SlicePlan plan;
    find_all_segments(data, header.scan_offset, size, static_cast<size_t>(segments), scratch.segments);

    plan.rows = mcus_with_margin(box.top, box.height, header.mcu_height(), mcu_rows);
    plan.columns =
        by_mcu ? mcus_with_margin(box.left, box.width, header.mcu_width(), per_row) : McuRange{0, per_row};

    const uint32_t top = plan.rows.begin * header.mcu_height();
    const uint32_t left = plan.columns.begin * header.mcu_width();
    plan.slice.top = box.top - top;
    plan.slice.left = box.left - left;
    plan.slice.height = std::min(plan.rows.count() * header.mcu_height(), header.height - top);
    plan.slice.width = std::min(plan.columns.count() * header.mcu_width(), header.width - left);

    plan.bytes = header.scan_offset;
    for (uint32_t row = plan.rows.begin; row < plan.rows.end; ++row) {
        const McuRange each = run(header, plan, row);
        plan.bytes += scratch.segments[each.end - 1].end - scratch.segments[each.begin].begin + 2;
    }
    return plan;
}

void write_slice(const uint8_t* data, const JpegHeader& header, const SlicePlan& plan,
                 const SliceScratch& scratch, uint8_t* to) {
    std::memcpy(to, data, header.scan_offset);
    put16(to + header.size_offset, plan.slice.height);
    put16(to + header.size_offset + 2, plan.slice.width);
    SegmentWriter writer(data, scratch.segments, to + header.scan_offset);
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
