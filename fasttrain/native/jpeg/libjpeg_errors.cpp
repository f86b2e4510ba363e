#include "jpeg/libjpeg_errors.h"

#include <jerror.h>

namespace fasttrain {

LibjpegErrors::LibjpegErrors(Tolerated tolerated, ReadingLog* log) : tolerated_(tolerated), log_(log) {
    jpeg_std_error(&base_);
    base_.error_exit = fail;
    base_.emit_message = judge_warning;
    progress_.progress_monitor = watch_progress;
}

LibjpegErrors& LibjpegErrors::of(j_common_ptr codec) {
    return *static_cast<LibjpegErrors*>(codec->client_data);
}

void LibjpegErrors::fail(j_common_ptr codec) {
    LibjpegErrors& errors = of(codec);
    errors.base_.format_message(codec, errors.message_);
    std::longjmp(errors.escape, 1);
}

// Most of libjpeg's warnings mean that the data are broken and that it made up pixels.
void LibjpegErrors::judge_warning(j_common_ptr codec, int level) {
    const int code = codec->err->msg_code;
    if (level >= 0 || code == JWRN_JFIF_MAJOR) return;
    const bool stray = code == JWRN_EXTRANEOUS_DATA || code == JWRN_ADOBE_XFORM;
    LibjpegErrors& errors = of(codec);
    if (errors.tolerated_ == Tolerated::kNothing || (!stray && errors.tolerated_ != Tolerated::kDamage))
        fail(codec);
    if (errors.log_ != nullptr && codec->is_decompressor)
        errors.log_->meets_damage(*reinterpret_cast<j_decompress_ptr>(codec));
}

void LibjpegErrors::watch_progress(j_common_ptr codec) {
    if (!codec->is_decompressor) return;
    const auto& reader = *reinterpret_cast<j_decompress_ptr>(codec);
    LibjpegErrors& errors = of(codec);
    if (reader.input_scan_number <= kMaxScans) {
        if (errors.log_ != nullptr) errors.log_->reads_row(reader);
        return;
    }
    std::snprintf(errors.message_, sizeof errors.message_, "more than %d scans", kMaxScans);
    std::longjmp(errors.escape, 1);
}

}  // namespace fasttrain
