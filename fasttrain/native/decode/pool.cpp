#include "decode/pool.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include <pthread.h>
#include <sched.h>

namespace fasttrain {

namespace {

// Declares this thread a batch job, so that the scheduler runs the thread that feeds the accelerator as soon
// as it wakes. Otherwise that thread would wait two or three milliseconds, a fifth of a training step, for
// the end of a decoding thread's time slice.
void give_way() {
#ifdef SCHED_BATCH
    const sched_param none{};
    pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
#endif
}

}  // namespace

std::optional<std::string> decode_into(const BatchJob& job, size_t position, DecodeScratch& scratch) {
    const size_t bytes = static_cast<size_t>(job.size.height) * static_cast<size_t>(job.size.width) * 3;
    uint8_t* out = job.out + position * bytes;
    std::optional<std::string> reason;
    try {
        scratch.trim();
        decode_planned(job.photographs[position], job.boxes[position], job.flags[position], job.size, scratch,
                       out);
    } catch (const std::bad_alloc&) {
        reason = "out of memory";
    } catch (const std::exception& error) {
        reason = error.what();
    }
    if (reason) std::memset(out, 0, bytes);
    return reason;
}

Pool::Pool(int threads) {
    if (threads < 1)
        throw std::invalid_argument("threads = " + std::to_string(threads) + " must be at least 1");
    try {
        for (int i = 0; i < threads; ++i) threads_.emplace_back(&Pool::work, this);
    } catch (...) {
        close();
        throw;
    }
}

Pool::~Pool() {
    close();
}

Pool::Ticket Pool::submit(BatchJob job) {
    auto batch = std::make_shared<Batch>();
    batch->job = std::move(job);
    batch->order.resize(batch->job.photographs.size());
    std::iota(batch->order.begin(), batch->order.end(), 0u);
    const auto cost = [&](uint32_t i) {
        return static_cast<int64_t>(batch->job.boxes[i].height) * batch->job.boxes[i].width;
    };
    std::stable_sort(batch->order.begin(), batch->order.end(),
                     [&](uint32_t a, uint32_t b) { return cost(a) > cost(b); });
    const std::lock_guard lock(mutex_);
    if (closed_) throw std::runtime_error("the pool is closed; create another one");
    batches_.emplace(++last_ticket_, batch);
    if (!batch->order.empty()) queue_.push_back(std::move(batch));
    work_there_.notify_all();
    return last_ticket_;
}

std::optional<std::vector<PhotographError>> Pool::wait(Ticket ticket, int milliseconds) {
    std::unique_lock lock(mutex_);
    const auto found = batches_.find(ticket);
    if (found == batches_.end())
        throw std::out_of_range("no such ticket: " + std::to_string(ticket) +
                                "; wait returns each batch once");
    const std::shared_ptr<Batch> batch = found->second;
    const auto done = [&] { return batch->finished == batch->order.size(); };
    batch_done_.wait_for(lock, std::chrono::milliseconds(milliseconds), [&] { return done() || closed_; });
    if (!done()) {
        if (closed_) throw std::runtime_error("the pool is closed; create another one");
        return std::nullopt;
    }
    batches_.erase(ticket);
    std::sort(batch->errors.begin(), batch->errors.end(),
              [](const PhotographError& a, const PhotographError& b) { return a.position < b.position; });
    return std::move(batch->errors);
}

void Pool::close() {
    {
        const std::lock_guard lock(mutex_);
        closed_ = true;
        queue_.clear();
    }
    work_there_.notify_all();
    batch_done_.notify_all();
    const std::lock_guard closing(closing_);
    for (std::thread& thread : threads_)
        if (thread.joinable()) thread.join();
}

void Pool::work() {
    give_way();
    DecodeScratch scratch;
    std::unique_lock lock(mutex_);
    for (;;) {
        work_there_.wait(lock, [&] { return closed_ || !queue_.empty(); });
        if (closed_) return;
        const std::shared_ptr<Batch> batch = queue_.front();
        const size_t position = batch->order[batch->next++];
        if (batch->next == batch->order.size()) queue_.pop_front();
        lock.unlock();
        std::optional<std::string> reason = decode_into(batch->job, position, scratch);
        lock.lock();
        if (reason) batch->errors.push_back({position, std::move(*reason)});
        if (++batch->finished == batch->order.size()) batch_done_.notify_all();
    }
}

}  // namespace fasttrain
