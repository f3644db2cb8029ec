// Softmax over plain rows, of logits and of attention's scores, and its gradient, for the instruction set `Isa` that was included before.
#pragma once

#include "elementwise.hpp"

namespace ordito {
namespace {

inline F plain_numbers(const void* x, bool half, std::int64_t i) {
    return half ? Isa::load_bf16(static_cast<const std::uint16_t*>(x) + i) : Isa::load(static_cast<const float*>(x) + i);
}

// Calls with(i, numbers...) for whole vectors of n plain numbers, and with a last one that is filled up with `fill`.
template <class With>
inline void each_plain(const void* x, bool half, std::int64_t n, float fill, With with) {
    std::int64_t i = 0;
    for (; i + Isa::lanes <= n; i += Isa::lanes) with(i, plain_numbers(x, half, i));
    if (i == n) return;
    float last[Isa::lanes];
    for (int j = 0; j < Isa::lanes; j++) {
        last[j] = fill;
        if (i + j >= n) continue;
        std::uint32_t bits = 0;
        if (half) std::memcpy(reinterpret_cast<std::uint8_t*>(&bits) + 2, static_cast<const std::uint16_t*>(x) + i + j, 2);
        else std::memcpy(&bits, static_cast<const float*>(x) + i + j, 4);
        std::memcpy(&last[j], &bits, 4);
    }
    with(i, Isa::load(last));
}

float dot(const void* a, bool a_half, const void* b, bool b_half, std::int64_t n) {
    F sums = Isa::zero();
    const std::int64_t whole = n / Isa::lanes * Isa::lanes;
    for (std::int64_t i = 0; i < whole; i += Isa::lanes) sums = Isa::fma(plain_numbers(a, a_half, i), plain_numbers(b, b_half, i), sums);
    if (whole < n) {
        const auto last = [&](const void* x, bool half) {
            F numbers = Isa::zero();
            each_plain(static_cast<const std::uint8_t*>(x) + whole * (half ? 2 : 4), half, n - whole, 0, [&](std::int64_t, F some) { numbers = some; });
            return numbers;
        };
        sums = Isa::fma(last(a, a_half), last(b, b_half), sums);
    }
    return Isa::sum(sums);
}

float log_sum(const void* x, bool half, std::int64_t n) {
    F most = Isa::set1(-INFINITY), sums = Isa::zero();
    each_plain(x, half, n, -INFINITY, [&](std::int64_t, F numbers) { most = Isa::max(most, numbers); });
    const float largest = Isa::largest(most);
    const F by = Isa::set1(largest);
    each_plain(x, half, n, -INFINITY, [&](std::int64_t, F numbers) { sums = Isa::add(sums, exponential(Isa::sub(numbers, by))); });
    return largest + std::log(Isa::sum(sums));
}

void probabilities(const void* x, bool half, std::int64_t n, float log, float weight, void* y) {
    const F by = Isa::set1(log), times = Isa::set1(weight);
    each_plain(x, half, n, -INFINITY, [&](std::int64_t i, F numbers) {
        const F p = Isa::mul(times, exponential(Isa::sub(numbers, by)));
        const auto some = static_cast<std::size_t>(n - i < Isa::lanes ? n - i : Isa::lanes);
        if (half) {
            std::uint16_t rounded[Isa::lanes];
            Isa::store_bf16(some < Isa::lanes ? rounded : static_cast<std::uint16_t*>(y) + i, p);
            if (some < Isa::lanes) std::memcpy(static_cast<std::uint16_t*>(y) + i, rounded, 2 * some);
        } else {
            float plain[Isa::lanes];
            Isa::store(some < Isa::lanes ? plain : static_cast<float*>(y) + i, p);
            if (some < Isa::lanes) std::memcpy(static_cast<float*>(y) + i, plain, 4 * some);
        }
    });
}

// Calls with(column, which of its vector's columns are seen as 1 and 0) for every vector of a row.
template <class With>
inline void each_seen(const Seen& seen, int row, int columns, With with) {
    const std::uint8_t* of_row = seen.bytes ? seen.bytes + row * seen.stride : nullptr;
    for (int c = 0; c < columns; c += Isa::lanes) {
        if (c + Isa::lanes <= seen.columns) {
            with(c, of_row ? Isa::load_u8(of_row + c) : Isa::set1(1));
            continue;
        }
        std::uint8_t last[Isa::lanes] = {};
        for (int i = 0; c + i < seen.columns; i++) last[i] = of_row ? of_row[c + i] : 1;
        with(c, Isa::load_u8(last));
    }
}

inline F where_seen(F is_seen, F yes, F no) { return Isa::where_negative(Isa::sub(is_seen, Isa::set1(0.5f)), no, yes); }

inline F scaled(F score, float scale, float cap) {
    if (!cap) return Isa::mul(score, Isa::set1(scale));
    return Isa::mul(Isa::set1(cap), tanh_of(Isa::mul(score, Isa::set1(scale / cap))));
}

void soften(float* scores, std::int64_t stride, int rows, int columns, const Seen& seen, float scale, float cap, float sink, float* logs,
            float* inverses) {
    for (int r = 0; r < rows; r++) {
        float* row = scores + r * stride;
        F most = Isa::set1(sink);
        each_seen(seen, r, columns, [&](int c, F is_seen) {
            const F score = where_seen(is_seen, scaled(Isa::load(row + c), scale, cap), Isa::set1(-INFINITY));
            Isa::store(row + c, score);
            most = Isa::max(most, score);
        });
        const float largest = Isa::largest(most);
        const F by = Isa::set1(largest == -INFINITY ? 0 : largest);
        F sums = Isa::zero();
        for (int c = 0; c < columns; c += Isa::lanes) {
            const F p = exponential(Isa::sub(Isa::load(row + c), by));
            Isa::store(row + c, p);
            sums = Isa::add(sums, p);
        }
        const float total = Isa::sum(sums) + (sink == -INFINITY ? 0 : std::exp(sink - largest));
        // A row that sees nothing has no share of anything, forwards and backwards.
        inverses[r] = total > 0 ? 1 / total : 0;
        logs[r] = total > 0 ? largest + std::log(total) : INFINITY;
    }
}

void soften_gradient(float* scores, float* gradients, std::int64_t stride, int rows, int columns, const Seen& seen, float scale, float cap,
                     const float* logs, const float* along) {
    for (int r = 0; r < rows; r++) {
        float *row = scores + r * stride, *gradient = gradients + r * stride;
        const F log = Isa::set1(logs[r]), mean = Isa::set1(along[r]), one = Isa::set1(1), by = Isa::set1(scale);
        each_seen(seen, r, columns, [&](int c, F is_seen) {
            const F score = scaled(Isa::load(row + c), scale, cap);
            const F p = where_seen(is_seen, exponential(Isa::sub(score, log)), Isa::zero());
            F change = Isa::mul(Isa::mul(p, Isa::sub(Isa::load(gradient + c), mean)), by);
            if (cap) {
                const F share = Isa::mul(score, Isa::set1(1 / cap));
                change = Isa::mul(change, Isa::fma(Isa::negative(share), share, one));
            }
            Isa::store(row + c, p);
            Isa::store(gradient + c, change);
        });
    }
}

}  // namespace
}  // namespace ordito
