#pragma once

#include <cstddef>
#include <cstdint>

namespace fasttrain {

// CRC-32 as in zlib (IEEE 802.3, reflected).
uint32_t crc32(const uint8_t* data, size_t size);

}  // namespace fasttrain
