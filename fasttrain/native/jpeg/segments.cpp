#include "base/simd.h"
#include "jpeg/entropy.h"

namespace fasttrain {

namespace {

// Takes each FF in turn; false ends the scan.
class SegmentFinder {
  public:
    SegmentFinder(const uint8_t* data, size_t begin, size_t size, size_t most, std::vector<Segment>& out)
        : data_(data), size_(size), most_(most), begin_(begin), out_(out) {}

    FASTTRAIN_INLINE bool take(size_t at) {
        const int next = at + 1 < size_ ? data_[at + 1] : 0xD9;
        if (next == 0x00) {
            stuffed_ = true;
            return true;
        }
        if (next == 0xFF) return true;  // a fill byte
        end_segment(at);
        begin_ = at + 2;
        return out_.size() < most_ && next == (0xD0 | static_cast<int>((out_.size() - 1) & 7));
    }
    void end_segment(size_t at) {
        out_.push_back({static_cast<uint32_t>(begin_), static_cast<uint32_t>(at), stuffed_});
        stuffed_ = false;
    }

  private:
    const uint8_t* data_;
    size_t size_;
    size_t most_;
    size_t begin_;
    bool stuffed_ = false;
    std::vector<Segment>& out_;
};

}  // namespace

}  // namespace fasttrain

#define FASTTRAIN_KERNELS "jpeg/segments.inc"
#include "base/each_target.h"

namespace fasttrain {

void find_segments(const uint8_t* data, size_t begin, size_t size, size_t most, std::vector<Segment>& out) {
    out.clear();
    SegmentFinder finder(data, begin, size, most, out);
    FASTTRAIN_DISPATCH(scan(finder, data, begin, size));
}

}  // namespace fasttrain
