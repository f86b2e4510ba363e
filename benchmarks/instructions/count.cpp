// Usage: count decode|bicubic|predict|cut PASSES JPEG...   Does it to every file so many times, on one core.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "cut/cut.h"
#include "decode/decode.h"

using namespace fasttrain;

int main(int count, char** arguments) {
    const std::string work = arguments[1];
    const int passes = std::atoi(arguments[2]);
    std::vector<std::vector<uint8_t>> files;
    for (int i = 3; i < count; ++i) {
        std::ifstream file(arguments[i], std::ios::binary);
        files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    DecodeScratch scratch;
    std::vector<uint8_t> out(224 * 224 * 3);
    for (int pass = 0; pass < passes; ++pass)
        for (const std::vector<uint8_t>& jpeg : files) {
            if (work == "cut") {
                cut_jpeg(jpeg.data(), jpeg.size(), Interval::kMcu, true, 1);
                continue;
            }
            const JpegHeader header = parse_header(jpeg.data(), jpeg.size());
            const auto height = static_cast<int>(header.height);
            const auto width = static_cast<int>(header.width);
            if (work == "predict") {
                // The centre's crop of validation.
                const int side = std::min(height, width) * 7 / 8;
                decode_intact_crop(jpeg.data(), jpeg.size(),
                                   {(height - side) / 2, (width - side) / 2, side, side}, false, {224, 224},
                                   Filter::triangle, scratch, out.data());
                continue;
            }
            // The centre's crop of a third of the area, which is what RandomResizedCrop takes on average.
            const CropBox box{height / 5, width / 5, height * 3 / 5, width * 3 / 5};
            const Filter filter = work == "bicubic" ? Filter::cubic : Filter::triangle;
            decode_crop({jpeg.data(), jpeg.size(), height, width, Storage::jpeg}, box, false, {224, 224},
                        filter, scratch, out.data());
        }
}
