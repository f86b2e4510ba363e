#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "decode/decode.h"

namespace fasttrain {

struct PhotographError {
    size_t position;  // in the batch
    std::string reason;
};

// The photographs of a batch and where to decode them. The caller keeps the memory alive until `wait` returns
// the batch's errors.
struct BatchJob {
    std::vector<Photograph> photographs;
    std::vector<CropBox> boxes;
    std::vector<uint8_t> flags;  // CropFlags
    OutputSize size;
    uint8_t* out;  // [n, size.height, size.width, 3]
};

// Decodes one photograph into its place in `job.out`. If it is broken, fills the place with zeros and returns
// the reason.
std::optional<std::string> decode_into(const BatchJob& job, size_t position, DecodeScratch& scratch);

// A pool of decoding threads. Each takes one photograph at a time from the earliest unfinished batch, the
// largest crop first, so that no thread waits for others at the end of a batch. Its memory is one
// DecodeScratch per thread, and the submitted batches.
class Pool {
  public:
    using Ticket = uint64_t;

    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    // Adds a batch and returns its ticket. Throws std::runtime_error if the pool is closed.
    Ticket submit(BatchJob job);
    // Returns the batch's errors by position, or nothing if it isn't done within `milliseconds`. A ticket is
    // valid until its errors have been returned. Other tickets throw std::out_of_range, and any throws
    // std::runtime_error if the pool was closed.
    std::optional<std::vector<PhotographError>> wait(Ticket ticket, int milliseconds);
    // Drops all photographs that aren't being decoded yet, and waits until the threads have ended.
    void close();

  private:
    struct Batch {
        BatchJob job;
        std::vector<uint32_t> order;
        size_t next = 0;
        size_t finished = 0;
        std::vector<PhotographError> errors;
    };

    void work();

    std::mutex mutex_;
    std::mutex closing_;  // so that only one caller joins the threads
    std::condition_variable work_there_;
    std::condition_variable batch_done_;
    std::map<Ticket, std::shared_ptr<Batch>> batches_;
    std::deque<std::shared_ptr<Batch>> queue_;  // batches with photographs that no thread has taken yet
    Ticket last_ticket_ = 0;
    bool closed_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace fasttrain
