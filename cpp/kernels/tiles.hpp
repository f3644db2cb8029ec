// Products of packed weights and whole numbers by tiles (AMX), for `Isa` of 16 lanes that was included before: one instruction
// multiplies a tile of 16 rows and 32 columns with a group of 8 tokens. Codes in memory stand as it wants them, and so do
// tokens: a group's codes and fine codes in turn are 16 lines of one tile. Sums of whole numbers are exact, and numbers are made
// of them as `some_tokens` makes them, in the same order: the results are its own, to the bit.
#pragma once

#include <cstddef>

#include "linear.hpp"
#include "tile_shapes.hpp"

namespace ordito {
namespace {

// Registers: codes of weights, groups of tokens, and what comes out.
enum Tile { kWeights = 0, kGroup = 2, kProducts = 4 };

// How many lines a token has: its codes, and its fine ones.
template <class Record>
constexpr int kLines = std::is_same_v<Record, Fine> ? 2 : 1;
static_assert(offsetof(Fine, fine) == sizeof(Fine) / 2);

// Sums of whole numbers of a group, [token][coarse, fine][row].
template <class Record>
struct alignas(64) TileSums {
    std::int32_t of[kTogether][kLines<Record>][kRows];
};

// A half's products with a group, added to what a register holds.
template <int half, int products, class Record>
[[gnu::always_inline]] inline void multiply_tile(const Record* group) {
    load_tile<kGroup + half>(group->codes + 16 * half, sizeof(Record) / kLines<Record>);
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(products), "i"(kGroup + half), "i"(kWeights + half));
}

// Up to 8 tiles of a panel, one code a byte: they are unpacked once for all tokens.
template <Format f>
struct Unpacked {
    static constexpr int most = kSuper / kCols;
    alignas(64) std::uint8_t codes[most][8][4 * kRows];
    typename Isa::F scale[most][halves_of(f)], offset[most][halves_of(f)];

    // Unpacks `count` tiles, and returns what follows them.
    const std::uint8_t* read(const std::uint8_t* tile, int count) {
        const std::uint8_t* super = tile;
        tile += super_bytes(layout(f).scales);
        for (int b = 0; b < count; b++, tile += tile_bytes(f)) {
            for (int line = 0; line < tile_bytes(f); line += 64) __builtin_prefetch(tile + kAhead + line);
            typename Isa::C w[8];
            unpack_codes<f>(tile + scale_bytes(layout(f).scales), w);
            for (int c = 0; c < 8; c++) _mm512_store_si512(codes[b][c], w[c]);
            const TileScales<f> by(super, tile, 0);
            for (int half = 0; half < halves_of(f); half++) scale[b][half] = by.scale[half], offset[b][half] = by.offset[half];
        }
        return tile;
    }
};

// Adds the products of `count` unpacked tiles and of whole groups to their totals.
template <Format f, int groups, class Record>
inline void add_products(const Unpacked<f>& w, int count, const Record* const* x, typename Isa::F (*totals)[kTogether]) {
    using F = typename Isa::F;
    constexpr int halves = halves_of(f);
    F total[groups][kTogether];
    for (int g = 0; g < groups; g++)
        for (int t = 0; t < kTogether; t++) total[g][t] = totals[g][t];
    // The next tile's sums are made while numbers are made of this one's, and stored after. All registers become zero before
    // the first product: where each became zero just before its own, products came one by one.
    TileSums<Record> products[groups][halves];
    const auto multiply = [&](int b) {
        asm volatile("tilezero %tmm4\n\ttilezero %tmm5\n\ttilezero %tmm6\n\ttilezero %tmm7");
        load_tile<kWeights>(w.codes[b], 4 * kRows);
        if constexpr (halves == 2) load_tile<kWeights + 1>(w.codes[b][4], 4 * kRows);
        multiply_tile<0, kProducts>(x[0] + b * kTogether);
        if constexpr (halves == 2) multiply_tile<1, kProducts + 1>(x[0] + b * kTogether);
        if constexpr (groups == 2) multiply_tile<0, kProducts + 2>(x[1] + b * kTogether);
        if constexpr (groups == 2 && halves == 2) multiply_tile<1, kProducts + 3>(x[1] + b * kTogether);
    };
    const auto store = [&] {
        constexpr std::int64_t stride = 4 * kRows;
        store_tile<kProducts>(&products[0][0], stride);
        if constexpr (halves == 2) store_tile<kProducts + 1>(&products[0][1], stride);
        if constexpr (groups == 2) store_tile<kProducts + 2>(&products[1][0], stride);
        if constexpr (groups == 2 && halves == 2) store_tile<kProducts + 3>(&products[1][1], stride);
    };
    multiply(0);
    store();
    for (int b = 0; b < count; b++) {
        if (b + 1 < count) multiply(b + 1);
#pragma GCC unroll 2
        for (int g = 0; g < groups; g++)
#pragma GCC unroll 8
            for (int t = 0; t < kTogether; t++) {
                const Record& token = x[g][b * kTogether + t];
                const F scale = Isa::set1(token.scale);
#pragma GCC unroll 2
                for (int half = 0; half < halves; half++) {
                    const auto& sums = products[g][half].of[t];
                    typename Isa::A sum = _mm512_load_si512(sums[0]);
                    if constexpr (kLines<Record> == 2) sum = Isa::with_fine(sum, _mm512_load_si512(sums[1]));
                    total[g][t] = Isa::fma(Isa::mul(w.scale[b][half], scale), Isa::to_float(sum), total[g][t]);
                    if constexpr (has_offset(f))
                        total[g][t] = Isa::fma(w.offset[b][half], Isa::set1(halves == 1 ? token.sum : token.sums[half]), total[g][t]);
                }
            }
        if (b + 1 < count) store();
    }
    for (int g = 0; g < groups; g++)
        for (int t = 0; t < kTogether; t++) totals[g][t] = total[g][t];
}

// The shapes for tiles of so many halves.
template <class Record>
const TileShapes& shapes_for(int halves) {
    return kShapes[2 * (halves - 1) + kLines<Record> - 1];
}

template <Format f, class Record>
void groups_in_tiles(const std::uint8_t* panel, const Quantized& x, int all, const Output& out) {
    static_assert(Isa::lanes == kRows);
    constexpr int most = 8;  // groups whose totals stay in the first cache
    const Shaped shaped(shapes_for<Record>(halves_of(f)));
    for (int first = 0; first < all; first += most) {
        const int groups = all - first < most ? all - first : most;
        typename Isa::F totals[most][kTogether];
        for (auto& group : totals)
            for (auto& total : group) total = Isa::zero();
        const std::uint8_t* tile = panel;
        for (std::int64_t b = 0; b < x.tiles(); b += Unpacked<f>::most) {
            const int count = x.tiles() - b < Unpacked<f>::most ? static_cast<int>(x.tiles() - b) : Unpacked<f>::most;
            Unpacked<f> w;
            tile = w.read(tile, count);
            const auto group = [&](int g) { return reinterpret_cast<const Record*>(x.of((first + g) * kTogether)) + b * kTogether; };
            for (int g = 0; g + 1 < groups; g += 2) {
                const Record* two[] = {group(g), group(g + 1)};
                add_products<f, 2>(w, count, two, totals + g);
            }
            if (groups % 2) {
                const Record* last[] = {group(groups - 1)};
                add_products<f, 1>(w, count, last, totals + groups - 1);
            }
        }
        for (int g = 0; g < groups; g++)
            for (int t = 0; t < kTogether; t++) put(out, (first + g) * kTogether + t, 0, totals[g][t]);
    }
}

template <Format f, class Record>
void tokens_in_tiles(const std::uint8_t* panel, const Quantized& x, int tokens, const Output& out) {
    const int groups = tokens < 2 * kTogether ? 0 : tokens / kTogether;  // unpacking does not pay for one
    if (groups) groups_in_tiles<f, Record>(panel, x, groups, out);
    all_tokens<f, Record>(panel, x, groups * kTogether, tokens, out);
}

template <Format f>
void linear_in_tiles(const std::uint8_t* panel, const Quantized& x, int tokens, const Output& out) {
    if (x.fine) tokens_in_tiles<f, Fine>(panel, x, tokens, out);
    else tokens_in_tiles<f, Coarse>(panel, x, tokens, out);
}

// The products of a superblock of 4 bits with two groups of tokens, all in the first cache.
template <class Record>
std::int64_t multiply_in_tiles(std::int64_t rounds) {
    Unpacked<Format::q4_0> w = {};
    alignas(64) Record x[2][Unpacked<Format::q4_0>::most * kTogether] = {};
    const Record* groups[] = {x[0], x[1]};
    typename Isa::F totals[2][kTogether] = {};
    const Shaped shaped(shapes_for<Record>(1));
    for (std::int64_t round = 0; round < rounds; round++) add_products<Format::q4_0, 2>(w, Unpacked<Format::q4_0>::most, groups, totals);
    asm volatile("" : : "r"(totals) : "memory");
    return std::int64_t{2} * kTogether * kSuper * kRows;
}

template <int... numbers>
void fill_tiles(Kernels& k, std::integer_sequence<int, numbers...>) {
    const auto fill = [&](auto number) {
        constexpr Format f = static_cast<Format>(number.value);
        if constexpr (!is_plain(f)) k.linear_whole[number.value] = linear_in_tiles<f>;
    };
    (fill(std::integral_constant<int, numbers>()), ...);
    k.multiply[1] = multiply_in_tiles<Coarse>;
    k.multiply[2] = multiply_in_tiles<Fine>;
}

}  // namespace
}  // namespace ordito
