// Screening: the largest logits of a large vocabulary, without reading all of its weights.
//
// In a matrix in parts (formats.hpp) the high bits of the codes give an estimate of every product. The error, what the low bits
// add, is a sum of many numbers that are spread evenly between -7.5 and 7.5 steps (4 bits) or -1.5 and 1.5 (2 bits). It exceeds s
// standard deviations with a probability below exp(-s^2 / 2), as a sum of sub-Gaussian numbers does (Boucheron, Lugosi, Massart,
// Concentration Inequalities, section 2.3). So only panels that may hold one of the largest products are multiplied with all bits;
// these products are bit for bit those of multiplying the whole matrix.
#pragma once

#include <cstdint>
#include <vector>

#include "attention.hpp"
#include "packed.hpp"

namespace ordito {

constexpr std::int64_t kMostScreened = 64;  // tokens
constexpr int kMostGreatest = 64;           // of each

// Tokens that a matrix is multiplied with: in fp32, quantized to 8 bits for the estimate (`roughly`), and quantized one by one as
// exact products need them (`alone`).
struct Screened {
    const float* numbers;
    std::int64_t stride, count;
    Quantized roughly, alone;
};

// Whether, in a sample of rows, most numbers that share a scale are different: of trained weights nine of ten are. Weights that were
// quantized to few values before have the same low bits again and again, so that the bound above does not hold.
bool many_valued(const Packed& w);

// The products of W with each token: those of the `greatest` largest are exact, panels without any of them are minus infinity.
// Returns false, with nothing computed, where so many panels may hold one that multiplying all of them costs less.
bool screen(const Packed& w, const Screened& x, int greatest, const Rows& products, const Kernels& kernels, Pool& pool);

}  // namespace ordito
