// The threads of the OpenMP runtime that is already in this process, which PyTorch brings. A pool of our own would compete with
// them for the same cores, since they spin for some milliseconds after their last work. Without such a runtime the caller
// computes alone.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

namespace ordito {

class Team {
  public:
    explicit Team(int threads) : threads_(threads) {}

    int threads() const { return threads_; }
    // Whether this process has an OpenMP runtime.
    static bool available();

    // Calls piece(number) for every number below `count`, on any thread, and returns when all are done. `piece` must not throw.
    template <class Piece>
    void run(std::int64_t count, Piece&& piece) const {
        struct Job {
            std::remove_reference_t<Piece>& piece;
            std::int64_t count;
            std::atomic<std::int64_t> next{0};
        } job{piece, count};
        run_on_all([](void* context) {
            Job& mine = *static_cast<Job*>(context);
            for (std::int64_t n; (n = mine.next.fetch_add(1, std::memory_order_relaxed)) < mine.count;) mine.piece(n);
        }, &job);
    }

  private:
    void run_on_all(void (*work)(void*), void* context) const;

    int threads_;
};

}  // namespace ordito
