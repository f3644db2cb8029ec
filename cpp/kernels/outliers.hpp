// Finds the outliers of a block of 32 activations, for x86.
#pragma once

#include <immintrin.h>

namespace ordito {
namespace {

// Which four neighbours (0 to 7) hold the largest magnitude, `most`; `next` is the largest magnitude of the other 28.
inline int find_outliers_in_32(const float* x, float& most, float& next) {
    __m256 fours[4];  // two groups of four each: every lane has the maximum of its group
    for (int i = 0; i < 4; i++) {
        const __m256 a = _mm256_andnot_ps(_mm256_set1_ps(-0.f), _mm256_loadu_ps(x + 8 * i));
        const __m256 pairs = _mm256_max_ps(a, _mm256_permute_ps(a, 0xb1));
        fours[i] = _mm256_max_ps(pairs, _mm256_permute_ps(pairs, 0x4e));
    }
    // One lane for each group, in the order 0, 2, 4, 6, 1, 3, 5, 7.
    const __m256 all = _mm256_blend_ps(_mm256_blend_ps(fours[0], fours[1], 0x22), _mm256_blend_ps(fours[2], fours[3], 0x88), 0xcc);
    const auto greatest = [](__m256 a) {
        a = _mm256_max_ps(a, _mm256_permute2f128_ps(a, a, 1));
        a = _mm256_max_ps(a, _mm256_permute_ps(a, 0x4e));
        return _mm256_max_ps(a, _mm256_permute_ps(a, 0xb1));
    };
    const __m256 largest = greatest(all);
    // The first of equal ones in that order; any where a number is NaN.
    const int lane = __builtin_ctz(static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(all, largest, _CMP_EQ_OQ))) | 0x80);
    const __m256i here = _mm256_cmpeq_epi32(_mm256_set1_epi32(lane), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    most = _mm256_cvtss_f32(largest);
    next = _mm256_cvtss_f32(greatest(_mm256_andnot_ps(_mm256_castsi256_ps(here), all)));
    return lane < 4 ? 2 * lane : 2 * lane - 7;
}

}  // namespace
}  // namespace ordito
