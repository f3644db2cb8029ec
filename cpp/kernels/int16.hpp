// Products of weights and activations that are integers of 16 bits, for an `Isa` that multiplies pairs of them.
//
// The sum of a block fits 32 bits: by the Cauchy-Schwarz inequality it is at most the product of two norms, which
// `kInt16Norm` limits.
#pragma once

#include "linear.hpp"

namespace ordito {
namespace {

// A panel times `tokens` tokens of one group, from `first` on. `I` is `Isa`: a template parameter, so that sets without these
// products compile.
template <int tokens, class I>
inline void int16_block(const Panel& panel, const Quantized& x, int first, const Output& out) {
    const std::int64_t step = x.step(first), stats_step = x.stats_step(first);
    const std::uint8_t* codes = x.codes(first);
    const BlockStats* stats = x.stats(first);
    const auto* scales = reinterpret_cast<const float*>(panel.tiles);
    const std::uint8_t* tile = panel.tiles + kRows * sizeof(float);
    typename I::F total[tokens][kSubs];
    for (auto& of_token : total)
        for (auto& sum : of_token) sum = I::zero();
    for (std::int64_t b = 0; b < x.tiles(); b++, tile += tile_bytes(Format::int16), codes += step, stats += stats_step) {
        typename I::A sums[tokens][kSubs];
        for (auto& of_token : sums)
            for (auto& sum : of_token) sum = I::zero_sum();
        for (int ahead = 0; ahead < tile_bytes(Format::int16); ahead += 64) __builtin_prefetch(tile + kPrefetchAhead + ahead);
        for (int pair = 0; pair < kCols / 2; pair++) {
            typename I::C w[kSubs];
            for (int sub = 0; sub < kSubs; sub++) w[sub] = I::codes(tile + 4 * (pair * kRows + sub * I::lanes));
#pragma GCC unroll 8
            for (int t = 0; t < tokens; t++)
                for (int sub = 0; sub < kSubs; sub++)
                    sums[t][sub] = I::add_pair(sums[t][sub], w[sub], reinterpret_cast<const std::int16_t*>(codes + t * code_bytes(Digits::four)) + 2 * pair);
        }
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++)
            for (int sub = 0; sub < kSubs; sub++) total[t][sub] = I::fma(I::to_float(sums[t][sub]), I::set1(stats[t].scale), total[t][sub]);
    }
    for (int t = 0; t < tokens; t++)
        for (int sub = 0; sub < kSubs; sub++)
            write_output(out, first + t, sub * I::lanes, I::mul(total[t][sub], I::load(scales + sub * I::lanes)));
}

template <class I>
void linear_int16(const Panel& panel, const Quantized& x, int tokens, const Output& out) {
    in_blocks<8 / kSubs>(x, 0, tokens, [&](int t, auto count) { int16_block<count(), I>(panel, x, t, out); });
}

}  // namespace
}  // namespace ordito
