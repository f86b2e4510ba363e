#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jpeg/header.h"
#include "jpeg/segments.h"

namespace fasttrain {

// In pixels; half-open: rows top .. top + height - 1.
struct Box {
    uint32_t top;
    uint32_t left;
    uint32_t height;
    uint32_t width;
};

// The result of slice_jpeg: the position of the box inside the slice, and the slice's own size.
struct Slice {
    uint32_t top;
    uint32_t left;
    uint32_t height;
    uint32_t width;
};

// Working memory, to be reused from call to call by one thread.
struct SliceScratch {
    std::vector<Segment> segments;
};

// MCUs, or restart segments, half-open.
struct McuRange {
    uint32_t begin;
    uint32_t end;
    uint32_t count() const { return end - begin; }
};

struct SlicePlan {
    Slice slice;
    McuRange rows;
    McuRange columns;
    size_t bytes;  // of the slice: never more than those of the complete file
};

// Finds the MCUs that hold `box` and one MCU of margin on each side inside the picture (fancy upsampling
// reads its neighbours), and leaves the scan's segments in `scratch` for write_slice. Takes files with a
// restart marker after every MCU, or after every MCU row (then only rows are sliced). Throws JpegError for
// other files, for a box outside the picture and for restart markers that are missing, too many or out of
// order. `header` is parse_header's of the same bytes.
SlicePlan plan_slice(const uint8_t* data, size_t size, const JpegHeader& header, const Box& box,
                     SliceScratch& scratch);

// Writes `plan.bytes` bytes: a JPEG whose decoded pixels equal that part of the whole picture's. The
// arguments are those of plan_slice, and `scratch` is as that left it.
void write_slice(const uint8_t* data, const JpegHeader& header, const SlicePlan& plan,
                 const SliceScratch& scratch, uint8_t* to);

// Does both: appends the slice to `out`, which is unchanged if plan_slice throws.
Slice slice_jpeg(const uint8_t* data, size_t size, const JpegHeader& header, const Box& box,
                 SliceScratch& scratch, std::vector<uint8_t>& out);

}  // namespace fasttrain
