#include "bind/arrays.h"
#include "bind/buffers.h"

#include <limits>
#include <memory>
#include <string_view>

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>

#include "cut/cut.h"
#include "cut/slice.h"
#include "cut/slice_batch.h"

namespace nb = nanobind;

namespace fasttrain {

namespace {

nb::bytes to_bytes(const std::vector<uint8_t>& data) {
    return nb::bytes(data.data(), data.size());
}

Interval interval_of(std::string_view name) {
    if (name == "mcu") return Interval::kMcu;
    if (name == "row") return Interval::kRow;
    if (name == "none") return Interval::kNone;
    throw JpegError("interval: '" + std::string(name) + "' is not one of mcu, row, none");
}

nb::bytes cut(nb::handle jpeg, std::string_view interval, bool optimize, int orientation) {
    const BufferView buffer(jpeg);
    const Interval every = interval_of(interval);
    std::vector<uint8_t> out;
    {
        nb::gil_scoped_release released;
        out = cut_jpeg(buffer.data(), buffer.size(), every, optimize, orientation);
    }
    return to_bytes(out);
}

nb::tuple repair(nb::handle jpeg, std::string_view interval, bool optimize, int orientation) {
    const BufferView buffer(jpeg);
    const Interval every = interval_of(interval);
    Repaired repaired;
    {
        nb::gil_scoped_release released;
        repaired = repair_jpeg(buffer.data(), buffer.size(), every, optimize, orientation);
    }
    return nb::make_tuple(to_bytes(repaired.jpeg), repaired.intact);
}

uint32_t pixels(int64_t value) {
    if (value < 0 || value > std::numeric_limits<uint16_t>::max())
        throw JpegError("box: " + std::to_string(value) + " is not between 0 and 65535 pixels");
    return static_cast<uint32_t>(value);
}

nb::tuple slice(nb::handle jpeg, int64_t top, int64_t left, int64_t height, int64_t width) {
    const BufferView buffer(jpeg);
    const Box box{pixels(top), pixels(left), pixels(height), pixels(width)};
    thread_local SliceScratch scratch;
    std::vector<uint8_t> out;
    Slice made;
    {
        nb::gil_scoped_release released;
        const JpegHeader header = parse_header(buffer.data(), buffer.size());
        made = slice_jpeg(buffer.data(), buffer.size(), header, box, scratch, out);
    }
    return nb::make_tuple(to_bytes(out), made.top, made.left);
}

nb::tuple slice_arrays(nb::sequence buffers, const BufferNumbers& which, const ByteCounts& offsets,
                       const ByteCounts& lengths, const Boxes& boxes, int threads) {
    const Regions jpegs(std::move(buffers), which, offsets, lengths);
    const size_t count = jpegs.size();
    if (boxes.shape(0) != count) {
        const std::string message = std::to_string(boxes.shape(0)) + " boxes for " + std::to_string(count) +
                                    " JPEGs; give as many boxes as JPEGs";
        throw nb::value_error(message.c_str());
    }
    if (threads < 1) {
        const std::string message = "threads = " + std::to_string(threads) + " must be at least 1";
        throw nb::value_error(message.c_str());
    }
    SlicedBatch made;
    {
        nb::gil_scoped_release released;
        std::vector<SliceRequest> requests;
        for (size_t i = 0; i < count; ++i) {
            const int32_t* box = boxes.data() + 4 * i;
            requests.push_back({jpegs[i].data, jpegs[i].size, box[0], box[1], box[2], box[3]});
        }
        made = slice_batch(requests, threads);
    }
    static_assert(sizeof(Corner) == 2 * sizeof(int32_t));
    return nb::make_tuple(to_array(std::move(made.bytes), {made.room}),
                          to_array<uint64_t>(std::move(made.offsets), {count}),
                          to_array<uint64_t>(std::move(made.lengths), {count}),
                          to_array<int32_t>(std::move(made.corners), {count, 2}));
}

nb::dict jpeg_info(nb::handle jpeg) {
    const BufferView buffer(jpeg);
    JpegHeader header;
    {
        nb::gil_scoped_release released;
        header = parse_header(buffer.data(), buffer.size());
    }
    nb::dict info;
    info["width"] = header.width;
    info["height"] = header.height;
    info["components"] = header.component_count;
    info["sampling"] = header.sampling();
    info["progressive"] = header.progressive();
    info["restart_interval"] = header.restart_interval;
    info["adobe_transform"] =
        header.adobe_transform < 0 ? nb::object(nb::none()) : nb::cast(header.adobe_transform);
    return info;
}

}  // namespace

void bind_cut(nb::module_& m) {
    m.def("cut", &cut, nb::arg("jpeg"), nb::arg("interval"), nb::arg("optimize"), nb::arg("orientation") = 1,
          "Rewrites a JPEG losslessly as one baseline scan with restart markers. Raises ValueError.");
    m.def("repair", &repair, nb::arg("jpeg"), nb::arg("interval"), nb::arg("optimize"),
          nb::arg("orientation") = 1,
          "Cuts a damaged JPEG as libjpeg shows it: (jpeg, share that is intact). Raises ValueError.");
    m.def("slice", &slice, nb::arg("jpeg"), nb::arg("top"), nb::arg("left"), nb::arg("height"),
          nb::arg("width"),
          "Copies the MCUs that hold a box out of a cut JPEG: (jpeg, top, left). Raises ValueError.");
    m.def("slice_batch", &slice_arrays, nb::arg("buffers"), nb::arg("which").noconvert(),
          nb::arg("offsets").noconvert(), nb::arg("lengths").noconvert(), nb::arg("boxes"),
          nb::arg("threads") = 1,
          "Slices of many cut JPEGs in one buffer: (bytes, offsets, lengths, corners).");
    m.def("jpeg_info", &jpeg_info, nb::arg("jpeg"), "Reads a JPEG's header. Raises ValueError.");
}

}  // namespace fasttrain
