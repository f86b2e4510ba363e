// What FFCV's numba code calls: a plain C symbol of the extension module, found through ctypes.

#include <cstdint>

#include "decode.h"

// Decodes one photograph's box into `out`, uint8 RGB rows. `box` is (top, left, height, width). Returns 0, or 1 where the
// photograph can't be decoded: its output is zeroed then, as FFCV has no way to raise from compiled code.
extern "C" __attribute__((visibility("default"))) int32_t fasttrain_ffcv_decode(
    const uint8_t* jpeg, uint64_t length, int32_t height, int32_t width, const int32_t* box, int32_t flip,
    int32_t out_height, int32_t out_width, uint8_t* out) {
    thread_local fasttrain::DecodeScratch scratch;
    try {
        const fasttrain::Photograph photograph{jpeg, length, height, width, fasttrain::Storage::jpeg};
        fasttrain::decode_crop(photograph, {box[0], box[1], box[2], box[3]}, flip != 0, {out_height, out_width},
                               scratch, out);
        return 0;
    } catch (...) {
        const int64_t bytes = int64_t{3} * out_height * out_width;
        for (int64_t i = 0; i < bytes; ++i) out[i] = 0;
        return 1;
    }
}
