// The threads of the OpenMP runtime that this process has already, which PyTorch brings. Threads of our own would meet those on
// the same cores, where they look for work for some milliseconds after they had some. Where there is none, the caller does
// everything.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

namespace ordito {

class Team {
  public:
    explicit Team(int threads) : threads_(threads) {}

    int threads() const { return threads_; }
    // Whether there is such a runtime.
    static bool there();

    // Calls piece(number) for every number below `count`, on any thread, and waits for all. `piece` must not throw.
    template <class Piece>
    void run(std::int64_t count, Piece&& piece) const {
        struct Job {
            std::remove_reference_t<Piece>& piece;
            std::int64_t count;
            std::atomic<std::int64_t> next{0};
        } job{piece, count};
        everywhere([](void* context) {
            Job& mine = *static_cast<Job*>(context);
            for (std::int64_t n; (n = mine.next.fetch_add(1, std::memory_order_relaxed)) < mine.count;) mine.piece(n);
        }, &job);
    }

  private:
    void everywhere(void (*work)(void*), void* context) const;

    int threads_;
};

}  // namespace ordito
