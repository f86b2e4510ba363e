#include <nanobind/nanobind.h>

#include "bind/buffers.h"

NB_MODULE(_native, m) {
    m.doc() = "fasttrain's native part: JPEGs cut so that a crop can be copied out of them undecoded.";
    fasttrain::bind_cut(m);
    fasttrain::bind_decode(m);
}
