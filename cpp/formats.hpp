// The number formats of weights, as GGUF files store them and as the kernels read them.
//
// In a file a row is a sequence of blocks. In memory 16 rows are a panel, and a panel is a sequence of tiles of 16 rows x 32
// columns, so that a vector instruction works on many rows at once and needs no horizontal sum:
//
//   plain (f32, f16, bf16)   [column][row]: 16 numbers of a column are contiguous
//   blocks of 32             tile = scales, codes
//   blocks of 256 (K)        superblock = super-scales, 8 tiles of (sub-scales, codes)
//   int16 (made from plain)  fp32 scales of the 16 rows, then [pair of columns][row][2]
//
// Codes of a tile are 8 vectors of 64 bytes; byte 4 r + j of vector c is row r, column 4 c + j. Vectors of few bits share
// bytes:
//
//   4 bits    256 bytes: byte i of vector p holds vector p (low) and vector p + 4 (high), p < 4
//   2 bits    128 bytes: bits 2 f and 2 f + 1 of byte i of vector p are vector 4 p + f, p < 2
//   1 bit      64 bytes: bit c of byte i is vector c
//   8 bits    512 bytes
//   split     the upper 4 bits of 8 or 6, as 4 bits; the lower bits in an array of their own, as 4 bits (256 bytes) or 2 (128)
//
// 5 bits are stored as 4 and 1, 6 bits as 4 and 2, 3 bits as 2 and 1. A number is scale * (code - zero) or scale * code +
// minimum.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>

namespace ordito {

constexpr int kRows = 16;   // of a panel
constexpr int kCols = 32;   // of a tile
constexpr int kSuper = 256; // columns of a superblock

enum class Format { f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, mxfp4, q8_0_split, q8_0_upper, q6_k_split, q6_k_upper, int16 };

// The scales of a tile.
enum class Scales {
    none,      // plain numbers
    half,      // d, fp16, for 32 columns
    half_min,  // d and m, fp16, for 32 columns
    bfloat,    // d, bf16, for 32 columns: bf16 holds every power of two of MXFP4
    k32_min,   // superblock d and dmin; s and m, 8 bits each, for 32 columns: d s, -dmin m
    k32,       // superblock d; s, signed 8 bits, for 32 columns
    k16,       // superblock d; s, signed 8 bits, for 16 columns
    k16_min,   // superblock d and dmin; s (low) and m (high), 4 bits each, for 16 columns
    row,       // fp32, for all columns of a row
};

// The codes of a tile. Split codes, code + 128 = 16 * upper + lower or code = 4 * upper + lower, keep their lower bits
// elsewhere.
enum class Codes { none, bits2, bits3, bits4, bits5, bits6, signed8, split8, split6, table, int16 };

struct Layout {
    const char* name;
    int block;        // numbers of a block in a file
    int block_bytes;  // bytes of a block in a file
    Scales scales;
    Codes codes;
    float zero;       // what is subtracted from a code
};

constexpr Layout kLayouts[] = {
    {"f32", 1, 4, Scales::none, Codes::none, 0},
    {"f16", 1, 2, Scales::none, Codes::none, 0},
    {"bf16", 1, 2, Scales::none, Codes::none, 0},
    {"q4_0", 32, 18, Scales::half, Codes::bits4, 8},
    {"q4_1", 32, 20, Scales::half_min, Codes::bits4, 0},
    {"q5_0", 32, 22, Scales::half, Codes::bits5, 16},
    {"q5_1", 32, 24, Scales::half_min, Codes::bits5, 0},
    {"q8_0", 32, 34, Scales::half, Codes::signed8, 0},
    {"q2_k", 256, 84, Scales::k16_min, Codes::bits2, 0},
    {"q3_k", 256, 110, Scales::k16, Codes::bits3, 4},
    {"q4_k", 256, 144, Scales::k32_min, Codes::bits4, 0},
    {"q5_k", 256, 176, Scales::k32_min, Codes::bits5, 0},
    {"q6_k", 256, 210, Scales::k16, Codes::bits6, 32},
    {"iq4_nl", 32, 18, Scales::half, Codes::table, 0},
    {"iq4_xs", 256, 136, Scales::k32, Codes::table, 0},
    {"mxfp4", 32, 17, Scales::bfloat, Codes::table, 0},
    // In memory only: split codes, and their upper bits alone, of numbers 1 / 16 or 1 / 4 as large, whose zero is shifted to the
    // middle of what the lower bits may add.
    {"q8_0", 32, 34, Scales::half, Codes::split8, 0},
    {"q8_0_upper", 32, 34, Scales::half, Codes::bits4, 7.53125f},
    {"q6_k", 256, 210, Scales::k16, Codes::split6, 32},
    {"q6_k_upper", 256, 210, Scales::k16, Codes::bits4, 7.625f},
    // In memory only, too: plain numbers as integers.
    {"int16", kCols, 2 * kCols, Scales::row, Codes::int16, 0},
};

constexpr int kFileFormats = static_cast<int>(Format::q8_0_split);  // the formats of files come first

constexpr const Layout& layout(Format format) { return kLayouts[static_cast<int>(format)]; }

constexpr bool is_plain(Format format) { return layout(format).scales == Scales::none; }

// Whether the kernels read tiles of codes with scales.
constexpr bool is_blocked(Format format) { return !is_plain(format) && format != Format::int16; }

// Bytes of one number of a plain format.
constexpr int plain_bytes(Format format) { return layout(format).block_bytes; }

constexpr int code_bytes(Codes codes) {
    switch (codes) {
        case Codes::bits2: return 128;
        case Codes::bits3: return 192;
        case Codes::bits4: case Codes::table: case Codes::split8: case Codes::split6: return 256;
        case Codes::bits5: return 320;
        case Codes::bits6: return 384;
        case Codes::signed8: return 512;
        case Codes::int16: return 1024;
        case Codes::none: break;
    }
    return 0;
}

// Bytes of the scales that precede the codes of a tile.
constexpr int scale_bytes(Scales scales) {
    switch (scales) {
        case Scales::half: case Scales::bfloat: return 2 * kRows;
        case Scales::half_min: return 4 * kRows;
        case Scales::k32_min: case Scales::k16: case Scales::k16_min: return 2 * kRows;
        case Scales::k32: return kRows;
        case Scales::none: case Scales::row: break;
    }
    return 0;
}

// Bytes of the super-scales that precede the 8 tiles of a superblock.
constexpr int super_bytes(Scales scales) {
    switch (scales) {
        case Scales::k32_min: case Scales::k16_min: return 4 * kRows;
        case Scales::k32: case Scales::k16: return 2 * kRows;
        default: return 0;
    }
}

constexpr int tile_bytes(Format format) { return scale_bytes(layout(format).scales) + code_bytes(layout(format).codes); }

constexpr bool is_split(Format format) { return layout(format).codes == Codes::split8 || layout(format).codes == Codes::split6; }

// Of a split format: the format of its upper bits, the number of values of the lower bits, and their bytes in a tile.
constexpr Format upper_of(Format format) { return format == Format::q8_0_split ? Format::q8_0_upper : Format::q6_k_upper; }
constexpr int lower_steps(Format format) { return layout(format).codes == Codes::split8 ? 16 : 4; }
constexpr int lower_tile_bytes(Format format) { return !is_split(format) ? 0 : lower_steps(format) == 16 ? 256 : 128; }

// Numbers that are all below in magnitude become zeros as integers: the factor would overflow.
constexpr float kLeastLargest = 1e-34f;

// Bounds of 32 integers of 16 bits before they are rounded: of each, and of their norm, so that a sum of 32 products, which is
// at most the product of two norms, fits 32 bits.
constexpr float kInt16Largest = 32767, kInt16Norm = 46336;

// A panel in memory: its tiles and, of split codes, the lower bits.
struct Panel {
    const std::uint8_t *tiles, *lower;
};

// Bytes of a panel of `columns`, without the lower bits of split codes.
constexpr std::size_t panel_bytes(Format format, std::int64_t columns) {
    if (is_plain(format)) return static_cast<std::size_t>(columns) * kRows * plain_bytes(format);
    const std::size_t tiles = static_cast<std::size_t>(columns / kCols) * tile_bytes(format);
    if (format == Format::int16) return kRows * sizeof(float) + tiles;
    return tiles + static_cast<std::size_t>(columns / kSuper) * super_bytes(layout(format).scales);
}

// ggml's levels of IQ4_NL and IQ4_XS, and those of MXFP4's e2m1 codes, doubled (OCP Microscaling Formats 1.0, table 5).
constexpr std::int8_t kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr std::int8_t kMxfp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// The levels that the codes of a table format stand for.
constexpr const std::int8_t* levels(Format format) { return format == Format::mxfp4 ? kMxfp4 : kIq4; }

// The format with this name. Throws std::invalid_argument for an unknown name.
Format format_of(const std::string& name);

// Without branches, so that loops over many numbers become vector instructions: the exponent of fp16 is moved to that of fp32
// by a multiplication, which is exact for numbers below the smallest normal one, too. Static: each instruction set has its own.
static inline float half_to_float(std::uint16_t bits) {
    const std::uint32_t sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7fffu) << 13;
    const auto number = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
    return std::bit_cast<float>(sign | (magnitude < 0x0f800000u ? number : magnitude | 0x7f800000u));  // infinity and NaN
}
static inline float bfloat_to_float(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
std::uint16_t float_to_half(float value);
std::uint16_t float_to_bfloat(float value);

}  // namespace ordito
