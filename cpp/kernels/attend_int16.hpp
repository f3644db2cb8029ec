// Attention over pages of a KV cache of int16 (`CacheType::int16`), for the instruction set `Isa`: of two neighbouring channels
// of keys, or two neighbouring keys of values, one instruction multiplies both and adds the products.
//
// Queries and keys have a scale for each row, which bounds their norms, so that scores fit 32 bits (by Cauchy and Schwarz). So do
// values, whose scales multiply the weights of the softmax before these are rounded, with a scale for each page.
#pragma once

#include "attend.hpp"

namespace ordito {
namespace {

// Rounds n numbers to integers of at most `largest` and with a norm of at most kRowNorm; calls with(first, count, integers) for
// 32 at a time, which are zeros from `count` on. Returns the scale: NaN if one of the numbers is infinite or NaN.
template <class With>
inline float round_row(const float* x, int n, float largest, With with) {
    constexpr int some = 32, vectors = some / Isa::lanes;
    const auto load = [&](int first, F* to) {
        alignas(64) float last[some] = {};
        if (n - first < some) std::memcpy(last, x + first, (n - first) * sizeof(float));
        for (int v = 0; v < vectors; v++) to[v] = Isa::load((n - first < some ? last : x + first) + v * Isa::lanes);
    };
    F numbers[vectors], most = Isa::zero(), squares = Isa::zero();
    for (int first = 0; first < n; first += some) {
        load(first, numbers);
        for (int v = 0; v < vectors; v++) most = Isa::max(most, Isa::abs(numbers[v]));
    }
    const float magnitude = Isa::largest(most), unit = magnitude >= kLeastLargest ? 1 / magnitude : 0;
    for (int first = 0; first < n; first += some) {
        load(first, numbers);
        for (int v = 0; v < vectors; v++) {
            const F share = Isa::mul(numbers[v], Isa::set1(unit));
            squares = Isa::fma(share, share, squares);
        }
    }
    const float square = Isa::sum(squares), integer = std::min(largest, kRowNorm / std::sqrt(square));  // of the magnitude
    for (int first = 0; first < n; first += some) {
        load(first, numbers);
        typename Isa::A integers[vectors];
        for (int v = 0; v < vectors; v++) integers[v] = Isa::to_integers(Isa::mul(numbers[v], Isa::set1(unit * integer)));
        alignas(64) std::int16_t rounded[some];
        Isa::store_int16(rounded, integers);
        with(first, n - first < some ? n - first : some, rounded);
    }
    return magnitude / integer + square * 0;
}

inline void round_query(float* q, int width) {
    auto* to = reinterpret_cast<std::uint8_t*>(q);  // not beyond what was read: integers take half the space
    const float scale = round_row(q, width, kInt16Largest, [&](int first, int count, const std::int16_t* integers) {
        std::memcpy(to + 2 * first, integers, 2 * ((count + 1) / 2 * 2));
    });
    std::memcpy(to + 4 * ((width + 1) / 2), &scale, sizeof scale);
}

inline void store_key_int16(const float* x, int width, int number, void* keys, float* scales) {
    auto* to = static_cast<std::uint8_t*>(keys) + 4 * number;
    scales[number] = round_row(x, width, kInt16Largest, [&](int first, int count, const std::int16_t* integers) {
        for (int h = 0; h < count; h += 2) std::memcpy(to + 4 * kPage * ((first + h) / 2), integers + h, 4);
    });
}

inline void store_value_int16(const float* x, int width, int number, void* values, float* scales) {
    auto* to = static_cast<std::int16_t*>(values) + static_cast<std::int64_t>(number / 2) * 2 * padded_row(width) + number % 2;
    scales[number] = round_row(x, width, kValueLargest, [&](int first, int count, const std::int16_t* integers) {
        for (int h = 0; h < count; h++) to[2 * (first + h)] = integers[h];
    });
}

template <class I, int rows>
inline void block_scores_int16(const float* q, std::int64_t stride, const void* keys, const float* scales, int width, const void* next, float* scores) {
    constexpr int vectors = kPage / I::lanes;
    typename I::A total[rows][vectors];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) total[r][v] = I::zero_sum();
    const int pairs = (width + 1) / 2;
    for (int pair = 0; pair < pairs; pair++) {
        if (next) prefetch(next, pair * 4 * kPage, 4 * kPage);
        typename I::C key[vectors];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) key[v] = I::codes(static_cast<const std::uint8_t*>(keys) + 4 * (pair * kPage + v * I::lanes));
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) total[r][v] = I::add_pair(total[r][v], key[v], reinterpret_cast<const std::int16_t*>(q + r * stride) + 2 * pair);
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        const F scale = I::set1(q[r * stride + pairs]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            I::store(scores + r * kPage + v * I::lanes, I::mul(I::mul(I::to_float(total[r][v]), scale), I::load(scales + v * I::lanes)));
    }
}

template <class I>
void page_scores_int16(const float* q, std::int64_t stride, int rows, const void* keys, const float* scales, int width, const void* next, float* scores) {
    each_row_block<I::lanes == 16 ? 10 : 3>(rows, [&](auto block, int r) {
        block_scores_int16<I, block()>(q + r * stride, stride, keys, scales, width, r ? nullptr : next, scores + r * kPage);
    });
}

// The weights of a page's values, rounded, and their scales.
struct PageWeights {
    alignas(64) std::int16_t integers[kMostRows][kPage];
    alignas(64) float scales[kMostRows];
};

// p times the scales of the values. Weights of keys from `count` on are zeros.
inline void round_weights(const float* p, int rows, int count, const float* scales, PageWeights& to) {
    constexpr int vectors = kPage / Isa::lanes;
    alignas(64) float present[kPage] = {};
    std::memcpy(present, scales, count * sizeof(float));
    for (int first = 0; first < rows; first += Isa::lanes) {
        const int some = rows - first < Isa::lanes ? rows - first : Isa::lanes;
        F squares[Isa::lanes];
        for (int r = 0; r < Isa::lanes; r++) squares[r] = Isa::zero();
        for (int r = 0; r < some; r++)
            for (int v = 0; v < vectors; v++) {
                const F weight = Isa::mul(Isa::load(p + (first + r) * kPage + v * Isa::lanes), Isa::load(present + v * Isa::lanes));
                squares[r] = Isa::fma(weight, weight, squares[r]);
            }
        alignas(64) float inverse[Isa::lanes], sums[Isa::lanes] = {};
        Isa::sums(squares, some, sums);
        const F norm = Isa::sqrt(Isa::load(sums)), bound = Isa::set1(kWeightNorm);
        Isa::store(to.scales + first, Isa::div(norm, bound));
        Isa::store(inverse, Isa::zero_below(norm, kLeastNorm, Isa::div(bound, norm)));
        for (int r = 0; r < some; r++) {
            typename Isa::A integers[vectors];
            for (int v = 0; v < vectors; v++) {
                const F weight = Isa::mul(Isa::load(p + (first + r) * kPage + v * Isa::lanes), Isa::load(present + v * Isa::lanes));
                integers[v] = Isa::to_integers(Isa::mul(weight, Isa::set1(inverse[r])));
            }
            Isa::store_int16(to.integers[first + r], integers);
        }
    }
}

template <class I, int rows, int vectors>
inline void block_values_int16(const PageWeights& weights, int from, int count, const std::uint8_t* values, int row, const void* next, float* y,
                               std::int64_t stride) {
    typename I::A total[rows][vectors];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) total[r][v] = I::zero_sum();
    for (int pair = 0; pair < (count + 1) / 2; pair++) {
        const std::int64_t at = 4 * static_cast<std::int64_t>(pair) * row;
        if (next) prefetch(next, at, 4 * vectors * I::lanes);
        typename I::C value[vectors];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) value[v] = I::codes(values + at + 4 * v * I::lanes);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) total[r][v] = I::add_pair(total[r][v], value[v], weights.integers[from + r] + 2 * pair);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            float* at = y + r * stride + v * I::lanes;
            I::store(at, I::fma(I::to_float(total[r][v]), I::set1(weights.scales[from + r]), I::load(at)));
        }
}

template <class I>
void page_values_int16(const float* p, int rows, int count, const void* values, const float* scales, int row, const void* next, float* y,
                       std::int64_t stride) {
    if (next) prefetch(next, 2 * kPage * static_cast<std::int64_t>(row), 2 * kPage * sizeof(float));  // the scales behind the values
    PageWeights weights;
    round_weights(p, rows, count, scales, weights);
    const auto columns = [&](int first, auto vectors) {
        const auto* from = static_cast<const std::uint8_t*>(values) + 4 * first;
        const auto* after = next ? static_cast<const std::uint8_t*>(next) + 4 * first : nullptr;
        each_row_block<I::lanes == 16 ? 6 : 3>(rows, [&](auto block, int r) {
            block_values_int16<I, block(), vectors()>(weights, r, count, from, row, r ? nullptr : after, y + r * stride + first, stride);
        });
    };
    int first = 0;
    for (; first + 4 * I::lanes <= row; first += 4 * I::lanes) columns(first, std::integral_constant<int, 4>());
    for (; first < row; first += I::lanes) columns(first, std::integral_constant<int, 1>());
}

}  // namespace
}  // namespace ordito
