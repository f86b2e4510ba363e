#include "decode/tables.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace fasttrain {

namespace {

// libjpeg takes a shorter marker for another application's.
constexpr size_t kJfifLength = 16;

// The tables that a file defines before its scan.
struct Defined {
    unsigned quantisation = 0;  // a bit a table
    unsigned huffman = 0;       // dc: bits 0..3, ac: 4..7
    bool jfif = false;
};

void read_quantisation(const uint8_t* at, const uint8_t* end, DecodeTables& tables, Defined& defined) {
    while (at < end) {
        const int wide = *at >> 4;
        const int index = *at++ & 15;
        const int bytes = wide != 0 ? 128 : 64;
        if (wide > 1 || index > 3 || end - at < bytes) throw JpegError("corrupt: DQT");
        for (int k = 0; k < 64; ++k)
            tables.quantisation[index][kNatural[k]] =
                static_cast<uint16_t>(wide != 0 ? at[2 * k] << 8 | at[2 * k + 1] : at[k]);
        defined.quantisation |= 1u << index;
        at += bytes;
    }
}

void read_huffman(const uint8_t* at, const uint8_t* end, DecodeTables& tables, Defined& defined) {
    while (at < end) {
        const int kind = *at >> 4;
        const int index = *at++ & 15;
        if (kind > 1 || index > 3 || end - at < 16) throw JpegError("corrupt: DHT");
        size_t count = 0;
        for (int i = 0; i < 16; ++i) count += at[i];
        if (static_cast<size_t>(end - at) < 16 + count) throw JpegError("corrupt: DHT");
        HuffmanTable& table = kind == 0 ? tables.dc[index] : tables.ac[index];
        std::vector<uint8_t>& known = tables.huffman_bytes[kind * 4 + index];
        if (known.size() != 16 + count || !std::equal(known.begin(), known.end(), at)) {
            known.assign(at, at + 16 + count);
            table.build(at, at + 16, count, kind == 0);
        }
        // libjpeg judges those that we can't take, which the scan may not even use.
        const unsigned bit = 1u << (kind * 4 + index);
        defined.huffman = table.valid ? defined.huffman | bit : defined.huffman & ~bit;
        at += 16 + count;
    }
}

// As libjpeg's default_decompress_parms.
Colour colour_of(const DecodeTables& tables, const Defined& defined) {
    if (tables.component_count == 1) return Colour::grey;
    if (defined.jfif) return Colour::ycc;
    if (tables.header.adobe_transform >= 0)
        return tables.header.adobe_transform == 0 ? Colour::rgb : Colour::ycc;
    const Component* c = tables.components;
    return c[0].id == 'R' && c[1].id == 'G' && c[2].id == 'B' ? Colour::rgb : Colour::ycc;
}

// The scan's own choice of tables, and whether all is there; false for a scan of only some components.
bool read_scan(const uint8_t* body, size_t length, DecodeTables& tables, const Defined& defined) {
    const int count = tables.component_count;
    if (length != static_cast<size_t>(4 + 2 * count) || body[0] != count) return false;
    for (int i = 0; i < count; ++i) {
        Component& component = tables.components[i];
        if (body[1 + 2 * i] != component.id) return false;
        component.dc = body[2 + 2 * i] >> 4;
        component.ac = body[2 + 2 * i] & 15;
        if (component.dc > 3 || component.ac > 3 || component.quantisation > 3) return false;
        const unsigned needed = 1u << component.dc | 16u << component.ac;
        if ((defined.huffman & needed) != needed) return false;
        if ((defined.quantisation >> component.quantisation & 1) == 0) return false;
    }
    return true;
}

// libjpeg repeats chroma samples in place of weighing them where a row of them has no more.
constexpr uint32_t kRepeatedSamples = 2;

// True where the chroma components are alike, at the luma's resolution or at half of it in either direction.
// The planes then share one pair of resize axes, and libjpeg upsamples them as resize_planes does. It repeats
// the samples of other whole ratios, and refuses fractions.
bool planes_can_be_resized(const JpegHeader& header) {
    if (header.component_count == 1) return true;
    const ComponentFactors luma = header.factors[0], blue = header.factors[1], red = header.factors[2];
    const auto same_or_half = [](int all, int part) { return all == part || all == 2 * part; };
    return blue.h == red.h && blue.v == red.v && same_or_half(luma.h, blue.h) &&
           same_or_half(luma.v, blue.v) && (luma.h == blue.h || header.width > 2 * kRepeatedSamples);
}

}  // namespace

bool DecodeTables::read(const uint8_t* data, size_t size) {
    header = parse_header(data, size);
    if (size > std::numeric_limits<uint32_t>::max()) return false;  // a segment's place has 32 bits
    component_count = header.component_count;
    const bool known = header.sequential_huffman() && header.precision == 8 &&
                       (component_count == 1 || component_count == 3) && planes_can_be_resized(header);
    if (!known) return false;
    Defined defined;
    // parse_header has checked that each marker up to the scan lies inside the data.
    for (size_t at = 2;;) {
        while (data[at] == 0xFF) ++at;
        const int marker = data[at++];
        const size_t length = static_cast<size_t>(data[at] << 8 | data[at + 1]);
        const uint8_t* body = data + at + 2;
        const uint8_t* end = data + at + length;
        if (marker == 0xDB) read_quantisation(body, end, *this, defined);
        if (marker == 0xC4) read_huffman(body, end, *this, defined);
        if (marker == 0xE0 && length >= kJfifLength && std::memcmp(body, "JFIF", 5) == 0) defined.jfif = true;
        if (marker == 0xC0 || marker == 0xC1)
            for (int i = 0; i < component_count; ++i) {
                const uint8_t* from = body + 6 + 3 * i;
                components[i] = {from[0], from[1] >> 4, from[1] & 15, from[2], 0, 0};
                if (component_count == 1) components[i].h = components[i].v = 1;
            }
        if (marker == 0xDA) {
            colour = colour_of(*this, defined);
            return read_scan(body, length - 2, *this, defined);
        }
        at += length;
    }
}

}  // namespace fasttrain
