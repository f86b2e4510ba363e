#pragma once

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace fasttrain {

// Both functions make a NumPy array that takes over memory from C++ without copying it.

template <typename T>
nanobind::object to_array(std::unique_ptr<T[]> elements, std::initializer_list<size_t> shape) {
    const nanobind::capsule owner(elements.get(), [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return nanobind::cast(nanobind::ndarray<nanobind::numpy, T>(elements.release(), shape, owner));
}

// `Element` may be a struct of several T.
template <typename T, typename Element>
nanobind::object to_array(std::vector<Element> elements, std::initializer_list<size_t> shape) {
    auto kept = std::make_unique<std::vector<Element>>(std::move(elements));
    auto* data = reinterpret_cast<T*>(kept->data());
    const nanobind::capsule owner(kept.get(),
                                  [](void* p) noexcept { delete static_cast<std::vector<Element>*>(p); });
    kept.release();
    return nanobind::cast(nanobind::ndarray<nanobind::numpy, T>(data, shape, owner));
}

}  // namespace fasttrain
