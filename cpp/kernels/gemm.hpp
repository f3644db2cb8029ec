// The micro-kernel of fp32 matrix products, whose sums stay in registers, for the instruction set `Isa`.
#pragma once

#include <cstring>

#include "kernels.hpp"

namespace ordito {
namespace {

// The rows of a block, and the vectors of its columns: as many sums as leave registers for one broadcast number of A and a row
// of B.
constexpr int kBlockRows = Isa::lanes == 16 ? 14 : Isa::lanes == 8 ? 6 : 8;
constexpr int kBlockVectors = Isa::lanes == 4 ? 3 : 2;

// Loads `Isa::lanes` lines from a depth on, a vector for each line; zeros where there are fewer lines or less depth.
inline void load_lines(const Lines& from, int line, int depth, int lines, int rest, typename Isa::F* to) {
    constexpr int lanes = Isa::lanes;
    const float* first = static_cast<const float*>(from.data) + line * from.line_stride + depth;
    if (lines >= lanes && rest >= lanes) {
        for (int i = 0; i < lanes; i++) to[i] = Isa::load(first + i * from.line_stride);
        return;
    }
    float some[lanes];
    for (int i = 0; i < lanes; i++) {
        for (int k = 0; k < lanes; k++) some[k] = i < lines && k < rest ? first[i * from.line_stride + k] : 0;
        to[i] = Isa::load(some);
    }
}

// Packs a panel [depth][wide]. A store may spill over into the next depth, which is written after it.
template <int wide>
void pack_panel(const Lines& from, int lines, int depth, void* panel) {
    constexpr int lanes = Isa::lanes;
    auto* to = static_cast<float*>(panel);
    if (from.line_stride == 1) {
        for (int k = 0; k < depth; k++) {
            std::memcpy(to + k * wide, static_cast<const float*>(from.data) + k * from.depth_stride, lines * sizeof(float));
            for (int i = lines; i < wide; i++) to[k * wide + i] = 0;
        }
        return;
    }
    for (int k = 0; k < depth; k += lanes)
        for (int line = 0; line < wide; line += lanes) {
            typename Isa::F block[lanes];
            load_lines(from, line, k, lines - line, depth - k, block);
            Isa::transpose(block);
            for (int i = 0; i < lanes && k + i < depth; i++) Isa::store(to + (k + i) * wide + line, block[i]);
        }
}

void multiply_block(const void* a, std::int64_t row_stride, std::int64_t depth_stride, const void* b, int depth, bool add, float* c,
                    std::int64_t c_stride) {
    using F = typename Isa::F;
    constexpr int wide = kBlockVectors * Isa::lanes, groups = (kBlockRows + 3) / 4;
    // Four rows share a pointer: there are not enough registers for one each.
    const std::uint8_t* rows[groups];
    for (int g = 0; g < groups; g++) rows[g] = static_cast<const std::uint8_t*>(a) + 4 * g * row_stride;
    const auto* columns = static_cast<const float*>(b);
    F sums[kBlockRows][kBlockVectors];
    for (int i = 0; i < kBlockRows; i++)
        for (int v = 0; v < kBlockVectors; v++) sums[i][v] = add ? Isa::load(c + i * c_stride + v * Isa::lanes) : Isa::zero();
    for (int k = 0; k < depth; k++, columns += wide) {
        F numbers[kBlockVectors];
        for (int v = 0; v < kBlockVectors; v++) numbers[v] = Isa::load(columns + v * Isa::lanes);
#pragma GCC unroll 16
        for (int i = 0; i < kBlockRows; i++) {
            const F number = Isa::set1(*reinterpret_cast<const float*>(rows[i / 4] + i % 4 * row_stride));
#pragma GCC unroll 4
            for (int v = 0; v < kBlockVectors; v++) sums[i][v] = Isa::fma(number, numbers[v], sums[i][v]);
        }
#pragma GCC unroll 4
        for (int g = 0; g < groups; g++) rows[g] += depth_stride;
    }
    for (int i = 0; i < kBlockRows; i++)
        for (int v = 0; v < kBlockVectors; v++) Isa::store(c + i * c_stride + v * Isa::lanes, sums[i][v]);
}

void store_block(const float* c, std::int64_t stride, int rows, int columns, const Target& to) {
    for (int i = 0; i < rows; i++) std::memcpy(static_cast<float*>(to.data) + i * to.stride, c + i * stride, columns * sizeof(float));
}

template <int wide>
void pack_block(const Lines& from, int lines, int depth, void* block, std::int64_t) {
    pack_panel<wide>(from, lines, depth, block);
}

constexpr Gemm kF32Gemm = {kBlockRows, kBlockVectors* Isa::lanes, 256, 1, sizeof(float), Isa::lanes, false, pack_block<kBlockRows>,
                           pack_panel<kBlockVectors * Isa::lanes>, multiply_block, store_block};

}  // namespace
}  // namespace ordito
