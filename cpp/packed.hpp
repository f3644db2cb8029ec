// Weights of a linear map as the kernels read them (formats.hpp describes the layout).
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

// Memory that is reused and grows on demand; growing loses its contents.
class Buffer {
  public:
    float* need(std::size_t count) {
        if (count > size_) {
            data_.reset();
            size_ = 0;  // so that the buffer is empty if `aligned` throws
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

// Memory for weights in large pages, where the system has them: with small ones a core needs a new address translation every 4
// KiB. A block is freed when the last allocation in it is gone.
constexpr std::size_t kLargePage = 2 << 20;

class Arena {
  public:
    // `bytes` of the current block, or of a new one of at least `block` bytes. Throws std::bad_alloc.
    std::shared_ptr<std::uint8_t> cut(std::size_t bytes, std::size_t block = 16 * kLargePage);

  private:
    std::shared_ptr<std::uint8_t> block_;
    std::size_t used_ = 0, size_ = 0;
};

constexpr std::int64_t kPieceBytes = 96 << 10;  // weights of a piece of work of one thread

struct Packed {
    Format format;
    Format file;  // the format of the bytes that it is packed from
    std::int64_t rows, columns;
    std::shared_ptr<std::uint8_t> data;
    std::shared_ptr<std::uint8_t> lower;  // lower bits of split codes: screening skips them, half of a large matrix in Q8_0

    std::int64_t panels() const { return (rows + kRows - 1) / kRows; }
    std::int64_t tiles() const { return columns / kCols; }
    std::size_t stride() const { return panel_bytes(format, columns); }
    std::size_t lower_stride() const { return tiles() * lower_tile_bytes(format); }
    std::size_t lower_bytes() const { return panels() * lower_stride(); }
    std::size_t bytes() const { return panels() * stride() + lower_bytes(); }
    Panel panel(std::int64_t number) const { return {data.get() + number * stride(), lower ? lower.get() + number * lower_stride() : nullptr}; }
};

class Pool;

// What `fill` makes of a file's numbers where it can: codes of Q8_0 and Q6_K that are split, int16 of plain numbers in rows of
// whole tiles.
enum class Repack { none, split, int16 };

// Allocates a matrix that a file stores in `format`. Throws std::invalid_argument if rows are not a whole number of blocks.
std::shared_ptr<Packed> allocate(Format format, std::int64_t rows, std::int64_t columns, Repack repack, Arena& arena);

// Packs `count` rows of a file's bytes; `first` is a multiple of 16. The last panel is padded with zeros.
void fill(Packed& packed, std::int64_t first, std::int64_t count, const std::uint8_t* bytes, Pool& pool);

// Tells the system that the pages of a mapped file that hold these bytes need not stay in memory.
void release_pages(const std::uint8_t* bytes, std::size_t count);

// Dequantizes one row to `columns` numbers: for the embedding, and for tests of the kernels.
void dequantize_row(const Packed& packed, std::int64_t row, float* out);

// One row of a tile: 32 integer codes, and the scale and offset of each half (16 columns); number = scale * code + offset.
struct TileRow {
    int codes[kCols];
    float scale[2], offset[2];
};

// Reads row `row` of the tile, superblock and lower bits that begin at these addresses. Plain code, for the
// reference kernels.
TileRow read_tile(Format format, const std::uint8_t* super, const std::uint8_t* tile, const std::uint8_t* lower, int row);

}  // namespace ordito
