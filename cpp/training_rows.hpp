// Training's operations between matrix products: norms, gates and rotary embeddings of rows, and their gradients. Each row is
// read, computed in fp32 and written; no intermediate tensor is kept.
#pragma once

#include "attention_training.hpp"
#include "kernels/kernels.hpp"
#include "team.hpp"

namespace ordito {

// y = x / sqrt(mean(x^2) + eps) * weight of n rows.
void norm_rows(const Kernels& kernels, const Lines& x, std::int64_t n, std::int64_t width, float eps, const float* weight, const Target& y,
               const Team& team);

// The gradients of x and, unless `grad_weight` is null, of the weight, from `grad`, that of y.
void norm_rows_gradient(const Kernels& kernels, const Lines& x, std::int64_t n, std::int64_t width, float eps, const float* weight,
                        const Lines& grad, const Target& grad_x, float* grad_weight, const Team& team);

// y = silu(gate) * up of n rows.
void gate_rows(const Kernels& kernels, const Lines& gate, const Lines& up, std::int64_t n, std::int64_t width, const Target& y, const Team& team);

void gate_rows_gradient(const Kernels& kernels, const Lines& gate, const Lines& up, std::int64_t n, std::int64_t width, const Lines& grad,
                        const Target& grad_gate, const Target& grad_up, const Team& team);

// The angles of rotary embeddings, (batch, tokens, pairs); `back` rotates the other way, for the gradient.
struct Angles {
    const float *cos, *sin;
    std::int64_t cos_batch, sin_batch, pairs;
    bool interleaved, back;
};

// Rotates the first 2 * pairs channels of every head by its token's angles; copies the others.
void rotate_heads(const Kernels& kernels, const Heads<const void>& x, std::int64_t batch, std::int64_t heads, std::int64_t tokens,
                  std::int64_t width, const Angles& angles, const Heads<void>& y, const Team& team);

}  // namespace ordito
