#include "decode/tables.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "jpeg/markers.h"

namespace fasttrain {

namespace {

// The tables that a file defines before its scan.
struct Defined {
    unsigned quantisation = 0;  // one bit per table
    unsigned huffman = 0;       // one bit per table: DC in bits 0..3, AC in bits 4..7
};

void read_quantisation(const MarkerBody& body, DecodeTables& tables, Defined& defined) {
    const uint8_t* at = body.data;
    const uint8_t* const end = at + body.length;
    while (at < end) {
        const int wide = *at >> 4;
        const int index = *at++ & 15;
        const int bytes = wide != 0 ? 128 : 64;
        if (wide > 1 || index > 3 || end - at < bytes)
            throw JpegError("corrupt: an invalid quantization table (DQT)");
        for (int k = 0; k < 64; ++k)
            tables.quantisation[index][kNatural[k]] =
                static_cast<uint16_t>(wide != 0 ? at[2 * k] << 8 | at[2 * k + 1] : at[k]);
        defined.quantisation |= 1u << index;
        at += bytes;
    }
}

void read_huffman(const MarkerBody& body, DecodeTables& tables, Defined& defined) {
    const uint8_t* at = body.data;
    const uint8_t* const end = at + body.length;
    while (at < end) {
        const int kind = *at >> 4;
        const int index = *at++ & 15;
        if (kind > 1 || index > 3 || end - at < 16)
            throw JpegError("corrupt: an invalid Huffman table (DHT)");
        size_t count = 0;
        for (int i = 0; i < 16; ++i) count += at[i];
        if (static_cast<size_t>(end - at) < 16 + count)
            throw JpegError("corrupt: an invalid Huffman table (DHT)");
        CoefficientTable& table = kind == 0 ? tables.dc[index] : tables.ac[index];
        std::vector<uint8_t>& known = tables.huffman_bytes[kind * 4 + index];
        if (known.size() != 16 + count || !std::equal(known.begin(), known.end(), at)) {
            known.assign(at, at + 16 + count);
            table.build(at, at + 16, count, kind == 0);
            if (kind == 1) tables.skip_made[index] = false;
        }
        // An unusable table is left to libjpeg, because the scan may not need it.
        const unsigned bit = 1u << (kind * 4 + index);
        defined.huffman = table.valid ? defined.huffman | bit : defined.huffman & ~bit;
        at += 16 + count;
    }
}

// Chooses the colour space as libjpeg's default_decompress_parms does.
Colour colour_of(const JpegHeader& header) {
    if (header.component_count == 1) return Colour::grey;
    if (header.jfif) return Colour::ycc;
    if (header.adobe_transform >= 0) return header.adobe_transform == 0 ? Colour::rgb : Colour::ycc;
    const auto& c = header.components;
    return c[0].id == 'R' && c[1].id == 'G' && c[2].id == 'B' ? Colour::rgb : Colour::ycc;
}

bool all_defined(const JpegHeader& header, const Defined& defined) {
    for (int i = 0; i < header.component_count; ++i) {
        const Component& component = header.components[static_cast<size_t>(i)];
        if (component.dc > 3 || component.ac > 3 || component.quantisation > 3) return false;
        const unsigned needed = 1u << component.dc | 16u << component.ac;
        if ((defined.huffman & needed) != needed) return false;
        if ((defined.quantisation >> component.quantisation & 1) == 0) return false;
    }
    return true;
}

// In rows with at most this many chroma samples, libjpeg repeats samples instead of interpolating them.
constexpr uint32_t kRepeatedSamples = 2;

// Returns true if both chroma components have the same resolution: the luma's, or half of it in either
// direction. The planes then share one pair of resize axes, and libjpeg upsamples them as resize_planes does.
// For other integer ratios libjpeg repeats samples, and it refuses fractions.
bool planes_can_be_resized(const JpegHeader& header) {
    if (header.component_count == 1) return true;
    const Component &luma = header.components[0], &blue = header.components[1], &red = header.components[2];
    const auto same_or_half = [](int all, int part) { return all == part || all == 2 * part; };
    return blue.h == red.h && blue.v == red.v && same_or_half(luma.h, blue.h) &&
           same_or_half(luma.v, blue.v) && (luma.h == blue.h || header.width > 2 * kRepeatedSamples);
}

}  // namespace

const SkipTable& DecodeTables::skip_table(int index) {
    const std::vector<uint8_t>& bytes = huffman_bytes[4 + index];
    if (!skip_made[index]) skip[index].build(bytes.data(), bytes.data() + 16);
    skip_made[index] = true;
    return skip[index];
}

bool DecodeTables::read(const uint8_t* data, size_t size) {
    Defined defined;
    header = parse_header(data, size, [&](const MarkerBody& body) {
        if (body.marker == kDqt) read_quantisation(body, *this, defined);
        if (body.marker == kDht) read_huffman(body, *this, defined);
    });
    if (size > std::numeric_limits<uint32_t>::max()) return false;  // positions of segments have 32 bits
    const int count = header.component_count;
    const bool known = header.sequential_huffman() && header.precision == 8 && (count == 1 || count == 3) &&
                       header.all_in_scan && planes_can_be_resized(header) && all_defined(header, defined);
    if (!known) return false;
    colour = colour_of(header);
    // The standard says to ignore the factors of a scan of one component.
    if (count == 1) header.components[0].h = header.components[0].v = 1;
    return true;
}

}  // namespace fasttrain
