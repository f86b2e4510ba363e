#include "base/read_ahead.h"

#include <algorithm>

#include <sys/mman.h>
#include <unistd.h>

namespace fasttrain {

namespace {

// Linux reads no more for one call than the device's own read-ahead, which is seldom less than this.
constexpr uint64_t kMostBytes = 128 << 10;

}  // namespace

void read_ahead(const uint64_t* addresses, const uint64_t* lengths, size_t count) {
    const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    for (size_t i = 0; i < count; ++i) {
        const uint64_t end = addresses[i] + lengths[i];
        for (uint64_t at = addresses[i] / page * page; at < end; at += kMostBytes)
            madvise(reinterpret_cast<void*>(at), std::min(kMostBytes, end - at), MADV_WILLNEED);
    }
}

}  // namespace fasttrain
