// Gradients of norms and gates, and conversions between fp32 and bfloat16, for the instruction set `Isa`.
#pragma once

#include "elementwise.hpp"

namespace ordito {
namespace {

// Calls with(i, count) for whole vectors of n numbers and for a shorter last one.
template <class With>
inline void each_chunk(std::int64_t n, With with) {
    for (std::int64_t i = 0; i < n; i += Isa::lanes) with(i, n - i < Isa::lanes ? static_cast<int>(n - i) : Isa::lanes);
}

inline F load_chunk(const float* x, int count) {
    if (count == Isa::lanes) return Isa::load(x);
    float some[Isa::lanes] = {};
    std::memcpy(some, x, count * sizeof(float));
    return Isa::load(some);
}

inline void store_chunk(float* y, F x, int count) {
    if (count == Isa::lanes) return Isa::store(y, x);
    float some[Isa::lanes];
    Isa::store(some, x);
    std::memcpy(y, some, count * sizeof(float));
}

void bf16_to_f32(const std::uint16_t* x, std::int64_t n, float* y) {
    each_chunk(n, [&](std::int64_t i, int count) {
        std::uint16_t some[Isa::lanes] = {};
        if (count < Isa::lanes) std::memcpy(some, x + i, count * sizeof(std::uint16_t));
        store_chunk(y + i, Isa::load_bf16(count < Isa::lanes ? some : x + i), count);
    });
}

void f32_to_bf16(const float* x, std::int64_t n, std::uint16_t* y) {
    each_chunk(n, [&](std::int64_t i, int count) {
        std::uint16_t some[Isa::lanes];
        Isa::store_bf16(count < Isa::lanes ? some : y + i, load_chunk(x + i, count));
        if (count < Isa::lanes) std::memcpy(y + i, some, count * sizeof(std::uint16_t));
    });
}

void norm_gradient(const float* x, const float* grad, std::int64_t n, float eps, const float* weight, float* grad_x, float* grad_weight) {
    F squares = Isa::zero(), products = Isa::zero();
    each_chunk(n, [&](std::int64_t i, int count) {
        const F a = load_chunk(x + i, count);
        squares = Isa::fma(a, a, squares);
        products = Isa::fma(Isa::mul(load_chunk(grad + i, count), load_chunk(weight + i, count)), a, products);
    });
    const float scale = 1 / std::sqrt(Isa::sum(squares) / static_cast<float>(n) + eps);
    const F by = Isa::set1(scale), along = Isa::set1(-Isa::sum(products) / static_cast<float>(n) * scale * scale);
    each_chunk(n, [&](std::int64_t i, int count) {
        const F a = load_chunk(x + i, count), change = load_chunk(grad + i, count);
        if (grad_weight) store_chunk(grad_weight + i, Isa::fma(Isa::mul(change, a), by, load_chunk(grad_weight + i, count)), count);
        store_chunk(grad_x + i, Isa::mul(by, Isa::fma(a, along, Isa::mul(change, load_chunk(weight + i, count)))), count);
    });
}

void silu_gradient(const float* gate, const float* up, const float* grad, std::int64_t n, float* grad_gate, float* grad_up) {
    const F one = Isa::set1(1);
    each_chunk(n, [&](std::int64_t i, int count) {
        const F g = load_chunk(gate + i, count), change = load_chunk(grad + i, count), share = sigmoid(g), silu = Isa::mul(g, share);
        store_chunk(grad_up + i, Isa::mul(change, silu), count);
        const F slope = Isa::fma(silu, Isa::sub(one, share), share);  // share (1 + g (1 - share))
        store_chunk(grad_gate + i, Isa::mul(Isa::mul(change, load_chunk(up + i, count)), slope), count);
    });
}

}  // namespace
}  // namespace ordito
