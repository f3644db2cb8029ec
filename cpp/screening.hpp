// The greatest logits of a large vocabulary, without reading all of its weights.
//
// Of a matrix in parts (formats.hpp) the upper ones give an estimate of every product. What the lower ones add is a sum of many
// numbers that are spread evenly, between -7.5 and 7.5 steps or -1.5 and 1.5; such a sum exceeds s standard deviations with a
// probability below exp(-s^2 / 2) (as a sum of sub-Gaussian numbers; Boucheron, Lugosi, Massart, Concentration Inequalities,
// section 2.3). So only panels that may hold one of the greatest products are multiplied whole. Those products are what they would
// be if all were multiplied, to the bit.
#pragma once

#include <cstdint>
#include <vector>

#include "attention.hpp"
#include "packed.hpp"

namespace ordito {

constexpr std::int64_t kMostScreened = 64;  // tokens
constexpr int kMostGreatest = 64;           // of each

// Tokens that a matrix is multiplied with: as numbers, in whole numbers of 8 bits, and each alone in those that products are of.
struct Screened {
    const float* numbers;
    std::int64_t stride, count;
    Quantized roughly, alone;
};

// Whether numbers that share a scale are mostly different ones, of a sample of rows: nine of ten are, of weights as they were
// trained. Of those that had few values before they were rounded to many, lower parts are the same again and again, and nothing is
// known of what they add.
bool many_valued(const Packed& w);

// Row by row the products of W with the tokens: all of the `greatest`, and minus infinity for panels without any of them. Returns
// false where so many panels may hold one that it costs less to multiply all, which is then still to be done.
bool screen(const Packed& w, const Screened& x, int greatest, const Rows& products, const Kernels& kernels, Pool& pool);

}  // namespace ordito
