#include "cut/damage.h"

#include <cstring>

#include <jerror.h>

#include "jpeg/markers.h"

namespace fasttrain {

namespace {

// The most bytes after a scan that count as stray bytes. More bytes may belong to MCUs.
constexpr int kStrayBytes = 8;

// Returns whether libjpeg accepts a restart marker in place of the expected one. It interprets the two
// numbers before and the two after the expected one differently (jpeg_resync_to_restart).
bool passes_for(int marker, int expected) {
    const int ahead = (marker - expected) & 7;
    return kRst0 <= marker && marker <= kRst7 && (ahead == 0 || (ahead > 2 && ahead < 6));
}

}  // namespace

void correct_restart_numbers(std::vector<uint8_t>& scan) {
    size_t number = 0;
    for (size_t at = 0; at + 1 < scan.size(); ++at) {
        const void* found = std::memchr(scan.data() + at, 0xFF, scan.size() - at - 1);
        if (found == nullptr) return;
        at = static_cast<size_t>(static_cast<const uint8_t*>(found) - scan.data());
        uint8_t& marker = scan[at + 1];
        if (marker == kStuffing || marker == kFill) continue;
        const int expected = restart_marker(number++);
        if (!passes_for(marker, expected)) return;
        marker = static_cast<uint8_t>(expected);
    }
}

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
    if (code == JWRN_MUST_RESYNC && passes_for(numbers[0], restart_marker(static_cast<size_t>(numbers[1])))) {
        if (!scan.misnumbered) scan.first_misnumbered_row = codec.input_iMCU_row;
        scan.misnumbered = true;
        return;
    }
    // If another scan follows, one with too few or too many bytes wasn't truncated: somewhere before, wrong
    // bytes were valid codes.
    const int next = left_over ? numbers[1] : codec.unread_marker;
    const bool entire_scan = left_over || (code == JWRN_HIT_MARKER && next != kEoi);
    const bool within_scan = kRst0 <= next && next <= kRst7;
    JDIMENSION row = entire_scan && !within_scan ? 0 : codec.input_iMCU_row;
    // If more than the number is wrong, intervals before the marker may be missing.
    if (scan.misnumbered) row = std::min(row, scan.first_misnumbered_row);
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
