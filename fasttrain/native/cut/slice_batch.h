#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cut/slice.h"

namespace fasttrain {

// A JPEG in the caller's memory and the box to cut out of it, which may be outside the image.
struct SliceRequest {
    const uint8_t* data;
    size_t size;
    int32_t top;
    int32_t left;
    int32_t height;
    int32_t width;
};

struct Corner {
    int32_t top;
    int32_t left;
};

// JPEG number i is bytes[offsets[i] .. offsets[i] + lengths[i]), and its box begins at corners[i] in it.
// There is space for each complete photograph, so that threads don't wait for each other's sizes. Pages that
// are never written cost nothing.
struct SlicedBatch {
    std::unique_ptr<uint8_t[]> bytes;
    size_t room = 0;
    std::vector<uint64_t> offsets;
    std::vector<uint64_t> lengths;
    std::vector<Corner> corners;
};

// Returns a slice for each request. A photograph that can't be sliced (uncut, progressive, broken) is added
// completely, with its box unchanged: the decoder of the batch decides what to do with it.
SlicedBatch slice_batch(const std::vector<SliceRequest>& requests, int threads);

}  // namespace fasttrain
