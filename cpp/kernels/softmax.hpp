// Softmax over rows of logits and of attention scores, and its gradient, for the instruction set `Isa`.
#pragma once

#include "elementwise.hpp"

namespace ordito {
namespace {

inline F load_either(const void* x, bool bf16, std::int64_t i) {
    return bf16 ? Isa::load_bf16(static_cast<const std::uint16_t*>(x) + i) : Isa::load(static_cast<const float*>(x) + i);
}

// Calls with(i, vector) for whole vectors of n numbers and for a last one that is padded with `fill`.
template <class With>
inline void each_plain(const void* x, bool bf16, std::int64_t n, float fill, With with) {
    std::int64_t i = 0;
    for (; i + Isa::lanes <= n; i += Isa::lanes) with(i, load_either(x, bf16, i));
    if (i == n) return;
    float last[Isa::lanes];
    for (int j = 0; j < Isa::lanes; j++) {
        last[j] = fill;
        if (i + j >= n) continue;
        std::uint32_t bits = 0;
        if (bf16) std::memcpy(reinterpret_cast<std::uint8_t*>(&bits) + 2, static_cast<const std::uint16_t*>(x) + i + j, 2);
        else std::memcpy(&bits, static_cast<const float*>(x) + i + j, 4);
        std::memcpy(&last[j], &bits, 4);
    }
    with(i, Isa::load(last));
}

float dot(const void* a, bool a_bf16, const void* b, bool b_bf16, std::int64_t n) {
    F sums = Isa::zero();
    const std::int64_t whole = n / Isa::lanes * Isa::lanes;
    for (std::int64_t i = 0; i < whole; i += Isa::lanes) sums = Isa::fma(load_either(a, a_bf16, i), load_either(b, b_bf16, i), sums);
    if (whole < n) {
        const auto last = [&](const void* x, bool bf16) {
            F numbers = Isa::zero();
            each_plain(static_cast<const std::uint8_t*>(x) + whole * (bf16 ? 2 : 4), bf16, n - whole, 0, [&](std::int64_t, F some) { numbers = some; });
            return numbers;
        };
        sums = Isa::fma(last(a, a_bf16), last(b, b_bf16), sums);
    }
    return Isa::sum(sums);
}

float logsumexp(const void* x, bool bf16, std::int64_t n) {
    F most = Isa::set1(-INFINITY), sums = Isa::zero();
    each_plain(x, bf16, n, -INFINITY, [&](std::int64_t, F numbers) { most = Isa::max(most, numbers); });
    const float largest = Isa::largest(most);
    const F by = Isa::set1(largest);
    each_plain(x, bf16, n, -INFINITY, [&](std::int64_t, F numbers) { sums = Isa::add(sums, exponential(Isa::sub(numbers, by))); });
    return largest + std::log(Isa::sum(sums));
}

void probabilities(const void* x, bool bf16, std::int64_t n, float log, float weight, void* y) {
    const F by = Isa::set1(log), times = Isa::set1(weight);
    each_plain(x, bf16, n, -INFINITY, [&](std::int64_t i, F numbers) {
        const F p = Isa::mul(times, exponential(Isa::sub(numbers, by)));
        const auto some = static_cast<std::size_t>(n - i < Isa::lanes ? n - i : Isa::lanes);
        if (bf16) {
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

// Calls with(column, visible) for every vector of a row; `visible` is 0 for hidden columns and at least 1 for others.
template <class With>
inline void each_visible(const Mask& mask, int row, int columns, With with) {
    const std::uint8_t* of_row = mask.bytes ? mask.bytes + row * mask.stride : nullptr;
    for (int c = 0; c < columns; c += Isa::lanes) {
        if (c + Isa::lanes <= mask.columns) {
            with(c, of_row ? Isa::load_u8(of_row + c) : Isa::set1(1));
            continue;
        }
        std::uint8_t last[Isa::lanes] = {};
        for (int i = 0; c + i < mask.columns; i++) last[i] = of_row ? of_row[c + i] : 1;
        with(c, Isa::load_u8(last));
    }
}

inline F where_visible(F visible, F yes, F no) { return Isa::where_negative(Isa::sub(visible, Isa::set1(0.5f)), no, yes); }

inline F scaled(F score, float scale, float cap) {
    if (!cap) return Isa::mul(score, Isa::set1(scale));
    return Isa::mul(Isa::set1(cap), tanh_of(Isa::mul(score, Isa::set1(scale / cap))));
}

void softmax_rows(float* scores, std::int64_t stride, int rows, int columns, const Mask& mask, float scale, float cap, float sink, float* logs,
                  float* inverses) {
    for (int r = 0; r < rows; r++) {
        float* row = scores + r * stride;
        F most = Isa::set1(sink);
        each_visible(mask, r, columns, [&](int c, F visible) {
            const F score = where_visible(visible, scaled(Isa::load(row + c), scale, cap), Isa::set1(-INFINITY));
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
        // In a row that sees no column all probabilities and gradients become 0.
        inverses[r] = total > 0 ? 1 / total : 0;
        logs[r] = total > 0 ? largest + std::log(total) : INFINITY;
    }
}

void softmax_rows_gradient(float* scores, float* gradients, std::int64_t stride, int rows, int columns, const Mask& mask, float scale, float cap,
                           const float* logs, const float* delta) {
    for (int r = 0; r < rows; r++) {
        float *row = scores + r * stride, *gradient = gradients + r * stride;
        const F log = Isa::set1(logs[r]), mean = Isa::set1(delta[r]), one = Isa::set1(1), by = Isa::set1(scale);
        each_visible(mask, r, columns, [&](int c, F visible) {
            const F score = scaled(Isa::load(row + c), scale, cap);
            const F p = where_visible(visible, exponential(Isa::sub(score, log)), Isa::zero());
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
