#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "resize/resize.h"

namespace fasttrain {

// The form in which a photograph is stored: as a JPEG, or as pixels, uint8 RGB in rows.
enum class Storage { jpeg, raw };

struct Photograph {
    const uint8_t* data;
    size_t length;
    int height;  // in pixels; height and width must be those in the JPEG
    int width;
    Storage storage;
};

// One thread's working memory, reused for each photograph. It grows with the crop, not with the image: at
// most 3 bytes per decoded sample, the output's size, and for a file without restart markers its length. (A
// crop with a side of more than four times the output's is decoded at half the size or less.) Memory beyond
// kKeptBytes is freed before the next photograph. Files that libjpeg must decode (progressive and other rare
// kinds) also take libjpeg's memory: up to 6 bytes per pixel of the full image, which may have at most
// kMaxLibjpegPixels.
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
// uint8 RGB rows to `out`. Throws JpegError if the data are broken or unsupported, the box is outside the
// picture, or the size differs from the JPEG's. `out` is then undefined.
void decode_crop(const Photograph& photograph, const CropBox& box, bool flip, OutputSize size, Filter filter,
                 DecodeScratch& scratch, uint8_t* out);

// Options of decode_planned, as bits of one number.
enum CropFlags : uint32_t { kMirrored = 1, kLetterbox = 2, kUpsideDown = 4, kBicubic = 8 };
constexpr uint8_t kLetterboxGrey = 114;

// Decodes a crop as decode_crop does, with the options in `flags`. kMirrored flips the crop left to right,
// kUpsideDown top to bottom. With kLetterbox the crop keeps its aspect ratio: its longer side fills the
// output, which must be square, and both sides of it are filled with grey. The filter is cubic with kBicubic,
// and the triangle otherwise.
void decode_planned(const Photograph& photograph, const CropBox& box, uint32_t flags, OutputSize size,
                    DecodeScratch& scratch, uint8_t* out);

// Decodes a crop of a JPEG that must be completely intact: throws JpegError whenever cut_jpeg does. The file
// is read only once if cut_jpeg can read it without libjpeg.
void decode_intact_crop(const uint8_t* jpeg, size_t length, const CropBox& box, bool flip, OutputSize size,
                        Filter filter, DecodeScratch& scratch, uint8_t* out);

}  // namespace fasttrain
