#include "base/read_ahead.h"

#include <algorithm>

#include <sys/mman.h>
#include <unistd.h>

namespace fasttrain {

namespace {

// Linux reads at most the device's read-ahead per call, which is seldom less than this.
constexpr uintptr_t kMostBytes = 128 << 10;

}  // namespace

void read_ahead(const std::vector<Span>& parts) {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    for (const Span& part : parts) {
        const auto begin = reinterpret_cast<uintptr_t>(part.data);
        const uintptr_t end = begin + part.size;
        for (uintptr_t at = begin / page * page; at < end; at += kMostBytes)
            madvise(reinterpret_cast<void*>(at), std::min(kMostBytes, end - at), MADV_WILLNEED);
    }
}

}  // namespace fasttrain
