#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

#include <jpeglib.h>

namespace fasttrain {

// A scan for cut_fast(): the position of its entropy-coded data, and the limit m of each component's DC
// coefficients, which must be in -m - 1 .. m.
struct ScanLimits {
    size_t begin;
    int most_dc[3];
};

// Returns whether cut_fast() supports the picture whose header `src` has read: one baseline scan with all
// components.
bool suits_cut_fast(const jpeg_decompress_struct& src);

// Returns whether the sampling factors have no common divisor, which cut_jpeg would remove.
bool has_reduced_factors(const jpeg_decompress_struct& src);

// Writes the same bytes as libjpeg would with the settings of `dst`, in a third of the time: Huffman codes
// are replaced one by one, without decoding coefficients into blocks. `scan` points to the entropy-coded data
// and the `size` bytes from there to the end of the file. Returns false if anything is wrong; libjpeg must
// then decide what to do.
bool cut_fast(const jpeg_decompress_struct& src, const jpeg_compress_struct& dst, const uint8_t* scan,
              size_t size, std::vector<uint8_t>& out);

// Returns the share of the image's MCUs, 0 to 1, before the first error. It finds more errors than libjpeg
// warns of.
double intact_share(const jpeg_decompress_struct& src, const jpeg_compress_struct& dst, const uint8_t* scan,
                    size_t size);

}  // namespace fasttrain
