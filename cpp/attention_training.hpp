// Attention over plain matrices and its gradient, as training needs them: no scores are kept (FlashAttention-2, arXiv:2307.08691).
#pragma once

#include "kernels/kernels.hpp"
#include "team.hpp"

namespace ordito {

// (batch, heads, tokens, width), the numbers of a head one after the other; strides in numbers.
template <class Data>
struct Heads {
    Data* data;
    bool half;
    std::int64_t batch, head, token;

    Data* of(std::int64_t b, std::int64_t h) const {
        using Byte = std::conditional_t<std::is_const_v<Data>, const std::uint8_t, std::uint8_t>;
        return static_cast<Byte*>(data) + (b * batch + h * head) * (half ? 2 : 4);
    }
};

struct AttentionSizes {
    std::int64_t batch, heads, kv_heads, queries, keys, width, value_width;
};

// What is softmax(cap tanh(scale q k / cap)) v over what is seen. `seen`: (batch, queries, keys) bytes, or null; `sinks`: (heads),
// or null; `logs`: (batch, heads, queries), log sum exp of each row.
struct AttentionInputs {
    Heads<const void> q, k, v;
    const std::uint8_t* seen;
    std::int64_t seen_batch, seen_query;
    const float* sinks;
    float scale, cap;
};

void attend(const Kernels& kernels, const Products& by, const AttentionSizes& shape, const AttentionInputs& in, const Heads<void>& out,
            float* logs, const Team& team);

// Gradients of q, k and v from that of what came out. `along`: (batch, heads, queries), the sum of out * grad of each row, is
// written, too: a sink's gradient is -sum exp(sink - log) along.
void attend_gradient(const Kernels& kernels, const Products& by, const AttentionSizes& shape, const AttentionInputs& in,
                     const Heads<const void>& out, const Heads<const void>& grad, const float* logs, float* along, const Heads<void>& grad_q,
                     const Heads<void>& grad_k, const Heads<void>& grad_v, const Team& team);

}  // namespace ordito
