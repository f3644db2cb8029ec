#include "packed.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "threads.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace ordito {

namespace {

// The fields of a block of a file: codes, one a byte, and scales. Blocks of 32 use the first 32 codes.
struct Block {
    std::uint8_t codes[kSuper];
    std::uint16_t d, minimum;        // fp16; bf16 for MXFP4
    std::uint8_t scales[16];         // sub-scales, as their layout stores them
    std::uint8_t minima[8];
};

std::uint16_t u16(const std::uint8_t* bytes) {
    std::uint16_t value;
    std::memcpy(&value, bytes, 2);
    return value;
}

// Unpacks codes of `bits` bits. Every `run` bytes hold run * 8 / bits codes: the first field of each byte, then the second of
// each, ... They are shifted left by `shift` and or-ed into `to`.
[[gnu::always_inline]] inline void unpack_bits(const std::uint8_t* bytes, int count, int bits, int run, int shift, std::uint8_t* to) {
    const int fields = 8 / bits, mask = (1 << bits) - 1;
    for (int start = 0; start < count; start += run, to += run * fields)
        for (int field = 0; field < fields; field++)
            for (int i = 0; i < run; i++)
                to[field * run + i] |= static_cast<std::uint8_t>(((bytes[start + i] >> (field * bits)) & mask) << shift);
}

void six_bit_scales(const std::uint8_t* packed, Block& block) {
    for (int i = 0; i < 4; i++) {
        block.scales[i] = packed[i] & 63;
        block.minima[i] = packed[4 + i] & 63;
        block.scales[4 + i] = (packed[8 + i] & 15) | ((packed[i] >> 2) & 48);
        block.minima[4 + i] = (packed[8 + i] >> 4) | ((packed[4 + i] >> 2) & 48);
    }
}

[[gnu::always_inline]] inline void read_block(Format format, const std::uint8_t* bytes, Block& block) {
    std::memset(block.codes, 0, layout(format).block);
    switch (format) {
        case Format::q4_0:
        case Format::iq4_nl:
            block.d = u16(bytes);
            unpack_bits(bytes + 2, 16, 4, 16, 0, block.codes);
            break;
        case Format::q4_1:
            block.d = u16(bytes), block.minimum = u16(bytes + 2);
            unpack_bits(bytes + 4, 16, 4, 16, 0, block.codes);
            break;
        case Format::q5_0:
            block.d = u16(bytes);
            unpack_bits(bytes + 6, 16, 4, 16, 0, block.codes);
            for (int i = 0; i < 32; i++) block.codes[i] |= ((bytes[2 + i / 8] >> (i % 8)) & 1) << 4;
            break;
        case Format::q5_1:
            block.d = u16(bytes), block.minimum = u16(bytes + 2);
            unpack_bits(bytes + 8, 16, 4, 16, 0, block.codes);
            for (int i = 0; i < 32; i++) block.codes[i] |= ((bytes[4 + i / 8] >> (i % 8)) & 1) << 4;
            break;
        case Format::q8_0:
        case Format::q8_0_split:
            block.d = u16(bytes);
            std::memcpy(block.codes, bytes + 2, 32);
            break;
        case Format::mxfp4: {
            // 2^(e - 128), since the levels are doubled; below 2^-126 it is subnormal: one set bit of the mantissa.
            const int e = bytes[0];
            block.d = static_cast<std::uint16_t>(e < 2 ? 0x20 << e : (e - 1) << 7);
            unpack_bits(bytes + 1, 16, 4, 16, 0, block.codes);
            break;
        }
        case Format::q2_k:
            std::memcpy(block.scales, bytes, 16);
            unpack_bits(bytes + 16, 64, 2, 32, 0, block.codes);
            block.d = u16(bytes + 80), block.minimum = u16(bytes + 82);
            break;
        case Format::q3_k: {
            unpack_bits(bytes, 32, 1, 32, 2, block.codes);
            unpack_bits(bytes + 32, 64, 2, 32, 0, block.codes);
            std::uint8_t high[16] = {};
            std::memset(block.scales, 0, 16);
            unpack_bits(bytes + 96, 8, 4, 8, 0, block.scales);
            unpack_bits(bytes + 104, 4, 2, 4, 4, high);
            for (int i = 0; i < 16; i++) block.scales[i] = static_cast<std::uint8_t>((block.scales[i] | high[i]) - 32);
            block.d = u16(bytes + 108);
            break;
        }
        case Format::q4_k:
            block.d = u16(bytes), block.minimum = u16(bytes + 2);
            six_bit_scales(bytes + 4, block);
            unpack_bits(bytes + 16, 128, 4, 32, 0, block.codes);
            break;
        case Format::q5_k:
            block.d = u16(bytes), block.minimum = u16(bytes + 2);
            six_bit_scales(bytes + 4, block);
            unpack_bits(bytes + 16, 32, 1, 32, 4, block.codes);
            unpack_bits(bytes + 48, 128, 4, 32, 0, block.codes);
            break;
        case Format::q6_k:
        case Format::q6_k_split:
            unpack_bits(bytes, 128, 4, 64, 0, block.codes);
            unpack_bits(bytes + 128, 64, 2, 32, 4, block.codes);
            std::memcpy(block.scales, bytes + 192, 16);
            block.d = u16(bytes + 208);
            break;
        case Format::iq4_xs: {
            block.d = u16(bytes);
            const unsigned high = u16(bytes + 2);
            for (int i = 0; i < 8; i++) {
                const int low = (bytes[4 + i / 2] >> (4 * (i % 2))) & 15;
                block.scales[i] = static_cast<std::uint8_t>((low | (((high >> (2 * i)) & 3) << 4)) - 32);
            }
            unpack_bits(bytes + 8, 128, 4, 16, 0, block.codes);
            break;
        }
        case Format::f32:
        case Format::f16:
        case Format::bf16:
        case Format::q8_0_upper:
        case Format::q6_k_upper:
        case Format::int16:
            break;
    }
}

void store_u16(std::uint8_t* to, int row, std::uint16_t value) { std::memcpy(to + 2 * row, &value, 2); }

// Writes the scales of tile `number` of 16 rows' blocks.
[[gnu::always_inline]] inline void pack_scales(Scales scales, const Block* blocks, int number, std::uint8_t* to) {
    for (int r = 0; r < kRows; r++) {
        const Block& b = blocks[r];
        switch (scales) {
            case Scales::half_min: store_u16(to + 2 * kRows, r, b.minimum); [[fallthrough]];
            case Scales::half: case Scales::bfloat: store_u16(to, r, b.d); break;
            case Scales::k32_min: to[r] = b.scales[number], to[kRows + r] = b.minima[number]; break;
            case Scales::k32: to[r] = b.scales[number]; break;
            case Scales::k16: case Scales::k16_min:
                to[r] = b.scales[2 * number], to[kRows + r] = b.scales[2 * number + 1];
                break;
            case Scales::none: case Scales::row: break;
        }
    }
}

// Packs a tile: 8 vectors of codes, one a byte, to the layout of `codes`.
[[gnu::always_inline]] inline void pack_codes(Codes codes, const std::uint8_t (&v)[8][64], std::uint8_t* to, std::uint8_t* lower) {
    const auto nibbles = [&](int shift) {
        for (int p = 0; p < 4; p++)
            for (int i = 0; i < 64; i++) to[64 * p + i] = static_cast<std::uint8_t>(((v[p][i] >> shift) & 15) | (v[p + 4][i] >> shift) << 4);
        to += 256;
    };
    const auto pairs = [&](int shift) {
        for (int p = 0; p < 2; p++)
            for (int i = 0; i < 64; i++) {
                int byte = 0;
                for (int f = 0; f < 4; f++) byte |= ((v[4 * p + f][i] >> shift) & 3) << (2 * f);
                to[64 * p + i] = static_cast<std::uint8_t>(byte);
            }
        to += 128;
    };
    const auto bits = [&](int shift) {
        for (int i = 0; i < 64; i++) {
            int byte = 0;
            for (int c = 0; c < 8; c++) byte |= ((v[c][i] >> shift) & 1) << c;
            to[i] = static_cast<std::uint8_t>(byte);
        }
    };
    switch (codes) {
        case Codes::bits4: case Codes::table: nibbles(0); break;
        case Codes::bits5: nibbles(0), bits(4); break;
        case Codes::bits6: nibbles(0), pairs(4); break;
        case Codes::split6: nibbles(2), to = lower, pairs(0); break;
        case Codes::bits2: pairs(0); break;
        case Codes::bits3: pairs(0), bits(2); break;
        case Codes::signed8: std::memcpy(to, v, 512); break;
        case Codes::split8:
            for (int p = 0; p < 4; p++)
                for (int i = 0; i < 64; i++) {
                    const std::uint8_t one = v[p][i] ^ 128, other = v[p + 4][i] ^ 128;
                    to[64 * p + i] = static_cast<std::uint8_t>(one >> 4 | (other & 240));
                    lower[64 * p + i] = static_cast<std::uint8_t>((one & 15) | other << 4);
                }
            break;
        case Codes::none: case Codes::int16: break;
    }
}

// The inverse of pack_codes: byte i of vector c.
int code_at(Codes codes, const std::uint8_t* from, const std::uint8_t* lower, int c, int i) {
    const std::uint8_t* more = from + (codes == Codes::bits3 ? 128 : 256);
    switch (codes) {
        case Codes::signed8: return static_cast<std::int8_t>(from[64 * c + i]);
        case Codes::bits2: return (from[64 * (c / 4) + i] >> (2 * (c % 4))) & 3;
        case Codes::bits3: return code_at(Codes::bits2, from, lower, c, i) | ((more[i] >> c) & 1) << 2;
        case Codes::split8: return 16 * code_at(Codes::bits4, from, lower, c, i) + code_at(Codes::bits4, lower, nullptr, c, i) - 128;
        case Codes::split6: return 4 * code_at(Codes::bits4, from, lower, c, i) + code_at(Codes::bits2, lower, nullptr, c, i);
        case Codes::bits5: return code_at(Codes::bits4, from, lower, c, i) | ((more[i] >> c) & 1) << 4;
        case Codes::bits6: return code_at(Codes::bits4, from, lower, c, i) | ((more[64 * (c / 4) + i] >> (2 * (c % 4))) & 3) << 4;
        default: return (from[64 * (c % 4) + i] >> (c < 4 ? 0 : 4)) & 15;
    }
}

// The format is a template parameter, so that every loop has a constant length.
template <Format format>
void pack_panel(const std::uint8_t* bytes, std::int64_t present, std::int64_t columns, std::uint8_t* to, std::uint8_t* lower) {
    constexpr Layout form = layout(format);
    const std::size_t row_bytes = static_cast<std::size_t>(columns / form.block) * form.block_bytes;
    Block blocks[kRows] = {};  // absent rows stay zero
    for (std::int64_t number = 0; number < columns / form.block; number++) {
        for (int r = 0; r < present; r++) read_block(format, bytes + r * row_bytes + number * form.block_bytes, blocks[r]);
        if (form.block == kSuper) {
            for (int r = 0; r < kRows; r++) {
                store_u16(to, r, blocks[r].d);
                if (super_bytes(form.scales) > 2 * kRows) store_u16(to + 2 * kRows, r, blocks[r].minimum);
            }
            to += super_bytes(form.scales);
        }
        for (int tile = 0; tile < form.block / kCols; tile++) {
            pack_scales(form.scales, blocks, tile, to);
            std::uint8_t vectors[8][64];
            for (int r = 0; r < kRows; r++)
                for (int c = 0; c < 8; c++) std::memcpy(&vectors[c][4 * r], &blocks[r].codes[kCols * tile + 4 * c], 4);
            pack_codes(form.codes, vectors, to + scale_bytes(form.scales), lower);
            to += tile_bytes(format);
            if constexpr (is_split(format)) lower += lower_tile_bytes(format);
        }
    }
}

template <class T>
void pack_plain(const std::uint8_t* bytes, std::int64_t present, std::int64_t columns, std::uint8_t* to, std::uint8_t*) {
    T* out = reinterpret_cast<T*>(to);
    for (int r = 0; r < kRows; r++)
        for (std::int64_t k = 0; k < columns; k++) {
            T value{};
            if (r < present) std::memcpy(&value, bytes + (r * columns + k) * sizeof(T), sizeof(T));
            out[k * kRows + r] = value;
        }
}

// Number k of plain numbers.
template <Format format>
float plain_number(const std::uint8_t* numbers, std::int64_t k) {
    if constexpr (format == Format::f16) return half_to_float(u16(numbers + 2 * k));
    if constexpr (format == Format::bf16) return bfloat_to_float(u16(numbers + 2 * k));
    float value;
    std::memcpy(&value, numbers + 4 * k, sizeof value);
    return value;
}

// The scale of a row of integers of 16 bits: the magnitudes and the norm of every tile stay within their bounds. Not finite if
// a number is not.
float int16_scale(const std::vector<float>& row) {
    constexpr int lanes = 8;  // sums of their own, which become vectors
    std::uint32_t bits = 0;   // of the largest magnitude; bits of magnitudes are ordered as these
    for (const float number : row) bits = std::max(bits, std::bit_cast<std::uint32_t>(number) & 0x7fffffffu);
    const auto largest = std::bit_cast<float>(bits);
    if (!std::isfinite(largest)) return std::nanf("");
    if (largest < kLeastLargest) return 0;
    const float unit = 1 / largest;
    float most = 0;
    for (std::size_t k = 0; k < row.size(); k += kCols) {
        float squares[lanes] = {};
        for (int i = 0; i < kCols; i++) squares[i % lanes] += row[k + i] * unit * (row[k + i] * unit);
        most = std::max(most, std::accumulate(squares, squares + lanes, 0.f));
    }
    return largest / std::min(kInt16Largest, kInt16Norm / std::sqrt(most));
}

template <Format file>
void pack_int16(const std::uint8_t* bytes, std::int64_t present, std::int64_t columns, std::uint8_t* to, std::uint8_t*) {
    std::vector<float> row(columns);
    auto* scales = reinterpret_cast<float*>(to);
    auto* pairs = reinterpret_cast<std::uint32_t*>(to + kRows * sizeof(float));
    constexpr float kRound = 0x1.8p23f;  // added to a number, it leaves the nearest integer in the low bits
    for (int r = 0; r < kRows; r++) {
        for (std::int64_t k = 0; k < columns; k++) row[k] = r < present ? plain_number<file>(bytes, r * columns + k) : 0;
        scales[r] = int16_scale(row);
        const float by = scales[r] > 0 ? 1 / scales[r] : 0;
        for (float& number : row) number = number * by + kRound;
        for (std::int64_t k = 0; k < columns; k += 2)
            pairs[k / 2 * kRows + r] = (std::bit_cast<std::uint32_t>(row[k]) & 0xffffu) | std::bit_cast<std::uint32_t>(row[k + 1]) << 16;
    }
}

using Pack = void (*)(const std::uint8_t* bytes, std::int64_t present, std::int64_t columns, std::uint8_t* to, std::uint8_t* lower);

template <int number>
constexpr Pack pack_of() {
    constexpr Format format = static_cast<Format>(number);
    if constexpr (format == Format::f32) return pack_plain<std::uint32_t>;
    else if constexpr (is_plain(format)) return pack_plain<std::uint16_t>;
    else if constexpr (is_blocked(format)) return pack_panel<format>;
    else return nullptr;  // int16 is packed from several formats
}

Pack packing_int16(Format file) {
    return file == Format::f32 ? pack_int16<Format::f32> : file == Format::f16 ? pack_int16<Format::f16> : pack_int16<Format::bf16>;
}

template <int... numbers>
Pack packing(Format format, std::integer_sequence<int, numbers...>) {
    constexpr Pack all[] = {pack_of<numbers>()...};
    return all[static_cast<int>(format)];
}

// The scale and offset of half a tile (16 columns) of one row.
void scales_of(const Layout& form, const std::uint8_t* super, const std::uint8_t* tile, int row, int half, float& s, float& m) {
    const auto d = [&](const std::uint8_t* at) { return half_to_float(u16(at + 2 * row)); };
    const auto i8 = [&](const std::uint8_t* at) { return static_cast<float>(static_cast<std::int8_t>(at[row])); };
    switch (form.scales) {
        case Scales::half: s = d(tile); break;
        case Scales::half_min: s = d(tile), m = d(tile + 2 * kRows); return;
        case Scales::bfloat: s = bfloat_to_float(u16(tile + 2 * row)); break;
        case Scales::k32_min: s = d(super) * tile[row], m = -d(super + 2 * kRows) * tile[kRows + row]; return;
        case Scales::k32: s = d(super) * i8(tile); break;
        case Scales::k16: s = d(super) * i8(tile + kRows * half); break;
        case Scales::k16_min: {
            const int both = tile[kRows * half + row];
            s = d(super) * static_cast<float>(both & 15), m = -d(super + 2 * kRows) * static_cast<float>(both >> 4);
            return;
        }
        case Scales::none: case Scales::row: break;
    }
    m = -form.zero * s;
}

}  // namespace

std::shared_ptr<std::uint8_t> Arena::cut(std::size_t bytes, std::size_t block) {
    constexpr std::size_t kLine = 64;
    bytes = (bytes + kLine - 1) / kLine * kLine;
    if (used_ + bytes > size_) {
        size_ = std::max(bytes, block);  // the end of a block that is no whole large page lies in small ones
        void* memory = nullptr;
        if (posix_memalign(&memory, kLargePage, size_)) throw std::bad_alloc();
#if defined(__linux__)
        madvise(memory, size_, MADV_HUGEPAGE);  // may fail: small pages are only slower
#endif
        block_.reset(static_cast<std::uint8_t*>(memory), Free{});
        used_ = 0;
    }
    std::shared_ptr<std::uint8_t> part(block_, block_.get() + used_);
    used_ += bytes;
    return part;
}

std::shared_ptr<Packed> allocate(Format file, std::int64_t rows, std::int64_t columns, Repack repack, Arena& arena) {
    if (columns % layout(file).block)
        throw std::invalid_argument("rows of " + std::to_string(columns) + " are not a whole number of blocks of " + layout(file).name);
    Format format = file;
    if (repack == Repack::split && file == Format::q8_0) format = Format::q8_0_split;
    if (repack == Repack::split && file == Format::q6_k) format = Format::q6_k_split;
    if (repack == Repack::int16 && is_plain(file) && columns % kCols == 0) format = Format::int16;
    auto packed = std::make_shared<Packed>(Packed{format, file, rows, columns, nullptr, nullptr});
    if (is_split(format)) packed->lower = arena.cut(packed->lower_bytes());
    packed->data = arena.cut(packed->panels() * packed->stride());
    return packed;
}

void fill(Packed& packed, std::int64_t first, std::int64_t count, const std::uint8_t* bytes, Pool& pool) {
    const std::int64_t columns = packed.columns;
    const std::size_t row_bytes = static_cast<std::size_t>(columns / layout(packed.file).block) * layout(packed.file).block_bytes;
    const Pack pack = packed.format == Format::int16 ? packing_int16(packed.file) : packing(packed.format, std::make_integer_sequence<int, std::size(kLayouts)>());
    pool.run((count + kRows - 1) / kRows, [&](std::int64_t panel, int) {
        const std::uint8_t* from = bytes + panel * kRows * row_bytes;
        std::uint8_t* to = packed.data.get() + (first / kRows + panel) * packed.stride();
        const std::int64_t present = std::min<std::int64_t>(kRows, count - panel * kRows);
        std::uint8_t* lower = packed.lower ? packed.lower.get() + (first / kRows + panel) * packed.lower_stride() : nullptr;
        pack(from, present, columns, to, lower);
    });
}

void release_pages(const std::uint8_t* bytes, std::size_t count) {
#ifdef MADV_DONTNEED
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE)), address = reinterpret_cast<std::uintptr_t>(bytes);
    const std::uintptr_t from = address / page * page;
    if (count) madvise(reinterpret_cast<void*>(from), address + count - from, MADV_DONTNEED);
#endif
}

void dequantize_row(const Packed& packed, std::int64_t row, float* out) {
    const auto [tiles, lower] = packed.panel(row / kRows);
    const std::uint8_t* from = tiles;
    const int r = static_cast<int>(row % kRows);
    const Layout& form = layout(packed.format);
    if (is_plain(packed.format)) {
        const auto number = packed.format == Format::f16 ? plain_number<Format::f16> : packed.format == Format::bf16 ? plain_number<Format::bf16> : plain_number<Format::f32>;
        for (std::int64_t k = 0; k < packed.columns; k++) out[k] = number(from, k * kRows + r);
        return;
    }
    if (packed.format == Format::int16) {
        const float scale = reinterpret_cast<const float*>(from)[r];
        const auto* integers = reinterpret_cast<const std::int16_t*>(from + kRows * sizeof(float));
        for (std::int64_t k = 0; k < packed.columns; k++) out[k] = scale * integers[(k / 2 * kRows + r) * 2 + k % 2];
        return;
    }
    const std::uint8_t* super = nullptr;
    for (std::int64_t column = 0; column < packed.columns; column += kCols) {
        if (super_bytes(form.scales) && column % kSuper == 0) super = from, from += super_bytes(form.scales);
        const TileRow tile = read_tile(packed.format, super, from, lower ? lower + column / kCols * lower_tile_bytes(packed.format) : nullptr, r);
        for (int k = 0; k < kCols; k++)
            out[column + k] = tile.scale[k / 16] * static_cast<float>(tile.codes[k]) + tile.offset[k / 16];
        from += tile_bytes(packed.format);
    }
}

TileRow read_tile(Format format, const std::uint8_t* super, const std::uint8_t* tile, const std::uint8_t* lower, int row) {
    const Layout& form = layout(format);
    TileRow result;
    for (int half = 0; half < 2; half++) scales_of(form, super, tile, row, half, result.scale[half], result.offset[half]);
    for (int k = 0; k < kCols; k++) {
        const int code = code_at(form.codes, tile + scale_bytes(form.scales), lower, k / 4, 4 * row + k % 4);
        result.codes[k] = form.codes == Codes::table ? levels(format)[code] : code;
    }
    return result;
}

}  // namespace ordito
