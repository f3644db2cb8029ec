// Norms, activation functions, rotary embedding and the quantization of activations, for the instruction set `Isa`.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels.hpp"

namespace ordito {
namespace {

using F = Isa::F;

// y = step(a, b) by whole vectors of n numbers; the last vector is padded with zeros.
template <class Step>
inline void each_vector(std::int64_t n, float* y, Step step, const float* a, const float* b = nullptr) {
    std::int64_t i = 0;
    for (; i + Isa::lanes <= n; i += Isa::lanes) Isa::store(y + i, step(Isa::load(a + i), b ? Isa::load(b + i) : Isa::zero()));
    if (i == n) return;
    float last_a[Isa::lanes] = {}, last_b[Isa::lanes] = {}, last_y[Isa::lanes];
    std::memcpy(last_a, a + i, (n - i) * sizeof(float));
    if (b) std::memcpy(last_b, b + i, (n - i) * sizeof(float));
    Isa::store(last_y, step(Isa::load(last_a), Isa::load(last_b)));
    std::memcpy(y + i, last_y, (n - i) * sizeof(float));
}

// If one operand is NaN, `max` and `min` may return the second: the value that is bounded comes second, so that NaN is passed
// on.

// e^x to about two units in the last place: x = n ln 2 + r, and Cephes' polynomial (expf.c) for e^r. Zero below -87.
inline F exponential(F x) {
    const F clamped = Isa::min(Isa::set1(88.f), Isa::max(Isa::set1(-87.f), x));
    // A float that large has no fractional bits: n, rounded, is in the low bits of the sum.
    const F large = Isa::set1(12582912.f);  // 1.5 * 2^23
    const F sum = Isa::fma(clamped, Isa::set1(1.44269504088896341f), large), n = Isa::sub(sum, large);
    F r = Isa::fma(n, Isa::set1(-0.693359375f), clamped);
    r = Isa::fma(n, Isa::set1(2.12194440e-4f), r);
    F p = Isa::set1(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.f, 1.f})
        p = Isa::fma(p, r, Isa::set1(c));
    return Isa::zero_below(x, -87.f, Isa::times_power_of_two(p, sum));
}

inline F sigmoid(F x) { return Isa::div(Isa::set1(1.f), Isa::add(Isa::set1(1.f), exponential(Isa::negative(x)))); }

// tanh |x| = (1 - e) / (1 + e), e = e^(-2 |x|); near zero, where that cancels, Cephes' polynomial (tanhf.c).
inline F tanh_of(F x) {
    const F magnitude = Isa::abs(x), e = exponential(Isa::mul(Isa::set1(-2.f), magnitude));
    const F far = Isa::div(Isa::sub(Isa::set1(1.f), e), Isa::add(Isa::set1(1.f), e));
    const F square = Isa::mul(x, x);
    F p = Isa::set1(-5.70498872745e-3f);
    for (float c : {2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f, -3.33332819422e-1f}) p = Isa::fma(p, square, Isa::set1(c));
    const F near = Isa::fma(Isa::mul(p, square), magnitude, magnitude);
    const F result = Isa::where_negative(Isa::sub(magnitude, Isa::set1(0.625f)), near, far);
    return Isa::where_negative(x, Isa::negative(result), result);
}

// erf to 1.5e-7 (Abramowitz and Stegun, 7.1.26); near zero its Taylor series, since the formula cancels there.
inline F erf_of(F x) {
    const F magnitude = Isa::abs(x), square = Isa::mul(x, x);
    const F t = Isa::div(Isa::set1(1.f), Isa::fma(Isa::set1(0.3275911f), magnitude, Isa::set1(1.f)));
    F p = Isa::set1(1.061405429f);
    for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = Isa::fma(p, t, Isa::set1(c));
    const F far = Isa::sub(Isa::set1(1.f), Isa::mul(Isa::mul(p, t), exponential(Isa::negative(square))));
    F series = Isa::set1(-1.f / 1320);
    for (float c : {1.f / 216, -1.f / 42, 0.1f, -1.f / 3, 1.f}) series = Isa::fma(series, square, Isa::set1(c));
    const F near = Isa::mul(Isa::mul(magnitude, series), Isa::set1(1.1283791670955126f));
    const F result = Isa::where_negative(Isa::sub(magnitude, Isa::set1(0.5f)), near, far);
    return Isa::where_negative(x, Isa::negative(result), result);
}

inline F activated(Activation act, F x, float slope) {
    const F half = Isa::mul(Isa::set1(0.5f), x);
    switch (act) {
        case Activation::silu: return Isa::mul(x, sigmoid(x));
        case Activation::gelu: return Isa::fma(half, erf_of(Isa::mul(x, Isa::set1(0.70710678118654752f))), half);
        case Activation::gelu_tanh: {
            const F cube = Isa::mul(Isa::mul(x, x), x);
            const F inner = Isa::mul(Isa::set1(0.79788456080286536f), Isa::fma(Isa::set1(0.044715f), cube, x));
            return Isa::fma(half, tanh_of(inner), half);
        }
        case Activation::gelu_sigmoid: return Isa::mul(x, sigmoid(Isa::mul(x, Isa::set1(slope))));
        case Activation::relu: return Isa::max(Isa::zero(), x);
        case Activation::tanh: return tanh_of(x);
        case Activation::none: break;
    }
    return x;
}

void activate(Activation act, const float* gate, const float* up, std::int64_t n, float limit, float offset, float slope, float* y) {
    if (!gate) return each_vector(n, y, [&](F x, F) { return activated(act, x, slope); }, up);
    const F most = Isa::set1(limit), least = Isa::set1(-limit), shift = Isa::set1(offset);
    each_vector(n, y, [&](F g, F u) {
        if (limit > 0) g = Isa::min(most, g), u = Isa::max(least, Isa::min(most, u));
        return Isa::mul(activated(act, g, slope), offset != 0 ? Isa::add(u, shift) : u);
    }, gate, up);
}

void add(const float* a, const float* b, std::int64_t n, float* y) {
    each_vector(n, y, [](F x, F z) { return Isa::add(x, z); }, a, b);
}

void add_scaled(float factor, const float* x, std::int64_t n, float* y) {
    const F by = Isa::set1(factor);
    each_vector(n, y, [&](F a, F b) { return Isa::fma(by, a, b); }, x, y);
}

void scale_and_cap(const float* x, std::int64_t n, float scale, float cap, float* y) {
    const F by = Isa::set1(scale), most = Isa::set1(cap), inverse = Isa::set1(cap != 0 ? 1 / cap : 0);
    each_vector(n, y, [&](F a, F) {
        a = Isa::mul(a, by);
        return cap != 0 ? Isa::mul(most, tanh_of(Isa::mul(a, inverse))) : a;
    }, x);
}

template <class Step>
inline float total_of(const float* x, std::int64_t n, Step step) {
    F total = Isa::zero();
    std::int64_t i = 0;
    for (; i + Isa::lanes <= n; i += Isa::lanes) total = Isa::add(total, step(Isa::load(x + i)));
    float sum = Isa::sum(total);
    for (; i < n; i++) {
        float one[Isa::lanes] = {x[i]}, result[Isa::lanes];
        Isa::store(result, step(Isa::load(one)));
        sum += result[0];
    }
    return sum;
}

void norm(const float* x, std::int64_t n, bool centred, float eps, const float* weight, const float* bias, float* y) {
    const float count = static_cast<float>(n);
    const float mean = centred ? total_of(x, n, [](F a) { return a; }) / count : 0;
    const F middle = Isa::set1(mean);
    const float square = total_of(x, n, [&](F a) { return Isa::mul(Isa::sub(a, middle), Isa::sub(a, middle)); }) / count;
    const F by = Isa::set1(1 / std::sqrt(square + eps));
    each_vector(n, y, [&](F a, F w) {
        const F normed = Isa::mul(Isa::sub(a, middle), by);
        return weight ? Isa::mul(normed, w) : normed;
    }, x, weight);
    if (bias) add(y, bias, n, y);
}

void rotate(float* x, const float* cos, const float* sin, std::int64_t n, bool interleaved) {
    std::int64_t i = 0;
    if (!interleaved)
        for (; i + Isa::lanes <= n; i += Isa::lanes) {
            const F a = Isa::load(x + i), b = Isa::load(x + n + i), c = Isa::load(cos + i), s = Isa::load(sin + i);
            Isa::store(x + i, Isa::sub(Isa::mul(a, c), Isa::mul(b, s)));
            Isa::store(x + n + i, Isa::add(Isa::mul(b, c), Isa::mul(a, s)));
        }
    for (; i < n; i++) {
        float &a = x[interleaved ? 2 * i : i], &b = x[interleaved ? 2 * i + 1 : n + i];
        const float turned = a * cos[i] - b * sin[i];
        b = b * cos[i] + a * sin[i];
        a = turned;
    }
}

}  // namespace
}  // namespace ordito
