// libFuzzer's custom mutator: changes what a JPEG's header says and leaves the entropy-coded data valid where
// it can. Sampling factors, the number of components, their numbers and tables, sizes, the restart interval,
// the colours' markers, or the whole file by a cut.
#include "header_mutator.h"

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <random>
#include <vector>

#include "cut/cut.h"
#include "jpeg/header.h"
#include "jpeg/markers.h"

namespace {

using namespace fasttrain;
using Bytes = std::vector<uint8_t>;

// Offsets of the bodies; 0 where a marker isn't there.
struct Places {
    size_t sof = 0;
    size_t sos = 0;
    size_t dri = 0;
    size_t dqt = 0;
    int components = 0;
};

bool find_places(const Bytes& jpeg, Places& places) {
    const auto note = [&](const MarkerBody& body) {
        const auto at = static_cast<size_t>(body.data - jpeg.data());
        if (body.marker == kDri) places.dri = at;
        if (body.marker == kDqt && body.length >= 65) places.dqt = at;
        if (body.marker == kSos) places.sos = at;
    };
    try {
        const JpegHeader header = parse_header(jpeg.data(), jpeg.size(), note);
        places.components = header.component_count;
        places.sof = header.size_offset - 1;
        return header.all_in_scan;
    } catch (const JpegError&) {
        return false;
    }
}

class Mutation {
  public:
    Mutation(Bytes& jpeg, const Places& places, unsigned seed)
        : jpeg_(jpeg), places_(places), random_(seed) {}

    void run() {
        switch (below(12)) {
            case 0:
            case 1:
                return set_factors(component());
            case 2:
                for (int c = 0; c < places_.components; ++c) set_factors(c);
                return;
            case 3:
                return set_size();
            case 4:
                return set_count(1 + below(kMaxComponents));
            case 5:
                sof(component())[2] = static_cast<uint8_t>(below(4));
                return;
            case 6:
                jpeg_[places_.sos + 2 + 2 * static_cast<size_t>(component())] =
                    static_cast<uint8_t>(below(4) << 4 | below(4));
                return;
            case 7:
                return set_ids();
            case 8:
                return set_interval();
            case 9:
                return insert_colour_marker();
            case 10:
                if (places_.dqt != 0) jpeg_[places_.dqt + 1 + static_cast<size_t>(below(64))] = any();
                return;
            default:
                return cut();
        }
    }

  private:
    int below(int most) { return static_cast<int>(random_() % static_cast<unsigned>(most)); }
    uint8_t any() { return static_cast<uint8_t>(below(256)); }
    int component() { return below(places_.components); }
    uint8_t* sof(int c) { return jpeg_.data() + places_.sof + 6 + 3 * c; }

    // Mostly those that there are; all that libjpeg can read.
    void set_factors(int c) {
        static constexpr uint8_t kUsual[] = {0x11, 0x11, 0x21, 0x12, 0x22};
        sof(c)[1] =
            below(4) == 0 ? static_cast<uint8_t>((1 + below(4)) << 4 | (1 + below(4))) : kUsual[below(5)];
    }

    void set_size() {
        for (const size_t at : {places_.sof + 1, places_.sof + 3}) {
            const int before = jpeg_[at] << 8 | jpeg_[at + 1];
            const int choice = below(4);
            const int side = choice == 0 ? before : choice == 1 ? 1 + below(40) : 1 + below(before);
            jpeg_[at] = static_cast<uint8_t>(side >> 8);
            jpeg_[at + 1] = static_cast<uint8_t>(side);
        }
    }

    // The scan's header comes after the frame's, so it is changed first.
    void set_count(int count) {
        set_entries(places_.sos, 0, 1, 2, count);
        set_entries(places_.sof, 5, 6, 3, count);
    }

    void set_entries(size_t body, size_t count_at, size_t first, size_t each, int count) {
        const auto place = [&](int c) {
            return jpeg_.begin() + static_cast<std::ptrdiff_t>(body + first + each * static_cast<size_t>(c));
        };
        const int before = places_.components;
        if (count < before) jpeg_.erase(place(count), place(before));
        for (int c = before; c < count; ++c) {
            Bytes entry(place(c - 1), place(c));
            ++entry[0];
            jpeg_.insert(place(c), entry.begin(), entry.end());
        }
        jpeg_[body + count_at] = static_cast<uint8_t>(count);
        const int length =
            (jpeg_[body - 2] << 8 | jpeg_[body - 1]) + (count - before) * static_cast<int>(each);
        jpeg_[body - 2] = static_cast<uint8_t>(length >> 8);
        jpeg_[body - 1] = static_cast<uint8_t>(length);
    }

    void set_ids() {
        static constexpr uint8_t kIds[][4] = {{1, 2, 3, 4}, {'R', 'G', 'B', 'A'}, {0, 1, 2, 3}, {7, 7, 7, 7}};
        const uint8_t* ids = kIds[below(4)];
        for (int c = 0; c < places_.components; ++c)
            sof(c)[0] = jpeg_[places_.sos + 1 + 2 * static_cast<size_t>(c)] = ids[c];
    }

    void set_interval() {
        const auto interval = static_cast<uint8_t>(below(4));
        if (places_.dri == 0) return insert({0xFF, 0xDD, 0, 4, 0, interval});
        jpeg_[places_.dri] = 0;
        jpeg_[places_.dri + 1] = interval;
    }

    void insert_colour_marker() {
        const auto transform = static_cast<uint8_t>(below(3));
        switch (below(4)) {
            case 0:
                return insert({0xFF, 0xE0, 0, 16, 'J', 'F', 'I', 'F', 0, 1, 1, 0, 0, 1, 0, 1, 0, 0});
            case 1:
                return insert({0xFF, 0xE0, 0, 8, 'J', 'F', 'I', 'F', 0, 1});
            default:
                return insert({0xFF, 0xEE, 0, 14, 'A', 'd', 'o', 'b', 'e', 0, 100, 0, 0, 0, 0, transform});
        }
    }

    void insert(std::initializer_list<uint8_t> marker) { jpeg_.insert(jpeg_.begin() + 2, marker); }

    void cut() {
        const Interval interval = below(2) == 0 ? Interval::kMcu : Interval::kRow;
        try {
            jpeg_ = cut_jpeg(jpeg_.data(), jpeg_.size(), interval, below(2) == 0, 1 + below(8));
        } catch (const JpegError&) {
            // It stays as it was.
        }
    }

    Bytes& jpeg_;
    Places places_;
    std::minstd_rand random_;
};

}  // namespace

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
    if (size <= kChoiceBytes || seed % 3 == 0) return LLVMFuzzerMutate(data, size, max_size);
    Bytes jpeg(data + kChoiceBytes, data + size);
    Places places;
    if (!find_places(jpeg, places)) return LLVMFuzzerMutate(data, size, max_size);
    Mutation(jpeg, places, seed / 3).run();
    if (jpeg.size() + kChoiceBytes > max_size) return LLVMFuzzerMutate(data, size, max_size);
    std::copy(jpeg.begin(), jpeg.end(), data + kChoiceBytes);
    if (seed % 2 == 0) LLVMFuzzerMutate(data, kChoiceBytes, kChoiceBytes);
    return kChoiceBytes + jpeg.size();
}
