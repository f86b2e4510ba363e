#include <algorithm>
#include <cstring>

#include "base/simd.h"
#include "jpeg/entropy.h"

#ifdef FASTTRAIN_X86
#include <immintrin.h>
#endif

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

void scan_plain(SegmentFinder finder, const uint8_t* data, size_t at, size_t size) {
    for (; at < size; ++at) {
        const void* found = std::memchr(data + at, 0xFF, size - at);
        if (found == nullptr) break;
        at = static_cast<size_t>(static_cast<const uint8_t*>(found) - data);
        if (!finder.take(at)) return;
    }
    finder.end_segment(size);  // no EOI
}

#ifdef FASTTRAIN_X86
__attribute__((target("avx2,bmi"))) void scan_avx2(SegmentFinder finder, const uint8_t* data, size_t at,
                                                   size_t size) {
    const __m256i wanted = _mm256_set1_epi8(-1);
    for (; at + 32 <= size; at += 32) {
        const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + at));
        auto hits = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, wanted)));
        for (; hits != 0; hits &= hits - 1)
            if (!finder.take(at + static_cast<size_t>(__builtin_ctz(hits)))) return;
    }
    scan_plain(finder, data, at, size);
}
#endif

}  // namespace

void find_segments(const uint8_t* data, size_t begin, size_t size, size_t most, std::vector<Segment>& out) {
    out.clear();
    const SegmentFinder finder(data, begin, size, most, out);
#ifdef FASTTRAIN_X86
    if (simd_level() != Simd::plain) return scan_avx2(finder, data, begin, size);
#endif
    scan_plain(finder, data, begin, size);
}

}  // namespace fasttrain
