#include <cstdio>

#include <jpeglib.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstring>

#include "decode/scratch.h"
#include "jpeg/header.h"
#include "jpeg/libjpeg_errors.h"
#include "resize/kernels.h"

namespace fasttrain {

namespace {

constexpr int kStripRows = 16;

// Converts a row in place. Adobe's files are inverted: they store 255 minus the ink.
void cmyk_to_rgb(uint8_t* row, unsigned width, bool inverted) {
    for (unsigned x = 0; x < width; ++x)
        for (int c = 0; c < 3; ++c) {
            const int ink = row[4 * x + c];
            const int black = row[4 * x + 3];
            const int light = inverted ? ink * black : (255 - ink) * (255 - black);
            row[3 * x + c] = static_cast<uint8_t>((light + 127) / 255);
        }
}

// Reads the scaled picture in strips of rows, and copies the part `scaled` to the planes. Locals must not
// have destructors, because libjpeg's errors jump over this frame.
void read_rows(jpeg_decompress_struct& info, const CropBox& scaled, uint8_t* strip, uint8_t* const planes[3],
               size_t stride) {
    const size_t row_bytes =
        static_cast<size_t>(info.output_width) * static_cast<size_t>(info.output_components);
    int held = 0;
    for (int y = 0; y < scaled.top + scaled.height; ++y) {
        JSAMPROW row = strip + static_cast<size_t>(held) * row_bytes;
        jpeg_read_scanlines(&info, &row, 1);
        if (y < scaled.top) continue;
        if (info.out_color_space == JCS_CMYK) cmyk_to_rgb(row, info.output_width, info.saw_Adobe_marker);
        ++held;
        if (held < kStripRows && y + 1 < scaled.top + scaled.height) continue;
        uint8_t* to[3];
        for (int c = 0; c < 3; ++c) to[c] = planes[c] + (y + 1 - held - scaled.top);
        split_rgb(strip + scaled.left * 3, row_bytes, scaled.width, held, to, stride);
        held = 0;
    }
}

}  // namespace

void decode_with_libjpeg(const uint8_t* data, size_t size, const CropBox& box, OutputSize output,
                         DecodeScratch::Buffers& buffers) {
    const JpegHeader& header = buffers.tables.header;
    if (uint64_t{header.width} * header.height > kMaxLibjpegPixels)
        throw JpegError("too large: " + std::to_string(header.width) + " x " + std::to_string(header.height) +
                        " pixels; progressive and other rare JPEGs may have at most 100 megapixels");
    buffers.bytes[0].resize(std::max(buffers.bytes[0].size(), size_t{kStripRows} * header.width * 4));
    jpeg_decompress_struct info{};
    LibjpegErrors errors(Tolerated::kStrayBytes);
    errors.watch(info);
    const int block = reduced_block(box.width, box.height, output);
    const double scale = block / 8.0;
    CropBox scaled{box.top * block / 8, box.left * block / 8, 0, 0};
    scaled.width = static_cast<int>(std::ceil((box.left + box.width) * scale)) - scaled.left;
    scaled.height = static_cast<int>(std::ceil((box.top + box.height) * scale)) - scaled.top;
    uint8_t* planes[3];
    make_rgb_planes(scaled.left, scaled.top, scaled.width, scaled.height, scale, buffers, planes);
    if (setjmp(errors.escape) == 0) {
        jpeg_create_decompress(&info);
        info.progress = errors.monitor();
        jpeg_mem_src(&info, data, static_cast<unsigned long>(size));
        jpeg_read_header(&info, TRUE);
        info.out_color_space = info.num_components == 4 ? JCS_CMYK : JCS_RGB;
        info.scale_num = static_cast<unsigned>(block);
        info.scale_denom = 8;
        jpeg_start_decompress(&info);
        read_rows(info, scaled, buffers.bytes[0].data(), planes, buffers.planes[0].stride);
        jpeg_destroy_decompress(&info);
        return;
    }
    jpeg_destroy_decompress(&info);
    throw JpegError(std::string("libjpeg: ") + errors.message());
}

}  // namespace fasttrain
