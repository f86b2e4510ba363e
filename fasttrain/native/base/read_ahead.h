#pragma once

#include <cstddef>
#include <cstdint>

namespace fasttrain {

// Asks the kernel to read these bytes of mapped files into the page cache, and doesn't wait for them.
void read_ahead(const uint64_t* addresses, const uint64_t* lengths, size_t count);

}  // namespace fasttrain
