#include <cstdio>

#include <jpeglib.h>
#include <jerror.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstring>

#include "decode_scratch.h"
#include "jpeg_markers.h"
#include "resize_kernels.h"

namespace fasttrain {

namespace {

constexpr int kStripRows = 16;
// Real ones have about ten; thousands are an attack on the reader's time.
constexpr int kMaxScans = 100;

struct Decompressor {
    jpeg_decompress_struct info;
    jpeg_error_mgr errors;
    jpeg_progress_mgr progress;
    std::jmp_buf escape;
    char message[JMSG_LENGTH_MAX];
};

Decompressor& decompressor_of(j_common_ptr info) {
    return *static_cast<Decompressor*>(info->client_data);
}

[[noreturn]] void fail(j_common_ptr info) {
    Decompressor& decompressor = decompressor_of(info);
    info->err->format_message(info, decompressor.message);
    std::longjmp(decompressor.escape, 1);
}

// Most warnings say that the data are broken and pixels were made up; these change no pixel.
void warn(j_common_ptr info, int level) {
    const int code = info->err->msg_code;
    if (level < 0 && code != JWRN_EXTRANEOUS_DATA && code != JWRN_ADOBE_XFORM && code != JWRN_JFIF_MAJOR)
        fail(info);
}

void limit_scans(j_common_ptr info) {
    if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= kMaxScans) return;
    Decompressor& decompressor = decompressor_of(info);
    std::snprintf(decompressor.message, sizeof(decompressor.message), "more than %d scans", kMaxScans);
    std::longjmp(decompressor.escape, 1);
}

// Adobe's files hold 255 minus the ink.
void cmyk_to_rgb(uint8_t* row, unsigned width, bool inverted) {
    for (unsigned x = 0; x < width; ++x)
        for (int c = 0; c < 3; ++c) {
            const int ink = row[4 * x + c];
            const int black = row[4 * x + 3];
            const int light = inverted ? ink * black : (255 - ink) * (255 - black);
            row[3 * x + c] = static_cast<uint8_t>((light + 127) / 255);
        }
}

// Rows first .. last - 1 and columns of the scaled picture's strips go to the planes. No objects with
// destructors here: libjpeg's errors jump over this frame.
void read_rows(Decompressor& decompressor, const CropBox& scaled, uint8_t* strip, uint8_t* const planes[3],
               size_t stride) {
    jpeg_decompress_struct& info = decompressor.info;
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
        throw JpegError("too large: progressive and other rare JPEGs may have at most 100 megapixels");
    buffers.bytes[0].resize(std::max(buffers.bytes[0].size(), size_t{kStripRows} * header.width * 4));
    Decompressor decompressor{};
    jpeg_decompress_struct& info = decompressor.info;
    info.err = jpeg_std_error(&decompressor.errors);
    info.client_data = &decompressor;
    decompressor.errors.error_exit = fail;
    decompressor.errors.emit_message = warn;
    decompressor.progress.progress_monitor = limit_scans;
    const int block = reduced_block(box.width, box.height, output);
    const double scale = block / 8.0;
    CropBox scaled{box.top * block / 8, box.left * block / 8, 0, 0};
    scaled.width = static_cast<int>(std::ceil((box.left + box.width) * scale)) - scaled.left;
    scaled.height = static_cast<int>(std::ceil((box.top + box.height) * scale)) - scaled.top;
    uint8_t* planes[3];
    make_rgb_planes(scaled.left, scaled.top, scaled.width, scaled.height, scale, buffers, planes);
    if (setjmp(decompressor.escape) == 0) {
        jpeg_create_decompress(&info);
        info.progress = &decompressor.progress;
        jpeg_mem_src(&info, data, static_cast<unsigned long>(size));
        jpeg_read_header(&info, TRUE);
        info.out_color_space = info.num_components == 4 ? JCS_CMYK : JCS_RGB;
        info.scale_num = static_cast<unsigned>(block);
        info.scale_denom = 8;
        jpeg_start_decompress(&info);
        read_rows(decompressor, scaled, buffers.bytes[0].data(), planes, buffers.planes[0].stride);
        jpeg_destroy_decompress(&info);
        return;
    }
    jpeg_destroy_decompress(&info);
    throw JpegError(std::string("libjpeg: ") + decompressor.message);
}

}  // namespace fasttrain
