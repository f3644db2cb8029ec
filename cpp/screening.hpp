// Screening: finds the largest logits of a large vocabulary without reading all of its weights.
//
// In a split matrix (formats.hpp) the upper bits of the codes give an estimate of every product. Its error, the sum of what the
// lower bits add, has terms that are uniform between -7.5 and 7.5 steps (4 bits) or -1.5 and 1.5 (2 bits). It exceeds s
// standard deviations with a probability below exp(-s^2 / 2), as a sum of sub-Gaussian terms does (Boucheron, Lugosi, Massart,
// Concentration Inequalities, section 2.3). So only panels that may hold one of the largest products are multiplied with all
// bits; these products equal those of the whole matrix bit for bit.
#pragma once

#include <cstdint>
#include <vector>

#include "attention.hpp"
#include "packed.hpp"

namespace ordito {

constexpr std::int64_t kMaxScreened = 64;  // tokens at most
constexpr int kMaxTopK = 64;               // largest logits of a token at most

// The tokens to multiply a matrix with: in fp32, quantized to 8 bits for the estimates (`rough`), and quantized each as a group
// of its own for exact products (`exact`).
struct Screened {
    const float* numbers;
    std::int64_t stride, count;
    Quantized rough, exact;
};

// Whether, in a sample of rows, most numbers that share a scale differ: nine of ten do in trained weights. Weights that were
// quantized to few values before repeat the same lower bits, so that the bound above does not hold.
bool many_valued(const Packed& w);

// The products of W with each token: the `greatest` largest are exact, and panels without any of them are minus infinity.
// Returns false if so many panels may hold one that multiplying the whole matrix is cheaper: `products` is then still to be
// computed, and what was written there is of no use.
bool screen(const Packed& w, const Screened& x, int greatest, const Rows& products, const Kernels& kernels, Pool& pool);

}  // namespace ordito
