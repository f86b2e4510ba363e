#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "cut/fast.h"
#include "jpeg/header.h"

namespace fasttrain {

enum class Interval { kMcu, kRow, kNone };

// Rewrites a JPEG losslessly (same DCT coefficients) as one interleaved baseline scan, with a restart marker
// after every MCU, every MCU row, or none, keeping of its markers only what says how colours are coded (JFIF,
// Adobe). `orientation` is EXIF's 1..8, done to the coefficients. Throws JpegError for what libjpeg can't
// read whole and without a warning, and ("orientation: ...") where mirroring would move an incomplete MCU
// into the picture.
std::vector<uint8_t> cut_jpeg(const uint8_t* data, size_t size, Interval interval, bool optimize,
                              int orientation);

// The limits that cut_jpeg sets to the only scan of a file that it reads itself; nothing of a file that it leaves to
// libjpeg. Throws as cut_jpeg does for what it refuses because of its header.
std::optional<ScanLimits> limits_of_only_scan(const uint8_t* data, size_t size);

struct Repaired {
    std::vector<uint8_t> jpeg;
    double intact;  // see DamageLog::intact
};

// The same for a damaged JPEG, as libjpeg shows it, with how much of it is intact. Every decoder reads the
// result.
Repaired repair_jpeg(const uint8_t* data, size_t size, Interval interval, bool optimize, int orientation);

// The bytes and errors of cut_jpeg, from libjpeg alone: what the tests hold its fast path against.
std::vector<uint8_t> cut_with_libjpeg(const uint8_t* data, size_t size, Interval interval, bool optimize,
                                      int orientation);

}  // namespace fasttrain
