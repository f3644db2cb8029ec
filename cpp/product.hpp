// Matrix products for training: C = A B and, by the strides of `Lines`, also A^T B and A B^T.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/kernels.hpp"
#include "packed.hpp"
#include "team.hpp"

namespace ordito {

inline std::int64_t ceil_div(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

// The view without its first `line` lines and the first `depth` numbers of each.
inline Lines offset_by(Lines lines, std::int64_t line, std::int64_t depth) {
    lines.data = static_cast<const std::uint8_t*>(lines.data) + (line * lines.line_stride + depth * lines.depth_stride) * (lines.bf16 ? 2 : 4);
    return lines;
}

inline Target offset_by(Target target, std::int64_t row, std::int64_t column) {
    target.data = static_cast<std::uint8_t*>(target.data) + (row * target.stride + column) * (target.bf16 ? 2 : 4);
    return target;
}

// The columns of B packed in panels. From a depth on that is a multiple of the grain, a panel is a valid panel itself.
struct Panels {
    const Gemm* gemm;
    std::int64_t bytes;  // of a panel
    std::uint8_t* data;

    static std::int64_t bytes_for(const Gemm& gemm, std::int64_t depth) {
        return ceil_div((ceil_div(depth, gemm.grain) * gemm.grain * gemm.columns + gemm.slack) * gemm.bytes, 64) * 64;
    }
    const std::uint8_t* at(std::int64_t panel, std::int64_t depth = 0) const { return data + panel * bytes + depth * gemm->columns * gemm->bytes; }
    void pack(const Lines& columns, std::int64_t n, std::int64_t depth, std::int64_t panel) const {
        const std::int64_t first = panel * gemm->columns;
        gemm->pack_columns(offset_by(columns, first, 0), static_cast<int>(std::min<std::int64_t>(gemm->columns, n - first)), static_cast<int>(depth),
                           data + panel * bytes);
    }
};

// Rows of A in blocks, in reused memory: packed, or in place where they already lie as a block does.
class Blocks {
  public:
    void read(const Gemm& gemm, const Lines& rows, std::int64_t m, std::int64_t depth);
    std::int64_t count() const { return static_cast<std::int64_t>(blocks_.size()); }
    // c, rows by columns of one panel, = block times panel; with `add`, c +=.
    void multiply(std::int64_t block, const std::uint8_t* panel, bool add, float* c, std::int64_t stride) const {
        const Block& rows = blocks_[block];
        gemm_->multiply(rows.data, rows.row_stride, rows.depth_stride, panel, depth_, add, c, stride);
    }

  private:
    struct Block {
        const void* data;
        std::int64_t row_stride, depth_stride;  // bytes
    };
    const Gemm* gemm_ = nullptr;
    int depth_ = 0;
    std::vector<Block> blocks_;
    Buffer memory_;
};

// c (m, n) = A (m, k) B (k, n): `rows` are the m rows of A, `columns` the n columns of B. Each number of c is summed in one
// order, whatever m, n and the number of threads.
void multiply(const Gemm& gemm, std::int64_t m, std::int64_t n, std::int64_t k, const Lines& rows, const Lines& columns, const Target& c,
              const Team& team);

}  // namespace ordito
