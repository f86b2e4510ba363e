// For ThreadSanitizer: batches in flight, waits that time out, closes while others wait, destructors with
// work queued; and slices made by several threads.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "jpeg/header.h"
#include "decode/pool.h"
#include "cut/slice_batch.h"

namespace {

using namespace fasttrain;

constexpr size_t kChoiceBytes = 8;  // before each JPEG of fuzz_decode's corpus
constexpr OutputSize kSize{64, 64};
constexpr size_t kBatches = 8;

std::vector<std::vector<uint8_t>> read_jpegs(const char* folder) {
    std::vector<std::vector<uint8_t>> jpegs;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        std::ifstream file(entry.path(), std::ios::binary);
        std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
        if (bytes.size() > kChoiceBytes) jpegs.emplace_back(bytes.begin() + kChoiceBytes, bytes.end());
    }
    return jpegs;
}

BatchJob make_job(const std::vector<std::vector<uint8_t>>& jpegs, uint8_t* out) {
    BatchJob job{{}, {}, {}, kSize, out};
    for (const auto& jpeg : jpegs) {
        CropBox box{0, 0, 1, 1};
        try {
            const JpegHeader header = parse_header(jpeg.data(), jpeg.size());
            box = {0, 0, static_cast<int>(header.height), static_cast<int>(header.width)};
        } catch (const JpegError&) {
            // The pool must report it.
        }
        job.photographs.push_back({jpeg.data(), jpeg.size(), box.height, box.width, Storage::jpeg});
        job.boxes.push_back(box);
        job.flags.push_back(1);
    }
    return job;
}

}  // namespace

int main(int argc, char** argv) {
    const auto jpegs = read_jpegs(argc > 1 ? argv[1] : ".");
    const size_t batch_bytes = jpegs.size() * kSize.height * kSize.width * 3;
    std::vector<uint8_t> out(kBatches * batch_bytes);
    for (int round = 0; round < 30; ++round) {
        Pool pool(4);
        std::vector<Pool::Ticket> tickets;
        for (size_t i = 0; i < kBatches; ++i)
            tickets.push_back(pool.submit(make_job(jpegs, out.data() + i * batch_bytes)));
        std::thread closer;
        if (round % 3 == 1) closer = std::thread([&] { pool.close(); });
        try {
            for (const Pool::Ticket ticket : tickets)
                while (round % 3 != 2 && !pool.wait(ticket, 5)) {
                }
        } catch (const std::runtime_error&) {
            if (round % 3 != 1) throw;
        }
        if (closer.joinable()) closer.join();
    }
    std::vector<SliceRequest> requests;
    for (const auto& jpeg : jpegs) requests.push_back({jpeg.data(), jpeg.size(), 3, 5, 9, 12});
    for (int round = 0; round < 30; ++round) slice_batch(requests, 4);
    std::puts("done");
}
