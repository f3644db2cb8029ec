// The micro-kernel of bfloat16 matrix products by AMX's tiles, for an `Isa` of 16 lanes. A tile of A is 16 rows x 32 numbers,
// one of B has 16 columns in pairs: [depth / 2][column][2]. Two tiles of each give four tiles of sums, so that each loaded tile
// is used twice.
#pragma once

#include "kernels.hpp"
#include "tile_shapes.hpp"

namespace ordito {
namespace {

constexpr int kSide = 16, kDepth = 32;        // lines of a tile, and numbers of a line
constexpr int kTileNumbers = kSide * kDepth;

constexpr __mmask32 first(int n) { return n >= 32 ? ~__mmask32{0} : n <= 0 ? 0 : (__mmask32{1} << n) - 1; }

// 32 numbers along a line; those from `rest` on are zero.
inline __m512i along_depth(const Lines& from, std::int64_t at, int rest) {
    if (from.bf16) return _mm512_maskz_loadu_epi16(first(rest), static_cast<const std::uint16_t*>(from.data) + at);
    const auto* numbers = static_cast<const float*>(from.data) + at;
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(first(rest)), numbers);
    const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(first(rest - 16)), numbers + 16);
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// A pair of numbers, from a depth on, of each of 16 lines; lines from `lines` on and numbers from `rest` on are zero.
inline __m512i along_lines(const Lines& from, std::int64_t at, int lines, int rest) {
    const auto here = static_cast<__mmask16>(rest > 0 ? first(lines) : 0), next = static_cast<__mmask16>(rest > 1 ? first(lines) : 0);
    __m512i both;
    if (from.bf16) {
        const auto* numbers = static_cast<const std::uint16_t*>(from.data) + at;
        const __m256i low = _mm256_maskz_loadu_epi16(here, numbers), high = _mm256_maskz_loadu_epi16(next, numbers + from.depth_stride);
        both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    } else {
        const auto* numbers = static_cast<const float*>(from.data) + at;
        const __m512 low = _mm512_maskz_loadu_ps(here, numbers), high = _mm512_maskz_loadu_ps(next, numbers + from.depth_stride);
        both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
    }
    alignas(64) static constexpr auto kPairs = [] {
        struct { std::uint16_t of[32]; } order{};
        for (std::uint16_t i = 0; i < 16; i++) order.of[2 * i] = i, order.of[2 * i + 1] = static_cast<std::uint16_t>(16 + i);
        return order;
    }();
    return _mm512_permutexvar_epi16(_mm512_load_si512(kPairs.of), both);
}

// Reads 16 lines x 32 numbers, as [line][depth] or, in pairs, as [depth / 2][line][2].
template <bool in_pairs>
inline void read_tile(const Lines& from, int line, int depth, int lines, int rest, __m512* x) {
    const bool by_line = from.line_stride != 1;  // what is contiguous: a line, or pairs across lines
    for (int i = 0; i < kSide; i++) {
        const std::int64_t at = (by_line ? line + i : line) * from.line_stride + (by_line ? depth : depth + 2 * i) * from.depth_stride;
        const __m512i read = by_line ? along_depth(from, at, i < lines ? rest : 0) : along_lines(from, at, lines, rest - 2 * i);
        x[i] = _mm512_castsi512_ps(read);
    }
    if (by_line == in_pairs) Isa::transpose(x);
}

// Packs a block of two tiles of rows, [row][depth].
void pack_tile_rows(const Lines& from, int lines, int depth, void* block, std::int64_t stride) {
    for (int k = 0; k < depth; k += kDepth)
        for (int side = 0; side < 2 * kSide; side += kSide) {
            __m512 x[kSide];
            read_tile<false>(from, side, k, lines - side, depth - k, x);
            for (int i = 0; i < kSide; i++) _mm512_storeu_ps(static_cast<std::uint8_t*>(block) + (side + i) * stride + 2 * k, x[i]);
        }
}

// Packs a panel: at each depth two tiles of columns.
void pack_tile_columns(const Lines& from, int lines, int depth, void* panel) {
    auto* to = static_cast<std::uint16_t*>(panel);
    for (int k = 0; k < depth; k += kDepth)
        for (int side = 0; side < 2 * kSide; side += kSide, to += kTileNumbers) {
            __m512 x[kSide];
            read_tile<true>(from, side, k, lines - side, depth - k, x);
            for (int i = 0; i < kSide; i++) _mm512_store_ps(to + i * kDepth, x[i]);
        }
}

void multiply_tiles(const void* a, std::int64_t row_stride, std::int64_t, const void* b, int depth, bool add, float* c,
                    std::int64_t c_stride) {
    const Shaped shaped(kSquare);
    constexpr std::int64_t line = kDepth * sizeof(std::uint16_t);
    const std::int64_t c_line = c_stride * static_cast<std::int64_t>(sizeof(float)), lower = kSide * c_stride;
    if (add) {
        load_tile<0>(c, c_line), load_tile<1>(c + kSide, c_line), load_tile<2>(c + lower, c_line), load_tile<3>(c + lower + kSide, c_line);
    } else {
        asm volatile("tilezero %tmm0\n\ttilezero %tmm1\n\ttilezero %tmm2\n\ttilezero %tmm3");
    }
    const auto* rows = static_cast<const std::uint8_t*>(a);
    const auto* columns = static_cast<const std::uint16_t*>(b);
    for (int k = 0; k < depth; k += kDepth, rows += line, columns += 2 * kTileNumbers) {
        // All loads come before the first product, so that a core that another thread shares begins them together.
        load_tile<4>(rows, row_stride), load_tile<5>(rows + kSide * row_stride, row_stride);
        load_tile<6>(columns, line), load_tile<7>(columns + kTileNumbers, line);
        asm volatile("tdpbf16ps %tmm6, %tmm4, %tmm0\n\ttdpbf16ps %tmm7, %tmm4, %tmm1\n\ttdpbf16ps %tmm6, %tmm5, %tmm2\n\ttdpbf16ps %tmm7, %tmm5, %tmm3");
    }
    store_tile<0>(c, c_line), store_tile<1>(c + kSide, c_line), store_tile<2>(c + lower, c_line), store_tile<3>(c + lower + kSide, c_line);
}

void store_tiles(const float* c, std::int64_t c_stride, int rows, int columns, const Target& to) {
    const auto low = static_cast<__mmask16>(first(columns)), high = static_cast<__mmask16>(first(columns - kSide));
    for (int i = 0; i < rows; i++) {
        const __m512 a = _mm512_maskz_loadu_ps(low, c + i * c_stride), b = _mm512_maskz_loadu_ps(high, c + i * c_stride + kSide);
        if (to.bf16) {
            const auto rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a));
            _mm512_mask_storeu_epi16(static_cast<std::uint16_t*>(to.data) + i * to.stride, first(columns), rounded);
        } else {
            auto* row = static_cast<float*>(to.data) + i * to.stride;
            _mm512_mask_storeu_ps(row, low, a), _mm512_mask_storeu_ps(row + kSide, high, b);
        }
    }
}

constexpr Gemm kBf16Gemm = {2 * kSide, 2 * kSide, 288, kDepth, sizeof(std::uint16_t), 0, true,
                            pack_tile_rows, pack_tile_columns, multiply_tiles, store_tiles};

}  // namespace
}  // namespace ordito
