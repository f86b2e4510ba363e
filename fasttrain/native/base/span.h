#pragma once

#include <cstddef>
#include <cstdint>

namespace fasttrain {

// Bytes in memory owned by somebody else.
struct Span {
    const uint8_t* data;
    size_t size;
};

}  // namespace fasttrain
