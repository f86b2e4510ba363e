#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

#include <jpeglib.h>

#include "jpeg/libjpeg_errors.h"

namespace fasttrain {

// The greatest DC coefficient from 8-bit samples, with some margin for odd encoders. Wrong bytes that are
// valid codes shift all later coefficients, often beyond it.
inline int max_dc(const JQUANT_TBL& table) {
    return std::min(1023, 1088 / std::max<int>(table.quantval[0], 1) + 1);
}

// Renumbers restart markers in their order where libjpeg ignores a wrong number. It treats other wrong
// numbers as lost or repeated intervals: those stay, and end the search.
void correct_restart_numbers(std::vector<uint8_t>& scan);

// Records how much of a damaged JPEG can be trusted: what was read before the first error of each scan.
class DamageLog final : public ReadingLog {
  public:
    void reads_row(const jpeg_decompress_struct& codec) override;
    void meets_damage(const jpeg_decompress_struct& codec) override;

    // The share of the image, 0 to 1, before the first error, in rows of MCUs; the worst scan counts. Scans
    // of a progressive image that only add the last bit to coefficients are ignored, even if missing: without
    // them the image is only a little coarser.
    double intact(const jpeg_decompress_struct& codec) const;

  private:
    struct Scan {
        bool only_refines = false;
        bool damaged = false;
        JDIMENSION first_damaged_row = 0;
        bool misnumbered = false;
        JDIMENSION first_misnumbered_row = 0;
    };

    bool has_all_components(const jpeg_decompress_struct& codec) const;

    Scan scans_[kMaxScans + 1];
    unsigned components_ = 0;  // a bit for each component that a scan has delivered
};

}  // namespace fasttrain
