#include "jpeg/header.h"

#include <algorithm>
#include <cstring>

#include "jpeg/markers.h"

namespace fasttrain {

namespace {

int read16(const uint8_t* at) {
    return at[0] << 8 | at[1];
}

// libjpeg ignores a shorter marker, as one of another application.
constexpr size_t kJfifLength = 14;

bool is_sof(int marker) {
    return marker >= kSof0 && marker <= kSof15 && marker != kDht && marker != kJpg && marker != kDac;
}

bool stands_alone(int marker) {
    return marker == kTem || (marker >= kRst0 && marker <= kSoi);
}

void read_sof(JpegHeader& header, const MarkerBody& body, size_t offset) {
    if (header.sof != 0) throw JpegError("corrupt: a second frame header (SOF)");
    if (body.length < 6) throw JpegError("corrupt: the frame header (SOF) has fewer than 6 bytes");
    const int count = body.data[5];
    if (count == 0 || count > kMaxComponents)
        throw JpegError("unsupported: " + std::to_string(count) +
                        " components per pixel; 1 to 4 are supported");
    if (body.length != static_cast<size_t>(6 + 3 * count))
        throw JpegError("corrupt: the frame header (SOF) has the wrong length");
    header.sof = body.marker;
    header.precision = body.data[0];
    header.height = static_cast<uint32_t>(read16(body.data + 1));
    header.width = static_cast<uint32_t>(read16(body.data + 3));
    header.size_offset = offset + 1;
    header.component_count = count;
    if (header.width == 0 || header.height == 0)
        throw JpegError("unsupported: the frame header (SOF) gives no width or no height");
    check_pixels(header.width, header.height);
    for (int i = 0; i < count; ++i) {
        const uint8_t* from = body.data + 6 + 3 * i;
        Component& component = header.components[static_cast<size_t>(i)];
        component = {from[0], from[1] >> 4, from[1] & 15, from[2], 0, 0};
        if (component.h < 1 || component.h > 4 || component.v < 1 || component.v > 4)
            throw JpegError("corrupt: sampling factors " + std::to_string(component.h) + " x " +
                            std::to_string(component.v) + "; each must be 1 to 4");
    }
}

void read_sos(JpegHeader& header, const MarkerBody& body) {
    if (header.sof == 0) throw JpegError("corrupt: a scan before the frame header (SOF)");
    if (body.length < 1) throw JpegError("corrupt: the scan header (SOS) is empty");
    const int count = header.component_count;
    if (body.data[0] != count || body.length != static_cast<size_t>(4 + 2 * count)) return;
    for (int i = 0; i < count; ++i) {
        const uint8_t* from = body.data + 1 + 2 * i;
        Component& component = header.components[static_cast<size_t>(i)];
        if (from[0] != component.id) return;
        component.dc = from[1] >> 4;
        component.ac = from[1] & 15;
    }
    header.all_in_scan = true;
}

int largest(const JpegHeader& header, int Component::*axis) {
    int most = 1;
    for (int i = 0; i < header.component_count; ++i)
        most = std::max(most, header.components[static_cast<size_t>(i)].*axis);
    return most;
}

}  // namespace

void check_pixels(uint64_t width, uint64_t height) {
    if (width * height > kMaxPixels)
        throw JpegError("too large: " + std::to_string(width) + " x " + std::to_string(height) +
                        " pixels; at most 500 megapixels are supported");
}

bool JpegHeader::progressive() const {
    return sof == kSof2 || sof == kSof6 || sof == kSof10 || sof == kSof14;
}

bool JpegHeader::sequential_huffman() const {
    return sof == kSof0 || sof == kSof1;
}

uint32_t JpegHeader::mcu_width() const {
    return component_count == 1 ? 8u : 8u * static_cast<uint32_t>(largest(*this, &Component::h));
}

uint32_t JpegHeader::mcu_height() const {
    return component_count == 1 ? 8u : 8u * static_cast<uint32_t>(largest(*this, &Component::v));
}

std::string JpegHeader::sampling() const {
    if (component_count == 1) return "grey";
    if (component_count == 4) return "cmyk";
    if (component_count != 3) return "other";
    const int h0 = components[0].h, v0 = components[0].v, h1 = components[1].h, v1 = components[1].v;
    if (h1 != components[2].h || v1 != components[2].v || h0 % h1 != 0 || v0 % v1 != 0) return "other";
    const int across = h0 / h1;
    const int down = v0 / v1;
    if (across == 1 && down == 1) return "4:4:4";
    if (across == 2 && down == 1) return "4:2:2";
    if (across == 2 && down == 2) return "4:2:0";
    if (across == 1 && down == 2) return "4:4:0";
    if (across == 4 && down == 1) return "4:1:1";
    return "other";
}

JpegHeader parse_header(const uint8_t* data, size_t size,
                        const std::function<void(const MarkerBody&)>& visit) {
    if (size < 2 || data[0] != 0xFF || data[1] != kSoi)
        throw JpegError("not a JPEG: it doesn't start with the bytes FF D8");
    JpegHeader header;
    size_t at = 2;
    for (;;) {
        if (at >= size) throw JpegError("truncated: the file ends within its header");
        if (data[at] != 0xFF) throw JpegError("corrupt: no marker at byte " + std::to_string(at));
        while (at < size && data[at] == 0xFF) ++at;
        if (at >= size) throw JpegError("truncated: the file ends within its header");
        const int marker = data[at++];
        if (marker == kEoi) throw JpegError("truncated: the end marker (EOI) follows the header");
        if (marker == kStuffing || stands_alone(marker))
            throw JpegError("corrupt: the marker before byte " + std::to_string(at) +
                            " can't be in a header");
        if (size - at < 2) throw JpegError("truncated: the file ends within its header");
        const auto length = static_cast<size_t>(read16(data + at));
        if (length < 2)
            throw JpegError("corrupt: the segment length at byte " + std::to_string(at) + " is less than 2");
        if (size - at < length) throw JpegError("truncated: the file ends within its header");
        const MarkerBody body{marker, data + at + 2, length - 2};
        if (is_sof(marker)) {
            read_sof(header, body, at + 2);
        } else if (marker == kDri) {
            if (body.length != 2)
                throw JpegError("corrupt: the segment of the restart interval (DRI) has the wrong length");
            header.restart_interval = static_cast<uint32_t>(read16(body.data));
        } else if (marker == kApp0 && body.length >= kJfifLength && std::memcmp(body.data, "JFIF", 5) == 0) {
            header.jfif = true;
        } else if (marker == kApp14 && body.length >= 12 && std::memcmp(body.data, "Adobe", 5) == 0) {
            header.adobe_transform = body.data[11];
        } else if (marker == kSos) {
            read_sos(header, body);
        }
        if (visit) visit(body);
        at += length;
        if (marker == kSos) {
            header.scan_offset = at;
            return header;
        }
    }
}

}  // namespace fasttrain
