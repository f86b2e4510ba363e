#pragma once

#include <cstddef>
#include <cstdint>

namespace fasttrain {

// Bytes in somebody else's memory.
struct Span {
    const uint8_t* data;
    size_t size;
};

}  // namespace fasttrain
