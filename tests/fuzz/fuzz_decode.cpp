// Any bytes give a picture or a JpegError, the same with and without vector instructions, and never read or
// write outside of what they are given.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "decode/decode.h"
#include "base/simd.h"
#include "header_mutator.h"
#include "jpeg/header.h"

namespace {

using namespace fasttrain;

// Empty where the bytes were refused.
std::vector<uint8_t> decode(const Photograph& photograph, const CropBox& box, bool flip, OutputSize size,
                            Filter filter, Simd level) {
    static DecodeScratch scratch;
    if (!set_simd_level(level)) std::abort();
    std::vector<uint8_t> out(static_cast<size_t>(size.height) * static_cast<size_t>(size.width) * 3);
    try {
        decode_crop(photograph, box, flip, size, filter, scratch, out.data());
    } catch (const JpegError&) {
        out.clear();
    }
    scratch.trim();
    return out;
}

}  // namespace

// The first bytes choose the box, the output's size, the mirror, the filter and the storage; the photograph
// follows, in memory of its own length, so that AddressSanitizer sees a read beyond it.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    if (size < kChoiceBytes) return 0;
    const std::vector<uint8_t> stored(bytes + kChoiceBytes, bytes + size);
    Photograph photograph{stored.data(), stored.size(), bytes[0], bytes[1], Storage::raw};
    if ((bytes[6] & 2) == 0) {
        photograph.storage = Storage::jpeg;
        try {
            const JpegHeader header = parse_header(stored.data(), stored.size());
            // Larger ones only cost time.
            if (uint64_t{header.width} * header.height > 1'000'000) return 0;
            photograph.height = static_cast<int>(header.height);
            photograph.width = static_cast<int>(header.width);
        } catch (const JpegError&) {
            return 0;
        }
    }
    if (photograph.height == 0 || photograph.width == 0) return 0;
    CropBox box{bytes[2] % photograph.height, bytes[3] % photograph.width, 0, 0};
    box.height = 1 + bytes[4] * 4 % (photograph.height - box.top);
    box.width = 1 + bytes[5] * 4 % (photograph.width - box.left);
    const OutputSize output{1 + bytes[7] % 16 * 3, 1 + bytes[7] / 16 * 5};
    const bool flip = (bytes[6] & 1) != 0;
    const Filter filter = (bytes[6] & 4) != 0 ? Filter::cubic : Filter::triangle;
    const std::vector<uint8_t> plain = decode(photograph, box, flip, output, filter, Simd::plain);
    if (set_simd_level(Simd::avx2) && decode(photograph, box, flip, output, filter, Simd::avx2) != plain)
        std::abort();
    return 0;
}
