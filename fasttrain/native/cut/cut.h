#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "cut/fast.h"
#include "jpeg/header.h"

namespace fasttrain {

enum class Interval { kMcu, kRow, kNone };

// Rewrites a JPEG losslessly (with the same DCT coefficients) as one interleaved baseline scan, with a
// restart marker after every MCU, after every MCU row, or without any. Only the markers that define how
// colours are coded (JFIF, Adobe) are kept. `orientation` is EXIF's 1..8, and is applied to the coefficients.
// Throws JpegError if libjpeg can't read the complete file without a warning, and ("orientation: ...") if
// mirroring would move an incomplete MCU into the image.
std::vector<uint8_t> cut_jpeg(const uint8_t* data, size_t size, Interval interval, bool optimize,
                              int orientation);

// Returns the limits that cut_jpeg sets for the only scan of a file, or nothing if it leaves the file to
// libjpeg. Throws JpegError if cut_jpeg refuses the header.
std::optional<ScanLimits> limits_of_only_scan(const uint8_t* data, size_t size);

struct Repaired {
    std::vector<uint8_t> jpeg;
    double intact;  // see DamageLog::intact
};

// Rewrites a damaged JPEG with the pixels that libjpeg shows, and returns it with the share that is intact.
// Every decoder can read the result.
Repaired repair_jpeg(const uint8_t* data, size_t size, Interval interval, bool optimize, int orientation);

// Does what cut_jpeg does, using only libjpeg. Tests compare cut_jpeg's fast path with it.
std::vector<uint8_t> cut_with_libjpeg(const uint8_t* data, size_t size, Interval interval, bool optimize,
                                      int orientation);

}  // namespace fasttrain
