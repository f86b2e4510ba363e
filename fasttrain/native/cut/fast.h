#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

#include <jpeglib.h>

namespace fasttrain {

// A scan that cut_fast() reads: the place of its entropy-coded data, and the most that the DC coefficients of
// each component may be; the least is one less than its negative.
struct ScanLimits {
    size_t begin;
    int most_dc[3];
};

// Whether cut_fast() may take the picture whose header `src` has read: one baseline scan of all components.
bool suits_cut_fast(const jpeg_decompress_struct& src);

// Whether the factors have no common divisor, which cut_jpeg takes out.
bool has_reduced_factors(const jpeg_decompress_struct& src);

// What libjpeg makes of that picture under the settings of `dst`, byte for byte, in a third of the time:
// Huffman codes are exchanged one by one, and no coefficient is put into its place. `scan` are the `size`
// bytes from the entropy-coded data on. False where anything is amiss, which libjpeg must then judge.
bool cut_fast(const jpeg_decompress_struct& src, const jpeg_compress_struct& dst, const uint8_t* scan,
              size_t size, std::vector<uint8_t>& out);

// The share of that picture's MCUs, 0 to 1, that stand before the first error: more are found than libjpeg
// warns of.
double intact_share(const jpeg_decompress_struct& src, const jpeg_compress_struct& dst, const uint8_t* scan,
                    size_t size);

}  // namespace fasttrain
