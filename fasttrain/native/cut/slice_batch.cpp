#include "cut/slice_batch.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <system_error>
#include <thread>

namespace fasttrain {

namespace {

// JPEG's own limit: a larger side doesn't fit into Box, and is outside every image.
bool in_range(const SliceRequest& request) {
    constexpr int32_t most = std::numeric_limits<uint16_t>::max();
    for (const int32_t side : {request.top, request.left, request.height, request.width})
        if (side < 0 || side > most) return false;
    return true;
}

struct Written {
    uint64_t length;
    Corner corner;
};

Written write_one(const SliceRequest& request, SliceScratch& scratch, uint8_t* to) {
    const auto& [data, size, top, left, height, width] = request;
    if (in_range(request)) {
        try {
            const JpegHeader header = parse_header(data, size);
            const Box box{static_cast<uint32_t>(top), static_cast<uint32_t>(left),
                          static_cast<uint32_t>(height), static_cast<uint32_t>(width)};
            const SlicePlan plan = plan_slice(data, size, header, box, scratch);
            write_slice(data, header, plan, scratch, to);
            return {plan.bytes,
                    {static_cast<int32_t>(plan.slice.top), static_cast<int32_t>(plan.slice.left)}};
        } catch (const std::exception&) {
            // JpegError, or no memory for the markers: add the complete photograph.
        }
    }
    if (size != 0) std::memcpy(to, data, size);
    return {size, {top, left}};
}

}  // namespace

SlicedBatch slice_batch(const std::vector<SliceRequest>& requests, int threads) {
    SlicedBatch batch;
    const size_t count = requests.size();
    for (const SliceRequest& request : requests) {
        batch.offsets.push_back(batch.room);
        batch.room += request.size;
    }
    batch.bytes.reset(new uint8_t[batch.room]);  // make_unique would write zeros to all of it
    batch.lengths.resize(count);
    batch.corners.resize(count);

    std::atomic<size_t> next{0};
    const auto work = [&] {
        SliceScratch scratch;
        for (size_t i = next++; i < count; i = next++) {
            const Written written = write_one(requests[i], scratch, batch.bytes.get() + batch.offsets[i]);
            batch.lengths[i] = written.length;
            batch.corners[i] = written.corner;
        }
    };
    std::vector<std::thread> helpers;
    helpers.reserve(count);
    try {
        while (helpers.size() + 1 < std::min(count, static_cast<size_t>(threads))) helpers.emplace_back(work);
    } catch (const std::system_error&) {
        // The threads that did start do all the work.
    }
    work();
    for (std::thread& helper : helpers) helper.join();
    return batch;
}

}  // namespace fasttrain
