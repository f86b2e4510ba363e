// The function that FFCV's numba code calls: a plain C symbol of the extension module, found through ctypes.

#include <cstdint>

#include "decode/decode.h"

// A row of the table in fasttrain/loaders/ffcv.py. `box` is (top, left, height, width).
struct PlannedRow {
    int32_t box[4];
    int32_t flags;  // CropFlags
    int32_t failed;
};

// Decodes one photograph's box into `out`, uint8 RGB rows. If that fails, sets `failed` to 1 and the output
// to zero, because FFCV can't raise from compiled code.
extern "C" __attribute__((visibility("default"))) void fasttrain_ffcv_decode_row(
    const uint8_t* jpeg, uint64_t length, int32_t height, int32_t width, PlannedRow* row, int32_t out_height,
    int32_t out_width, uint8_t* out) {
    thread_local fasttrain::DecodeScratch scratch;
    try {
        const fasttrain::Photograph photograph{jpeg, length, height, width, fasttrain::Storage::jpeg};
        const int32_t* box = row->box;
        fasttrain::decode_planned(photograph, {box[0], box[1], box[2], box[3]},
                                  static_cast<uint32_t>(row->flags), {out_height, out_width}, scratch, out);
    } catch (...) {
        const int64_t bytes = int64_t{3} * out_height * out_width;
        for (int64_t i = 0; i < bytes; ++i) out[i] = 0;
        row->failed = 1;
    }
}
