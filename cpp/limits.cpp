// What this machine can do at most: multiply-adds and bytes read per second.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "plan.hpp"

namespace ordito {

using Clock = std::chrono::steady_clock;

double Machine::peak() {
    const auto multiply = kernels_.peak_loop[arithmetic_ == Arithmetic::f32 ? 0 : arithmetic_ == Arithmetic::int8 ? 1 : 2];
    double best = 0;
    std::int64_t rounds = 1000;
    for (int turn = 0; turn < 30; turn++) {
        const auto start = Clock::now();
        const std::int64_t each = multiply(0);
        pool_->run(pool_->threads(), [&](std::int64_t, int) { multiply(rounds); });
        const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
        best = std::max(best, static_cast<double>(pool_->threads()) * each * rounds / seconds);
        if (seconds < 0.005) rounds *= 2;
    }
    return best;
}

double Machine::bandwidth() {
    constexpr std::int64_t kBytes = 256 << 20, kPiece = 1 << 20, kPrefetchAhead = 4096;  // kBytes: more than any cache holds
    Arena arena;
    const auto memory = arena.cut(kBytes + kPrefetchAhead, kBytes + kPrefetchAhead);
    std::memset(memory.get(), 1, kBytes + kPrefetchAhead);
    std::atomic<std::int64_t> kept{0};
    double best = 0;
    for (int turn = 0; turn < 12; turn++) {
        const auto start = Clock::now();
        pool_->run(kBytes / kPiece, [&](std::int64_t number, int) {
            const auto* from = reinterpret_cast<const std::int64_t*>(memory.get() + number * kPiece);
            std::int64_t sum = 0;
            for (std::int64_t i = 0; i < kPiece / 8; i += 8) {
                __builtin_prefetch(from + i + kPrefetchAhead / 8);
                for (int j = 0; j < 8; j++) sum += from[i + j];
            }
            kept += sum;
        });
        best = std::max(best, kBytes / std::chrono::duration<double>(Clock::now() - start).count());
    }
    return best;
}

}  // namespace ordito
