// Products of plain matrices, as training needs them: C = A B, and, with lines for columns, A^T B and A B^T.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/kernels.hpp"
#include "packed.hpp"
#include "team.hpp"

namespace ordito {

inline std::int64_t ceiled(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

// Lines from a line and a depth on.
inline Lines moved(Lines lines, std::int64_t line, std::int64_t depth) {
    lines.data = static_cast<const std::uint8_t*>(lines.data) + (line * lines.line + depth * lines.depth) * (lines.half ? 2 : 4);
    return lines;
}

inline Target moved(Target target, std::int64_t row, std::int64_t column) {
    target.data = static_cast<std::uint8_t*>(target.data) + (row * target.stride + column) * (target.half ? 2 : 4);
    return target;
}

// Columns of B in panels, for a kind of products. From a depth on that is a multiple of its grain, a panel is one itself.
struct Panels {
    const Products* by;
    std::int64_t bytes;  // of a panel
    std::uint8_t* data;

    static std::int64_t bytes_for(const Products& by, std::int64_t depth) {
        return ceiled((ceiled(depth, by.grain) * by.grain * by.columns + by.slack) * by.bytes, 64) * 64;
    }
    const std::uint8_t* at(std::int64_t panel, std::int64_t depth = 0) const { return data + panel * bytes + depth * by->columns * by->bytes; }
    void pack(const Lines& columns, std::int64_t n, std::int64_t depth, std::int64_t panel) const {
        const std::int64_t first = panel * by->columns;
        by->pack_columns(moved(columns, first, 0), static_cast<int>(std::min<std::int64_t>(by->columns, n - first)), static_cast<int>(depth),
                         data + panel * bytes);
    }
};

// Rows of A in blocks, in memory that is used again: packed, or as they are where that is how a block stands.
class Blocks {
  public:
    void read(const Products& by, const Lines& rows, std::int64_t m, std::int64_t depth);
    std::int64_t count() const { return static_cast<std::int64_t>(blocks_.size()); }
    // c, rows by columns of one panel, is the product of a block and the panel, or has it added.
    void times(std::int64_t block, const std::uint8_t* panel, bool add, float* c, std::int64_t stride) const {
        const Block& rows = blocks_[block];
        by_->multiply(rows.data, rows.row, rows.along, panel, depth_, add, c, stride);
    }

  private:
    struct Block {
        const void* data;
        std::int64_t row, along;  // bytes
    };
    const Products* by_ = nullptr;
    int depth_ = 0;
    std::vector<Block> blocks_;
    Buffer memory_;
};

// c (m, n) = A (m, k) B (k, n): `rows` has the m rows of A, `columns` the n columns of B. Each number of c is summed up in one
// order, whatever m, n and the number of threads are.
void multiply(const Products& by, std::int64_t m, std::int64_t n, std::int64_t k, const Lines& rows, const Lines& columns, const Target& c,
              const Team& team);

}  // namespace ordito
