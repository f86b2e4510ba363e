#pragma once

#include <vector>

#include "base/span.h"

namespace fasttrain {

// Asks the kernel to read these bytes of mapped files into the page cache, without waiting for them.
void read_ahead(const std::vector<Span>& parts);

}  // namespace fasttrain
