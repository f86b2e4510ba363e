#pragma once

#include <stdexcept>

namespace fasttrain {

// Thrown if a JPEG is broken or unsupported, or if a request doesn't fit it. All code for JPEGs throws only
// this for bad data. nanobind turns std::invalid_argument into Python's ValueError.
class JpegError : public std::invalid_argument {
  public:
    using std::invalid_argument::invalid_argument;
};

}  // namespace fasttrain
