#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "base/span.h"

namespace fasttrain {

void bind_cut(nanobind::module_& m);
void bind_decode(nanobind::module_& m);

// A read-only view of any object with contiguous bytes. Must be made and destroyed with the GIL held.
class BufferView {
  public:
    explicit BufferView(nanobind::handle object) {
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) nanobind::raise_python_error();
    }
    BufferView(const BufferView&) = delete;
    BufferView& operator=(const BufferView&) = delete;
    ~BufferView() { PyBuffer_Release(&view_); }

    const uint8_t* data() const { return static_cast<const uint8_t*>(view_.buf); }
    size_t size() const { return static_cast<size_t>(view_.len); }

  private:
    Py_buffer view_{};
};

using BufferNumbers =
    nanobind::ndarray<const int32_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
using ByteCounts =
    nanobind::ndarray<const uint64_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

using Boxes =
    nanobind::ndarray<const int32_t, nanobind::shape<-1, 4>, nanobind::c_contig, nanobind::device::cpu>;

// Parts of Python buffers, which stay valid while this object lives. Must be made and destroyed with the GIL
// held.
class Regions {
  public:
    // Part i is the `lengths[i]` bytes at `offsets[i]` of `buffers[which[i]]`. Raises ValueError if it isn't
    // inside its buffer.
    Regions(nanobind::sequence buffers, const BufferNumbers& which, const ByteCounts& offsets,
            const ByteCounts& lengths);

    size_t size() const { return spans_.size(); }
    const Span& operator[](size_t i) const { return spans_[i]; }
    const std::vector<Span>& spans() const { return spans_; }

  private:
    std::vector<std::unique_ptr<BufferView>> views_;  // of each buffer; null if no part is in it
    std::vector<Span> spans_;
};

}  // namespace fasttrain
