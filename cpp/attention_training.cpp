#include "attention_training.hpp"

#include <cmath>
#include <cstring>
#include <vector>

#include "product.hpp"

namespace ordito {

namespace {

constexpr std::int64_t kQueries = 64, kGradientQueries = 128;  // of a block, about
constexpr std::int64_t kKeys = 512;                            // of a block of the gradient; forward takes all keys at once

// A head as a matrix operand: its lines are tokens along channels, or channels along tokens.
Lines by_token(const Heads<const void>& x, std::int64_t b, std::int64_t h) { return {x.of(b, h), x.bf16, x.token, 1}; }
Lines by_channel(const Heads<const void>& x, std::int64_t b, std::int64_t h) { return {x.of(b, h), x.bf16, 1, x.token}; }

// The keys that some query of a block sees: from `begin`, a multiple of the panel width, to before `end`.
struct KeyRange {
    std::int64_t begin, end;
};

// The key range of every block of `queries` queries.
std::vector<KeyRange> key_ranges(const AttentionInputs& in, const AttentionSizes& shape, std::int64_t b, std::int64_t queries, std::int64_t panel) {
    std::vector<KeyRange> found;
    for (std::int64_t query = 0; query < shape.queries; query += queries) {
        std::int64_t begin = in.mask ? shape.keys : 0, end = in.mask ? 0 : shape.keys;
        for (std::int64_t q = query; in.mask && q < std::min(query + queries, shape.queries); q++) {
            const std::uint8_t* row = in.mask + b * in.mask_batch + q * in.mask_query;
            std::int64_t last = shape.keys;
            for (std::uint64_t eight; last - end >= 8 && (std::memcpy(&eight, row + last - 8, 8), !eight);) last -= 8;
            while (last > end && !row[last - 1]) last--;
            end = last;
            std::int64_t first = 0;
            for (std::uint64_t eight; begin - first >= 8 && (std::memcpy(&eight, row + first, 8), !eight);) first += 8;
            while (first < begin && !row[first]) first++;
            begin = first;
        }
        found.push_back({std::min(begin, end) / panel * panel, end});
    }
    return found;
}

Mask mask_at(const AttentionInputs& in, std::int64_t b, std::int64_t query, std::int64_t key, std::int64_t keys) {
    const std::uint8_t* bytes = in.mask ? in.mask + b * in.mask_batch + query * in.mask_query + key : nullptr;
    return {bytes, in.mask_query, static_cast<int>(keys - key)};
}

// A thread's packed operands for one micro-kernel.
class Workspace {
  public:
    explicit Workspace(const Gemm& gemm) : gemm_(gemm) {}

    std::int64_t across(std::int64_t columns) const { return ceil_div(columns, gemm_.columns) * gemm_.columns; }

    Panels pack(Buffer& memory, const Lines& columns, std::int64_t n, std::int64_t depth) const {
        const std::int64_t bytes = Panels::bytes_for(gemm_, depth), count = ceil_div(n, gemm_.columns);
        const Panels panels{&gemm_, bytes, reinterpret_cast<std::uint8_t*>(memory.need(count * bytes / sizeof(float)))};
        for (std::int64_t p = 0; p < count; p++) panels.pack(columns, n, depth, p);
        return panels;
    }

    // c = rows times `count` panels from `first` on, whose depth begins at `from`; with `add`, c +=. c is padded to whole
    // blocks.
    void multiply(const Lines& rows, std::int64_t m, std::int64_t depth, const Panels& panels, std::int64_t first, std::int64_t count,
                  std::int64_t from, bool add, float* c, std::int64_t stride) {
        for (std::int64_t k = 0; k < depth; k += gemm_.depth) {
            blocks_.read(gemm_, offset_by(rows, 0, k), m, std::min<std::int64_t>(gemm_.depth, depth - k));
            for (std::int64_t q = 0; q < count; q++)
                for (std::int64_t p = 0; p < blocks_.count(); p++)
                    blocks_.multiply(p, panels.at(first + q, from + k), add || k > 0, c + p * gemm_.rows * stride + q * gemm_.columns, stride);
        }
    }

    // Writes the first rows and columns of c.
    void store(const float* c, std::int64_t stride, std::int64_t rows, std::int64_t columns, const Target& to) const {
        for (std::int64_t i = 0; i < rows; i += gemm_.rows)
            for (std::int64_t j = 0; j < columns; j += gemm_.columns)
                gemm_.store(c + i * stride + j, stride, static_cast<int>(std::min<std::int64_t>(gemm_.rows, rows - i)),
                            static_cast<int>(std::min<std::int64_t>(gemm_.columns, columns - j)), offset_by(to, i, j));
    }

  private:
    const Gemm& gemm_;
    Blocks blocks_;
};

}  // namespace

void attend(const Kernels& kernels, const Gemm& gemm, const AttentionSizes& shape, const AttentionInputs& in, const Heads<void>& out,
            float* logs, const Team& team) {
    const std::int64_t shared = shape.heads / shape.kv_heads, queries = std::max<std::int64_t>(kQueries / gemm.rows, 1) * gemm.rows;
    team.run(shape.batch * shape.kv_heads, [&](std::int64_t number) {
        const std::int64_t b = number / shape.kv_heads, g = number % shape.kv_heads;
        Workspace work(gemm);
        thread_local Buffer key_memory, value_memory, score_memory, result_memory, inverse_memory;
        const Panels keys = work.pack(key_memory, by_token(in.k, b, g), shape.keys, shape.width);
        const Panels values = work.pack(value_memory, by_channel(in.v, b, g), shape.value_width, shape.keys);
        const std::int64_t score_stride = work.across(shape.keys) + 16, stride = work.across(shape.value_width);
        float* scores = score_memory.need(queries * score_stride);
        float* result = result_memory.need(queries * stride);
        float* inverses = inverse_memory.need(queries);
        const std::vector<KeyRange> ranges = key_ranges(in, shape, b, queries, gemm.columns);
        for (std::int64_t h = g * shared; h < (g + 1) * shared; h++)
            for (std::int64_t query = 0; query < shape.queries; query += queries) {
                const std::int64_t rows = std::min(queries, shape.queries - query);
                const KeyRange range = ranges[query / queries];
                const std::int64_t panels = ceil_div(range.end - range.begin, gemm.columns), wide = panels * gemm.columns;
                const std::int64_t present = std::min(wide, shape.keys - range.begin);
                work.multiply(offset_by(by_token(in.q, b, h), query, 0), rows, shape.width, keys, range.begin / gemm.columns, panels, 0, false, scores,
                              score_stride);
                kernels.softmax_rows(scores, score_stride, static_cast<int>(rows), static_cast<int>(wide),
                                     mask_at(in, b, query, range.begin, shape.keys), in.scale, in.cap, in.sinks ? in.sinks[h] : -INFINITY,
                               logs + (b * shape.heads + h) * shape.queries + query, inverses);
                if (!present) std::memset(result, 0, queries * stride * sizeof(float));
                work.multiply({scores, false, score_stride, 1}, rows, present, values, 0, stride / gemm.columns, range.begin, false, result, stride);
                for (std::int64_t r = 0; r < rows; r++)
                    for (std::int64_t i = 0; i < stride; i++) result[r * stride + i] *= inverses[r];
                work.store(result, stride, rows, shape.value_width, offset_by(Target{out.of(b, h), out.bf16, out.token}, query, 0));
            }
    });
}

void attend_gradient(const Kernels& kernels, const Gemm& gemm, const AttentionSizes& shape, const AttentionInputs& in,
                     const Heads<const void>& out, const Heads<const void>& grad, const float* logs, float* delta, const Heads<void>& grad_q,
                     const Heads<void>& grad_k, const Heads<void>& grad_v, const Team& team) {
    const std::int64_t shared = shape.heads / shape.kv_heads, queries = std::max<std::int64_t>(kGradientQueries / gemm.rows, 1) * gemm.rows;
    const std::int64_t key_block = std::max<std::int64_t>(kKeys / gemm.columns, 1) * gemm.columns;
    team.run(shape.batch * shape.kv_heads, [&](std::int64_t number) {
        const std::int64_t b = number / shape.kv_heads, g = number % shape.kv_heads;
        Workspace work(gemm);
        thread_local Buffer key_memory, value_memory, channel_memory, query_memory, grad_memory, score_memory, change_memory, q_memory, k_memory,
            v_memory;
        const Panels keys = work.pack(key_memory, by_token(in.k, b, g), shape.keys, shape.width);
        const Panels values = work.pack(value_memory, by_token(in.v, b, g), shape.keys, shape.value_width);
        const Panels channels = work.pack(channel_memory, by_channel(in.k, b, g), shape.width, shape.keys);
        const std::int64_t stride = work.across(shape.width), value_stride = work.across(shape.value_width);
        const std::int64_t score_stride = key_block + 16;
        float *scores = score_memory.need(queries * score_stride), *changes = change_memory.need(queries * score_stride);
        float* sums_q = q_memory.need(queries * stride);
        // Padded: a block of keys begins at a multiple of the panel width, and is written in whole blocks of rows.
        const std::int64_t all = shape.keys + key_block + gemm.rows;
        float *sums_k = k_memory.need(all * stride), *sums_v = v_memory.need(all * value_stride);
        std::memset(sums_k, 0, all * stride * sizeof(float));
        std::memset(sums_v, 0, all * value_stride * sizeof(float));
        const std::vector<KeyRange> ranges = key_ranges(in, shape, b, queries, gemm.columns);
        for (std::int64_t h = g * shared; h < (g + 1) * shared; h++)
            for (std::int64_t query = 0; query < shape.queries; query += queries) {
                const std::int64_t rows = std::min(queries, shape.queries - query), first = (b * shape.heads + h) * shape.queries + query;
                const Lines q = offset_by(by_token(in.q, b, h), query, 0), change = offset_by(by_token(grad, b, h), query, 0);
                const Lines result = offset_by(by_token(out, b, h), query, 0);
                for (std::int64_t r = 0; r < rows; r++)
                    delta[first + r] = kernels.dot(offset_by(result, r, 0).data, out.bf16, offset_by(change, r, 0).data, grad.bf16, shape.value_width);
                const Panels queries_by_channel = work.pack(query_memory, offset_by(by_channel(in.q, b, h), 0, query), shape.width, rows);
                const Panels grads_by_channel = work.pack(grad_memory, offset_by(by_channel(grad, b, h), 0, query), shape.value_width, rows);
                const KeyRange range = ranges[query / queries];
                if (range.begin == range.end) std::memset(sums_q, 0, queries * stride * sizeof(float));
                for (std::int64_t key = range.begin; key < range.end; key += key_block) {
                    const std::int64_t panels = ceil_div(std::min(key_block, range.end - key), gemm.columns), wide = panels * gemm.columns;
                    const std::int64_t present = std::min(wide, shape.keys - key);
                    work.multiply(q, rows, shape.width, keys, key / gemm.columns, panels, 0, false, scores, score_stride);
                    work.multiply(change, rows, shape.value_width, values, key / gemm.columns, panels, 0, false, changes, score_stride);
                    kernels.softmax_rows_gradient(scores, changes, score_stride, static_cast<int>(rows), static_cast<int>(wide),
                                                  mask_at(in, b, query, key, shape.keys), in.scale, in.cap, logs + first, delta + first);
                    work.multiply({changes, false, score_stride, 1}, rows, present, channels, 0, stride / gemm.columns, key, key > range.begin, sums_q,
                                  stride);
                    work.multiply({scores, false, 1, score_stride}, present, rows, grads_by_channel, 0, value_stride / gemm.columns, 0, true,
                                  sums_v + key * value_stride, value_stride);
                    work.multiply({changes, false, 1, score_stride}, present, rows, queries_by_channel, 0, stride / gemm.columns, 0, true,
                                  sums_k + key * stride, stride);
                }
                work.store(sums_q, stride, rows, shape.width, offset_by(Target{grad_q.of(b, h), grad_q.bf16, grad_q.token}, query, 0));
            }
        work.store(sums_k, stride, shape.keys, shape.width, {grad_k.of(b, g), grad_k.bf16, grad_k.token});
        work.store(sums_v, value_stride, shape.keys, shape.value_width, {grad_v.of(b, g), grad_v.bf16, grad_v.token});
    });
}

}  // namespace ordito
