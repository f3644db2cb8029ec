// Products of packed weights and activations, for the instruction set `Isa`.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels.hpp"

namespace ordito {
namespace {

constexpr int kSubs = kRows / Isa::lanes;  // vectors of a panel's 16 rows
constexpr int kPrefetchAhead = 4096;       // bytes between what is read and what is prefetched

constexpr bool is_signed(Format f) { return layout(f).codes == Codes::signed8 || layout(f).codes == Codes::table || layout(f).codes == Codes::split8; }

// The largest of unsigned codes.
constexpr int max_code(Codes codes) {
    switch (codes) {
        case Codes::bits2: return 3;
        case Codes::bits3: return 7;
        case Codes::bits4: return 15;
        case Codes::bits5: return 31;
        case Codes::bits6: case Codes::split6: return 63;
        default: return 255;
    }
}

// What is added to signed codes where the dot product takes unsigned ones: as little as possible, since sums have to be
// corrected.
constexpr int bias_of(Format f) {
    if (!Isa::unsigned_dot || !is_signed(f)) return 0;
    return layout(f).codes != Codes::table ? 128 : f == Format::mxfp4 ? 12 : 127;
}

constexpr float zero_of(Format f) { return layout(f).zero + bias_of(f); }
constexpr bool has_minimum(Scales s) { return s == Scales::half_min || s == Scales::k32_min || s == Scales::k16_min; }
constexpr bool has_offset(Format f) { return has_minimum(layout(f).scales) || zero_of(f) != 0; }

constexpr int halves_of(Format f) { return layout(f).scales == Scales::k16 || layout(f).scales == Scales::k16_min ? 2 : 1; }

// n where the codes of a tile have one scale, a zero point of 2^n and no minimum: it is subtracted from integer sums. Else -1.
constexpr int zero_shift(Format f) {
    for (int n = 0; n < 8; n++)
        if (halves_of(f) == 1 && !has_minimum(layout(f).scales) && zero_of(f) == 1 << n) return n;
    return -1;
}

// Unpacks the codes of `Isa::lanes` rows of a tile to one a byte. `from` and `lower` point to their first byte and lower bits.
template <Format f>
[[gnu::always_inline]] inline void unpack_codes(const std::uint8_t* from, [[maybe_unused]] const std::uint8_t* lower, typename Isa::C* w) {
    using C = typename Isa::C;
    constexpr Codes codes = layout(f).codes;
    if constexpr (codes == Codes::signed8) {
        for (int c = 0; c < 8; c++) w[c] = Isa::dot_operand(Isa::codes(from + 64 * c));
        return;
    }
    if constexpr (codes == Codes::split8) {
        const C low = Isa::broadcast(15), high = Isa::broadcast(240);
        for (int p = 0; p < 4; p++) {
            const C above = Isa::upper_dot_operand(Isa::codes(from + 64 * p)), below = Isa::codes(lower + 64 * p);
            w[p] = Isa::bit_or(Isa::bit_and(Isa::template shift_left<4>(above), high), Isa::bit_and(below, low));
            w[p + 4] = Isa::bit_or(Isa::bit_and(above, high), Isa::bit_and(Isa::template shift_right<4>(below), low));
        }
        return;
    }
    if constexpr (codes == Codes::split6) {
        const C four = Isa::broadcast(60), two = Isa::broadcast(3);
        for (int p = 0; p < 4; p++) {
            const C above = Isa::codes(from + 64 * p);
            w[p] = Isa::bit_and(Isa::template shift_left<2>(above), four);
            w[p + 4] = Isa::bit_and(Isa::template shift_right<2>(above), four);
        }
        for (int p = 0; p < 2; p++) {
            const C below = Isa::codes(lower + 64 * p);
            w[4 * p] = Isa::bit_or(w[4 * p], Isa::bit_and(below, two));
            w[4 * p + 1] = Isa::bit_or(w[4 * p + 1], Isa::bit_and(Isa::template shift_right<2>(below), two));
            w[4 * p + 2] = Isa::bit_or(w[4 * p + 2], Isa::bit_and(Isa::template shift_right<4>(below), two));
            w[4 * p + 3] = Isa::bit_or(w[4 * p + 3], Isa::bit_and(Isa::template shift_right<6>(below), two));
        }
        return;
    }
    if constexpr (codes == Codes::bits4 || codes == Codes::bits5 || codes == Codes::bits6 || codes == Codes::table) {
        const C low = Isa::broadcast(15);
        for (int p = 0; p < 4; p++) {
            const C packed = Isa::codes(from + 64 * p);
            w[p] = Isa::bit_and(packed, low);
            w[p + 4] = Isa::bit_and(Isa::template shift_right<4>(packed), low);
        }
    }
    if constexpr (codes == Codes::table) {
        const C table = Isa::table(levels(f), bias_of(f));
        for (int c = 0; c < 8; c++) w[c] = Isa::lookup(table, w[c]);
    }
    if constexpr (codes == Codes::bits2 || codes == Codes::bits3) {
        const C low = Isa::broadcast(3);
        for (int p = 0; p < 2; p++) {
            const C packed = Isa::codes(from + 64 * p);
            w[4 * p] = Isa::bit_and(packed, low);
            w[4 * p + 1] = Isa::bit_and(Isa::template shift_right<2>(packed), low);
            w[4 * p + 2] = Isa::bit_and(Isa::template shift_right<4>(packed), low);
            w[4 * p + 3] = Isa::bit_and(Isa::template shift_right<6>(packed), low);
        }
    }
    if constexpr (codes == Codes::bits5) {
        const C packed = Isa::codes(from + 256), bit = Isa::broadcast(16);
        w[0] = Isa::bit_or(w[0], Isa::bit_and(Isa::template shift_left<4>(packed), bit));
        w[1] = Isa::bit_or(w[1], Isa::bit_and(Isa::template shift_left<3>(packed), bit));
        w[2] = Isa::bit_or(w[2], Isa::bit_and(Isa::template shift_left<2>(packed), bit));
        w[3] = Isa::bit_or(w[3], Isa::bit_and(Isa::template shift_left<1>(packed), bit));
        w[4] = Isa::bit_or(w[4], Isa::bit_and(packed, bit));
        w[5] = Isa::bit_or(w[5], Isa::bit_and(Isa::template shift_right<1>(packed), bit));
        w[6] = Isa::bit_or(w[6], Isa::bit_and(Isa::template shift_right<2>(packed), bit));
        w[7] = Isa::bit_or(w[7], Isa::bit_and(Isa::template shift_right<3>(packed), bit));
    }
    if constexpr (codes == Codes::bits3) {
        const C packed = Isa::codes(from + 128), bit = Isa::broadcast(4);
        w[0] = Isa::bit_or(w[0], Isa::bit_and(Isa::template shift_left<2>(packed), bit));
        w[1] = Isa::bit_or(w[1], Isa::bit_and(Isa::template shift_left<1>(packed), bit));
        w[2] = Isa::bit_or(w[2], Isa::bit_and(packed, bit));
        w[3] = Isa::bit_or(w[3], Isa::bit_and(Isa::template shift_right<1>(packed), bit));
        w[4] = Isa::bit_or(w[4], Isa::bit_and(Isa::template shift_right<2>(packed), bit));
        w[5] = Isa::bit_or(w[5], Isa::bit_and(Isa::template shift_right<3>(packed), bit));
        w[6] = Isa::bit_or(w[6], Isa::bit_and(Isa::template shift_right<4>(packed), bit));
        w[7] = Isa::bit_or(w[7], Isa::bit_and(Isa::template shift_right<5>(packed), bit));
    }
    if constexpr (codes == Codes::bits6) {
        const C pair = Isa::broadcast(48);
        for (int p = 0; p < 2; p++) {
            const C packed = Isa::codes(from + 256 + 64 * p);
            w[4 * p] = Isa::bit_or(w[4 * p], Isa::bit_and(Isa::template shift_left<4>(packed), pair));
            w[4 * p + 1] = Isa::bit_or(w[4 * p + 1], Isa::bit_and(Isa::template shift_left<2>(packed), pair));
            w[4 * p + 2] = Isa::bit_or(w[4 * p + 2], Isa::bit_and(packed, pair));
            w[4 * p + 3] = Isa::bit_or(w[4 * p + 3], Isa::bit_and(Isa::template shift_right<2>(packed), pair));
        }
    }
}

// The scales and offsets of a tile, number = scale * code + offset: one of each for 32 columns, or one for each 16.
template <Format f>
struct TileScales {
    typename Isa::F scale[halves_of(f)], offset[halves_of(f)];

    TileScales(const std::uint8_t* super, const std::uint8_t* tile, int row) {
        using F = typename Isa::F;
        constexpr Scales scales = layout(f).scales;
        const auto u16 = [row](const std::uint8_t* at) { return reinterpret_cast<const std::uint16_t*>(at) + row; };
        const auto i8 = [row](const std::uint8_t* at) { return reinterpret_cast<const std::int8_t*>(at) + row; };
        if constexpr (scales == Scales::half || scales == Scales::half_min) scale[0] = Isa::load_f16(u16(tile));
        if constexpr (scales == Scales::half_min) offset[0] = Isa::load_f16(u16(tile + 2 * kRows));
        if constexpr (scales == Scales::bfloat) scale[0] = Isa::load_bf16(u16(tile));
        if constexpr (scales == Scales::k32) scale[0] = Isa::mul(Isa::load_f16(u16(super)), Isa::load_i8(i8(tile)));
        if constexpr (scales == Scales::k32_min) {
            scale[0] = Isa::mul(Isa::load_f16(u16(super)), Isa::load_u8(tile + row));
            offset[0] = Isa::negative(Isa::mul(Isa::load_f16(u16(super + 2 * kRows)), Isa::load_u8(tile + kRows + row)));
        }
        if constexpr (scales == Scales::k16) {
            const F d = Isa::load_f16(u16(super));
            for (int half = 0; half < 2; half++) scale[half] = Isa::mul(d, Isa::load_i8(i8(tile + kRows * half)));
        }
        if constexpr (scales == Scales::k16_min) {
            const F d = Isa::load_f16(u16(super)), m = Isa::load_f16(u16(super + 2 * kRows));
            for (int half = 0; half < 2; half++) {
                std::uint8_t low[Isa::lanes], high[Isa::lanes];
                for (int r = 0; r < Isa::lanes; r++) {
                    low[r] = tile[kRows * half + row + r] & 15;
                    high[r] = tile[kRows * half + row + r] >> 4;
                }
                scale[half] = Isa::mul(d, Isa::load_u8(low));
                offset[half] = Isa::negative(Isa::mul(m, Isa::load_u8(high)));
            }
        }
        if constexpr (!has_minimum(scales))
            for (int half = 0; half < halves_of(f); half++)
                offset[half] = Isa::mul(scale[half], Isa::set1(-zero_of(f)));
    }

    // What multiplies a token's `BlockStats`: the sum of 32 by the last offset, that of the first 16 by what theirs is above it.
    typename Isa::F factor(int half) const { return half + 1 == halves_of(f) ? offset[half] : Isa::sub(offset[half], offset[half + 1]); }
};

inline void write_output(const Output& out, int token, int row, typename Isa::F value) {
    const int present = out.rows - row;
    if (present <= 0) return;
    if (present >= Isa::lanes) {
        if (out.bias) value = Isa::add(value, Isa::load(out.bias + row));
        if (out.add) value = Isa::add(value, Isa::load(out.add + token * out.add_stride + row));
        Isa::store(out.y + token * out.stride + row, value);
        return;
    }
    float values[Isa::lanes];
    Isa::store(values, value);
    for (int r = 0; r < present; r++) {
        if (out.bias) values[r] += out.bias[row + r];
        if (out.add) values[r] += out.add[token * out.add_stride + row + r];
        out.y[token * out.stride + row + r] = values[r];
    }
}

// The integer products of n vectors of a tile's codes, from `first` on, and a token.
template <Format f, int n, Digits digits>
inline typename Isa::A tile_dot(const typename Isa::C* w, const std::int8_t* x, int first) {
    constexpr int most = max_code(layout(f).codes);
    auto sum = Isa::zero_sum();
    if constexpr (digits == Digits::two) {
        sum = Isa::template dot<n, most, 127, kDigitBase>(sum, w + first, x + 4 * first);
        return Isa::template dot<n, most, kDigitBase / 2, 1>(sum, w + first, x + kCols + 4 * first);
    }
    if constexpr (digits == Digits::outliers) {
        Outliers outliers;
        std::memcpy(&outliers, x + kCols, sizeof outliers);
        if (n == 8 || outliers.place / n == first / n) sum = Isa::template dot<1, most, 127, kDigitBase>(sum, w + outliers.place, outliers.codes);
    }
    return Isa::template dot<n, most, 127, 1>(sum, w + first, x + 4 * first);
}

// The same for several tokens, `line` bytes apart. `I` is `Isa`: a template parameter, so that sets without int16 pairs
// compile.
template <Format f, int n, Digits digits, int tokens, int line, class I = Isa>
[[gnu::always_inline]] inline void tile_dots(const typename Isa::C* w, const std::int8_t* x, int first, typename Isa::A* sums) {
    if constexpr (I::int16_pairs && is_signed(f) && tokens > 8) {
        tile_dots<f, n, digits, 8, line, I>(w, x, first, sums);
        tile_dots<f, n, digits, tokens - 8, line, I>(w, x + 8 * line, first, sums + 8);
    } else if constexpr (I::int16_pairs && is_signed(f)) {
        for (int t = 0; t < tokens; t++) sums[t] = I::zero_sum();
        for (int c = first; c < first + n; c++) {
            typename I::C pairs[2];
            I::pairs(w[c], pairs);
#pragma GCC unroll 16
            for (int t = 0; t < tokens; t++) {
                const auto* numbers = reinterpret_cast<const std::int16_t*>(x + t * line + code_bytes(digits)) + 4 * c;
                sums[t] = I::add_pair(I::add_pair(sums[t], pairs[0], numbers), pairs[1], numbers + 2);
            }
        }
    } else {
#pragma GCC unroll 16
        for (int t = 0; t < tokens; t++) sums[t] = tile_dot<f, n, digits>(w, x + t * line, first);
    }
}

// total + the product of a tile, or of one of its halves, and a token: `sum` is that of their integers, `factor` that of
// `TileScales`.
template <Format f>
[[gnu::always_inline]] inline typename Isa::F add_scaled(typename Isa::F total, typename Isa::A sum, typename Isa::F scale, typename Isa::F factor,
                                                         const BlockStats& stats, int half) {
    constexpr int zero = zero_shift(f);
    if constexpr (zero >= 0) sum = Isa::sub(sum, Isa::template times_power_of_two<zero>(Isa::set1_integer(stats.integers)));
    total = Isa::fma(Isa::mul(scale, Isa::set1(stats.scale)), Isa::to_float(sum), total);
    if constexpr (has_offset(f) && zero < 0) total = Isa::fma(factor, Isa::set1(half + 1 == halves_of(f) ? stats.sum : stats.first_half), total);
    return total;
}

// One vector of a panel's rows times `tokens` tokens of one group, from `first` on.
template <Format f, int tokens, Digits digits, class I = Isa>
inline void linear_block(const Panel& panel, const Quantized& x, int first, int sub, const Output& out) {
    using F = typename Isa::F;
    constexpr Layout form = layout(f);
    constexpr int halves = halves_of(f), n = 8 / halves, line = code_bytes(digits) + 2 * Isa::int16_pairs * kCols;
    const int row = sub * Isa::lanes;
    const std::int64_t tiles = x.tiles(), step = x.step(first), stats_step = x.stats_step(first);
    const auto* codes = reinterpret_cast<const std::int8_t*>(x.codes(first));
    const BlockStats* stats = x.stats(first);
    F total[tokens];
    for (int t = 0; t < tokens; t++) total[t] = Isa::zero();
    const std::uint8_t *tile = panel.tiles, *lower = is_split(f) ? panel.lower + 4 * row : nullptr, *super = nullptr;
    for (std::int64_t b = 0; b < tiles; b++) {
        if constexpr (super_bytes(form.scales) > 0)
            if (b % (kSuper / kCols) == 0) super = tile, tile += super_bytes(form.scales);
        typename Isa::C w[8];
        for (int ahead = 0; ahead < tile_bytes(f); ahead += 64) __builtin_prefetch(tile + kPrefetchAhead + ahead);
        for (int ahead = 0; ahead < lower_tile_bytes(f); ahead += 64) __builtin_prefetch(lower + kPrefetchAhead + ahead);
        unpack_codes<f>(tile + scale_bytes(form.scales) + 4 * row, lower, w);
        const TileScales<f> by(super, tile, row);
#pragma GCC unroll 2
        for (int half = 0; half < halves; half++) {
            const F scale = by.scale[half], factor = by.factor(half);
            if constexpr (I::token_by_token) {
#pragma GCC unroll 16
                for (int t = 0; t < tokens; t++) {
                    total[t] = add_scaled<f>(total[t], tile_dot<f, n, digits>(w, codes + t * line, n * half), scale, factor, stats[t], half);
                    I::compute_now(total[t]);
                }
            } else {
                typename I::A sums[tokens];
                tile_dots<f, n, digits, tokens, line>(w, codes, n * half, sums);
#pragma GCC unroll 16
                for (int t = 0; t < tokens; t++) total[t] = add_scaled<f>(total[t], sums[t], scale, factor, stats[t], half);
            }
        }
        tile += tile_bytes(f);
        if constexpr (is_split(f)) lower += lower_tile_bytes(f);
        codes += step, stats += stats_step;
    }
    for (int t = 0; t < tokens; t++) write_output(out, first + t, row, total[t]);
}

// Calls with(first token, count) for the tokens from `t` on: blocks of `most` tokens, and what is left of a group in powers of
// two.
template <int most, class With>
void in_blocks(const Quantized& x, int t, int tokens, With with) {
    static_assert(kGroupTokens % most == 0);
    while (t < tokens) {
        const int some = x.group_size(t) - t % kGroupTokens;
        const auto step = [&](auto count) {
            with(t, count);
            t += count();
        };
        if (some >= most) step(std::integral_constant<int, most>());
        else if (most > 8 && some >= 8) step(std::integral_constant<int, std::min(most, 8)>());
        else if (most > 4 && some >= 4) step(std::integral_constant<int, std::min(most, 4)>());
        else if (some >= 2) step(std::integral_constant<int, 2>());
        else step(std::integral_constant<int, 1>());
    }
}

// A panel times the tokens from `t` on.
template <Format f, Digits digits>
void linear_tokens(const Panel& panel, const Quantized& x, int t, int tokens, const Output& out) {
    in_blocks<Isa::max_tokens>(x, t, tokens, [&](int first, auto count) {
        for (int sub = 0; sub < kSubs; sub++) linear_block<f, count(), digits>(panel, x, first, sub, out);
    });
}

// Multiply-adds of a 4-bit tile with 8 tokens and the conversion of the sums to fp32, without scales (Kernels::peak_loop).
template <Digits digits>
std::int64_t peak_integer(std::int64_t rounds) {
    constexpr int tokens = 8;
    alignas(64) std::uint8_t tile[512];
    alignas(64) std::int8_t x[tokens][code_bytes(digits)];
    for (int i = 0; i < 512; i++) tile[i] = i % 16;
    for (auto& codes : x) {
        for (int i = 0; i < code_bytes(digits); i++) codes[i] = static_cast<std::int8_t>(i % 100 - 50);
        if constexpr (digits == Digits::outliers) {
            const Outliers outliers{{1, 2, 3, 4}, 5, 0};
            std::memcpy(codes + kCols, &outliers, sizeof outliers);
        }
    }
    typename Isa::C w[8];
    for (int c = 0; c < 8; c++) w[c] = Isa::codes(tile + 64 * c);
    typename Isa::F total[tokens];
    for (auto& sum : total) sum = Isa::zero();
    for (std::int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) total[t] = Isa::add(total[t], Isa::to_float(tile_dot<Format::q4_0, 8, digits>(w, x[t], 0)));
        asm volatile("" : : "r"(x), "r"(tile) : "memory");  // or the compiler would compute everything once
    }
    float kept[Isa::lanes];
    for (auto& sum : total) Isa::store(kept, sum);
    asm volatile("" : : "r"(kept) : "memory");
    return static_cast<std::int64_t>(tokens) * kCols * Isa::lanes;
}

std::int64_t peak_f32(std::int64_t rounds) {
    constexpr int sums = 12;
    typename Isa::F total[sums], by = Isa::set1(0.5f);
    for (auto& sum : total) sum = Isa::set1(1.f);
    for (std::int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 12
        for (auto& sum : total) sum = Isa::fma(sum, by, by);
    }
    float kept[Isa::lanes];
    for (auto& sum : total) {
        Isa::store(kept, sum);
        asm volatile("" : : "r"(kept) : "memory");
    }
    return sums * Isa::lanes;
}

template <Format f>
void linear_quantized(const Panel& panel, const Quantized& x, int tokens, const Output& out) {
    if (x.digits == Digits::one) linear_tokens<f, Digits::one>(panel, x, 0, tokens, out);
    else if (x.digits == Digits::outliers) linear_tokens<f, Digits::outliers>(panel, x, 0, tokens, out);
    else linear_tokens<f, Digits::two>(panel, x, 0, tokens, out);
}

template <Format f, int tokens>
inline void bound_block(const std::uint8_t* upper, std::int64_t columns, const float* spreads, const float* estimates, float* most) {
    constexpr int halves = halves_of(f), super_size = super_bytes(layout(f).scales);
    const std::int64_t tiles = columns / kCols;
    for (int sub = 0; sub < kSubs; sub++) {
        typename Isa::F total[tokens];
        for (auto& sum : total) sum = Isa::zero();
        const std::uint8_t *tile = upper, *super = nullptr;
        for (std::int64_t b = 0; b < tiles; b++, tile += tile_bytes(f)) {
            if (super_size && b % (kSuper / kCols) == 0) super = tile, tile += super_size;
            const TileScales<f> by(super, tile, sub * Isa::lanes);
            for (int half = 0; half < halves; half++) {
                const auto square = Isa::mul(by.scale[half], by.scale[half]);
#pragma GCC unroll 8
                for (int t = 0; t < tokens; t++) total[t] = Isa::fma(square, Isa::set1(spreads[(t * tiles + b) * halves + half]), total[t]);
            }
        }
        for (int t = 0; t < tokens; t++) {
            const float of_rows = Isa::largest(Isa::add(Isa::load(estimates + t * kRows + sub * Isa::lanes), Isa::sqrt(total[t])));
            if (sub == 0 || of_rows > most[t]) most[t] = of_rows;
        }
    }
}

template <Format f>
void bound(const std::uint8_t* upper, std::int64_t columns, const float* spreads, const float* estimates, int tokens, float* most) {
    const std::int64_t numbers = halves_of(f) * (columns / kCols);
    int t = 0;
    for (; t + 8 <= tokens; t += 8) bound_block<f, 8>(upper, columns, spreads + t * numbers, estimates + t * kRows, most + t);
    for (; t < tokens; t++) bound_block<f, 1>(upper, columns, spreads + t * numbers, estimates + t * kRows, most + t);
}

template <Format f>
void dequantize_panel(const Panel& panel, std::int64_t columns, float* out) {
    constexpr Layout form = layout(f);
    const std::uint8_t *tile = panel.tiles, *super = nullptr;
    for (std::int64_t b = 0; b < columns / kCols; b++) {
        if constexpr (super_bytes(form.scales) > 0)
            if (b % (kSuper / kCols) == 0) super = tile, tile += super_bytes(form.scales);
        for (int sub = 0; sub < kSubs; sub++) {
            const int row = sub * Isa::lanes;
            typename Isa::C w[8];
            unpack_codes<f>(tile + scale_bytes(form.scales) + 4 * row, is_split(f) ? panel.lower + b * lower_tile_bytes(f) + 4 * row : nullptr, w);
            const TileScales<f> by(super, tile, row);
            float* to = out + b * kCols * kRows + row;
            const auto write = [&](int column, typename Isa::F code) {
                const int half = halves_of(f) == 2 ? column / 16 : 0;
                Isa::store(to + column * kRows, has_offset(f) ? Isa::fma(by.scale[half], code, by.offset[half]) : Isa::mul(by.scale[half], code));
            };
            for (int c = 0; c < 8; c++) {
                write(4 * c, Isa::template column<0, is_signed(f)>(w[c]));
                write(4 * c + 1, Isa::template column<1, is_signed(f)>(w[c]));
                write(4 * c + 2, Isa::template column<2, is_signed(f)>(w[c]));
                write(4 * c + 3, Isa::template column<3, is_signed(f)>(w[c]));
            }
        }
        tile += tile_bytes(f);
    }
}

template <Format f>
inline typename Isa::F load_plain(const std::uint8_t* panel, std::int64_t number) {
    if constexpr (f == Format::f32) return Isa::load(reinterpret_cast<const float*>(panel) + number);
    else if constexpr (f == Format::f16) return Isa::load_f16(reinterpret_cast<const std::uint16_t*>(panel) + number);
    else return Isa::load_bf16(reinterpret_cast<const std::uint16_t*>(panel) + number);
}

template <Format f, int panels, int tokens>
inline void plain_block(const std::uint8_t* const* panel, std::int64_t columns, const float* x, std::int64_t stride, int first,
                        const Output* const* out) {
    using F = typename Isa::F;
    constexpr int vectors = panels * kSubs;
    F total[tokens][vectors];
    for (int t = 0; t < tokens; t++)
        for (int v = 0; v < vectors; v++) total[t][v] = Isa::zero();
    const float* xt = x + first * stride;
    for (std::int64_t k = 0; k < columns; k++) {
        F w[vectors];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) w[v] = load_plain<f>(panel[v / kSubs], k * kRows + v % kSubs * Isa::lanes);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
            const F value = Isa::set1(xt[t * stride + k]);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) total[t][v] = Isa::fma(w[v], value, total[t][v]);
        }
    }
    for (int t = 0; t < tokens; t++)
        for (int v = 0; v < vectors; v++) write_output(*out[v / kSubs], first + t, v % kSubs * Isa::lanes, total[t][v]);
}

template <Format f>
void linear_plain(const std::uint8_t* panel, const std::uint8_t* second, std::int64_t columns, const float* x, std::int64_t stride,
                  int tokens, const Output& out, const Output& second_out) {
    const std::uint8_t* panels[2] = {panel, second};
    const Output* outs[2] = {&out, &second_out};
    // Tokens at once: their sums fill most of the registers, 16 of 32, or 12 of 16.
    constexpr int most = Isa::lanes == 8 ? 6 : 8 / (Isa::lanes == 16 ? 1 : 2);
    int t = 0;
    if (second) {
        if constexpr (Isa::lanes == 16)
            for (; tokens - t >= most; t += most) plain_block<f, 2, most>(panels, columns, x, stride, t, outs);
        for (; tokens - t >= 2 && tokens - t < most; t += 2) plain_block<f, 2, 2>(panels, columns, x, stride, t, outs);
        for (; tokens - t >= 1 && tokens - t < most; t++) plain_block<f, 2, 1>(panels, columns, x, stride, t, outs);
        if (t == tokens) return;
    }
    for (int p = 0; p < (second ? 2 : 1); p++) {
        int u = t;
        for (; tokens - u >= most; u += most) plain_block<f, 1, most>(panels + p, columns, x, stride, u, outs + p);
        for (; tokens - u >= 2; u += 2) plain_block<f, 1, 2>(panels + p, columns, x, stride, u, outs + p);
        for (; u < tokens; u++) plain_block<f, 1, 1>(panels + p, columns, x, stride, u, outs + p);
    }
}

}  // namespace
}  // namespace ordito
