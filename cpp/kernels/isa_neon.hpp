// NEON with the dot product of Armv8.2: 4 rows at once.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace ordito {
namespace {

struct Isa {
    static constexpr int lanes = 4;
    static constexpr bool unsigned_dot = false;
    static constexpr bool int16_pairs = false;
    static constexpr bool int16_products = false;  // they are no faster than those of fp32
    static constexpr int max_tokens = 8;
    static constexpr bool token_by_token = false;

    using F = float32x4_t;
    using C = int8x16_t;
    using A = int32x4_t;

    static F zero() { return vdupq_n_f32(0); }
    static F set1(float x) { return vdupq_n_f32(x); }
    static F load(const float* p) { return vld1q_f32(p); }
    static F load_f16(const std::uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
    static F load_bf16(const std::uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
    static F load_u8(const std::uint8_t* p) {
        std::uint32_t bits;
        std::memcpy(&bits, p, 4);
        return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bits)))));
    }
    static F load_i8(const std::int8_t* p) {
        std::uint32_t bits;
        std::memcpy(&bits, p, 4);
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(bits)))));
    }
    static void store(float* p, F x) { vst1q_f32(p, x); }
    static void store_f16(std::uint16_t* p, F x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
    static void store_bf16(std::uint16_t* p, F x) {  // rounded to nearest even; NaN stays NaN
        const uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        vst1_u16(p, vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, vorrq_u32(bits, vdupq_n_u32(0x400000))), 16));
    }
    static F add(F a, F b) { return vaddq_f32(a, b); }
    static F sub(F a, F b) { return vsubq_f32(a, b); }
    static F mul(F a, F b) { return vmulq_f32(a, b); }
    static F div(F a, F b) { return vdivq_f32(a, b); }
    static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
    static F min(F a, F b) { return vminq_f32(a, b); }
    static F sqrt(F x) { return vsqrtq_f32(x); }
    static F max(F a, F b) { return vmaxq_f32(a, b); }
    static F abs(F a) { return vabsq_f32(a); }
    static F negative(F a) { return vnegq_f32(a); }
    static F round(F a) { return vrndnq_f32(a); }
    static F where_negative(F x, F yes, F no) { return vbslq_f32(vcltzq_s32(vreinterpretq_s32_f32(x)), yes, no); }
    static F zero_below(F x, float least, F y) {
        return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(x, set1(least))));
    }
    // x * 2^n, where the integer n is in the low bits of its float (`exponential`).
    static F times_power_of_two(F x, F n) {
        return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), vshlq_n_s32(vreinterpretq_s32_f32(n), 23)));
    }
    static float sum(F a) { return vaddvq_f32(a); }
    static float largest(F a) { return vmaxvq_f32(a); }

    // The sum and the maximum of each of n vectors.
    static void sums(const F* x, int n, float* y) {
        for (int i = 0; i < n; i++) y[i] = sum(x[i]);
    }
    static void largests(const F* x, int n, float* y) {
        for (int i = 0; i < n; i++) y[i] = largest(x[i]);
    }

    // Which four neighbours (0 to 7) hold the largest magnitude, `most`; `next` is the largest magnitude of the other 28.
    static int find_outliers(const float* x, float& most, float& next) {
        int place = 0;
        most = next = 0;
        for (int i = 0; i < 8; i++) {
            const float greatest = largest(abs(load(x + 4 * i)));
            if (greatest > most) next = most, most = greatest, place = i;
            else if (greatest > next) next = greatest;
        }
        return place;
    }

    // Transposes 4 vectors.
    static void transpose(F* x) {
        const float32x4x2_t upper = vtrnq_f32(x[0], x[1]), lower = vtrnq_f32(x[2], x[3]);
        for (int j = 0; j < 2; j++) {
            x[j] = vcombine_f32(vget_low_f32(upper.val[j]), vget_low_f32(lower.val[j]));
            x[2 + j] = vcombine_f32(vget_high_f32(upper.val[j]), vget_high_f32(lower.val[j]));
        }
    }

    static C codes(const std::uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }
    static C broadcast(int byte) { return vdupq_n_s8(static_cast<std::int8_t>(byte)); }
    static C bit_and(C a, C b) { return vandq_s8(a, b); }
    static C bit_or(C a, C b) { return vorrq_s8(a, b); }
    template <int n>
    static C shift_right(C a) {
        if constexpr (n == 0) return a;
        else return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(a), n));
    }
    template <int n>
    static C shift_left(C a) { return vshlq_n_s8(a, n); }
    static C dot_operand(C a) { return a; }
    // The upper bits of codes + 128 as an operand of `dot`.
    static C upper_dot_operand(C a) { return veorq_s8(a, broadcast(0x88)); }
    static C lookup(C table, C index) { return vqtbl1q_s8(table, vreinterpretq_u8_s8(index)); }
    static C table(const std::int8_t* levels, int) { return vld1q_s8(levels); }

    template <int n, int max_code, int max_x, int times>
    static A dot(A total, const C* w, const std::int8_t* x) {
        for (int c = 0; c < n; c++) {
            std::int32_t bits;
            std::memcpy(&bits, x + 4 * c, 4);
            total = vdotq_s32(total, w[c], vreinterpretq_s8_s32(vdupq_n_s32(bits)));
        }
        return vshlq_n_s32(total, __builtin_ctz(times));
    }
    static A zero_sum() { return vdupq_n_s32(0); }
    static F to_float(A a) { return vcvtq_f32_s32(a); }
    static A to_integers(F a) { return vcvtnq_s32_f32(a); }  // rounded to nearest even
    static A add(A a, A b) { return vaddq_s32(a, b); }
    static A sub(A a, A b) { return vsubq_s32(a, b); }
    static A max(A a, A b) { return vmaxq_s32(a, b); }
    static A set1_integer(std::int32_t a) { return vdupq_n_s32(a); }
    template <int n>
    static A times_power_of_two(A a) { return vshlq_n_s32(a, n); }
    static void store(std::int32_t* p, A x) { vst1q_s32(p, x); }
    static A magnitude_bits(F a) { return vreinterpretq_s32_f32(vabsq_f32(a)); }
    static F as_float(A a) { return vreinterpretq_f32_s32(a); }
    // What `join` makes of all lanes of each of four vectors, one a lane.
    template <class Join>
    static A reduce_four(const A* x, Join join) {
        const auto pairs = [&](A a, A b) { return join(vzip1q_s32(a, b), vzip2q_s32(a, b)); };
        const A even = pairs(x[0], x[2]), odd = pairs(x[1], x[3]);  // vectors 0 2 0 2, and 1 3 1 3
        return pairs(even, odd);
    }
    // Stores 32 integers as int16, saturated.
    static void store_int16(std::int16_t* p, const A* x) {
        for (int i = 0; i < 8; i += 2) vst1q_s16(p + 4 * i, words(x + i));
    }
    // Stores 32 integers as codes of 8 bits, saturated.
    static void store_codes(std::int8_t* p, const A* x) {
        for (int i = 0; i < 8; i += 4) vst1q_s8(p + 4 * i, narrow(words(x + i), words(x + i + 2)));
    }
    // Stores 32 integers as high digits, then low ones.
    static void store_digits(std::int8_t* p, const A* x) {
        for (int i = 0; i < 8; i += 4) {
            const int16x8_t all[2] = {words(x + i), words(x + i + 2)};
            const int16x8_t high[2] = {vrshrq_n_s16(all[0], 4), vrshrq_n_s16(all[1], 4)};
            vst1q_s8(p + 4 * i, narrow(high[0], high[1]));
            vst1q_s8(p + 32 + 4 * i, narrow(vsubq_s16(all[0], vshlq_n_s16(high[0], 4)), vsubq_s16(all[1], vshlq_n_s16(high[1], 4))));
        }
    }

    template <int j, bool is_signed>
    static F column(C w) {
        const int32x4_t words = vreinterpretq_s32_s8(w);
        return vcvtq_f32_s32(vshrq_n_s32(vshlq_n_s32(words, 24 - 8 * j), 24));  // unsigned codes have at most 7 bits
    }

  private:
    static int16x8_t words(const A* x) { return vcombine_s16(vqmovn_s32(x[0]), vqmovn_s32(x[1])); }
    static int8x16_t narrow(int16x8_t a, int16x8_t b) { return vcombine_s8(vqmovn_s16(a), vqmovn_s16(b)); }
};

}  // namespace
}  // namespace ordito
