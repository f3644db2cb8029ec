// Packs matrices on a thread of its own, while Python reads the vocabulary.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "packed.hpp"

namespace ordito {

// `Kept` holds what a job needs alive; it is released only by `forget` and by the destructor, on the caller's thread.
template <class Kept>
class Loader {
  public:
    struct Job {
        Packed* packed;
        std::int64_t count;
        const std::uint8_t* bytes;
        std::size_t size;
        bool mapped;  // the bytes are a mapped file: they take no memory while they wait, and are released once packed
        Kept kept;
    };

    // `turn` is locked while rows are packed.
    Loader(Pool& pool, std::mutex& turn) : pool_(pool), turn_(turn) {}
    ~Loader() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            stopped_ = true;
        }
        changed_.notify_all();
        if (thread_.joinable()) thread_.join();
    }
    Loader(const Loader&) = delete;
    Loader& operator=(const Loader&) = delete;

    // Blocks only while too many bytes of jobs with memory of their own are waiting.
    void add(Job job) {
        std::unique_lock<std::mutex> lock(mutex_);
        if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
        changed_.wait(lock, [&] { return job.mapped || owned_ <= kBehind; });
        if (!job.mapped) owned_ += job.size;
        waiting_.push_back(std::move(job));
        changed_.notify_all();
    }

    // Returns when everything is packed.
    void finish() {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return waiting_.empty(); });
    }

    // Releases what finished jobs kept alive.
    void forget() {
        std::vector<Kept> done;
        const std::lock_guard<std::mutex> lock(mutex_);
        done.swap(done_);
    }

  private:
    static constexpr std::size_t kBehind = 8 << 20, kSlice = 8 << 20;

    void work() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            changed_.wait(lock, [this] { return stopped_ || !waiting_.empty(); });
            if (stopped_) return;
            Job& job = waiting_.front();  // stays there until it is done, so that `finish` waits for it
            lock.unlock();
            pack(job);
            lock.lock();
            if (job.mapped) read_.emplace_back(job.bytes, job.size);
            else owned_ -= job.size;
            done_.push_back(std::move(job.kept));
            waiting_.pop_front();
            // Released again: reading ahead may have brought some of these pages back.
            if (waiting_.empty())
                for (; !read_.empty(); read_.pop_back()) release_pages(read_.back().first, read_.back().second);
            changed_.notify_all();
        }
    }

    void pack(const Job& job) {
        const std::size_t row = job.count ? job.size / job.count : 0;
        const std::int64_t step = std::max<std::int64_t>(1, kSlice / std::max<std::size_t>(row, 1) / kRows) * kRows;
        for (std::int64_t first = 0; first < job.count; first += step) {
            const std::int64_t count = std::min(step, job.count - first);
            const std::lock_guard<std::mutex> turn(turn_);
            fill(*job.packed, first, count, job.bytes + first * row, pool_);
            if (job.mapped) release_pages(job.bytes + first * row, count * row);
        }
    }

    Pool& pool_;
    std::mutex& turn_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Job> waiting_;
    std::vector<Kept> done_;
    std::vector<std::pair<const std::uint8_t*, std::size_t>> read_;
    std::size_t owned_ = 0;  // bytes that waiting jobs hold
    bool stopped_ = false;
    std::thread thread_;
};

}  // namespace ordito
