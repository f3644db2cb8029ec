#include "threads.hpp"

#include <algorithm>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace ordito {

namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kClosed = 0xffffffffu;  // as the next piece: nothing to claim
constexpr auto kSpin = 200us;                   // how long an idle worker spins before it sleeps
constexpr auto kLeastPatience = 300us;
constexpr auto kFirstPenalty = 3ms, kLastPenalty = 200ms;

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int threads) : stretches_(new Stretch[threads]) {
    for (int number = 0; number < threads; number++) stretches_[number].next = kClosed;
    for (int number = 1; number < threads; number++) {
        workers_.push_back(std::make_unique<Worker>());
        Worker& worker = *workers_.back();
        worker.thread = std::thread([this, &worker, number] { work(worker, number); });
    }
}

Pool::~Pool() {
    stop_ = true;
    for (auto& worker : workers_) {
        worker->signal++;
        worker->signal.notify_one();
    }
    for (auto& worker : workers_) worker->thread.join();
}

bool Pool::has_work() const {
    for (int number = 0; number < threads(); number++) {
        const Stretch& stretch = stretches_[number];
        if (static_cast<std::int64_t>(stretch.next.load() & kClosed) < stretch.end.load(std::memory_order_relaxed)) return true;
    }
    return false;
}

// Claims a piece and runs it; returns false if there is none. The function and context are read after the claim: from then on
// the job cannot end, so they are that job's.
bool Pool::run_one(int thread) {
    for (int other = 0; other < threads(); other++) {
        Stretch& stretch = stretches_[(thread + other) % threads()];
        std::uint64_t next = stretch.next.load(std::memory_order_acquire);
        while (static_cast<std::int64_t>(next & kClosed) < stretch.end.load(std::memory_order_relaxed))
            if (stretch.next.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel)) {
                const auto function = function_.load(std::memory_order_relaxed);
                function(context_.load(std::memory_order_relaxed), static_cast<std::int64_t>(next & kClosed), thread);
                done_.fetch_add(1, std::memory_order_release);
                return true;
            }
    }
    return false;
}

void Pool::work(Worker& worker, int number) {
    while (!stop_) {
        worker.in_a_piece.store(true, std::memory_order_relaxed);
        while (worker.present && run_one(number)) {}
        worker.in_a_piece.store(false, std::memory_order_relaxed);
        const auto until = Clock::now() + kSpin;
        for (int turn = 1; !has_work() || !worker.present; turn++) {
            pause();
            if (worker.present && (turn % 64 || Clock::now() < until)) continue;
            const std::uint32_t seen = worker.signal.load();
            worker.asleep = true;
            if ((!has_work() || !worker.present) && !stop_) worker.signal.wait(seen);
            worker.asleep = false;
            break;
        }
    }
}

void Pool::dispatch(std::int64_t count, Function function, void* context) {
    const auto start = Clock::now();
    if (away_) readmit(start);
    const std::uint64_t job = ++job_ << 32;
    function_.store(function, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    const std::int64_t n = threads();
    for (std::int64_t number = 0; number < n; number++) stretches_[number].end.store(count * (number + 1) / n, std::memory_order_relaxed);
    for (std::int64_t number = 0; number < n; number++) stretches_[number].next.store(job | static_cast<std::uint64_t>(count * number / n));
    for (auto& worker : workers_)
        if (worker->present && worker->asleep) {
            worker->signal++;
            worker->signal.notify_one();
        }
    std::int64_t own = 0;
    while (run_one(0)) own++;
    const Clock::duration piece = own ? (Clock::now() - start) / own : Clock::duration{};
    if (done_.load(std::memory_order_acquire) < count) wait_for_the_rest(count, std::max<Clock::duration>(kLeastPatience, 4 * piece));
    // Closed before the next job changes `end`, so that no worker compares this job's `next` with it.
    for (std::int64_t number = 0; number < n; number++) stretches_[number].next.store(job | kClosed);
}

void Pool::wait_for_the_rest(std::int64_t count, Clock::duration patience) {
    const auto start = Clock::now();
    bool noted = false;
    for (int turn = 1; done_.load(std::memory_order_acquire) < count; turn++) {
        pause();
        if (noted || turn % 64 || Clock::now() - start < patience) continue;
        noted = true;
        for (auto& worker : workers_)
            if (worker->present && worker->in_a_piece) {
                const auto now = Clock::now();
                // Once in a while is harmless; again soon after it came back means that its core is taken.
                const bool again = now - worker->back_at < 4 * worker->penalty;
                worker->penalty = again ? std::min<Clock::duration>(2 * worker->penalty, kLastPenalty) : kFirstPenalty;
                worker->back_at = now + worker->penalty;
                worker->present = false;
                away_++;
            }
    }
}

void Pool::readmit(Clock::time_point now) {
    for (auto& worker : workers_)
        if (!worker->present && now >= worker->back_at) {
            worker->present = true;
            away_--;
        }
}

}  // namespace ordito
