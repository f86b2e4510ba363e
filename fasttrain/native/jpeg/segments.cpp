#include "jpeg/segments.h"

#include <cstring>

#include "base/simd.h"
#include "jpeg/markers.h"

namespace fasttrain {

namespace {

// Handles each byte FF in turn. Its `take` returns false to end the search.
class SegmentFinder {
  public:
    SegmentFinder(const uint8_t* data, size_t begin, size_t size, size_t most, std::vector<Segment>& segments)
        : data_(data), size_(size), most_(most), begin_(begin), segments_(segments) {}

    FASTTRAIN_INLINE bool take(size_t at) {
        const int next = at + 1 < size_ ? data_[at + 1] : kNoMarker;
        if (next == kStuffing) {
            stuffed_ = true;
            return true;
        }
        if (next == kFill) return true;
        end_segment(at, next);
        begin_ = at + 2;
        return segments_.size() < most_ && next == restart_marker(segments_.size() - 1);
    }
    void end_segment(size_t at, int marker) {
        segments_.push_back({static_cast<uint32_t>(begin_), static_cast<uint32_t>(at), stuffed_});
        stuffed_ = false;
        end_ = {at, marker};
    }
    SegmentsEnd end() const { return end_; }

  private:
    const uint8_t* data_;
    size_t size_;
    size_t most_;
    size_t begin_;
    bool stuffed_ = false;
    SegmentsEnd end_{};
    std::vector<Segment>& segments_;
};

}  // namespace

}  // namespace fasttrain

#define FASTTRAIN_KERNELS "jpeg/segments.inc"
#include "base/each_target.h"

namespace fasttrain {

namespace {

void scan_each(SegmentFinder& finder, const uint8_t* data, size_t begin, size_t size) {
    FASTTRAIN_DISPATCH(scan(finder, data, begin, size));
}

}  // namespace

SegmentsEnd find_segments(const uint8_t* data, size_t begin, size_t size, size_t most,
                          std::vector<Segment>& segments) {
    segments.clear();
    SegmentFinder finder(data, begin, size, most, segments);
    scan_each(finder, data, begin, size);
    return finder.end();
}

SegmentBytes unstuff(const uint8_t* data, const Segment& segment, std::vector<uint8_t>& copy) {
    const size_t length = segment.end - segment.begin;
    if (copy.size() < length + kOverread) copy.resize(length + kOverread);
    const uint8_t* from = data + segment.begin;
    const uint8_t* const end = data + segment.end;
    uint8_t* to = copy.data();
    while (from < end) {
        const void* found = std::memchr(from, 0xFF, static_cast<size_t>(end - from));
        const uint8_t* stop = found != nullptr ? static_cast<const uint8_t*>(found) + 1 : end;
        std::memcpy(to, from, static_cast<size_t>(stop - from));
        to += stop - from;
        from = stop;
        if (found != nullptr && from < end && *from == kStuffing) ++from;
    }
    return {copy.data(), static_cast<size_t>(to - copy.data())};
}

}  // namespace fasttrain
