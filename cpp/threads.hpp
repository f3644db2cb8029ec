// A thread pool that does not wait for threads that are not running.
//
// Work comes in pieces that are claimed one by one. The caller of `run` claims pieces like every worker, and at the end waits
// for claimed pieces only, never for a thread: a worker that sleeps, or whose core another process took, just claims nothing.
// If a worker was preempted in the middle of a piece, the caller has to wait for it, and then leaves it out for a while: one
// core that is really available is worth more than two of which one is not (another process's time slice takes milliseconds, a
// piece microseconds).
//
// Each thread begins with a range of adjacent pieces of its own, so that it reads memory sequentially, and then takes pieces of
// the others.
//
// What a piece computes does not depend on the thread that runs it, so results do not depend on the number of threads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include <unistd.h>

namespace ordito {

// Deletes an object that owns threads in the process that made it only. A forked process has a copy of the object but not the
// threads, so that joining them, or destroying a condition variable on which they wait, would not return: there it is leaked.
class DeleteWhereMade {
  public:
    template <class T>
    void operator()(T* object) const {
        if (getpid() == process_) delete object;
    }

  private:
    pid_t process_ = getpid();
};

template <class T>
using OwnsThreads = std::unique_ptr<T, DeleteWhereMade>;

class Pool {
  public:
    // `threads` in total, the caller's included.
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Calls piece(number, thread) for every number below `count`, with thread < threads(). One caller at a time.
    template <class Piece>
    void run(std::int64_t count, Piece&& piece) {
        if (count <= 1 || workers_.empty()) {
            for (std::int64_t number = 0; number < count; number++) piece(number, 0);
            return;
        }
        using Plain = std::remove_reference_t<Piece>;
        dispatch(count, [](void* context, std::int64_t number, int thread) { (*static_cast<Plain*>(context))(number, thread); },
                 const_cast<void*>(static_cast<const void*>(&piece)));
    }

  private:
    using Function = void (*)(void*, std::int64_t, int);
    using Clock = std::chrono::steady_clock;

    struct alignas(64) Worker {
        std::thread thread;
        std::atomic<bool> in_a_piece{false}, asleep{false};
        std::atomic<std::uint32_t> signal{0};
        std::atomic<bool> present{true};  // not left out
        // Written by the caller only.
        Clock::time_point back_at{};
        Clock::duration penalty{};
    };

    void dispatch(std::int64_t count, Function function, void* context);
    void work(Worker& worker, int number);
    bool run_one(int thread);
    bool has_work() const;
    void wait_for_the_rest(std::int64_t count, Clock::duration patience);
    void readmit(Clock::time_point now);

    std::vector<std::unique_ptr<Worker>> workers_;
    // The range of pieces that a thread begins with. `next` holds the job's number in the upper half and the next piece in the
    // lower, so that one atomic operation claims a piece of the right job.
    struct alignas(64) Stretch {
        std::atomic<std::uint64_t> next;
        std::atomic<std::int64_t> end{0};
    };
    std::unique_ptr<Stretch[]> stretches_;
    std::atomic<std::uint64_t> job_{0};
    std::atomic<Function> function_{nullptr};
    std::atomic<void*> context_{nullptr};
    alignas(64) std::atomic<std::int64_t> done_{0};
    std::atomic<bool> stop_{false};
    int away_ = 0;
};

}  // namespace ordito
