// Prints a checksum of everything that vectors compute: usage: arm_check JPEG... Bytes before a file's first
// FF D8 are skipped. Fails where the levels of one machine differ; tools/arm_check.sh compares machines.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "base/crc32.h"
#include "base/simd.h"
#include "cut/cut.h"
#include "cut/slice.h"
#include "decode/decode.h"
#include "decode/idct.h"
#include "jpeg/entropy.h"
#include "jpeg/header.h"
#include "resize/kernels.h"

namespace {

using namespace fasttrain;
using Bytes = std::vector<uint8_t>;

std::string lines;

void note(const std::string& name, const Bytes& bytes) {
    char text[16];
    std::snprintf(text, sizeof(text), " %08x\n", crc32(bytes.data(), bytes.size()));
    lines += name + text;
}

Bytes random_bytes(size_t size, unsigned seed) {
    std::mt19937 random(seed);
    Bytes bytes(size);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    return bytes;
}

void check_idct(int last, int size, int coefficient_bits) {
    std::mt19937 random(static_cast<unsigned>(last + size));
    Bytes all;
    for (int round = 0; round < 100; ++round) {
        alignas(32) int16_t coefficients[128] = {};
        alignas(32) int16_t quantisation[128];
        for (int i = 0; i < 128; ++i) {
            const int row = i / 16, column = i % 8;
            const bool inside = last == 0   ? i % 64 % 8 == 0 && row == 0
                                : last < 10 ? row < 4 && column < 4
                                            : true;
            quantisation[i] = static_cast<int16_t>(random() % 255 + 1);
            if (inside)
                coefficients[i] = static_cast<int16_t>(static_cast<int>(random()) >> (32 - coefficient_bits));
        }
        Bytes out(128);
        idct({coefficients, quantisation, last, size, {out.data(), out.data() + 64}, {8, 8}});
        for (int16_t left : coefficients) out.push_back(left != 0);
        all.insert(all.end(), out.begin(), out.end());
    }
    note("idct " + std::to_string(last) + " " + std::to_string(size) + " " + std::to_string(coefficient_bits),
         all);
}

void check_kernels() {
    for (int last : {0, 9, 63})
        for (int size : {8, 4, 2})
            for (int bits : {4, 8, 16}) check_idct(last, size, bits);
    const Bytes from = random_bytes(1 << 16, 1);
    for (int length : {1, 32, 63, 96, 224, 512})
        for (int taps : {1, 2, 7, 40}) {
            std::vector<uint16_t> weights(static_cast<size_t>(taps), static_cast<uint16_t>(65535 / taps));
            Bytes out(544);
            weigh_lines(Filter::triangle)(from.data(), 600, taps, weights.data(), length, out.data());
            out.resize(static_cast<size_t>(length));
            note("weigh_lines " + std::to_string(length) + " " + std::to_string(taps), out);
            for (size_t k = 0; k < weights.size(); ++k)
                weights[k] = static_cast<uint16_t>(k % 3 == 1 ? -2500 : 20000);
            out.resize(544);
            weigh_lines(Filter::cubic)(from.data(), 600, taps, weights.data(), length, out.data());
            out.resize(static_cast<size_t>(length));
            note("cubic weigh_lines " + std::to_string(length) + " " + std::to_string(taps), out);
        }
    Bytes turned(96 * 64);
    transpose(from.data(), 100, 64, 96, turned.data(), 64);
    note("transpose", turned);
    for (int side : {5, 16, 45}) {
        Bytes planes(3 * 48 * 48);
        uint8_t* const each[3] = {planes.data(), planes.data() + 48 * 48, planes.data() + 2 * 48 * 48};
        split_rgb(from.data(), 150, side, side + 2, each, 48);
        note("split_rgb " + std::to_string(side), planes);
    }
    for (Colour colour : {Colour::rgb, Colour::ycc}) {
        Bytes out(3 * 4096);
        convert_line(from.data(), from.data() + 4096, from.data() + 8192, colour, 4096, out.data());
        note(colour == Colour::rgb ? "interleave" : "convert", out);
    }
    for (size_t size : {0, 1, 7, 8, 63, 64, 65, 1000})
        note("crc32", Bytes(from.begin(), from.begin() + size));
}

void check_scan(const Bytes& data, const std::string& name, size_t begin) {
    std::vector<Segment> segments;
    find_segments(data.data(), begin, data.size(), 1000, segments);
    Bytes out;
    for (const Segment& segment : segments)
        for (uint32_t value : {segment.begin, segment.end, uint32_t{segment.stuffed}})
            for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<uint8_t>(value >> shift));
    note(name + " segments", out);
}

void check_crops(const Bytes& data, const std::string& name) {
    const JpegHeader header = parse_header(data.data(), data.size());
    const auto height = static_cast<int>(header.height), width = static_cast<int>(header.width);
    check_scan(data, name, header.scan_offset);
    DecodeScratch scratch;
    for (const CropBox& box :
         {CropBox{0, 0, height, width}, CropBox{height / 5, width / 3, height / 2, width / 2}})
        for (int size : {5, 12, 40, 67})
            for (Filter filter : {Filter::triangle, Filter::cubic}) {
                Bytes out(static_cast<size_t>(size * (size + 3) * 3));
                decode_crop({data.data(), data.size(), height, width, Storage::jpeg}, box, size % 2 != 0,
                            {size, size + 3}, filter, scratch, out.data());
                const char* const how = filter == Filter::cubic ? " cubic crop of " : " crop of ";
                note(name + how + std::to_string(box.height) + " to " + std::to_string(size), out);
            }
}

void check_file(const Bytes& data, const std::string& name) {
    try {
        check_crops(data, name);
        for (Interval interval : {Interval::kMcu, Interval::kRow}) {
            const Bytes cut = cut_jpeg(data.data(), data.size(), interval, true, 1);
            note(name + " cut", cut);
            check_crops(cut, name + " cut");
            const JpegHeader header = parse_header(cut.data(), cut.size());
            const Box box = {header.height / 4, header.width / 4, header.height / 3, header.width / 3};
            SliceScratch scratch;
            Bytes slice;
            slice_jpeg(cut.data(), cut.size(), header, box, scratch, slice);
            note(name + " slice", slice);
        }
    } catch (const JpegError& error) {
        lines += name + " " + error.what() + "\n";
    }
}

}  // namespace

int main(int count, char** files) {
    std::string expected;
    for (Simd level : {Simd::plain, Simd::avx2, Simd::avx512}) {
        if (!set_simd_level(level)) continue;
        lines.clear();
        check_kernels();
        for (int i = 1; i < count; ++i) {
            std::ifstream file(files[i], std::ios::binary);
            const std::string bytes((std::istreambuf_iterator<char>(file)), {});
            const size_t begin = bytes.find("\xFF\xD8");
            if (begin == std::string::npos) return std::fprintf(stderr, "%s: no JPEG\n", files[i]), 2;
            const std::string path = files[i];
            check_file(Bytes(bytes.begin() + static_cast<std::ptrdiff_t>(begin), bytes.end()),
                       path.substr(path.rfind('/') + 1));
        }
        if (expected.empty()) expected = lines;
        if (lines != expected) return std::fprintf(stderr, "level %d differs\n", static_cast<int>(level)), 1;
    }
    std::fputs(expected.c_str(), stdout);
}
