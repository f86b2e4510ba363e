#include "libjpeg_reference.h"

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include <jpeglib.h>
#include <jerror.h>

using fasttrain::CropBox;
using fasttrain::Filter;
using fasttrain::OutputSize;

namespace {

constexpr int kMostScans = 100;
// A block's coefficients, summed: the first pass multiplies by less than 1.4 and scales by 4, and the second
// adds two results in 16 bits.
constexpr int kLargestSum = 32767 / 6;

struct Reader {
    jpeg_decompress_struct info{};
    jpeg_error_mgr errors{};
    jpeg_progress_mgr progress{};
    std::jmp_buf escape;
    std::vector<uint8_t> row;
    std::vector<JSAMPROW> rows[3];
    JSAMPARRAY arrays[3];

    Reader() {
        info.err = jpeg_std_error(&errors);
        info.client_data = this;
        errors.error_exit = [](j_common_ptr common) {
            std::longjmp(static_cast<Reader*>(common->client_data)->escape, 1);
        };
        errors.emit_message = [](j_common_ptr common, int level) {
            const int code = common->err->msg_code;
            if (level < 0 && code != JWRN_EXTRANEOUS_DATA && code != JWRN_ADOBE_XFORM &&
                code != JWRN_JFIF_MAJOR)
                common->err->error_exit(common);
        };
        progress.progress_monitor = [](j_common_ptr common) {
            if (reinterpret_cast<j_decompress_ptr>(common)->input_scan_number > kMostScans)
                common->err->error_exit(common);
        };
    }
    ~Reader() { jpeg_destroy_decompress(&info); }

    void begin(const std::vector<uint8_t>& jpeg) {
        jpeg_create_decompress(&info);
        info.progress = &progress;
        jpeg_mem_src(&info, jpeg.data(), static_cast<unsigned long>(jpeg.size()));
        jpeg_read_header(&info, TRUE);
    }
};

// An output sample's weights of the plane's samples from `first` on; they sum to 1.
struct Taps {
    int first;
    std::vector<double> weights;
};

// The filter's value at the distance x, in samples of the coarser of source and output.
double value_of(Filter filter, double x) {
    x = std::fabs(x);
    if (filter == Filter::triangle) return std::max(0.0, 1 - x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

// Pillow's antialiased filter for `pixels` of the photograph, over the samples that they touch.
// Where `finest`, in samples a pixel as `density` is, has twice as many, the filter is that of the finest
// plane, and each of its samples three quarters of the one that covers it and a quarter of that one's
// neighbour.
std::vector<Taps> make_taps(Filter filter, double density, double finest, int first_pixel, int pixels,
                            int outputs) {
    const bool half = density * 2 == finest;
    const double fine = half ? finest : density;
    const double begin = first_pixel * fine, end = (first_pixel + pixels) * fine;
    const int low = static_cast<int>(first_pixel * density);
    const int high = static_cast<int>(std::ceil((first_pixel + pixels) * density));
    const double scale = (end - begin) / outputs;
    const double shrinking = std::max(scale, 1.0);
    std::vector<Taps> made;
    for (int i = 0; i < outputs; ++i) {
        Taps taps{low, std::vector<double>(static_cast<size_t>(high - low))};
        const double centre = begin + (i + 0.5) * scale;
        double sum = 0;
        for (int k = static_cast<int>(std::floor(begin)); k < static_cast<int>(std::ceil(end)); ++k)
            sum += value_of(filter, (k + 0.5 - centre) / shrinking);
        for (int k = static_cast<int>(std::floor(begin)); k < static_cast<int>(std::ceil(end)); ++k) {
            const double weight = value_of(filter, (k + 0.5 - centre) / shrinking) / sum;
            if (weight == 0) continue;
            const int covering = half ? k / 2 : k;
            const int beside = half ? std::clamp(k % 2 == 0 ? covering - 1 : covering + 1, low, high - 1) : k;
            taps.weights[static_cast<size_t>(covering - low)] += weight * 0.75;
            taps.weights[static_cast<size_t>(beside - low)] += weight * 0.25;
        }
        while (taps.weights.back() == 0) taps.weights.pop_back();
        const auto zeros =
            std::find_if(taps.weights.begin(), taps.weights.end(), [](double w) { return w != 0; });
        taps.first += static_cast<int>(zeros - taps.weights.begin());
        taps.weights.erase(taps.weights.begin(), zeros);
        made.push_back(std::move(taps));
    }
    return made;
}

std::vector<double> resize(const ReferencePlane& plane, const ReferencePlane& finest, const CropBox& box,
                           OutputSize size, Filter filter) {
    const auto across = make_taps(filter, plane.across, finest.across, box.left, box.width, size.width);
    const auto down = make_taps(filter, plane.down, finest.down, box.top, box.height, size.height);
    const int top = down.front().first;
    const int bottom = down.back().first + static_cast<int>(down.back().weights.size());
    std::vector<double> rows;
    for (int y = top; y < bottom; ++y)
        for (const Taps& taps : across) {
            double sum = 0;
            for (size_t k = 0; k < taps.weights.size(); ++k)
                sum += taps.weights[k] * plane.at(taps.first + static_cast<int>(k), y);
            rows.push_back(std::clamp(sum, 0.0, 255.0));
        }
    const auto width = static_cast<size_t>(size.width);
    std::vector<double> made;
    for (const Taps& taps : down)
        for (size_t x = 0; x < width; ++x) {
            double sum = 0;
            for (size_t k = 0; k < taps.weights.size(); ++k)
                sum += taps.weights[k] * rows[(static_cast<size_t>(taps.first - top) + k) * width + x];
            made.push_back(std::clamp(sum, 0.0, 255.0));
        }
    return made;
}

}  // namespace

// In both, libjpeg's errors jump over calls whose locals need no destructor.

bool read_rgb(const std::vector<uint8_t>& jpeg, int block, Reference& out) {
    Reader reader;
    jpeg_decompress_struct& info = reader.info;
    if (setjmp(reader.escape) != 0) return false;
    reader.begin(jpeg);
    const bool ink = info.num_components == 4;
    info.out_color_space = ink ? JCS_CMYK : JCS_RGB;
    info.scale_num = static_cast<unsigned>(block);
    info.scale_denom = 8;
    jpeg_start_decompress(&info);
    const auto width = static_cast<int>(info.output_width), height = static_cast<int>(info.output_height);
    out.colour = ReferenceColour::rgb;
    out.planes.assign(3, {width, height, block / 8.0, block / 8.0, {}});
    reader.row.resize(static_cast<size_t>(width) * 4);
    for (int y = 0; y < height; ++y) {
        JSAMPROW row = reader.row.data();
        jpeg_read_scanlines(&info, &row, 1);
        for (int x = 0; x < width; ++x)
            for (int c = 0; c < 3; ++c) {
                int sample = row[(ink ? 4 : 3) * x + c];
                if (ink) {
                    const int black = row[4 * x + 3];
                    const int light = info.saw_Adobe_marker ? sample * black : (255 - sample) * (255 - black);
                    sample = (light + 127) / 255;
                }
                out.planes[static_cast<size_t>(c)].samples.push_back(static_cast<uint8_t>(sample));
            }
    }
    return true;
}

bool read_planes(const std::vector<uint8_t>& jpeg, Reference& out) {
    Reader reader;
    jpeg_decompress_struct& info = reader.info;
    if (setjmp(reader.escape) != 0) return false;
    reader.begin(jpeg);
    if (info.jpeg_color_space != JCS_GRAYSCALE && info.jpeg_color_space != JCS_YCbCr &&
        info.jpeg_color_space != JCS_RGB)
        return false;
    out.colour = info.jpeg_color_space == JCS_YCbCr ? ReferenceColour::ycc : ReferenceColour::rgb;
    info.raw_data_out = TRUE;
    info.out_color_space = info.jpeg_color_space;
    jpeg_start_decompress(&info);
    const int lines = info.max_v_samp_factor * DCTSIZE;
    const auto mcu_rows = static_cast<int>(info.total_iMCU_rows);
    out.planes.assign(static_cast<size_t>(info.num_components), {});
    for (int c = 0; c < info.num_components; ++c) {
        const jpeg_component_info& component = info.comp_info[c];
        ReferencePlane& plane = out.planes[static_cast<size_t>(c)];
        const int across = component.h_samp_factor, down = component.v_samp_factor;
        plane.width = (static_cast<int>(component.width_in_blocks) + across) * DCTSIZE;
        plane.height = mcu_rows * down * DCTSIZE;
        plane.across = static_cast<double>(across) / info.max_h_samp_factor;
        plane.down = static_cast<double>(down) / info.max_v_samp_factor;
        plane.samples.resize(static_cast<size_t>(plane.width) * static_cast<size_t>(plane.height));
        reader.rows[c].resize(static_cast<size_t>(down * DCTSIZE));
    }
    for (int mcu_row = 0; mcu_row < mcu_rows; ++mcu_row) {
        for (int c = 0; c < info.num_components; ++c) {
            ReferencePlane& plane = out.planes[static_cast<size_t>(c)];
            const int rows = info.comp_info[c].v_samp_factor * DCTSIZE;
            for (int y = 0; y < rows; ++y)
                reader.rows[c][static_cast<size_t>(y)] =
                    plane.samples.data() +
                    static_cast<size_t>(mcu_row * rows + y) * static_cast<size_t>(plane.width);
            reader.arrays[c] = reader.rows[c].data();
        }
        jpeg_read_raw_data(&info, reader.arrays, static_cast<JDIMENSION>(lines));
    }
    return true;
}

bool coefficients_are_in_range(const std::vector<uint8_t>& jpeg) {
    Reader reader;
    jpeg_decompress_struct& info = reader.info;
    if (setjmp(reader.escape) != 0) return false;
    reader.begin(jpeg);
    jvirt_barray_ptr* const coefficients = jpeg_read_coefficients(&info);
    for (int c = 0; c < info.num_components; ++c) {
        const jpeg_component_info& component = info.comp_info[c];
        for (JDIMENSION y = 0; y < component.height_in_blocks; ++y) {
            const JBLOCKROW blocks = info.mem->access_virt_barray(reinterpret_cast<j_common_ptr>(&info),
                                                                  coefficients[c], y, 1, FALSE)[0];
            for (JDIMENSION x = 0; x < component.width_in_blocks; ++x) {
                int sum = 0;
                for (int k = 0; k < DCTSIZE2; ++k)
                    sum += std::abs(blocks[x][k] * component.quant_table->quantval[k]);
                if (sum > kLargestSum) return false;
            }
        }
    }
    return true;
}

void average(ReferencePlane& plane, int ratio) {
    ReferencePlane made{
        plane.width / ratio, plane.height / ratio, plane.across / ratio, plane.down / ratio, {}};
    for (int y = 0; y < made.height; ++y)
        for (int x = 0; x < made.width; ++x) {
            int sum = 0;
            for (int i = 0; i < ratio * ratio; ++i)
                sum += plane.at(x * ratio + i % ratio, y * ratio + i / ratio);
            made.samples.push_back(static_cast<uint8_t>((sum + ratio * ratio / 2) / (ratio * ratio)));
        }
    plane = made;
}

int largest_difference(const std::vector<uint8_t>& got, const Reference& rgb) {
    int most = 0;
    for (size_t i = 0; i < got.size(); ++i)
        most = std::max(most, std::abs(got[i] - rgb.planes[i % 3].samples[i / 3]));
    return most;
}

double resized_difference(const std::vector<uint8_t>& got, const Reference& reference, const CropBox& box,
                          OutputSize size, Filter filter) {
    std::vector<double> planes[3];
    const bool grey = reference.planes.size() == 1;
    for (size_t c = 0; c < 3; ++c)
        planes[c] =
            grey && c > 0 ? planes[0] : resize(reference.planes[c], reference.planes[0], box, size, filter);
    double most = 0;
    for (size_t i = 0; i < planes[0].size(); ++i) {
        double rgb[3] = {planes[0][i], planes[1][i], planes[2][i]};
        if (!grey && reference.colour == ReferenceColour::ycc) {
            const double luma = rgb[0], blue = rgb[1] - 128, red = rgb[2] - 128;
            rgb[0] = luma + 1.402 * red;
            rgb[1] = luma - 0.344136 * blue - 0.714136 * red;
            rgb[2] = luma + 1.772 * blue;
        }
        for (size_t c = 0; c < 3; ++c)
            most = std::max(most, std::fabs(std::clamp(rgb[c], 0.0, 255.0) - got[3 * i + c]));
    }
    return most;
}
