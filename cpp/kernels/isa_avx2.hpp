// AVX2, FMA and F16C: 8 rows at once. With AVX-VNNI, the dot product is one instruction.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "outliers.hpp"

namespace ordito {
namespace {

struct Isa {
    static constexpr int lanes = 8;
#ifdef __AVXVNNI__
    static constexpr bool unsigned_dot = true;
    static constexpr bool int16_pairs = false;
    static constexpr bool int16_products = true;  // twice as fast as those of fp32
#else
    static constexpr bool unsigned_dot = false;
    static constexpr bool int16_pairs = true;  // signed codes are multiplied as int16: as int8 it takes twice as long
    static constexpr bool int16_products = false;  // hardly faster, and on the first Zen slower
#endif
    static constexpr int max_tokens = 16;  // for which a tile is unpacked once; their sums are spilled to memory
    static constexpr bool token_by_token = false;

    using F = __m256;
    using C = __m256i;
    using A = __m256i;

    static F zero() { return _mm256_setzero_ps(); }
    static F set1(float x) { return _mm256_set1_ps(x); }
    static F load(const float* p) { return _mm256_loadu_ps(p); }
    static F load_f16(const std::uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
    static F load_bf16(const std::uint16_t* p) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
    }
    static F load_u8(const std::uint8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static F load_i8(const std::int8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
    static void store_f16(std::uint16_t* p, F x) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    static void store_bf16(std::uint16_t* p, F x) {  // rounded to nearest even; NaN stays NaN
        const __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        const __m256i none = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        const __m256i kept = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), none), 16);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1)));
    }
    static F add(F a, F b) { return _mm256_add_ps(a, b); }
    static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    static F div(F a, F b) { return _mm256_div_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    static F min(F a, F b) { return _mm256_min_ps(a, b); }
    static F sqrt(F x) { return _mm256_sqrt_ps(x); }
    static F max(F a, F b) { return _mm256_max_ps(a, b); }
    static F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.f), a); }
    static F negative(F a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.f)); }
    static F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static F where_negative(F x, F yes, F no) { return _mm256_blendv_ps(no, yes, x); }
    static F zero_below(F x, float least, F y) { return _mm256_and_ps(_mm256_cmp_ps(x, set1(least), _CMP_NLT_UQ), y); }
    // x * 2^n, where the integer n is in the low bits of its float (`exponential`).
    static F times_power_of_two(F x, F n) {
        return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(n), 23)));
    }
    static float sum(F a) {
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    static float largest(F a) {
        const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    }

    // The sum and the maximum of each of n vectors.
    static void sums(const F* x, int n, float* y) {
        for (int i = 0; i < n; i++) y[i] = sum(x[i]);
    }
    static void largests(const F* x, int n, float* y) {
        for (int i = 0; i < n; i++) y[i] = largest(x[i]);
    }

    static int find_outliers(const float* x, float& most, float& next) { return find_outliers_in_32(x, most, next); }

    // Transposes 8 vectors.
    static void transpose(F* x) {
        F fours[8];
        for (int i = 0; i < 8; i += 4) {  // fours[i + j]: of lines i to i + 3, column 4 h + j in half h
            const F a = _mm256_unpacklo_ps(x[i], x[i + 1]), b = _mm256_unpackhi_ps(x[i], x[i + 1]);
            const F c = _mm256_unpacklo_ps(x[i + 2], x[i + 3]), d = _mm256_unpackhi_ps(x[i + 2], x[i + 3]);
            fours[i] = _mm256_shuffle_ps(a, c, 0x44), fours[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
            fours[i + 2] = _mm256_shuffle_ps(b, d, 0x44), fours[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
        }
        for (int j = 0; j < 4; j++) {
            x[j] = _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x20);
            x[4 + j] = _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x31);
        }
    }

    static C codes(const std::uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static C broadcast(int byte) { return _mm256_set1_epi8(static_cast<char>(byte)); }
    static C bit_and(C a, C b) { return _mm256_and_si256(a, b); }
    static C bit_or(C a, C b) { return _mm256_or_si256(a, b); }
    template <int n>
    static C shift_right(C a) { return _mm256_srli_epi16(a, n); }
    template <int n>
    static C shift_left(C a) { return _mm256_slli_epi16(a, n); }
    static C dot_operand(C a) { return unsigned_dot ? _mm256_xor_si256(a, _mm256_set1_epi8(-128)) : a; }
    // The upper bits of codes + 128 as an operand of `dot`.
    static C upper_dot_operand(C a) { return unsigned_dot ? a : _mm256_xor_si256(a, broadcast(0x88)); }
    static C lookup(C table, C index) { return _mm256_shuffle_epi8(table, index); }
    static C table(const std::int8_t* levels, int bias) {
        const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(levels));
        return _mm256_broadcastsi128_si256(_mm_add_epi8(all, _mm_set1_epi8(static_cast<char>(bias))));
    }

    // As in isa_avx512.hpp; `max_code` and `max_x` bound the int16 sums.
    template <int n, int max_code, int max_x, int times>
    static A dot(A before, const C* w, const std::int8_t* x) {
        A total = _mm256_setzero_si256();  // not `before`: its own chain of additions need not wait for it
#ifdef __AVXVNNI__
        for (int c = 0; c < n; c++) total = _mm256_dpbusd_avx_epi32(total, w[c], four(x + 4 * c));
        return _mm256_add_epi32(before, _mm256_slli_epi32(total, __builtin_ctz(times)));
#else
        // As many pairs of products as surely fit are added in int16.
        constexpr int fit = 32767 / (2 * max_code * max_x), together = fit < n ? fit : n;
        for (int c = 0; c < n; c += together) {
            __m256i sum = _mm256_maddubs_epi16(w[c], four(x + 4 * c));
            for (int i = c + 1; i < c + together && i < n; i++)
                sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[i], four(x + 4 * i)));
            total = _mm256_add_epi32(total, _mm256_madd_epi16(sum, _mm256_set1_epi16(times)));
        }
        return _mm256_add_epi32(before, total);
#endif
    }

    // Signed codes of every four columns as int16: the first and the third, and the second and the fourth.
    static void pairs(C w, C* to) {
        to[0] = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8);
        to[1] = _mm256_srai_epi16(w, 8);
    }
    // sum + the products of two columns, int16, and two numbers of x.
    static A add_pair(A sum, C pair, const std::int16_t* x) {
#ifdef __AVXVNNI__
        return _mm256_dpwssd_avx_epi32(sum, pair, four(reinterpret_cast<const std::int8_t*>(x)));
#else
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pair, four(reinterpret_cast<const std::int8_t*>(x))));
#endif
    }
    static A zero_sum() { return _mm256_setzero_si256(); }
    static F to_float(A a) { return _mm256_cvtepi32_ps(a); }
    static A to_integers(F a) { return _mm256_cvtps_epi32(a); }  // rounded to nearest even
    static A add(A a, A b) { return _mm256_add_epi32(a, b); }
    static A sub(A a, A b) { return _mm256_sub_epi32(a, b); }
    static A max(A a, A b) { return _mm256_max_epi32(a, b); }
    static A set1_integer(std::int32_t a) { return _mm256_set1_epi32(a); }
    template <int n>
    static A times_power_of_two(A a) { return _mm256_slli_epi32(a, n); }
    static void store(std::int32_t* p, A x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
    static A magnitude_bits(F a) { return _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x7fffffff)); }
    static F as_float(A a) { return _mm256_castsi256_ps(a); }
    // What `join` makes of all lanes of each of four vectors, in the first four lanes.
    template <class Join>
    static A reduce_four(const A* x, Join join) {
        const auto pairs = [&](A a, A b) { return join(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)); };
        const A even = pairs(x[0], x[2]), odd = pairs(x[1], x[3]);  // vectors 0 2 0 2 in each half, and 1 3 1 3
        const A fours = join(_mm256_unpacklo_epi32(even, odd), _mm256_unpackhi_epi32(even, odd));
        return join(fours, _mm256_permute2x128_si256(fours, fours, 1));
    }
    // Stores 32 integers as codes of 8 bits, saturated.
    static void store_codes(std::int8_t* p, const A* x) { store_packed(p, _mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3])); }
    // Stores 32 integers as high digits, then low ones.
    static void store_digits(std::int8_t* p, const A* x) {
        C high[2], low[2];
        for (int i = 0; i < 2; i++) {
            const C all = _mm256_packs_epi32(x[2 * i], x[2 * i + 1]);
            high[i] = _mm256_srai_epi16(_mm256_add_epi16(all, _mm256_set1_epi16(8)), 4);
            low[i] = _mm256_sub_epi16(all, _mm256_slli_epi16(high[i], 4));
        }
        store_packed(p, high[0], high[1]);
        store_packed(p + 32, low[0], low[1]);
    }
    // Stores 32 integers as int16, saturated.
    static void store_int16(std::int16_t* p, const A* x) {
        for (int i = 0; i < 4; i += 2) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8 * i), words(x + i));
    }
    // The same, every four in the order 0, 2, 1, 3.
    static void store_pairs(std::int16_t* p, const A* x) {
        for (int i = 0; i < 4; i += 2)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8 * i), _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words(x + i), 0xd8), 0xd8));
    }

    template <int j, bool is_signed>
    static F column(C w) {
        if constexpr (is_signed && !unsigned_dot) return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(w, 24 - 8 * j), 24));
        return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(w, 8 * j), _mm256_set1_epi32(255)));
    }

  private:
    // 16 integers as int16, saturated.
    static C words(const A* x) { return _mm256_permute4x64_epi64(_mm256_packs_epi32(x[0], x[1]), 0xd8); }

    // Stores int16 vectors that `packs` made of 32 integers as bytes, in order.
    static void store_packed(std::int8_t* p, C first, C second) {
        const C bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(first, second), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bytes);
    }

    static C four(const std::int8_t* x) {
        int bits;
        std::memcpy(&bits, x, 4);
        return _mm256_set1_epi32(bits);
    }
};

}  // namespace
}  // namespace ordito
