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
// after every MCU, every MCU row, or none. Of its markers it keeps only those that define how colours are
// coded (JFIF, Adobe). `orientation` is EXIF's 1..8, applied to the coefficients. Throws JpegError if libjpeg
// can't read the complete file without a warning, and ("orientation: ...") if mirroring would move an
// incomplete MCU into the image.
std::vector<uint8_t> cut_jpeg(const uint8_t* data, size_t size, Interval interval, bool optimize,
                              int orientation);

// The limits that cut_jpeg sets to the only scan of a file that it reads itself; empty for a file that it
// leaves to libjpeg. Throws as cut_jpeg does for a header that it refuses.
std::optional<ScanLimits> limits_of_only_scan(const uint8_t* data, size_t size);

struct Repaired {
    std::vector<uint8_t> jpeg;
    double intact;  // see DamageLog::intact
};

// The same for a damaged JPEG, as libjpeg shows it, with the share that is intact. Every decoder can read the
// result.
Repaired repair_jpeg(const uint8_t* data, size_t size, Interval interval, bool optimize, int orientation);

// The bytes and errors of cut_jpeg, from libjpeg alone: the reference in tests of its fast path.
std::vector<uint8_t> cut_with_libjpeg(const uint8_t* data, size_t size, Interval interval, bool optimize,
                                      int orientation);

}  // namespace fasttrain
