#include "cut/damage.h"

#include <jerror.h>

#include "jpeg/markers.h"

namespace fasttrain {

namespace {

// Fewer bytes behind a scan belong to nothing; more may be those of MCUs.
constexpr int kStrayBytes = 8;

}  // namespace

void DamageLog::reads_row(const jpeg_decompress_struct& codec) {
    Scan& scan = scans_[codec.input_scan_number];
    scan.only_refines = codec.progressive_mode && codec.Ah == 1 && codec.Al == 0;
    for (int i = 0; i < codec.comps_in_scan; ++i)
        components_ |= 1u << codec.cur_comp_info[i]->component_index;
}

void DamageLog::meets_damage(const jpeg_decompress_struct& codec) {
    const int code = codec.err->msg_code;
    const int* numbers = codec.err->msg_parm.i;
    const bool left_over = code == JWRN_EXTRANEOUS_DATA;
    if (code == JWRN_ADOBE_XFORM || (left_over && numbers[0] < kStrayBytes)) return;
    Scan& scan = scans_[std::clamp(codec.input_scan_number, 0, kMaxScans)];
    // A scan that has too few bytes, or too many, though another follows, was not cut off: wrong bytes that
    // are valid codes came anywhere before.
    const int next = left_over ? numbers[1] : codec.unread_marker;
    const bool whole_scan = left_over || (code == JWRN_HIT_MARKER && next != kEoi);
    const bool within_scan = kRst0 <= next && next <= kRst7;
    const JDIMENSION row = whole_scan && !within_scan ? 0 : codec.input_iMCU_row;
    scan.first_damaged_row = scan.damaged ? std::min(scan.first_damaged_row, row) : row;
    scan.damaged = true;
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
