#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jpeg_markers.h"

namespace fasttrain {

// In pixels; half-open: rows top .. top + height - 1.
struct Box {
    uint32_t top;
    uint32_t left;
    uint32_t height;
    uint32_t width;
};

// What slice_jpeg made: where the box lies inside the slice, and the slice's own size.
struct Slice {
    uint32_t top;
    uint32_t left;
    uint32_t height;
    uint32_t width;
};

// Working memory, to be reused from call to call by one thread.
struct SliceScratch {
    std::vector<uint32_t> markers;  // offset of each RSTn's FF
};

// Appends to `out` a JPEG of the MCUs that hold `box` and of one MCU of margin on each side inside the
// picture (fancy upsampling reads its neighbours), whose decoded pixels equal that part of the whole
// picture's. Takes files with a restart marker after every MCU, or after every MCU row (then only rows are
// sliced). Throws JpegError for other files, for a box outside the picture and for restart markers that are
// missing, too many or out of order; `out` is then as it was. `header` is parse_header's of the same bytes.
Slice slice_jpeg(const uint8_t* data, size_t size, const JpegHeader& header, const Box& box,
                 SliceScratch& scratch, std::vector<uint8_t>& out);

}  // namespace fasttrain
