#pragma once

#include <stdexcept>

namespace fasttrain {

// Says what is wrong with a JPEG, or with a request for it. Everything in this folder and in those built on
// it throws only this for bad data. nanobind turns std::invalid_argument into ValueError.
class JpegError : public std::invalid_argument {
  public:
    using std::invalid_argument::invalid_argument;
};

}  // namespace fasttrain
