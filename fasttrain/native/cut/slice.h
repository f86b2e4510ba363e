#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jpeg/header.h"
#include "jpeg/segments.h"

namespace fasttrain {

// A box in pixels, with the rows top .. top + height - 1.
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

// A half-open range of MCUs or restart segments.
struct McuRange {
    uint32_t begin;
    uint32_t end;
    uint32_t count() const { return end - begin; }
};

struct SlicePlan {
    Slice slice;
    McuRange rows;
    McuRange columns;
    size_t bytes;  // the size of the slice, which is at most that of the complete file
};

// Finds the MCUs that hold `box` and, inside the picture, one MCU of margin on each side, because fancy
// upsampling reads neighbouring samples. Leaves the scan's segments in `scratch` for write_slice. `header` is
// the result of parse_header for the same bytes. The file must have a restart marker after every MCU, or
// after every MCU row; then only rows are cut away. Throws JpegError for other files, for a box outside the
// picture, and for restart markers that are missing, superfluous or out of order.
SlicePlan plan_slice(const uint8_t* data, size_t size, const JpegHeader& header, const Box& box,
                     SliceScratch& scratch);

// Writes `plan.bytes` bytes: a JPEG whose decoded pixels equal those of the complete picture in that part.
// The other arguments are those of plan_slice, and `scratch` must be unchanged since that call.
void write_slice(const uint8_t* data, const JpegHeader& header, const SlicePlan& plan,
                 const SliceScratch& scratch, uint8_t* to);

// Plans a slice and appends it to `out`, which is unchanged if plan_slice throws.
Slice slice_jpeg(const uint8_t* data, size_t size, const JpegHeader& header, const Box& box,
                 SliceScratch& scratch, std::vector<uint8_t>& out);

}  // namespace fasttrain
