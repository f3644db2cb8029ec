// AVX-512 with VNNI: 16 rows at once.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "outliers.hpp"

namespace ordito {
namespace {

struct Isa {
    static constexpr int lanes = 16;  // floats of a vector, and rows of a vector of codes
    static constexpr bool unsigned_dot = true;  // the dot product takes unsigned codes: signed ones get a bias (`bias_of`)
    static constexpr bool int16_pairs = false;
    static constexpr bool int16_products = true;  // twice as fast as those of fp32
    static constexpr int max_tokens = 16;  // as many as have room for their totals in registers, beside the codes of a tile,
    static constexpr bool token_by_token = true;  // and the sums of one token

    using F = __m512;
    using C = __m512i;
    using A = __m512i;

    static F zero() { return _mm512_setzero_ps(); }
    static F set1(float x) { return _mm512_set1_ps(x); }
    static F load(const float* p) { return _mm512_loadu_ps(p); }
    static F load_f16(const std::uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
    static F load_bf16(const std::uint16_t* p) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
    }
    static F load_u8(const std::uint8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
    static F load_i8(const std::int8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
    static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
    static void store_f16(std::uint16_t* p, F x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    static void store_bf16(std::uint16_t* p, F x) {  // rounded to nearest even; NaN stays NaN
        const __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        const __mmask16 none = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
        const __m512i kept = _mm512_mask_or_epi32(rounded, none, bits, _mm512_set1_epi32(0x400000));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
    }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F div(F a, F b) { return _mm512_div_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static F min(F a, F b) { return _mm512_min_ps(a, b); }
    static F sqrt(F x) { return _mm512_sqrt_ps(x); }
    static F max(F a, F b) { return _mm512_max_ps(a, b); }
    static F abs(F a) { return _mm512_abs_ps(a); }
    static F negative(F a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.f)); }
    static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static F where_negative(F x, F yes, F no) { return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), no, yes); }
    static F zero_below(F x, float least, F y) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, set1(least), _CMP_NLT_UQ), y); }
    // x * 2^n, where the integer n is in the low bits of its float (`exponential`).
    static F times_power_of_two(F x, F n) {
        return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_slli_epi32(_mm512_castps_si512(n), 23)));
    }
    static void compute_now(F& x) { asm("" : "+v"(x)); }  // before anything that follows
    static float sum(F a) { return _mm512_reduce_add_ps(a); }
    static float largest(F a) { return _mm512_reduce_max_ps(a); }

    // The sum and the maximum of each of n vectors: of many at once, by a tree that adds the same pairs, which is half the
    // work.
    static void sums(const F* x, int n, float* y) {
        if (n <= lanes / 2) return each(x, n, y, sum);
        store(y, of_each(x, [](F a, F b) { return _mm512_add_ps(a, b); }));
    }
    static void largests(const F* x, int n, float* y) {
        if (n <= lanes / 2) return each(x, n, y, largest);
        store(y, of_each(x, [](F a, F b) { return _mm512_max_ps(a, b); }));
    }

    static int find_outliers(const float* x, float& most, float& next) { return find_outliers_in_32(x, most, next); }

    // Transposes 16 vectors.
    static void transpose(F* x) {
        F pairs[16], fours[16];
        for (int i = 0; i < 16; i += 2)
            pairs[i] = _mm512_unpacklo_ps(x[i], x[i + 1]), pairs[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
        const auto low = [](F a, F b) { return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))); };
        const auto high = [](F a, F b) { return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))); };
        for (int i = 0; i < 16; i += 4)  // fours[i + j]: of lines i to i + 3, column 4 q + j in quarter q
            for (int half = 0; half < 2; half++)
                fours[i + 2 * half] = low(pairs[i + half], pairs[i + 2 + half]), fours[i + 2 * half + 1] = high(pairs[i + half], pairs[i + 2 + half]);
        for (int j = 0; j < 4; j++) {
            const F even = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0x88), odd = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0xdd);
            const F even2 = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0x88), odd2 = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0xdd);
            x[j] = _mm512_shuffle_f32x4(even, even2, 0x88), x[8 + j] = _mm512_shuffle_f32x4(even, even2, 0xdd);
            x[4 + j] = _mm512_shuffle_f32x4(odd, odd2, 0x88), x[12 + j] = _mm512_shuffle_f32x4(odd, odd2, 0xdd);
        }
    }

    static C codes(const std::uint8_t* p) { return _mm512_loadu_si512(p); }
    static C broadcast(int byte) { return _mm512_set1_epi8(static_cast<char>(byte)); }
    static C bit_and(C a, C b) { return _mm512_and_si512(a, b); }
    static C bit_or(C a, C b) { return _mm512_or_si512(a, b); }
    template <int n>
    static C shift_right(C a) { return _mm512_srli_epi16(a, n); }
    template <int n>
    static C shift_left(C a) { return _mm512_slli_epi16(a, n); }
    static C dot_operand(C a) { return _mm512_xor_si512(a, _mm512_set1_epi8(-128)); }
    // The upper bits of codes + 128 as an operand of `dot`.
    static C upper_dot_operand(C a) { return a; }
    static C lookup(C table, C index) { return _mm512_shuffle_epi8(table, index); }
    static C table(const std::int8_t* levels, int bias) {
        const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(levels));
        return _mm512_broadcast_i32x4(_mm_add_epi8(all, _mm_set1_epi8(static_cast<char>(bias))));
    }

    // before + times * the sum over 4 columns of each of n vectors of codes times the 4 n signed numbers of x. `max_code` and
    // `max_x` bound the magnitudes, which matters to other instruction sets. `before` is zero unless `times`, a power of two,
    // is 1.
    template <int n, int max_code, int max_x, int times>
    static A dot(A before, const C* w, const std::int8_t* x) {
        A even = _mm512_setzero_si512(), odd = _mm512_setzero_si512();
        for (int c = 0; c < n; c += 2) {
            even = dot_four(even, w[c], x + 4 * c);
            if (c + 1 < n) odd = dot_four(odd, w[c + 1], x + 4 * c + 4);
        }
        return _mm512_add_epi32(before, _mm512_slli_epi32(_mm512_add_epi32(even, odd), __builtin_ctz(times)));
    }
    // sum + the products of two columns, int16, and two numbers of x.
    static A add_pair(A sum, C pair, const std::int16_t* x) {
        asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(pair), "m"(*reinterpret_cast<const std::int32_t*>(x)));
        return sum;
    }
    static A zero_sum() { return _mm512_setzero_si512(); }
    // 16 high + low.
    static A join_digits(A high, A low) { return _mm512_add_epi32(_mm512_slli_epi32(high, 4), low); }
    static F to_float(A a) { return _mm512_cvtepi32_ps(a); }
    static A to_integers(F a) { return _mm512_cvtps_epi32(a); }  // rounded to nearest even
    static A add(A a, A b) { return _mm512_add_epi32(a, b); }
    static A sub(A a, A b) { return _mm512_sub_epi32(a, b); }
    static A max(A a, A b) { return _mm512_max_epi32(a, b); }
    static A set1_integer(std::int32_t a) { return _mm512_set1_epi32(a); }
    template <int n>
    static A times_power_of_two(A a) { return _mm512_slli_epi32(a, n); }
    static void store(std::int32_t* p, A x) { _mm512_storeu_si512(p, x); }
    static A magnitude_bits(F a) { return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)); }
    static F as_float(A a) { return _mm512_castsi512_ps(a); }
    // What `join` makes of all lanes of each of four vectors, in the first four lanes.
    template <class Join>
    static A reduce_four(const A* x, Join join) {
        const auto pairs = [&](A a, A b) { return join(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)); };
        const A even = pairs(x[0], x[2]), odd = pairs(x[1], x[3]);  // vectors 0 2 0 2 in every quarter, and 1 3 1 3
        A fours = join(_mm512_unpacklo_epi32(even, odd), _mm512_unpackhi_epi32(even, odd));
        fours = join(fours, _mm512_shuffle_i32x4(fours, fours, 0x4e));
        return join(fours, _mm512_shuffle_i32x4(fours, fours, 0xb1));
    }
    // Stores 32 integers as int16, saturated.
    static void store_int16(std::int16_t* p, const A* x) {
        for (int i = 0; i < 2; i++) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p) + i, _mm512_cvtsepi32_epi16(x[i]));
    }
    // Stores 32 integers as codes of 8 bits, saturated.
    static void store_codes(std::int8_t* p, const A* x) {
        const C bytes = in_order(_mm512_packs_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_setzero_si512()));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(bytes));
    }
    // Stores 32 integers as high digits, then low ones.
    static void store_digits(std::int8_t* p, const A* x) {
        const C all = _mm512_packs_epi32(x[0], x[1]), high = _mm512_srai_epi16(_mm512_add_epi16(all, _mm512_set1_epi16(8)), 4);
        _mm512_storeu_si512(p, in_order(_mm512_packs_epi16(high, _mm512_sub_epi16(all, _mm512_slli_epi16(high, 4)))));
    }

    // Column j of the 4 columns of a vector of codes, as floats. Codes are operands of `dot`, so unsigned.
    template <int j, bool is_signed>
    static F column(C w) {
        return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(w, 8 * j), _mm512_set1_epi32(255)));
    }

  private:
    template <class Of>
    static void each(const F* x, int n, float* y, Of of) {
        for (int i = 0; i < n; i++) y[i] = of(x[i]);
    }

    // A tree: halves of two vectors are joined into one, then quarters of two of those, and so on, until one lane is left of
    // each.
    template <class Join>
    static F of_each(const F* x, Join join) {
        const auto halves = [&](F a, F b) { return join(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee)); };
        const auto quarters = [&](F a, F b) { return join(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd)); };
        const auto pairs = [&](F a, F b) {
            const __m512d low = _mm512_castps_pd(a), high = _mm512_castps_pd(b);
            return join(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)), _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
        };
        const auto fours = [&](int j) { return quarters(halves(x[j], x[j + 4]), halves(x[j + 8], x[j + 12])); };  // of vectors j, j + 4 ...
        const F even = pairs(fours(0), fours(1)), odd = pairs(fours(2), fours(3));
        return join(_mm512_shuffle_ps(even, odd, 0x88), _mm512_shuffle_ps(even, odd, 0xdd));
    }

    // The fours of bytes 0 of all quarters, then 1, 2 and 3: what packing twice has put apart.
    static C in_order(C bytes) {
        return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), bytes);
    }

    // In assembly, since GCC 12 does not join the broadcast with the product.
    static A dot_four(A sum, C w, const std::int8_t* x) {
        asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*reinterpret_cast<const std::int32_t*>(x)));
        return sum;
    }

    static C four(const std::int8_t* x) {
        int bits;
        std::memcpy(&bits, x, 4);
        return _mm512_set1_epi32(bits);
    }
};

}  // namespace
}  // namespace ordito
