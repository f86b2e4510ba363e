// What comes in is never trusted: any bytes give a JPEG or a JpegError, the same as from libjpeg alone. What
// comes out must be taken in again, and a batch's slices are those of its photographs one by one.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "cut/cut.h"
#include "header_mutator.h"
#include "cut/slice.h"
#include "cut/slice_batch.h"

namespace {

using namespace fasttrain;

// The first bytes choose the arguments, so that the fuzzer explores these too.
struct Choices {
    Interval interval;
    bool optimize;
    int orientation;
    Box box;
};

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

// The box twice, and between them no bytes at all and a box that may lie anywhere.
void slice_as_batch(const uint8_t* data, size_t size, const Box& box) {
    const auto signed_side = [](uint32_t side) { return static_cast<int32_t>(static_cast<int8_t>(side)); };
    const int32_t top = static_cast<int32_t>(box.top), left = static_cast<int32_t>(box.left);
    const int32_t height = static_cast<int32_t>(box.height), width = static_cast<int32_t>(box.width);
    const std::vector<SliceRequest> requests{
        {data, size, top, left, height, width},
        {nullptr, 0, top, left, height, width},
        {data, size, signed_side(box.left), signed_side(box.top), signed_side(box.width) * (1 << 20), height},
        {data, size, top, left, height, width}};
    const SlicedBatch batch = slice_batch(requests, 1);
    std::vector<uint8_t> expected;
    Corner corner{top, left};
    try {
        SliceScratch scratch;
        const Slice slice = slice_jpeg(data, size, parse_header(data, size), box, scratch, expected);
        corner = {static_cast<int32_t>(slice.top), static_cast<int32_t>(slice.left)};
    } catch (const JpegError&) {
        expected.assign(data, data + size);
    }
    for (const size_t i : {size_t{0}, size_t{3}}) {
        const uint8_t* made = batch.bytes.get() + batch.offsets[i];
        if (std::vector<uint8_t>(made, made + batch.lengths[i]) != expected) std::abort();
        if (batch.corners[i].top != corner.top || batch.corners[i].left != corner.left) std::abort();
    }
    for (size_t i = 0; i < requests.size(); ++i)
        if (batch.lengths[i] > requests[i].size) std::abort();
}

// Empty, with the reason, for an error.
std::vector<uint8_t> try_cut(decltype(cut_jpeg)* cut, const uint8_t* data, size_t size,
                             const Choices& choices, std::string& reason) {
    try {
        return cut(data, size, choices.interval, choices.optimize, choices.orientation);
    } catch (const JpegError& error) {
        reason = error.what();
        return {};
    }
}

void cut_twice(const uint8_t* data, size_t size, const Choices& choices) {
    std::string reason;
    std::string expected_reason;
    const std::vector<uint8_t> once = try_cut(cut_jpeg, data, size, choices, reason);
    if (try_cut(cut_with_libjpeg, data, size, choices, expected_reason) != once) std::abort();
    if (reason != expected_reason) std::abort();
    if (once.empty()) return;
    if (cut_jpeg(once.data(), once.size(), choices.interval, choices.optimize, 1) != once) std::abort();
    slice_twice(once.data(), once.size(), choices.box);
    slice_as_batch(once.data(), once.size(), choices.box);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < kChoiceBytes) return 0;
    const Choices choices = choose(data);
    cut_twice(data + kChoiceBytes, size - kChoiceBytes, choices);
    slice_twice(data + kChoiceBytes, size - kChoiceBytes, choices.box);
    slice_as_batch(data + kChoiceBytes, size - kChoiceBytes, choices.box);
    return 0;
}
