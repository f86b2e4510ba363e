#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cut/slice.h"

namespace fasttrain {

// A JPEG in the caller's memory and the box wanted of it, which may lie outside of the picture.
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

// JPEG number i is bytes[offsets[i] .. offsets[i] + lengths[i]), and its box begins at corners[i] in it. Each
// has room for the whole photograph, so that threads need not wait for each other's sizes; pages that stay
// untouched cost nothing.
struct SlicedBatch {
    std::unique_ptr<uint8_t[]> bytes;
    size_t room = 0;
    std::vector<uint64_t> offsets;
    std::vector<uint64_t> lengths;
    std::vector<Corner> corners;
};

// A slice for each request. A photograph that can't be sliced (uncut, progressive, broken) goes in whole,
// with its box where it was: whoever decodes the batch decides what to do with it.
SlicedBatch slice_batch(const std::vector<SliceRequest>& requests, int threads);

}  // namespace fasttrain
