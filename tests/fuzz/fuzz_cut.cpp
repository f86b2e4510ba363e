// What comes in is never trusted: any bytes give a JPEG or a JpegError. What comes out must be taken in
// again.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "cut.h"
#include "slice.h"

namespace {

using namespace fasttrain;

// The first bytes choose the arguments, so that the fuzzer explores these too.
struct Choices {
    Interval interval;
    bool optimize;
    int orientation;
    Box box;
};

constexpr size_t kChoiceBytes = 6;

Choices choose(const uint8_t* bytes) {
    return {static_cast<Interval>(bytes[0] % 3), (bytes[0] & 64) != 0, 1 + bytes[1] % 8,
            Box{bytes[2], bytes[3], bytes[4], bytes[5]}};
}

void slice_twice(const uint8_t* data, size_t size, const Box& box) {
    static SliceScratch scratch;
    std::vector<uint8_t> out;
    Slice slice;
    try {
        slice = slice_jpeg(data, size, parse_header(data, size), box, scratch, out);
    } catch (const JpegError&) {
        if (!out.empty()) std::abort();
        return;
    }
    const JpegHeader header = parse_header(out.data(), out.size());
    if (header.height != slice.height || header.width != slice.width) std::abort();
    const Box all{0, 0, slice.height, slice.width};
    std::vector<uint8_t> again;
    slice_jpeg(out.data(), out.size(), header, all, scratch, again);
}

void cut_twice(const uint8_t* data, size_t size, const Choices& choices) {
    std::vector<uint8_t> once;
    try {
        once = cut_jpeg(data, size, choices.interval, choices.optimize, choices.orientation);
    } catch (const JpegError&) {
        return;
    }
    if (cut_jpeg(once.data(), once.size(), choices.interval, choices.optimize, 1) != once) std::abort();
    slice_twice(once.data(), once.size(), choices.box);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < kChoiceBytes) return 0;
    const Choices choices = choose(data);
    cut_twice(data + kChoiceBytes, size - kChoiceBytes, choices);
    slice_twice(data + kChoiceBytes, size - kChoiceBytes, choices.box);
    return 0;
}
