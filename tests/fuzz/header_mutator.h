#pragma once

#include <cstddef>

// The fuzzers read this many bytes before the JPEG: they choose the arguments. header_mutator.cpp is
// libFuzzer's custom mutator for such inputs.
constexpr size_t kChoiceBytes = 8;
