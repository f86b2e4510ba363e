#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "resize/resize.h"

namespace fasttrain {

// The stored form: a JPEG, or the pixels, uint8 RGB in rows.
enum class Storage { jpeg, raw };

struct Photograph {
    const uint8_t* data;
    size_t length;
    int height;  // must be the JPEG's own
    int width;
    Storage storage;
};

// One thread's working memory, reused for each photograph. It grows with the crop, not with the image: at
// most 3 bytes per decoded sample (a crop of more than four times the output's side is decoded at a half or
// less), the output's size, and for a file without restart markers its length. Memory beyond kKeptBytes is
// freed before the next photograph. Files that libjpeg must decode (progressive and other rare kinds) also
// take libjpeg's memory: up to 6 bytes per pixel of the full image, which may have at most kMaxLibjpegPixels.
class DecodeScratch {
  public:
    static constexpr size_t kKeptBytes = size_t{64} << 20;
    DecodeScratch();
    ~DecodeScratch();
    DecodeScratch(DecodeScratch&&) noexcept;
    struct Buffers;
    Buffers& buffers() { return *buffers_; }
    void trim();

  private:
    std::unique_ptr<Buffers> buffers_;
};

constexpr uint64_t kMaxLibjpegPixels = 100'000'000;

// Decodes only `box` of the photograph, resizes it to `size` with `filter`, mirrors it if `flip`, and writes
// uint8 RGB rows to `out`. Throws JpegError (broken or unsupported data, a box outside the picture, sizes
// that differ) and then leaves `out` undefined.
void decode_crop(const Photograph& photograph, const CropBox& box, bool flip, OutputSize size, Filter filter,
                 DecodeScratch& scratch, uint8_t* out);

// Options of decode_planned, as bits of one number.
enum CropFlags : uint32_t { kMirrored = 1, kLetterbox = 2, kUpsideDown = 4, kBicubic = 8 };
constexpr uint8_t kLetterboxGrey = 114;

// Does what decode_crop does, by `flags`. kMirrored flips the crop left to right, kUpsideDown top to bottom.
// With kLetterbox it keeps its aspect ratio: its longer side fills the output's, the rest is grey on both
// sides. The output must be square then. With kBicubic the filter is the cubic, otherwise the triangle.
void decode_planned(const Photograph& photograph, const CropBox& box, uint32_t flags, OutputSize size,
                    DecodeScratch& scratch, uint8_t* out);

// The same for a JPEG that must be completely intact: also throws JpegError when cut_jpeg does. Reads it once
// if cut_jpeg reads it without libjpeg.
void decode_intact_crop(const uint8_t* jpeg, size_t length, const CropBox& box, bool flip, OutputSize size,
                        Filter filter, DecodeScratch& scratch, uint8_t* out);

}  // namespace fasttrain
