#pragma once

#include <cstddef>
#include <cstdint>

namespace fasttrain {

// Bytes in memory that another object owns.
struct Span {
    const uint8_t* data;
    size_t size;
};

}  // namespace fasttrain
