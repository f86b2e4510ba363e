#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

#include <jpeglib.h>

#include "jpeg/libjpeg_errors.h"

namespace fasttrain {

// Returns the greatest DC coefficient that 8-bit samples can give, with some margin for unusual encoders.
// Wrong bytes that happen to be valid codes shift all later coefficients, often beyond this limit.
inline int max_dc(const JQUANT_TBL& table) {
    return std::min(1023, 1088 / std::max<int>(table.quantval[0], 1) + 1);
}

// Corrects wrong numbers of restart markers that libjpeg would ignore. It treats other wrong numbers as lost
// or repeated intervals. The first of these stays as it is and ends the correction.
void correct_restart_numbers(std::vector<uint8_t>& scan);

// Records how much of a damaged JPEG can be trusted: the part that was read before the first error of a scan.
class DamageLog final : public ReadingLog {
  public:
    void reads_row(const jpeg_decompress_struct& codec) override;
    void meets_damage(const jpeg_decompress_struct& codec) override;

    // Returns the share of MCU rows, 0 to 1, before the first error, in the worst scan. Scans of a
    // progressive image that only add the last bit to coefficients are ignored, even if they are missing,
    // because without them the image is only a little coarser.
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
    unsigned components_ = 0;  // a bit for each component that occurred in a scan
};

}  // namespace fasttrain
