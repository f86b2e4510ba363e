#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

#include <jpeglib.h>

namespace fasttrain {

// A scan for cut_fast(): the position of its entropy-coded data, and the greatest DC coefficient of each
// component. The smallest is one less than its negative.
struct ScanLimits {
    size_t begin;
    int most_dc[3];
};

// Whether cut_fast() may take the picture whose header `src` has read: one baseline scan of all components.
bool suits_cut_fast(const jpeg_decompress_struct& src);

// Whether the factors have no common divisor, which cut_jpeg takes out.
bool has_reduced_factors(const jpeg_decompress_struct& src);

// Returns libjpeg's result for that image with the settings of `dst`, byte for byte, in a third of the time:
// Huffman codes are exchanged one by one, and no coefficient is decoded into a block. `scan` are the `size`
// bytes from the entropy-coded data on. Returns false if anything is wrong, which libjpeg must then judge.
bool cut_fast(const jpeg_decompress_struct& src, const jpeg_compress_struct& dst, const uint8_t* scan,
              size_t size, std::vector<uint8_t>& out);

// The share of the image's MCUs, 0 to 1, before the first error. It finds more errors than libjpeg warns of.
double intact_share(const jpeg_decompress_struct& src, const jpeg_compress_struct& dst, const uint8_t* scan,
                    size_t size);

}  // namespace fasttrain
