#pragma once

#include <nanobind/nanobind.h>

namespace fasttrain {

void bind_cut(nanobind::module_& m);
void bind_decode(nanobind::module_& m);

// Read-only view of any object with contiguous bytes; made and destroyed with the GIL held.
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

}  // namespace fasttrain
