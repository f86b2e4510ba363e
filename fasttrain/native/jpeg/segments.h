#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fasttrain {

// The bytes between two restart markers, or between a restart marker and the beginning or end of the scan.
struct Segment {
    uint32_t begin;
    uint32_t end;
    bool stuffed;  // contains FF 00
};

// The position where a search for segments ended, and why.
struct SegmentsEnd {
    size_t at;   // position of the marker's FF, or the size of the data
    int marker;  // kNoMarker at the end of the data
};

// Finds up to `most` segments of a scan that begins at `begin`. Stops at a marker that isn't RSTn, at an RSTn
// out of order, or at the end of the data; each of these ends a segment. `size` must fit into 32 bits.
SegmentsEnd find_segments(const uint8_t* data, size_t begin, size_t size, size_t most,
                          std::vector<Segment>& segments);

constexpr int kMaxBlocks = 10;  // in an MCU, by the standard
// The most bytes that a decoder may read beyond the end of a segment: the longest MCU that wrong bytes can
// form, of 64 symbols with at most 16 + 15 bits per block, and one refill.
constexpr size_t kOverread = kMaxBlocks * 64 * 31 / 8 + 16;

struct SegmentBytes {
    const uint8_t* data;
    size_t length;
};

// Copies a segment without the zeros after FF into `copy`, which grows if needed.
SegmentBytes unstuff(const uint8_t* data, const Segment& segment, std::vector<uint8_t>& copy);

// Returns a segment's bytes without the zeros after FF, followed by kOverread readable bytes. They are in
// place if possible, otherwise in `copy`.
inline SegmentBytes read_segment(const uint8_t* data, size_t size, const Segment& segment,
                                 std::vector<uint8_t>& copy) {
    if (segment.stuffed || segment.end + kOverread > size) return unstuff(data, segment, copy);
    return {data + segment.begin, segment.end - segment.begin};
}

}  // namespace fasttrain
