// Quantization of activations to integers, for the instruction set `Isa`.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels.hpp"

namespace ordito {
namespace {

// Rounds four outliers to 12-bit integers and stores their high and low digits.
inline void split_four(const float* x, float by, std::int8_t* high, std::int8_t* low) {
    for (int i = 0; i < 4; i++) {
        const float integer = std::nearbyint(x[i] * by), digit = std::nearbyint(integer * (1.f / kDigitBase));
        high[i] = static_cast<std::int8_t>(digit);
        low[i] = static_cast<std::int8_t>(integer - kDigitBase * digit);
    }
}

constexpr int kReduced = 4;         // blocks whose maxima and sums are reduced together
constexpr int kBlocksAtOnce = 16;   // blocks whose maxima are found before any is rounded: no rounding waits for a maximum

// The largest magnitudes of n blocks, in the first n lanes; NaN if one of a block's numbers is. The bits of magnitudes are
// compared as integers, which orders them as numbers and NaN behind all.
template <int n>
inline typename Isa::F largest_magnitudes(const float* x) {
    typename Isa::A largest[kReduced];
#pragma GCC unroll 4
    for (int b = 0; b < kReduced; b++) {
        largest[b] = Isa::zero_sum();
#pragma GCC unroll 8
        for (int i = 0; b < n && i < kCols; i += Isa::lanes) largest[b] = Isa::max(largest[b], Isa::magnitude_bits(Isa::load(x + b * kCols + i)));
    }
    return Isa::as_float(Isa::reduce_four(largest, [](auto a, auto b) { return Isa::max(a, b); }));
}

// Rounds a block to integers and stores them as `digits`, with the outliers at the four neighbours `place`; `sums` become
// those of its halves, lane by lane. `I` is `Isa`: a template parameter, so that sets without int16 pairs compile.
template <Digits digits, class I>
[[gnu::always_inline]] inline void round_block(const float* x, float inverse, [[maybe_unused]] int place, std::int8_t* to, typename I::A* sums) {
    constexpr int vectors = kCols / I::lanes, half = vectors / 2;
    constexpr bool in_two = digits == Digits::outliers_in_two;
    const auto by = I::set1(inverse);
    typename I::A integers[vectors];
#pragma GCC unroll 8
    for (int i = 0; i < vectors; i++) {
        integers[i] = I::to_integers(I::mul(I::load(x + i * I::lanes), by));
        sums[i / half] = i % half == 0 ? integers[i] : I::add(sums[i / half], integers[i]);
    }
    if constexpr (digits == Digits::two) I::store_digits(to, integers);
    else I::store_codes(to + in_two * kCols, integers);
    if constexpr (I::int16_pairs) I::store_pairs(reinterpret_cast<std::int16_t*>(to + code_bytes(digits)), integers);
    if constexpr (digits == Digits::outliers || in_two) {
        const Outliers four{{}, place, 0};
        if (in_two) std::memset(to, 0, kCols);
        else std::memcpy(to + kCols, &four, sizeof four);
        split_four(x + 4 * place, inverse, to + (in_two ? 4 * place : kCols), to + in_two * kCols + 4 * place);
    }
}

template <Digits digits>
void quantize_to(const float* x, const Quantized& to, std::int64_t token) {
    using F = typename Isa::F;
    using A = typename Isa::A;
    constexpr bool outliers = digits == Digits::outliers || digits == Digits::outliers_in_two;
    auto* codes = reinterpret_cast<std::int8_t*>(to.codes(token));
    BlockStats* stats = to.stats(token);
    const std::int64_t step = to.step(token), stats_step = to.stats_step(token);
    const F limit = Isa::set1(largest_integer(digits)), unit = Isa::set1(1.f / largest_integer(digits));
    // In fours, and what is left one by one: with(first block, their number as a constant).
    const auto in_fours = [](int count, auto&& with) {
        int b = 0;
        for (; b + kReduced <= count; b += kReduced) with(b, std::integral_constant<int, kReduced>());
        for (; b < count; b++) with(b, std::integral_constant<int, 1>());
    };
    for (std::int64_t begin = 0; begin < to.tiles(); begin += kBlocksAtOnce, x += kBlocksAtOnce * kCols) {
        const int count = static_cast<int>(std::min<std::int64_t>(to.tiles() - begin, kBlocksAtOnce));
        alignas(64) float most[kBlocksAtOnce + Isa::lanes], inverse[kBlocksAtOnce], scales[kBlocksAtOnce];
        [[maybe_unused]] float inliers[kBlocksAtOnce] = {};
        [[maybe_unused]] int places[kBlocksAtOnce] = {};
        in_fours(count, [&](int b, auto n) { Isa::store(most + b, largest_magnitudes<n()>(x + b * kCols)); });
        if constexpr (outliers)
            for (int b = 0; b < count; b++) {
                float outlier, next;
                places[b] = Isa::find_outliers(x + b * kCols, outlier, next);
                inliers[b] = std::max(next, outlier * kOutlierShare);
            }
        for (int i = 0; i < count; i += Isa::lanes) {
            const F all = Isa::load(most + i), largest = outliers ? Isa::load(inliers + i) : all;
            Isa::store(inverse + i, Isa::zero_below(largest, kLeastLargest, Isa::div(limit, largest)));
            Isa::store(scales + i, Isa::fma(all, Isa::zero(), Isa::mul(largest, unit)));  // NaN where a number is infinite or NaN
        }
        in_fours(count, [&](int b, auto n) {
            A halves[2][kReduced];
            alignas(64) std::int32_t all[Isa::lanes], first_half[Isa::lanes];
#pragma GCC unroll 4
            for (int i = 0; i < kReduced; i++) {
                A both[2] = {Isa::zero_sum(), Isa::zero_sum()};
                if (i < n()) round_block<digits, Isa>(x + (b + i) * kCols, inverse[b + i], places[b + i], codes + i * step, both);
                halves[0][i] = both[0], halves[1][i] = both[1];
            }
            const auto add = [](A a, A c) { return Isa::add(a, c); };
            const A first = Isa::reduce_four(halves[0], add);
            Isa::store(first_half, first);
            Isa::store(all, Isa::add(first, Isa::reduce_four(halves[1], add)));  // integers of NaN wrap around
            for (int i = 0; i < n(); i++) {
                const float scale = scales[b + i];
                stats[i * stats_step] = {scale, scale * static_cast<float>(all[i]), scale * static_cast<float>(first_half[i]), all[i]};
            }
            codes += n() * step, stats += n() * stats_step;
        });
    }
}

// Rounds some blocks of a token to 16 bits; `largest` are their largest magnitudes.
inline void round_to_int16(const float* x, const float* largest, int blocks, std::uint8_t* to, std::int64_t step, BlockStats* stats,
                           std::int64_t stats_step) {
    constexpr int vectors = kCols / Isa::lanes;
    for (int b = 0; b < blocks; b++, x += kCols, to += step, stats += stats_step) {
        const auto unit = Isa::set1(largest[b] >= kLeastLargest ? 1 / largest[b] : 0);
        typename Isa::F shares[vectors], squares = Isa::zero();
        for (int i = 0; i < vectors; i++) {
            shares[i] = Isa::mul(Isa::load(x + i * Isa::lanes), unit);
            squares = Isa::fma(shares[i], shares[i], squares);
        }
        const float integer = std::min(kInt16Largest, kInt16Norm / std::sqrt(Isa::sum(squares)));  // of the largest magnitude
        typename Isa::A integers[vectors];
        for (int i = 0; i < vectors; i++) integers[i] = Isa::to_integers(Isa::mul(shares[i], Isa::set1(integer)));
        Isa::store_int16(reinterpret_cast<std::int16_t*>(to), integers);
        stats->scale = largest[b] * 0 + largest[b] / integer;  // NaN where a number is infinite or NaN
    }
}

void quantize_to_int16(const float* x, const Quantized& to, std::int64_t token) {
    std::uint8_t* codes = to.codes(token);
    BlockStats* stats = to.stats(token);
    const std::int64_t step = to.step(token), stats_step = to.stats_step(token);
    const auto some = [&](std::int64_t b, auto n) {
        alignas(64) float largest[Isa::lanes];
        Isa::store(largest, largest_magnitudes<n()>(x + b * kCols));
        round_to_int16(x + b * kCols, largest, n(), codes + b * step, step, stats + b * stats_step, stats_step);
    };
    std::int64_t b = 0;
    for (; b + kReduced <= to.tiles(); b += kReduced) some(b, std::integral_constant<int, kReduced>());
    for (; b < to.tiles(); b++) some(b, std::integral_constant<int, 1>());
}

void quantize(const float* x, const Quantized& to, std::int64_t token) {
    switch (to.digits) {
        case Digits::one: return quantize_to<Digits::one>(x, to, token);
        case Digits::two: return quantize_to<Digits::two>(x, to, token);
        case Digits::outliers: return quantize_to<Digits::outliers>(x, to, token);
        case Digits::outliers_in_two: return quantize_to<Digits::outliers_in_two>(x, to, token);
        case Digits::four: return quantize_to_int16(x, to, token);
    }
}

}  // namespace
}  // namespace ordito
