// Attention and its gradient for training: scores are recomputed, not kept (FlashAttention-2, arXiv:2307.08691).
#pragma once

#include "kernels/kernels.hpp"
#include "team.hpp"

namespace ordito {

// A tensor (batch, heads, tokens, width) whose last axis is contiguous; strides in numbers.
template <class Data>
struct Heads {
    Data* data;
    bool bf16;
    std::int64_t batch, head, token;

    Data* of(std::int64_t b, std::int64_t h) const {
        using Byte = std::conditional_t<std::is_const_v<Data>, const std::uint8_t, std::uint8_t>;
        return static_cast<Byte*>(data) + (b * batch + h * head) * (bf16 ? 2 : 4);
    }
};

struct AttentionSizes {
    std::int64_t batch, heads, kv_heads, queries, keys, width, value_width;
};

// The inputs of softmax(cap tanh(scale q k / cap)) v. `mask`: (batch, queries, keys) bytes, 0 for hidden keys, any other
// for visible ones, or null; `sinks`: (heads), or null.
struct AttentionInputs {
    Heads<const void> q, k, v;
    const std::uint8_t* mask;
    std::int64_t mask_batch, mask_query;
    const float* sinks;
    float scale, cap;
};

// Writes the results to `out`, and to `logs`, (batch, heads, queries), the log of the sum of exp of each row of scores.
void attend(const Kernels& kernels, const Gemm& gemm, const AttentionSizes& shape, const AttentionInputs& in, const Heads<void>& out,
            float* logs, const Team& team);

// Gradients of q, k and v from `grad`, that of `out`. Also writes `delta` (batch, heads, queries), the sum of out * grad of
// each row: a sink's gradient is -sum exp(sink - logs) delta.
void attend_gradient(const Kernels& kernels, const Gemm& gemm, const AttentionSizes& shape, const AttentionInputs& in,
                     const Heads<const void>& out, const Heads<const void>& grad, const float* logs, float* delta, const Heads<void>& grad_q,
                     const Heads<void>& grad_k, const Heads<void>& grad_v, const Team& team);

}  // namespace ordito
