// Weights of a linear map, as the kernels read them (formats.hpp tells the layout).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "formats.hpp"

namespace ordito {

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

// Memory aligned to cache lines. Throws std::bad_alloc.
template <class T>
std::unique_ptr<T[], Free> aligned(std::size_t count) {
    const std::size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    void* memory = std::aligned_alloc(64, bytes ? bytes : 64);
    if (!memory) throw std::bad_alloc();
    return std::unique_ptr<T[], Free>(static_cast<T*>(memory));
}

// Memory that is used again; what it held is lost when it grows.
class Buffer {
  public:
    float* need(std::size_t count) {
        if (count > size_) {
            data_.reset();
            size_ = 0;  // where there is no room for more, there is nothing
            data_ = aligned<float>(count);
            size_ = count;
        }
        return data_.get();
    }
    const float* data() const { return data_.get(); }
    std::size_t size() const { return size_; }

  private:
    std::unique_ptr<float[], Free> data_;
    std::size_t size_ = 0;
};

// Memory for weights in large pages, where the system has them: small ones make a core look up an address for every 4 KiB.
// Everything stays until the last of those that were cut from one block is gone.
constexpr std::size_t kLargePage = 2 << 20;

class Arena {
  public:
    // So many bytes of a block, or of a new one of at least `block` bytes. Throws std::bad_alloc.
    std::shared_ptr<std::uint8_t> cut(std::size_t bytes, std::size_t block = 16 * kLargePage);

  private:
    std::shared_ptr<std::uint8_t> block_;
    std::size_t used_ = 0, size_ = 0;
};

struct Packed {
    Format format;
    std::int64_t rows, columns;
    std::shared_ptr<std::uint8_t> data;
    std::shared_ptr<std::uint8_t> lower;  // halves of codes: who needs but a few rows to the last bit reads half of a large matrix

    std::int64_t panels() const { return (rows + kRows - 1) / kRows; }
    std::int64_t tiles() const { return columns / kCols; }
    std::size_t stride() const { return panel_bytes(format, columns); }
    std::size_t lower_stride() const { return tiles() * lower_tile_bytes(format); }
    std::size_t lower_bytes() const { return panels() * lower_stride(); }
    std::size_t bytes() const { return panels() * stride() + lower_bytes(); }
    Panel panel(std::int64_t number) const { return {data.get() + number * stride(), lower ? lower.get() + number * lower_stride() : nullptr}; }
};

class Pool;

// Room for a matrix; `parted`: with its codes in parts if it is of Q8_0 or Q6_K. Throws std::invalid_argument where rows are no whole
// number of blocks.
std::shared_ptr<Packed> room(Format format, std::int64_t rows, std::int64_t columns, bool parted, Arena& arena);

// Packs `count` rows from the bytes of a file; `first` is a multiple of 16. What follows the last row of a panel becomes zero.
void fill(Packed& packed, std::int64_t first, std::int64_t count, const std::uint8_t* bytes, Pool& pool);

// The pages of a mapped file that hold these bytes need not stay in memory.
void let_go(const std::uint8_t* bytes, std::size_t count);

// One row as fp32, `columns` numbers: what the embedding reads, and what the kernels are held against.
void unpack_row(const Packed& packed, std::int64_t row, float* out);

// One row of one tile: 32 codes as whole numbers, and for each half (16 columns) its scale and what is added:
// number = scale * code + offset.
struct TileRow {
    int codes[kCols];
    float scale[2], offset[2];
};

// Row `row` of the panel whose tile, superblock and lower parts begin there. The plain reading that the kernels are held against.
TileRow read_tile(Format format, const std::uint8_t* super, const std::uint8_t* tile, const std::uint8_t* lower, int row);

}  // namespace ordito
