#pragma once

#include <stdexcept>

namespace fasttrain {

// Says what is wrong with a JPEG, or with what is asked of it. Everything in this folder and the ones built
// on it throws this and nothing else for bad data; nanobind turns std::invalid_argument into ValueError.
class JpegError : public std::invalid_argument {
  public:
    using std::invalid_argument::invalid_argument;
};

}  // namespace fasttrain
