// Attention over pages of the KV cache, for every kind of attention in a spec.
#pragma once

#include <vector>

#include "cache.hpp"
#include "threads.hpp"

namespace ordito {

// spec.Attention without its projections. Query head n reads key-value head n / (n_heads / heads of the slot).
struct AttentionShape {
    int slot, n_heads;
    float scale;
    bool causal, cross;  // cross: every query sees all keys of the slot
    std::int64_t window, chunk;  // 0: none
    float softcap;       // 0: none
    std::vector<float> sinks;  // (N,) or empty
    // spec.RelativeBias: (buckets, N), or empty.
    std::vector<float> relative;
    int n_buckets, max_distance;
    int sparse_block, sparse_local, sparse_stride;  // spec.BlockSparse; 0: none
};

// The tokens of one sequence in a batch: rows `first` to `first + count` of the buffers, at `position` and after.
struct Part {
    Sequence* sequence;
    std::int64_t first, count, position;
};

struct Rows {
    float* data;
    std::int64_t stride;
    float* operator[](std::int64_t row) const { return data + row * stride; }
};

// Writes keys (T, G * key_width) and values (T, G * value_width) into the slot; `v` is not read if values are part of the keys.
void store(const std::vector<Part>& parts, int slot, Rows k, Rows v, const Kernels& kernels, Pool& pool);

// y (T, N * value_width) = softmax(scores) values for queries (T, N * key_width).
void attend(const AttentionShape& shape, const std::vector<Part>& parts, Rows q, Rows y, const Kernels& kernels, Pool& pool, Buffer& scratch);

}  // namespace ordito
