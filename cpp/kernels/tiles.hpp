// Products of quantized weights and activations by AMX's tiles, for an `Isa` of 16 lanes: one instruction multiplies a tile of
// 16 rows and 32 columns with up to 16 tokens. The layouts of codes and tokens in memory are made for it. Integer sums are
// exact, and they are scaled and added in the order of `linear_block`, so that the results equal its own bit for bit.
#pragma once

#include <algorithm>

#include "linear.hpp"
#include "tile_shapes.hpp"

namespace ordito {
namespace {

// The products of one tile. 4-bit codes are unpacked twice, times 16 and as they are, against the high and the low digits of
// the tokens, so that one product sums both; for other codes each half of a tile with its own scale is multiplied with each
// digit. Registers: 0 to 3 sums, 4 and 5 codes of weights, 6 and 7 tokens.
template <Format f, int all_digits>
struct TileForm {
    static constexpr bool twice = all_digits == 2 && !is_signed(f) && max_code(layout(f).codes) <= 15 && halves_of(f) == 1;
    static constexpr int halves = halves_of(f), digits = twice ? 1 : all_digits, products = halves * digits;
    static constexpr int vectors = twice ? 16 : 8;           // of a tile's unpacked codes
    static constexpr int columns = 4 * vectors / halves;     // bytes of a token's line in a tile register
    static constexpr int token = all_digits * kCols;         // bytes from one token to the next in memory
    // Two tiles of weights in flight, each with its own registers; with four products there are registers for only one.
    static constexpr int sets = products == 4 ? 1 : 2;
    static constexpr int sums(int set, int half, int digit) { return set * products + half * digits + digit; }
    static constexpr int weights(int set, int half) { return 4 + (sets == 2 ? set : half); }
    static constexpr int tokens(int set, int digit) { return 6 + (sets == 2 ? set : digit); }
};

// Up to 8 tiles of a panel, unpacked to one code a byte once for all tokens.
template <Format f, int digits>
struct Unpacked {
    static constexpr int kTiles = kSuper / kCols;
    alignas(64) std::uint8_t codes[kTiles][TileForm<f, digits>::vectors][4 * kRows];
    typename Isa::F scale[kTiles][halves_of(f)], factor[kTiles][halves_of(f)];

    // Unpacks `count` tiles; returns where the next one begins.
    const std::uint8_t* read(const std::uint8_t* tile, const std::uint8_t* lower, int count) {
        const std::uint8_t* super = tile;
        tile += super_bytes(layout(f).scales);
        for (int b = 0; b < count; b++, tile += tile_bytes(f)) {
            for (int line = 0; line < tile_bytes(f); line += 64) __builtin_prefetch(tile + kPrefetchAhead + line);
            constexpr int vectors = TileForm<f, digits>::vectors;
            typename Isa::C w[vectors];
            for (int line = 0; line < lower_tile_bytes(f); line += 64) __builtin_prefetch(lower + kPrefetchAhead + line);
            unpack_codes<f>(tile + scale_bytes(layout(f).scales), lower, w + vectors - 8);
            if constexpr (is_split(f)) lower += lower_tile_bytes(f);
            for (int c = 0; c < vectors - 8; c++) w[c] = Isa::template shift_left<4>(w[c + 8]);
            for (int c = 0; c < vectors; c++) _mm512_store_si512(codes[b][c], w[c]);
            const TileScales<f> by(super, tile, 0);
            for (int half = 0; half < halves_of(f); half++) scale[b][half] = by.scale[half], factor[b][half] = by.factor(half);
        }
        return tile;
    }
};

// A group of tokens from some tile on; the first `present` of its lines are tokens.
struct Group {
    const std::int8_t* codes;
    const BlockStats* stats;
    std::int64_t step, stats_step;
    int present;
};

// Calls with(half, digit) for all products, both as compile-time constants.
template <class Form, class With>
[[gnu::always_inline]] inline void each_product(With&& with) {
    const auto digits = [&](auto half) {
        with(half, std::integral_constant<int, 0>());
        if constexpr (Form::digits == 2) with(half, std::integral_constant<int, 1>());
    };
    digits(std::integral_constant<int, 0>());
    if constexpr (Form::halves == 2) digits(std::integral_constant<int, 1>());
}

template <int tile>
[[gnu::always_inline]] inline void zero_tile() {
    asm volatile("tilezero %%tmm%c0" : : "i"(tile));
}

template <int sums, int tokens, int weights>
[[gnu::always_inline]] inline void dot_tiles() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(tokens), "i"(weights));
}

// Multiplies a tile with the codes of a group.
template <class Form, int set>
[[gnu::always_inline]] inline void multiply(const std::uint8_t (*w)[4 * kRows], const std::int8_t* codes) {
    each_product<Form>([](auto half, auto digit) { zero_tile<Form::sums(set, half(), digit())>(); });
    each_product<Form>([&](auto half, auto digit) {
        constexpr int weights = Form::weights(set, half()), tokens = Form::tokens(set, digit());
        if constexpr (digit() == 0) load_tile<weights>(w[8 * half() / Form::halves], 4 * kRows);
        load_tile<tokens>(codes + digit() * kCols + half() * 16, Form::token);
        dot_tiles<Form::sums(set, half(), digit()), tokens, weights>();
    });
}

// Sums of a tile's products, [half and digit][token][row].
template <class Form, int lines>
struct alignas(64) TileSums {
    std::int32_t of[Form::products][lines][kRows];

    template <int set>
    [[gnu::always_inline]] void store() {
        each_product<Form>([&](auto half, auto digit) {
            store_tile<Form::sums(set, half(), digit())>(of[half() * Form::digits + digit()], 4 * kRows);
        });
    }
};

// Adds the products of `count` unpacked tiles and a group of tokens, in tile registers of `lines` lines, to the tokens' totals.
template <Format f, int digits, int lines, bool full>
inline void add_products(const Unpacked<f, digits>& w, int count, const Group& x, typename Isa::F* totals) {
    using F = typename Isa::F;
    using Form = TileForm<f, digits>;
    const int present = full ? lines : x.present;
    F total[lines];  // in registers: every loop over it is unrolled
#pragma GCC unroll 16
    for (int t = 0; t < present; t++) total[t] = totals[t];
    TileSums<Form, lines> sums[Form::sets];
    // Copies in registers: loads from memory would wait for the stores of tiles.
    const std::int64_t step = x.step, stats_step = x.stats_step;
    const std::int8_t* codes = x.codes;
    const BlockStats* stats = x.stats;
    // Stores the sums of a tile and begins the products of a later one, while the stored sums are scaled and added.
    const auto finish_tile = [&](auto set, int b) __attribute__((always_inline)) {
        sums[set()].template store<set()>();
        if (b + Form::sets < count) multiply<Form, set()>(w.codes[b + Form::sets], codes + Form::sets * step);
#pragma GCC unroll 16
        for (int t = 0; t < present; t++) {
#pragma GCC unroll 2
            for (int half = 0; half < Form::halves; half++) {
                const auto* of = sums[set()].of + half * Form::digits;
                typename Isa::A sum = _mm512_load_si512(of[0][t]);
                if constexpr (Form::digits == 2) sum = Isa::join_digits(sum, _mm512_load_si512(of[1][t]));
                total[t] = add_scaled<f>(total[t], sum, w.scale[b][half], w.factor[b][half], stats[t], half);
            }
        }
        codes += step, stats += stats_step;
    };
    constexpr std::integral_constant<int, 0> first;
    constexpr std::integral_constant<int, Form::sets - 1> second;
    multiply<Form, 0>(w.codes[0], codes);
    if (Form::sets == 2 && count > 1) multiply<Form, Form::sets - 1>(w.codes[1], codes + step);
    for (int b = 0; b < count; b += Form::sets) {
        finish_tile(first, b);
        if (Form::sets == 2 && b + 1 < count) finish_tile(second, b + 1);
    }
#pragma GCC unroll 16
    for (int t = 0; t < present; t++) totals[t] = total[t];
}

constexpr int kFewLines = 8;  // lines of a tile register if there are no more tokens

template <Format f, int digits, int lines>
void tokens_in_tiles(const Panel& panel, const Quantized& x, int tokens, const Output& out) {
    using Form = TileForm<f, digits>;
    constexpr int kGroups = 4;  // groups at once: their totals and codes stay in the L1 and L2 caches
    const Shaped shaped(shapes_of(Form::columns, lines));
    for (int first = 0; first < tokens; first += kGroups * kGroupTokens) {
        const int some = std::min(tokens - first, kGroups * kGroupTokens);
        typename Isa::F totals[kGroups * kGroupTokens];
        for (int t = 0; t < some; t++) totals[t] = Isa::zero();
        const std::uint8_t* tile = panel.tiles;
        for (std::int64_t b = 0; b < x.tiles(); b += Unpacked<f, digits>::kTiles) {
            const int count = static_cast<int>(std::min<std::int64_t>(x.tiles() - b, Unpacked<f, digits>::kTiles));
            Unpacked<f, digits> w;
            tile = w.read(tile, is_split(f) ? panel.lower + b * lower_tile_bytes(f) : nullptr, count);
            for (int t = 0; t < some; t += kGroupTokens) {
                const std::int64_t step = x.step(first + t), stats_step = x.stats_step(first + t);
                const auto* codes = reinterpret_cast<const std::int8_t*>(x.codes(first + t)) + b * step;
                const Group group{codes, x.stats(first + t) + b * stats_step, step, stats_step, std::min(some - t, kGroupTokens)};
                if (group.present == lines) add_products<f, digits, lines, true>(w, count, group, totals + t);
                else add_products<f, digits, lines, false>(w, count, group, totals + t);
            }
        }
        for (int t = 0; t < some; t++) write_output(out, first + t, 0, totals[t]);
    }
}

template <Format f, int digits>
void linear_digits_in_tiles(const Panel& panel, const Quantized& x, int tokens, const Output& out) {
    static_assert(Isa::lanes == kRows);
    constexpr int least = TileForm<f, digits>::twice ? 6 : 9;  // tokens from which on tiles are faster than `linear_tokens`
    const int in_tiles = tokens % kGroupTokens < least ? tokens / kGroupTokens * kGroupTokens : tokens;
    if (in_tiles > kFewLines) tokens_in_tiles<f, digits, kGroupTokens>(panel, x, in_tiles, out);
    else if (in_tiles) tokens_in_tiles<f, digits, kFewLines>(panel, x, in_tiles, out);
    linear_tokens<f, digits == 2 ? Digits::two : Digits::one>(panel, x, in_tiles, tokens, out);
}

template <Format f>
void linear_in_tiles(const Panel& panel, const Quantized& x, int tokens, const Output& out) {
    if (x.digits == Digits::one) linear_digits_in_tiles<f, 1>(panel, x, tokens, out);
    else linear_digits_in_tiles<f, 2>(panel, x, tokens, out);
}

// Multiply-adds of a 4-bit superblock with a group of tokens, all in the L1 cache (Kernels::peak_loop).
std::int64_t peak_in_tiles(std::int64_t rounds) {
    constexpr Format f = Format::q4_0;
    constexpr int digits = 2;  // int8 activations too have two digits here (`outliers_in_two`)
    constexpr int tiles = Unpacked<f, digits>::kTiles;
    Unpacked<f, digits> w = {};
    constexpr int line = digits * kCols, step = kGroupTokens * (line + static_cast<int>(sizeof(BlockStats)));
    alignas(64) std::int8_t tokens[tiles * step] = {};
    typename Isa::F totals[kGroupTokens] = {};
    const Group group{tokens, reinterpret_cast<const BlockStats*>(tokens + kGroupTokens * line), step, step / static_cast<int>(sizeof(BlockStats)), kGroupTokens};
    const Shaped shaped(shapes_of(TileForm<f, digits>::columns, kGroupTokens));
    for (std::int64_t round = 0; round < rounds; round++) add_products<f, digits, kGroupTokens, true>(w, tiles, group, totals);
    asm volatile("" : : "r"(totals) : "memory");
    return std::int64_t{kGroupTokens} * kSuper * kRows;
}

template <int... numbers>
void fill_tiles(Kernels& k, std::integer_sequence<int, numbers...>) {
    const auto fill = [&](auto number) {
        constexpr Format f = static_cast<Format>(number.value);
        if constexpr (is_blocked(f)) k.linear_quantized[number.value] = linear_in_tiles<f>;
    };
    (fill(std::integral_constant<int, numbers>()), ...);
    k.int8_digits = Digits::outliers_in_two;
    k.peak_loop[1] = k.peak_loop[2] = peak_in_tiles;
}

}  // namespace
}  // namespace ordito
