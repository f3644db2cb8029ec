// Attention over pages of the KV cache, for the instruction set `Isa`.
#pragma once

#include <type_traits>

#include "elementwise.hpp"

namespace ordito {
namespace {

template <CacheType type>
inline F load_cached(const void* from, std::int64_t number) {
    if constexpr (type == CacheType::f32) return Isa::load(static_cast<const float*>(from) + number);
    else if constexpr (type == CacheType::f16) return Isa::load_f16(static_cast<const std::uint16_t*>(from) + number);
    else return Isa::load_i8(static_cast<const std::int8_t*>(from) + number);
}

template <CacheType type>
constexpr int cached_bytes() { return type == CacheType::f32 ? 4 : type == CacheType::f16 ? 2 : 1; }

// Prefetches `bytes` of the next page, a little with every step: pages lie anywhere, so the hardware prefetcher cannot guess.
inline void prefetch(const void* next, std::int64_t from, int bytes) {
    for (int line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(next) + from + line, 0, 2);
}

// Calls with(count, first row) for rows in blocks of `most` and one block of the rest, `count` as a compile-time constant: how
// many queries share a key-value head differs from model to model.
template <int most, class With>
inline void each_row_block(int rows, With&& with) {
    int first = 0;
    for (; rows - first >= most; first += most) with(std::integral_constant<int, most>(), first);
    if constexpr (most > 1)
        if (first < rows) each_row_block<most - 1>(rows - first, [&](auto block, int r) { with(block, first + r); });
}

// Rows from which on it pays to convert a page's numbers to fp32 first, and not again for each block of rows.
constexpr int kManyRows = 16;
constexpr int kWideChannels = 128;  // channels of keys that are converted at once: they stay in the L1 cache

// `accumulate`: adds to what is in `scores`.
template <CacheType type, int rows>
inline void block_scores(const float* q, std::int64_t stride, const void* keys, int width, bool accumulate, const void* next, float* scores) {
    constexpr int vectors = kPage / Isa::lanes;
    F total[rows][vectors];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) total[r][v] = accumulate ? Isa::load(scores + r * kPage + v * Isa::lanes) : Isa::zero();
    constexpr int bytes = kPage * cached_bytes<type>();
    for (int h = 0; h < width; h++) {
        if (next) prefetch(next, h * bytes, bytes);
        F key[vectors];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) key[v] = load_cached<type>(keys, h * kPage + v * Isa::lanes);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const F value = Isa::set1(q[r * stride + h]);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) total[r][v] = Isa::fma(key[v], value, total[r][v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) Isa::store(scores + r * kPage + v * Isa::lanes, total[r][v]);
}

template <CacheType type>
void page_scores(const float* q, std::int64_t stride, int rows, const void* keys, const float* scales, int width, const void* next, float* scores) {
    constexpr int most = Isa::lanes == 16 ? 10 : Isa::lanes == 8 ? 3 : 2;
    if (type == CacheType::f32 || rows < kManyRows) {
        each_row_block<most>(rows, [&](auto block, int r) {
            block_scores<type, block()>(q + r * stride, stride, keys, width, false, r ? nullptr : next, scores + r * kPage);
        });
    } else {
        constexpr int bytes = kPage * cached_bytes<type>();
        for (int first = 0; first < width; first += kWideChannels) {
            const int some = width - first < kWideChannels ? width - first : kWideChannels;
            alignas(64) float wide[kWideChannels * kPage];
            for (int h = 0; h < some; h++) {
                if (next) prefetch(next, (first + h) * bytes, bytes);
                for (int i = 0; i < kPage; i += Isa::lanes) Isa::store(wide + h * kPage + i, load_cached<type>(keys, (first + h) * kPage + i));
            }
            each_row_block<most>(rows, [&](auto block, int r) {
                block_scores<CacheType::f32, block()>(q + r * stride + first, stride, wide, some, first > 0, nullptr, scores + r * kPage);
            });
        }
    }
    if constexpr (type == CacheType::q8)
        for (int i = 0; i < rows * kPage; i += Isa::lanes) Isa::store(scores + i, Isa::mul(Isa::load(scores + i), Isa::load(scales + i % kPage)));
}

// Channels `first` to `first` + vectors * lanes of the values, whose rows are `row` numbers apart.
template <CacheType type, int rows, int vectors>
inline void block_values(const float* p, int count, const void* values, const float* scales, int row, int first, const void* next, float* y, std::int64_t stride) {
    F total[rows][vectors];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) total[r][v] = Isa::load(y + r * stride + v * Isa::lanes);
    constexpr int bytes = vectors * Isa::lanes * cached_bytes<type>();
    for (int key = 0; key < count; key++) {
        if (next) prefetch(next, (static_cast<std::int64_t>(key) * row + first) * cached_bytes<type>(), bytes);
        F value[vectors];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) value[v] = load_cached<type>(values, static_cast<std::int64_t>(key) * row + first + v * Isa::lanes);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const float one = scales ? p[r * kPage + key] * scales[key] : p[r * kPage + key];
            const F weight = Isa::set1(one);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) total[r][v] = Isa::fma(value[v], weight, total[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) Isa::store(y + r * stride + v * Isa::lanes, total[r][v]);
}

template <CacheType type, int vectors>
inline void value_columns(const float* p, int rows, int count, const void* values, const float* scales, int row, int first,
                          const void* next, float* y, std::int64_t stride) {
    constexpr int most = Isa::lanes == 16 ? 6 : Isa::lanes == 8 ? 3 : 4, columns = vectors * Isa::lanes;
    if (type == CacheType::f32 || rows < kManyRows) {
        each_row_block<most>(rows, [&](auto block, int r) {
            block_values<type, block(), vectors>(p + r * kPage, count, values, scales, row, first, r ? nullptr : next, y + r * stride + first, stride);
        });
        return;
    }
    alignas(64) float wide[kPage * columns];
    for (int key = 0; key < count; key++) {
        const std::int64_t at = static_cast<std::int64_t>(key) * row + first;
        if (next) prefetch(next, at * cached_bytes<type>(), columns * cached_bytes<type>());
        for (int i = 0; i < columns; i += Isa::lanes) Isa::store(wide + key * columns + i, load_cached<type>(values, at + i));
    }
    each_row_block<most>(rows, [&](auto block, int r) {
        block_values<CacheType::f32, block(), vectors>(p + r * kPage, count, wide, scales, columns, 0, nullptr, y + r * stride + first, stride);
    });
}

// Rows of values are `row` numbers long, padded to a multiple of 16.
template <CacheType type>
void page_values(const float* p, int rows, int count, const void* values, const float* scales, int row, const void* next, float* y,
                 std::int64_t stride) {
    const float* by = type == CacheType::q8 ? scales : nullptr;
    int first = 0;
    for (; first + 4 * Isa::lanes <= row; first += 4 * Isa::lanes) value_columns<type, 4>(p, rows, count, values, by, row, first, next, y, stride);
    for (; first < row; first += Isa::lanes) value_columns<type, 1>(p, rows, count, values, by, row, first, next, y, stride);
}

// As many rows at once as a vector has lanes, since each step reduces a row to one number.
void online_softmax(float* scores, int rows, float* row_max, float* total, float* rescale) {
    constexpr int vectors = kPage / Isa::lanes;
    for (int first = 0; first < rows; first += Isa::lanes) {
        const int some = rows - first < Isa::lanes ? rows - first : Isa::lanes;
        float* block = scores + first * kPage;
        F each[Isa::lanes];
        for (int r = 0; r < Isa::lanes; r++) each[r] = Isa::zero();
        for (int r = 0; r < some; r++) {
            each[r] = Isa::load(block + r * kPage);
            for (int v = 1; v < vectors; v++) each[r] = Isa::max(each[r], Isa::load(block + r * kPage + v * Isa::lanes));
        }
        alignas(64) float now[Isa::lanes], before[Isa::lanes] = {};
        Isa::largests(each, some, now);
        for (int r = 0; r < some; r++) {
            // A row that has seen no key yet has nothing to rescale, and one that sees none in this page stays as it is.
            float& most = row_max[first + r];
            now[r] = now[r] > most ? now[r] : most;
            before[r] = now[r] == -INFINITY ? 0 : most == -INFINITY ? -1000.f : most - now[r];
            most = now[r];
            if (now[r] == -INFINITY) now[r] = 0;
        }
        Isa::store(before, exponential(Isa::load(before)));
        for (int r = 0; r < some; r++) {
            const F by = Isa::set1(now[r]);
            F sum = Isa::zero();
            for (int v = 0; v < vectors; v++) {
                float* at = block + r * kPage + v * Isa::lanes;
                const F p = exponential(Isa::sub(Isa::load(at), by));
                Isa::store(at, p);
                sum = Isa::add(sum, p);
            }
            each[r] = sum;
        }
        alignas(64) float sums[Isa::lanes];
        Isa::sums(each, some, sums);
        for (int r = 0; r < some; r++) {
            rescale[first + r] = before[r];
            total[first + r] = total[first + r] * before[r] + sums[r];
        }
    }
}

inline float largest_magnitude(const float* x, int n) {
    float most = 0;
    for (int i = 0; i < n; i++) most = std::fabs(x[i]) > most ? std::fabs(x[i]) : most;
    return most;
}

template <CacheType type>
inline void store_cached(const float* x, int width, int number, int item_step, int channel_step, void* to, float* scales) {
    if constexpr (type == CacheType::f32) {
        for (int h = 0; h < width; h++) static_cast<float*>(to)[number * item_step + h * channel_step] = x[h];
    } else if constexpr (type == CacheType::f16) {
        for (int h = 0; h < width; h += Isa::lanes) {
            float some[Isa::lanes] = {};
            std::uint16_t half[Isa::lanes];
            const int present = width - h < Isa::lanes ? width - h : Isa::lanes;
            std::memcpy(some, x + h, present * sizeof(float));
            Isa::store_f16(half, Isa::load(some));
            for (int i = 0; i < present; i++) static_cast<std::uint16_t*>(to)[number * item_step + (h + i) * channel_step] = half[i];
        }
    } else {
        const float largest = largest_magnitude(x, width), inverse = largest > 0 ? 127 / largest : 0;
        scales[number] = largest / 127;
        for (int h = 0; h < width; h++)
            static_cast<std::int8_t*>(to)[number * item_step + h * channel_step] = static_cast<std::int8_t>(std::nearbyint(x[h] * inverse));
    }
}

template <CacheType type>
void store_key(const float* x, int width, int number, void* keys, float* scales) {
    store_cached<type>(x, width, number, 1, kPage, keys, scales);
}

// Rows of values are padded to a multiple of 16.
template <CacheType type>
void store_value(const float* x, int width, int number, void* values, float* scales) {
    store_cached<type>(x, width, number, padded_row(width), 1, values, scales);
}

}  // namespace
}  // namespace ordito
