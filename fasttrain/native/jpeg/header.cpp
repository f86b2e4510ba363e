#include "jpeg/header.h"

#include <algorithm>
#include <cstring>

namespace fasttrain {

namespace {

int read16(const uint8_t* at) {
    return at[0] << 8 | at[1];
}

bool is_sof(int marker) {
    const bool dht_jpg_dac = marker == 0xC4 || marker == 0xC8 || marker == 0xCC;
    return marker >= 0xC0 && marker <= 0xCF && !dht_jpg_dac;
}

bool stands_alone(int marker) {
    return marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8);
}

void read_sof(JpegHeader& header, const uint8_t* body, size_t length, size_t offset, int marker) {
    if (header.sof != 0) throw JpegError("corrupt: more than one SOF");
    if (length < 6) throw JpegError("corrupt: SOF too short");
    const int count = body[5];
    if (count == 0 || count > kMaxComponents)
        throw JpegError("unsupported: " + std::to_string(count) + " components");
    if (length != static_cast<size_t>(6 + 3 * count)) throw JpegError("corrupt: length of SOF");
    header.sof = marker;
    header.precision = body[0];
    header.height = static_cast<uint32_t>(read16(body + 1));
    header.width = static_cast<uint32_t>(read16(body + 3));
    header.size_offset = offset + 1;
    header.component_count = count;
    if (header.width == 0 || header.height == 0) throw JpegError("unsupported: SOF without a size");
    check_pixels(header.width, header.height);
    for (int i = 0; i < count; ++i) {
        const int factors = body[6 + 3 * i + 1];
        const int h = factors >> 4;
        const int v = factors & 15;
        if (h < 1 || h > 4 || v < 1 || v > 4) throw JpegError("corrupt: sampling factors");
        header.factors[static_cast<size_t>(i)] = {h, v};
    }
}

int largest(const JpegHeader& header, int ComponentFactors::*axis) {
    int most = 1;
    for (int i = 0; i < header.component_count; ++i)
        most = std::max(most, header.factors[static_cast<size_t>(i)].*axis);
    return most;
}

}  // namespace

void check_pixels(uint64_t width, uint64_t height) {
    if (width * height > kMaxPixels)
        throw JpegError("too large: " + std::to_string(width) + " x " + std::to_string(height) +
                        " pixels, the limit is 500 megapixels");
}

bool JpegHeader::progressive() const {
    return sof == 0xC2 || sof == 0xC6 || sof == 0xCA || sof == 0xCE;
}

uint32_t JpegHeader::mcu_width() const {
    return component_count == 1 ? 8u : 8u * static_cast<uint32_t>(largest(*this, &ComponentFactors::h));
}

uint32_t JpegHeader::mcu_height() const {
    return component_count == 1 ? 8u : 8u * static_cast<uint32_t>(largest(*this, &ComponentFactors::v));
}

std::string JpegHeader::sampling() const {
    if (component_count == 1) return "grey";
    if (component_count == 4) return "cmyk";
    if (component_count != 3) return "other";
    const auto [h0, v0] = factors[0];
    const auto [h1, v1] = factors[1];
    if (h1 != factors[2].h || v1 != factors[2].v || h0 % h1 != 0 || v0 % v1 != 0) return "other";
    const int across = h0 / h1;
    const int down = v0 / v1;
    if (across == 1 && down == 1) return "4:4:4";
    if (across == 2 && down == 1) return "4:2:2";
    if (across == 2 && down == 2) return "4:2:0";
    if (across == 1 && down == 2) return "4:4:0";
    if (across == 4 && down == 1) return "4:1:1";
    return "other";
}

JpegHeader parse_header(const uint8_t* data, size_t size) {
    if (size < 2 || data[0] != 0xFF || data[1] != 0xD8) throw JpegError("not a JPEG: no SOI at its start");
    JpegHeader header;
    size_t at = 2;
    for (;;) {
        if (at >= size) throw JpegError("truncated: ends before the scan");
        if (data[at] != 0xFF) throw JpegError("corrupt: no marker where one is due");
        while (at < size && data[at] == 0xFF) ++at;
        if (at >= size) throw JpegError("truncated: ends before the scan");
        const int marker = data[at++];
        if (marker == 0xD9) throw JpegError("truncated: EOI before the scan");
        if (marker == 0x00 || stands_alone(marker)) throw JpegError("corrupt: marker out of place");
        if (size - at < 2) throw JpegError("truncated: ends before the scan");
        const size_t length = static_cast<size_t>(read16(data + at));
        if (length < 2) throw JpegError("corrupt: length of a marker");
        if (size - at < length) throw JpegError("truncated: ends before the scan");
        const uint8_t* body = data + at + 2;
        const size_t body_length = length - 2;
        if (is_sof(marker)) {
            read_sof(header, body, body_length, at + 2, marker);
        } else if (marker == 0xDD) {
            if (body_length != 2) throw JpegError("corrupt: length of DRI");
            header.restart_interval = static_cast<uint32_t>(read16(body));
        } else if (marker == 0xEE && body_length >= 12 && std::memcmp(body, "Adobe", 5) == 0) {
            header.adobe_transform = body[11];
        } else if (marker == 0xDA) {
            if (header.sof == 0) throw JpegError("corrupt: a scan before SOF");
            if (body_length < 1) throw JpegError("corrupt: length of SOS");
            header.scan_component_count = body[0];
            header.scan_offset = at + length;
            return header;
        }
        at += length;
    }
}

}  // namespace fasttrain
