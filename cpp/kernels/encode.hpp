// Encoding of weights: codes and scales that minimize the squared error, each column weighted by its importance (or by 1).
// Every format is one of two fits, a scale or a scale and a minimum, for one block or for the groups of a superblock, whose
// scales are themselves integer multiples of one scale. Fits alternate as k-means does: codes for given scales, then scales for
// given codes by least squares. The loops are plain for the compiler to vectorize, with sums in the order that `omp simd`
// leaves to it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels.hpp"

namespace ordito {
namespace {

// Rounds magnitudes below 2^22 to the nearest integer: what does not fit into the mantissa is rounded away.
inline float whole(float v) { return (v + 12582912.f) - 12582912.f; }

inline float stored_half(float v) { return half_to_float(float_to_half(v)); }

// The levels of a format: the numbers that its codes stand for before scaling.
template <int low, int high>
struct UniformLevels {
    static constexpr float kLow = low, kHigh = high;
    static float nearest(float v) { return whole(std::min(std::max(v, kLow), kHigh)); }
    static constexpr int code(float level) { return static_cast<int>(level) - low; }
};

struct Iq4Levels {  // of IQ4_NL and IQ4_XS
    static constexpr float kLow = kIq4[0], kHigh = kIq4[15];
    static float nearest(float v) { return above(v, std::make_index_sequence<15>()); }
    // The lowest level, plus a step for each midpoint between levels that v exceeds.
    template <std::size_t... i>
    static float above(float v, std::index_sequence<i...>) {
        return kLow + (... + (v > 0.5f * (kIq4[i] + kIq4[i + 1]) ? static_cast<float>(kIq4[i + 1] - kIq4[i]) : 0.f));
    }
    static constexpr int code(float level) { return static_cast<int>(std::find(kIq4, kIq4 + 16, static_cast<int>(level)) - kIq4); }
};

struct E2m1Levels {  // of MXFP4, doubled
    static float nearest(float v) {
        const float a = std::min(std::abs(v), 12.f);
        const float near = a <= 4.f ? whole(a) : a <= 8.f ? 2.f * whole(0.5f * a) : 4.f * whole(0.25f * a);
        return std::copysign(near, v);
    }
    static constexpr int code(float level) {
        const int place = static_cast<int>(std::find(kMxfp4, kMxfp4 + 8, static_cast<int>(std::abs(level))) - kMxfp4);
        return level < 0 ? place + 8 : place;
    }
};

// Rounds each number to the nearest `level`; returns the error, Σ w (x - scale * level - low)².
template <class Levels, int n>
float nearest_levels(const float* x, const float* w, float scale, float low, float* level) {
    const float inverse = scale ? 1.f / scale : 0.f;
    float error = 0;
#pragma omp simd reduction(+ : error)
    for (int i = 0; i < n; i++) {
        level[i] = Levels::nearest((x[i] - low) * inverse);
        const float miss = x[i] - scale * level[i] - low;
        error += w[i] * miss * miss;
    }
    return error;
}

// The scale with the least Σ w (x - scale * level)² among candidates: those that map the extreme number near either end of the
// levels, inside or beyond it, then the least-squares scales that follow from the best.
template <class Levels, int n>
float fit_scale(const float* x, const float* w) {
    float extreme = 0;
    for (int i = 0; i < n; i++) extreme = std::abs(x[i]) > std::abs(extreme) ? x[i] : extreme;
    if (extreme == 0) return 0;
    float best = 0, gain = 0;  // gain: how much the error is below that of all zeros
    const auto attempt = [&](float inverse) {
        float xl = 0, ll = 0;
#pragma omp simd reduction(+ : xl, ll)
        for (int i = 0; i < n; i++) {
            const float level = Levels::nearest(x[i] * inverse);
            xl += w[i] * x[i] * level;
            ll += w[i] * level * level;
        }
        if (ll > 0 && xl * xl > gain * ll) gain = xl * xl / ll, best = xl / ll;
    };
    constexpr bool few = Levels::code(Levels::kHigh) < 16;  // then the end that reaches further is not always better
    const float step = Levels::kLow / (Levels::kLow < -16 ? 120.f : 60.f);
    for (int i = -10; i <= 14; i++) {
        attempt((Levels::kLow + i * step) / extreme);
        if (few) attempt(-(Levels::kLow + i * step) / extreme);
    }
    for (int i = 0; i < 4 && best != 0; i++) {
        const float before = best;
        attempt(1.f / best);
        if (best == before) break;
    }
    return best;
}

struct Affine {
    float scale, low;  // number ~ scale * code + low
};

// The fit with the least Σ w (x - scale * code - low)² for codes from 0 to `high`; with `below`, low is at most 0.
template <int high, int n>
Affine fit_affine(const float* x, const float* w, bool below) {
    using Levels = UniformLevels<0, high>;
    float least = x[0], most = x[0], sw = 0, sx = 0;
    for (int i = 0; i < n; i++) {
        least = std::min(least, x[i]);
        most = std::max(most, x[i]);
        sw += w[i];
        sx += w[i] * x[i];
    }
    if (below) least = std::min(least, 0.f);
    if (most <= least) return {0, least};
    Affine best{0, below ? std::min(sx / sw, 0.f) : sx / sw};
    float gain = 2 * best.low * sx - best.low * best.low * sw;
    const auto attempt = [&](float inverse, float shift) {
        float sq = 0, sqq = 0, sxq = 0;
#pragma omp simd reduction(+ : sq, sqq, sxq)
        for (int i = 0; i < n; i++) {
            const float q = Levels::nearest((x[i] - least) * inverse - shift);
            sq += w[i] * q;
            sqq += w[i] * q * q;
            sxq += w[i] * x[i] * q;
        }
        const float determinant = sw * sqq - sq * sq;
        Affine found{0, 0};
        if (determinant > 1e-6f * sw * sqq) found = {(sw * sxq - sx * sq) / determinant, (sqq * sx - sq * sxq) / determinant};
        if (below && (found.low > 0 || determinant <= 1e-6f * sw * sqq)) found = {sqq > 0 ? sxq / sqq : 0.f, 0};
        const float got = 2 * (found.scale * sxq + found.low * sx) - found.scale * found.scale * sqq -
                          2 * found.scale * found.low * sq - found.low * found.low * sw;
        if (found.scale > 0 && got > gain) gain = got, best = found;
    };
    const float width = most - least;
    for (int i = -8; i <= 12; i++) {
        const float excess = 0.1f * i * (high > 4 ? 1.f : 0.5f);
        attempt((high + excess) / width, 0);
        if (i > 0) attempt((high + excess) / width, 0.5f * excess), attempt((high + excess) / width, excess);
    }
    for (int i = 0; i < 5 && best.scale > 0; i++) {
        const Affine before = best;
        attempt(1.f / before.scale, (before.low - least) / before.scale);
        if (best.scale == before.scale && best.low == before.low) break;
    }
    return best;
}

inline void store_f16(std::uint8_t* at, float value) {
    const std::uint16_t bits = float_to_half(value);
    std::memcpy(at, &bits, 2);
}

// Packs 4-bit codes: byte j of 16 holds codes j and j + 16. Bit 4 of each code goes to `fifth`, if given.
inline void pack_nibbles(std::uint8_t* at, const int* code, std::uint8_t* fifth = nullptr) {
    std::uint32_t upper = 0;
    for (int j = 0; j < 16; j++) {
        at[j] = static_cast<std::uint8_t>((code[j] & 15) | (code[j + 16] & 15) << 4);
        upper |= static_cast<std::uint32_t>(code[j] >> 4) << j | static_cast<std::uint32_t>(code[j + 16] >> 4) << (j + 16);
    }
    if (fifth) std::memcpy(fifth, &upper, 4);
}

// Q4_0, Q5_0, IQ4_NL: one scale for 32 numbers.
template <class Levels, bool five>
void encode_scaled(const float* x, const float* w, std::uint8_t* out) {
    const float scale = stored_half(fit_scale<Levels, 32>(x, w));
    float level[32];
    nearest_levels<Levels, 32>(x, w, scale, 0, level);
    int code[32];
    for (int i = 0; i < 32; i++) code[i] = Levels::code(level[i]);
    store_f16(out, scale);
    pack_nibbles(out + (five ? 6 : 2), code, five ? out + 2 : nullptr);
}

// Q4_1, Q5_1: one scale and one minimum for 32 numbers.
template <int high>
void encode_affine(const float* x, const float* w, std::uint8_t* out) {
    Affine line = fit_affine<high, 32>(x, w, false);
    line = {stored_half(line.scale), stored_half(line.low)};
    float level[32];
    nearest_levels<UniformLevels<0, high>, 32>(x, w, line.scale, line.low, level);
    int code[32];
    for (int i = 0; i < 32; i++) code[i] = static_cast<int>(level[i]);
    store_f16(out, line.scale);
    store_f16(out + 2, line.low);
    pack_nibbles(out + (high > 15 ? 8 : 4), code, high > 15 ? out + 4 : nullptr);
}

// Q8_0: scale = largest magnitude / 127, codes rounded to nearest with halves away from zero: bit for bit what llama.cpp
// writes.
inline void encode_q8_0(const float* x, const float*, std::uint8_t* out) {
    float most = 0;
    for (int i = 0; i < 32; i++) most = std::max(most, std::abs(x[i]));
    const float scale = most / 127.f, inverse = scale ? 1.f / scale : 0.f;
    store_f16(out, scale);
    for (int i = 0; i < 32; i++) out[2 + i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(std::round(x[i] * inverse)));
}

// MXFP4: a power of two for 32 numbers, the best of the one that just holds the largest and its two neighbours.
inline void encode_mxfp4(const float* x, const float* w, std::uint8_t* out) {
    float most = 0, level[32];
    for (int i = 0; i < 32; i++) most = std::max(most, std::abs(x[i]));
    const int middle = most > 0 ? std::ilogb(most) - 2 + 127 : 0;
    int best = 0;
    float least = INFINITY;
    for (int e = std::max(middle - 1, 0); e <= std::min(middle + 1, 254); e++) {
        const float error = nearest_levels<E2m1Levels, 32>(x, w, std::ldexp(1.f, e - 128), 0, level);
        if (error < least) least = error, best = e;
    }
    nearest_levels<E2m1Levels, 32>(x, w, std::ldexp(1.f, best - 128), 0, level);
    int code[32];
    for (int i = 0; i < 32; i++) code[i] = E2m1Levels::code(level[i]);
    out[0] = static_cast<std::uint8_t>(best);
    pack_nibbles(out + 1, code);
}

// A superblock of `groups` whose scales are integers from `least` to `most` times one scale: number ~ d * s * level.
template <class Levels, int groups, int least, int most>
struct ScaledSuperblock {
    static constexpr int n = kSuper / groups;
    float d = 0;
    int s[groups] = {};
    float level[kSuper] = {};

    ScaledSuperblock(const float* x, const float* w) {
        float scale[groups], extreme = 0;
        for (int g = 0; g < groups; g++) {
            scale[g] = fit_scale<Levels, n>(x + g * n, w + g * n);
            if (std::abs(scale[g]) > std::abs(extreme)) extreme = scale[g];
        }
        if (extreme == 0) return;
        float error = INFINITY;
        for (int reach = 0; reach < 3; reach++) error = take_better(x, w, stored_half(extreme / (least + 0.5f * reach)), scale, error);
        for (int turn = 0; turn < 2; turn++) {
            float xl = 0, ll = 0;
            for (int i = 0; i < kSuper; i++) {
                const float unit = s[i / n] * level[i];
                xl += w[i] * x[i] * unit;
                ll += w[i] * unit * unit;
            }
            const float before = error;
            if (ll > 0) error = take_better(x, w, stored_half(xl / ll), scale, error);
            if (error == before) break;
        }
    }

  private:
    // Fits the groups with `unit` as the scale of scales, and keeps that if its error is less than `error`. Returns the lesser
    // error.
    float take_better(const float* x, const float* w, float unit, const float* scale, float error) {
        if (unit == 0) return error;
        int found[groups];
        float levels[kSuper], total = 0;
        for (int g = 0; g < groups; g++) {
            float lowest = INFINITY, some[n];
            const int near = static_cast<int>(std::lround(scale[g] / unit));
            for (int at = std::max(near - 1, least); at <= std::min(near + 1, most); at++) {
                const float group_error = nearest_levels<Levels, n>(x + g * n, w + g * n, unit * at, 0, some);
                if (group_error >= lowest) continue;
                lowest = group_error, found[g] = at;
                std::copy(some, some + n, levels + g * n);
            }
            if (lowest == INFINITY) {  // near is outside of the range of s
                found[g] = std::clamp(near, least, most);
                lowest = nearest_levels<Levels, n>(x + g * n, w + g * n, unit * found[g], 0, levels + g * n);
            }
            total += lowest;
        }
        if (!(total < error)) return error;
        d = unit;
        std::copy(found, found + groups, s);
        std::copy(levels, levels + kSuper, level);
        return total;
    }
};

// A superblock of `groups` whose scales and minima are integers up to `most`: number ~ d * s * code - dmin * m.
template <int high, int groups, int most>
struct AffineSuperblock {
    static constexpr int n = kSuper / groups;
    float d = 0, dmin = 0;
    int s[groups] = {}, m[groups] = {};
    float level[kSuper] = {};

    AffineSuperblock(const float* x, const float* w) {
        Affine line[groups];
        float scale = 0, low = 0;
        for (int g = 0; g < groups; g++) {
            line[g] = fit_affine<high, n>(x + g * n, w + g * n, true);
            scale = std::max(scale, line[g].scale);
            low = std::max(low, -line[g].low);
        }
        if (scale == 0 && low == 0) return;
        float error = take_better(x, w, stored_half(scale / most), stored_half(low / most), line, INFINITY);
        for (int turn = 0; turn < 3; turn++) {
            // Least squares of x ~ d a - dmin b with a = s * code, b = m.
            float aa = 0, bb = 0, ab = 0, xa = 0, xb = 0;
            for (int i = 0; i < kSuper; i++) {
                const float a = s[i / n] * level[i], b = static_cast<float>(m[i / n]);
                aa += w[i] * a * a;
                bb += w[i] * b * b;
                ab += w[i] * a * b;
                xa += w[i] * x[i] * a;
                xb += w[i] * x[i] * b;
            }
            const float determinant = aa * bb - ab * ab, before = error;
            float next = aa > 0 ? xa / aa : 0.f, next_min = 0;
            if (determinant > 1e-6f * aa * bb) next = (xa * bb - xb * ab) / determinant, next_min = (xa * ab - xb * aa) / determinant;
            if (next > 0 && next_min >= 0) error = take_better(x, w, stored_half(next), stored_half(next_min), line, error);
            if (error == before) break;
        }
    }

  private:
    float take_better(const float* x, const float* w, float unit, float unit_min, const Affine* line, float error) {
        int found[groups], found_min[groups];
        float levels[kSuper], total = 0;
        for (int g = 0; g < groups; g++) {
            const int near = unit ? std::min(static_cast<int>(std::lround(line[g].scale / unit)), most) : 0;
            const int near_min = unit_min ? std::min(static_cast<int>(std::lround(-line[g].low / unit_min)), most) : 0;
            float lowest = INFINITY, some[n];
            for (int at = std::max(near - 1, 0); at <= std::min(near + 1, most); at++)
                for (int below = std::max(near_min - 1, 0); below <= std::min(near_min + 1, most); below++) {
                    const float group_error = nearest_levels<UniformLevels<0, high>, n>(x + g * n, w + g * n, unit * at, -unit_min * below, some);
                    if (group_error >= lowest) continue;
                    lowest = group_error, found[g] = at, found_min[g] = below;
                    std::copy(some, some + n, levels + g * n);
                }
            total += lowest;
        }
        if (!(total < error)) return error;
        d = unit, dmin = unit_min;
        std::copy(found, found + groups, s);
        std::copy(found_min, found_min + groups, m);
        std::copy(levels, levels + kSuper, level);
        return total;
    }
};

// Packs 2-bit codes: byte l of 32 holds codes l, l + 32, l + 64 and l + 96 of 128.
inline void pack_2bit(std::uint8_t* at, const int* code) {
    for (int half = 0; half < 2; half++)
        for (int l = 0; l < 32; l++) {
            const int* c = code + 128 * half + l;
            at[32 * half + l] = static_cast<std::uint8_t>((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6);
        }
}

inline void encode_q2_k(const float* x, const float* w, std::uint8_t* out) {
    const AffineSuperblock<3, 16, 15> found(x, w);
    int code[kSuper];
    std::copy(found.level, found.level + kSuper, code);
    for (int g = 0; g < 16; g++) out[g] = static_cast<std::uint8_t>(found.s[g] | found.m[g] << 4);
    pack_2bit(out + 16, code);
    store_f16(out + 80, found.d);
    store_f16(out + 82, found.dmin);
}

inline void encode_q3_k(const float* x, const float* w, std::uint8_t* out) {
    const ScaledSuperblock<UniformLevels<-4, 3>, 16, -32, 31> found(x, w);
    std::memset(out, 0, 110);
    int code[kSuper];
    for (int i = 0; i < kSuper; i++) {
        code[i] = UniformLevels<-4, 3>::code(found.level[i]);
        out[i % 32] = static_cast<std::uint8_t>(out[i % 32] | (code[i] >> 2) << (i / 32));
    }
    pack_2bit(out + 32, code);
    std::uint8_t* scales = out + 96;
    for (int g = 0; g < 16; g++) {
        const int s = found.s[g] + 32;
        scales[g % 8] = static_cast<std::uint8_t>(scales[g % 8] | (s & 15) << (g < 8 ? 0 : 4));
        scales[8 + g % 4] = static_cast<std::uint8_t>(scales[8 + g % 4] | (s >> 4) << (2 * (g / 4)));
    }
    store_f16(out + 108, found.d);
}

// Q4_K and Q5_K.
template <int high>
void encode_q45_k(const float* x, const float* w, std::uint8_t* out) {
    const AffineSuperblock<high, 8, 63> found(x, w);
    std::memset(out, 0, 16);
    store_f16(out, found.d);
    store_f16(out + 2, found.dmin);
    std::uint8_t* scales = out + 4;
    for (int g = 0; g < 8; g++) {
        const int s = found.s[g], m = found.m[g];
        if (g < 4) {
            scales[g] = static_cast<std::uint8_t>(scales[g] | s);
            scales[g + 4] = static_cast<std::uint8_t>(scales[g + 4] | m);
        } else {
            scales[g + 4] = static_cast<std::uint8_t>((s & 15) | (m & 15) << 4);
            scales[g - 4] = static_cast<std::uint8_t>(scales[g - 4] | (s >> 4) << 6);
            scales[g] = static_cast<std::uint8_t>(scales[g] | (m >> 4) << 6);
        }
    }
    std::uint8_t* upper = out + 16;
    std::uint8_t* lower = out + (high > 15 ? 48 : 16);
    if (high > 15) std::memset(upper, 0, 32);
    for (int g = 0; g < 8; g++)
        for (int l = 0; l < 32; l++) {
            const int code = static_cast<int>(found.level[32 * g + l]);
            std::uint8_t& byte = lower[32 * (g / 2) + l];
            byte = static_cast<std::uint8_t>(g % 2 ? byte | (code & 15) << 4 : code & 15);
            if (high > 15) upper[l] = static_cast<std::uint8_t>(upper[l] | (code >> 4) << g);
        }
}

inline void encode_q6_k(const float* x, const float* w, std::uint8_t* out) {
    const ScaledSuperblock<UniformLevels<-32, 31>, 16, -128, 127> found(x, w);
    int code[kSuper], top[kSuper];
    for (int i = 0; i < kSuper; i++) {
        code[i] = UniformLevels<-32, 31>::code(found.level[i]);
        top[i] = code[i] >> 4;
    }
    for (int half = 0; half < 2; half++)
        for (int l = 0; l < 64; l++) {
            const int* c = code + 128 * half + l;
            out[64 * half + l] = static_cast<std::uint8_t>((c[0] & 15) | (c[64] & 15) << 4);
        }
    pack_2bit(out + 128, top);
    for (int g = 0; g < 16; g++) out[192 + g] = static_cast<std::uint8_t>(static_cast<std::int8_t>(found.s[g]));
    store_f16(out + 208, found.d);
}

inline void encode_iq4_xs(const float* x, const float* w, std::uint8_t* out) {
    const ScaledSuperblock<Iq4Levels, 8, -32, 31> found(x, w);
    std::memset(out, 0, 8);
    store_f16(out, found.d);
    std::uint16_t upper = 0;
    for (int g = 0; g < 8; g++) {
        const int s = found.s[g] + 32;
        out[4 + g / 2] = static_cast<std::uint8_t>(out[4 + g / 2] | (s & 15) << (4 * (g % 2)));
        upper = static_cast<std::uint16_t>(upper | (s >> 4) << (2 * g));
        int code[32];
        for (int i = 0; i < 32; i++) code[i] = found.d == 0 ? 0 : Iq4Levels::code(found.level[32 * g + i]);
        pack_nibbles(out + 8 + 16 * g, code);
    }
    std::memcpy(out + 2, &upper, 2);
}

// By Format, for the formats of files.
constexpr EncodeBlock kEncoders[] = {
    nullptr, nullptr, nullptr, encode_scaled<UniformLevels<-8, 7>, false>, encode_affine<15>, encode_scaled<UniformLevels<-16, 15>, true>,
    encode_affine<31>, encode_q8_0, encode_q2_k, encode_q3_k, encode_q45_k<15>, encode_q45_k<31>, encode_q6_k,
    encode_scaled<Iq4Levels, false>, encode_iq4_xs, encode_mxfp4,
};

}  // namespace
}  // namespace ordito
