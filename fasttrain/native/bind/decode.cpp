#include "bind/arrays.h"
#include "bind/buffers.h"

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <utility>

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include "base/crc32.h"
#include "decode/decode.h"
#include "base/simd.h"
#include "jpeg/header.h"
#include "decode/pool.h"
#include "base/read_ahead.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace fasttrain {

namespace {

// The time between checks for Ctrl-C, short enough that it feels immediate.
constexpr int kSignalMilliseconds = 50;

using Sizes = nb::ndarray<const int32_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Flips = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Pictures = nb::ndarray<uint8_t, nb::shape<-1, -1, -1, 3>, nb::c_contig, nb::device::cpu>;

OutputSize output_size(int64_t height, int64_t width) {
    constexpr int64_t most = 1 << 14;
    if (height < 1 || width < 1 || height > most || width > most) {
        const std::string message = "the output's height and width must be 1 to 16384 pixels, not " +
                                    std::to_string(height) + " and " + std::to_string(width);
        throw nb::value_error(message.c_str());
    }
    return {static_cast<int>(height), static_cast<int>(width)};
}

BatchJob make_job(const Regions& stored, const Sizes& sizes, const Boxes& boxes, const Flips& flips,
                  const Pictures& out, bool raw) {
    const size_t count = stored.size();
    if (sizes.shape(0) != count || boxes.shape(0) != count || flips.shape(0) != count ||
        out.shape(0) != count)
        throw nb::value_error("which, sizes, boxes, flips and out must be equally long");
    BatchJob job;
    job.size = count == 0
                   ? OutputSize{1, 1}
                   : output_size(static_cast<int64_t>(out.shape(1)), static_cast<int64_t>(out.shape(2)));
    job.out = out.data();
    job.flags.assign(flips.data(), flips.data() + count);
    const bool letterbox = std::any_of(job.flags.begin(), job.flags.end(),
                                       [](uint8_t flags) { return (flags & kLetterbox) != 0; });
    if (letterbox && job.size.height != job.size.width)
        throw nb::value_error("letterboxed pictures must be square; give an out of equal height and width");
    for (size_t i = 0; i < count; ++i) {
        const int32_t* size = sizes.data() + 2 * i;
        const int32_t* box = boxes.data() + 4 * i;
        job.photographs.push_back(
            {stored[i].data, stored[i].size, size[0], size[1], raw ? Storage::raw : Storage::jpeg});
        job.boxes.push_back({box[0], box[1], box[2], box[3]});
    }
    return job;
}

nb::list to_list(const std::vector<PhotographError>& errors) {
    nb::list list;
    for (const PhotographError& error : errors) list.append(nb::make_tuple(error.position, error.reason));
    return list;
}

// The pool, and the buffers that its batches refer to.
class PyPool {
  public:
    explicit PyPool(int threads) : pool_(threads) {}
    ~PyPool() {
        nb::gil_scoped_release released;
        pool_.close();
    }

    Pool::Ticket submit(nb::sequence buffers, const BufferNumbers& which, const ByteCounts& offsets,
                        const ByteCounts& lengths, const Sizes& sizes, const Boxes& boxes, const Flips& flips,
                        const Pictures& out, bool raw) {
        auto stored = std::make_unique<Regions>(std::move(buffers), which, offsets, lengths);
        const Pool::Ticket ticket = pool_.submit(make_job(*stored, sizes, boxes, flips, out, raw));
        kept_.emplace(ticket, std::make_pair(out, std::move(stored)));
        return ticket;
    }

    nb::object wait(Pool::Ticket ticket, int milliseconds) {
        std::optional<std::vector<PhotographError>> errors;
        for (int left = milliseconds; !errors;) {
            const int slice = milliseconds < 0 ? kSignalMilliseconds : std::min(left, kSignalMilliseconds);
            {
                nb::gil_scoped_release released;
                errors = pool_.wait(ticket, slice);
            }
            if (PyErr_CheckSignals() != 0) throw nb::python_error();
            left -= slice;
            if (!errors && milliseconds >= 0 && left <= 0) return nb::none();
        }
        const auto kept = kept_.extract(ticket);  // as in close()
        return to_list(*errors);
    }

    void close() {
        {
            nb::gil_scoped_release released;
            pool_.close();
        }
        // Releasing a view may run Python code that calls this pool.
        const auto kept = std::exchange(kept_, {});
    }

  private:
    std::map<Pool::Ticket, std::pair<Pictures, std::unique_ptr<Regions>>> kept_;
    Pool pool_;
};

nb::list decode_batch(nb::sequence buffers, const BufferNumbers& which, const ByteCounts& offsets,
                      const ByteCounts& lengths, const Sizes& sizes, const Boxes& boxes, const Flips& flips,
                      const Pictures& out, bool raw) {
    const Regions stored(std::move(buffers), which, offsets, lengths);
    const BatchJob job = make_job(stored, sizes, boxes, flips, out, raw);
    std::vector<PhotographError> errors;
    {
        nb::gil_scoped_release released;
        DecodeScratch scratch;
        for (size_t i = 0; i < job.photographs.size(); ++i)
            if (std::optional<std::string> reason = decode_into(job, i, scratch))
                errors.push_back({i, *reason});
    }
    return to_list(errors);
}

void will_need(nb::sequence buffers, const BufferNumbers& which, const ByteCounts& offsets,
               const ByteCounts& lengths) {
    const Regions parts(std::move(buffers), which, offsets, lengths);
    nb::gil_scoped_release released;
    read_ahead(parts.spans());
}

uint32_t crc32_of(nb::handle data) {
    const BufferView buffer(data);
    nb::gil_scoped_release released;
    return crc32(buffer.data(), buffer.size());
}

nb::object crc32s(nb::sequence buffers, const BufferNumbers& which, const ByteCounts& offsets,
                  const ByteCounts& lengths) {
    const Regions parts(std::move(buffers), which, offsets, lengths);
    auto sums = std::make_unique<uint32_t[]>(parts.size());
    {
        nb::gil_scoped_release released;
        for (size_t i = 0; i < parts.size(); ++i) sums[i] = crc32(parts[i].data, parts[i].size);
    }
    return to_array(std::move(sums), {parts.size()});
}

// Returns the pixels written by `decode`. The other arguments are those of decode_crop after the photograph.
template <typename Decode>
nb::object decode_one(const nb::tuple& box, const nb::tuple& size, Decode decode) {
    const CropBox crop{nb::cast<int>(box[0]), nb::cast<int>(box[1]), nb::cast<int>(box[2]),
                       nb::cast<int>(box[3])};
    const OutputSize output = output_size(nb::cast<int64_t>(size[0]), nb::cast<int64_t>(size[1]));
    const auto height = static_cast<size_t>(output.height);
    const auto width = static_cast<size_t>(output.width);
    auto pixels = std::unique_ptr<uint8_t[]>(new uint8_t[height * width * 3]);
    {
        nb::gil_scoped_release released;
        thread_local DecodeScratch scratch;
        scratch.trim();
        decode(crop, output, scratch, pixels.get());
    }
    return to_array(std::move(pixels), {height, width, 3});
}

Filter filter_of(bool bicubic) {
    return bicubic ? Filter::cubic : Filter::triangle;
}

nb::object crop_of(nb::handle data, nb::tuple box, bool flip, nb::tuple size, nb::object raw_size,
                   bool bicubic) {
    const BufferView buffer(data);
    Photograph photograph{buffer.data(), buffer.size(), 0, 0, Storage::jpeg};
    if (raw_size.is_none()) {
        const JpegHeader header = parse_header(buffer.data(), buffer.size());
        photograph.height = static_cast<int>(header.height);
        photograph.width = static_cast<int>(header.width);
    } else {
        const auto pair = nb::cast<nb::tuple>(raw_size);
        photograph.height = nb::cast<int>(pair[0]);
        photograph.width = nb::cast<int>(pair[1]);
        photograph.storage = Storage::raw;
    }
    return decode_one(box, size,
                      [&](const CropBox& crop, OutputSize output, DecodeScratch& scratch, uint8_t* out) {
                          decode_crop(photograph, crop, flip, output, filter_of(bicubic), scratch, out);
                      });
}

nb::object intact_crop_of(nb::handle data, nb::tuple box, bool flip, nb::tuple size, bool bicubic) {
    const BufferView buffer(data);
    return decode_one(box, size,
                      [&](const CropBox& crop, OutputSize output, DecodeScratch& scratch, uint8_t* out) {
                          decode_intact_crop(buffer.data(), buffer.size(), crop, flip, output,
                                             filter_of(bicubic), scratch, out);
                      });
}

std::string set_simd(std::string_view name) {
    constexpr const char* names[] = {"plain", "avx2", "avx512"};
    const int before = static_cast<int>(simd_level());
    for (int i = 0; i < 3; ++i)
        if (name == names[i]) {
            if (!set_simd_level(static_cast<Simd>(i)))
                throw nb::value_error("this processor lacks this level's instructions; give a lower level");
            return names[before];
        }
    const std::string message = "level = '" + std::string(name) + "' is not one of plain, avx2, avx512";
    throw nb::value_error(message.c_str());
}

}  // namespace

void bind_decode(nb::module_& m) {
    m.def("decode_crop", &crop_of, "data"_a, "box"_a, "flip"_a, "size"_a, "raw_size"_a = nb::none(),
          "bicubic"_a = false);
    m.def("decode_intact_crop", &intact_crop_of, "data"_a, "box"_a, "flip"_a, "size"_a, "bicubic"_a = false);
    m.def("decode_batch", &decode_batch, "buffers"_a, "which"_a.noconvert(), "offsets"_a.noconvert(),
          "lengths"_a.noconvert(), "sizes"_a, "boxes"_a, "flips"_a, "out"_a.noconvert(), "raw"_a = false);
    m.def("will_need", &will_need, "buffers"_a, "which"_a.noconvert(), "offsets"_a.noconvert(),
          "lengths"_a.noconvert());
    m.def("crc32", &crc32_of, "data"_a);
    m.def("crc32s", &crc32s, "buffers"_a, "which"_a.noconvert(), "offsets"_a.noconvert(),
          "lengths"_a.noconvert());
    m.def("set_simd", &set_simd, "level"_a);
    nb::class_<PyPool>(m, "Pool")
        .def(nb::init<int>(), "threads"_a)
        .def("submit", &PyPool::submit, "buffers"_a, "which"_a.noconvert(), "offsets"_a.noconvert(),
             "lengths"_a.noconvert(), "sizes"_a, "boxes"_a, "flips"_a, "out"_a.noconvert(), "raw"_a = false)
        .def("wait", &PyPool::wait, "ticket"_a, "timeout_ms"_a = -1)
        .def("close", &PyPool::close);
}

}  // namespace fasttrain
