#include "bind/buffers.h"

#include <string>

namespace nb = nanobind;

namespace fasttrain {

namespace {

Span part_of(const BufferView& buffer, uint64_t offset, uint64_t length, size_t part, int32_t number) {
    if (offset > buffer.size() || length > buffer.size() - offset) {
        const std::string message = "part " + std::to_string(part) + ": " + std::to_string(length) +
                                    " bytes from byte " + std::to_string(offset) +
                                    " on are not inside buffer " + std::to_string(number) +
                                    ", which has " + std::to_string(buffer.size()) + " bytes";
        throw nb::value_error(message.c_str());
    }
    return {buffer.data() + offset, static_cast<size_t>(length)};
}

}  // namespace

Regions::Regions(nb::sequence buffers, const BufferNumbers& which, const ByteCounts& offsets,
                 const ByteCounts& lengths) {
    const size_t count = which.shape(0);
    if (offsets.shape(0) != count || lengths.shape(0) != count) {
        const std::string message = "which, offsets and lengths must be equally long, not " +
                                    std::to_string(count) + ", " + std::to_string(offsets.shape(0)) +
                                    " and " + std::to_string(lengths.shape(0));
        throw nb::value_error(message.c_str());
    }
    views_.resize(nb::len(buffers));
    spans_.reserve(count);
    for (size_t i = 0; i < count; ++i) {
        const int32_t number = which.data()[i];
        if (number < 0 || static_cast<size_t>(number) >= views_.size()) {
            const std::string message = "part " + std::to_string(i) + ": no buffer has the number " +
                                        std::to_string(number) + "; there are " +
                                        std::to_string(views_.size()) + ", counted from 0";
            throw nb::value_error(message.c_str());
        }
        std::unique_ptr<BufferView>& view = views_[static_cast<size_t>(number)];
        if (view == nullptr) view = std::make_unique<BufferView>(nb::object(buffers[number]));
        spans_.push_back(part_of(*view, offsets.data()[i], lengths.data()[i], i, number));
    }
}

}  // namespace fasttrain
