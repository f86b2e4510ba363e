#include "cut/damage.h"

#include <algorithm>

namespace fasttrain {

void DamageLog::reads_row(const jpeg_decompress_struct& codec) {
    Scan& scan = scans_[codec.input_scan_number];
    scan.only_refines = codec.progressive_mode && codec.Ah == 1 && codec.Al == 0;
    for (int i = 0; i < codec.comps_in_scan; ++i)
        components_ |= 1u << codec.cur_comp_info[i]->component_index;
}

void DamageLog::meets_damage(const jpeg_decompress_struct& codec) {
    Scan& scan = scans_[std::clamp(codec.input_scan_number, 0, kMaxScans)];
    if (scan.damaged) return;
    scan.damaged = true;
    scan.first_damaged_row = codec.input_iMCU_row;
}

bool DamageLog::has_all_components(const jpeg_decompress_struct& codec) const {
    if (components_ != (1u << codec.num_components) - 1) return false;
    if (!codec.progressive_mode) return true;
    for (int c = 0; c < codec.num_components; ++c)
        for (int k = 0; k < DCTSIZE2; ++k)
            if (codec.coef_bits[c][k] < 0 || codec.coef_bits[c][k] > 1) return false;
    return true;
}

double DamageLog::intact(const jpeg_decompress_struct& codec) const {
    if (!has_all_components(codec)) return 0;
    JDIMENSION least = codec.total_iMCU_rows;
    for (const Scan& scan : scans_)
        if (scan.damaged && !scan.only_refines) least = std::min(least, scan.first_damaged_row);
    return static_cast<double>(least) / codec.total_iMCU_rows;
}

}  // namespace fasttrain
