#include "attention_training.hpp"

#include <cmath>
#include <cstring>
#include <vector>

#include "product.hpp"

namespace ordito {

namespace {

constexpr std::int64_t kQueries = 64, kKeys = 512;       // of a block, about: forwards there are all keys
constexpr std::int64_t kGradientQueries = 128;

// Tokens as lines, whose depth are a head's channels; or channels as lines, whose depth are the tokens.
Lines by_token(const Heads<const void>& x, std::int64_t b, std::int64_t h) { return {x.of(b, h), x.half, x.token, 1}; }
Lines by_channel(const Heads<const void>& x, std::int64_t b, std::int64_t h) { return {x.of(b, h), x.half, 1, x.token}; }

// Keys that some query of a block sees: from `begin`, which begins a panel, to before `end`.
struct Stretch {
    std::int64_t begin, end;
};

// Of every block of so many queries.
std::vector<Stretch> stretches_of(const AttentionInputs& in, const AttentionSizes& shape, std::int64_t b, std::int64_t queries, std::int64_t panel) {
    std::vector<Stretch> found;
    for (std::int64_t query = 0; query < shape.queries; query += queries) {
        std::int64_t begin = in.seen ? shape.keys : 0, end = in.seen ? 0 : shape.keys;
        for (std::int64_t q = query; in.seen && q < std::min(query + queries, shape.queries); q++) {
            const std::uint8_t* row = in.seen + b * in.seen_batch + q * in.seen_query;
            std::int64_t last = shape.keys;
            for (std::uint64_t eight; last - end >= 8 && (std::memcpy(&eight, row + last - 8, 8), !eight);) last -= 8;
            while (last > end && !row[last - 1]) last--;
            end = last;
            if (const void* first = std::memchr(row, 1, static_cast<std::size_t>(begin))) begin = static_cast<const std::uint8_t*>(first) - row;
        }
        found.push_back({std::min(begin, end) / panel * panel, end});
    }
    return found;
}

Seen seen_from(const AttentionInputs& in, std::int64_t b, std::int64_t query, std::int64_t key, std::int64_t keys) {
    const std::uint8_t* bytes = in.seen ? in.seen + b * in.seen_batch + query * in.seen_query + key : nullptr;
    return {bytes, in.seen_query, static_cast<int>(keys - key)};
}

// A thread's memory for one kind of products, and what is done with it.
class Workspace {
  public:
    explicit Workspace(const Products& by) : by_(by) {}

    std::int64_t across(std::int64_t columns) const { return ceiled(columns, by_.columns) * by_.columns; }
    std::int64_t down(std::int64_t rows) const { return ceiled(rows, by_.rows) * by_.rows; }

    Panels pack(Buffer& memory, const Lines& columns, std::int64_t n, std::int64_t depth) const {
        const std::int64_t bytes = Panels::bytes_for(by_, depth), count = ceiled(n, by_.columns);
        const Panels panels{&by_, bytes, reinterpret_cast<std::uint8_t*>(memory.need(count * bytes / sizeof(float)))};
        for (std::int64_t p = 0; p < count; p++) panels.pack(columns, n, depth, p);
        return panels;
    }

    // c, (m, panels of columns) in memory for whole blocks, is rows times panels from one and from a depth on, or has it added.
    void multiply(const Lines& rows, std::int64_t m, std::int64_t depth, const Panels& panels, std::int64_t first, std::int64_t count,
                  std::int64_t from, bool add, float* c, std::int64_t stride) {
        for (std::int64_t k = 0; k < depth; k += by_.depth) {
            blocks_.read(by_, moved(rows, 0, k), m, std::min<std::int64_t>(by_.depth, depth - k));
            for (std::int64_t q = 0; q < count; q++)
                for (std::int64_t p = 0; p < blocks_.count(); p++)
                    blocks_.times(p, panels.at(first + q, from + k), add || k > 0, c + p * by_.rows * stride + q * by_.columns, stride);
        }
    }

    // The first rows and columns of c.
    void put(const float* c, std::int64_t stride, std::int64_t rows, std::int64_t columns, const Target& to) const {
        for (std::int64_t i = 0; i < rows; i += by_.rows)
            for (std::int64_t j = 0; j < columns; j += by_.columns)
                by_.put(c + i * stride + j, stride, static_cast<int>(std::min<std::int64_t>(by_.rows, rows - i)),
                        static_cast<int>(std::min<std::int64_t>(by_.columns, columns - j)), moved(to, i, j));
    }

  private:
    const Products& by_;
    Blocks blocks_;
};

}  // namespace

void attend(const Kernels& kernels, const Products& by, const AttentionSizes& shape, const AttentionInputs& in, const Heads<void>& out,
            float* logs, const Team& team) {
    const std::int64_t shared = shape.heads / shape.kv_heads, queries = std::max<std::int64_t>(kQueries / by.rows, 1) * by.rows;
    team.run(shape.batch * shape.kv_heads, [&](std::int64_t number) {
        const std::int64_t b = number / shape.kv_heads, g = number % shape.kv_heads;
        Workspace work(by);
        thread_local Buffer key_memory, value_memory, score_memory, result_memory, inverse_memory;
        const Panels keys = work.pack(key_memory, by_token(in.k, b, g), shape.keys, shape.width);
        const Panels values = work.pack(value_memory, by_channel(in.v, b, g), shape.value_width, shape.keys);
        const std::int64_t score_stride = work.across(shape.keys) + 16, stride = work.across(shape.value_width);
        float* scores = score_memory.need(queries * score_stride);
        float* result = result_memory.need(queries * stride);
        float* inverses = inverse_memory.need(queries);
        const std::vector<Stretch> stretches = stretches_of(in, shape, b, queries, by.columns);
        for (std::int64_t h = g * shared; h < (g + 1) * shared; h++)
            for (std::int64_t query = 0; query < shape.queries; query += queries) {
                const std::int64_t rows = std::min(queries, shape.queries - query);
                const Stretch stretch = stretches[query / queries];
                const std::int64_t panels = ceiled(stretch.end - stretch.begin, by.columns), wide = panels * by.columns;
                const std::int64_t there = std::min(wide, shape.keys - stretch.begin);
                work.multiply(moved(by_token(in.q, b, h), query, 0), rows, shape.width, keys, stretch.begin / by.columns, panels, 0, false, scores,
                              score_stride);
                kernels.soften(scores, score_stride, static_cast<int>(rows), static_cast<int>(wide),
                               seen_from(in, b, query, stretch.begin, shape.keys), in.scale, in.cap, in.sinks ? in.sinks[h] : -INFINITY,
                               logs + (b * shape.heads + h) * shape.queries + query, inverses);
                if (!there) std::memset(result, 0, queries * stride * sizeof(float));
                work.multiply({scores, false, score_stride, 1}, rows, there, values, 0, stride / by.columns, stretch.begin, false, result, stride);
                for (std::int64_t r = 0; r < rows; r++)
                    for (std::int64_t i = 0; i < stride; i++) result[r * stride + i] *= inverses[r];
                work.put(result, stride, rows, shape.value_width, moved(Target{out.of(b, h), out.half, out.token}, query, 0));
            }
    });
}

void attend_gradient(const Kernels& kernels, const Products& by, const AttentionSizes& shape, const AttentionInputs& in,
                     const Heads<const void>& out, const Heads<const void>& grad, const float* logs, float* along, const Heads<void>& grad_q,
                     const Heads<void>& grad_k, const Heads<void>& grad_v, const Team& team) {
    const std::int64_t shared = shape.heads / shape.kv_heads, queries = std::max<std::int64_t>(kGradientQueries / by.rows, 1) * by.rows;
    const std::int64_t some_keys = std::max<std::int64_t>(kKeys / by.columns, 1) * by.columns;
    team.run(shape.batch * shape.kv_heads, [&](std::int64_t number) {
        const std::int64_t b = number / shape.kv_heads, g = number % shape.kv_heads;
        Workspace work(by);
        thread_local Buffer key_memory, value_memory, channel_memory, query_memory, grad_memory, score_memory, change_memory, q_memory, k_memory,
            v_memory;
        const Panels keys = work.pack(key_memory, by_token(in.k, b, g), shape.keys, shape.width);
        const Panels values = work.pack(value_memory, by_token(in.v, b, g), shape.keys, shape.value_width);
        const Panels channels = work.pack(channel_memory, by_channel(in.k, b, g), shape.width, shape.keys);
        const std::int64_t stride = work.across(shape.width), value_stride = work.across(shape.value_width);
        const std::int64_t score_stride = some_keys + 16;
        float *scores = score_memory.need(queries * score_stride), *changes = change_memory.need(queries * score_stride);
        float* sums_q = q_memory.need(queries * stride);
        // A block of keys begins with a panel, and is written in whole blocks of rows.
        const std::int64_t all = shape.keys + some_keys + by.rows;
        float *sums_k = k_memory.need(all * stride), *sums_v = v_memory.need(all * value_stride);
        std::memset(sums_k, 0, all * stride * sizeof(float));
        std::memset(sums_v, 0, all * value_stride * sizeof(float));
        const std::vector<Stretch> stretches = stretches_of(in, shape, b, queries, by.columns);
        for (std::int64_t h = g * shared; h < (g + 1) * shared; h++)
            for (std::int64_t query = 0; query < shape.queries; query += queries) {
                const std::int64_t rows = std::min(queries, shape.queries - query), first = (b * shape.heads + h) * shape.queries + query;
                const Lines q = moved(by_token(in.q, b, h), query, 0), change = moved(by_token(grad, b, h), query, 0);
                const Lines result = moved(by_token(out, b, h), query, 0);
                for (std::int64_t r = 0; r < rows; r++)
                    along[first + r] = kernels.dot(moved(result, r, 0).data, out.half, moved(change, r, 0).data, grad.half, shape.value_width);
                const Panels queries_by_channel = work.pack(query_memory, moved(by_channel(in.q, b, h), 0, query), shape.width, rows);
                const Panels grads_by_channel = work.pack(grad_memory, moved(by_channel(grad, b, h), 0, query), shape.value_width, rows);
                const Stretch stretch = stretches[query / queries];
                if (stretch.begin == stretch.end) std::memset(sums_q, 0, queries * stride * sizeof(float));
                for (std::int64_t key = stretch.begin; key < stretch.end; key += some_keys) {
                    const std::int64_t panels = ceiled(std::min(some_keys, stretch.end - key), by.columns), wide = panels * by.columns;
                    const std::int64_t there = std::min(wide, shape.keys - key);
                    work.multiply(q, rows, shape.width, keys, key / by.columns, panels, 0, false, scores, score_stride);
                    work.multiply(change, rows, shape.value_width, values, key / by.columns, panels, 0, false, changes, score_stride);
                    kernels.soften_gradient(scores, changes, score_stride, static_cast<int>(rows), static_cast<int>(wide),
                                            seen_from(in, b, query, key, shape.keys), in.scale, in.cap, logs + first, along + first);
                    work.multiply({changes, false, score_stride, 1}, rows, there, channels, 0, stride / by.columns, key, key > stretch.begin, sums_q,
                                  stride);
                    work.multiply({scores, false, 1, score_stride}, there, rows, grads_by_channel, 0, value_stride / by.columns, 0, true,
                                  sums_v + key * value_stride, value_stride);
                    work.multiply({changes, false, 1, score_stride}, there, rows, queries_by_channel, 0, stride / by.columns, 0, true,
                                  sums_k + key * stride, stride);
                }
                work.put(sums_q, stride, rows, shape.width, moved(Target{grad_q.of(b, h), grad_q.half, grad_q.token}, query, 0));
            }
        work.put(sums_k, stride, shape.keys, shape.width, {grad_k.of(b, g), grad_k.half, grad_k.token});
        work.put(sums_v, value_stride, shape.keys, shape.value_width, {grad_v.of(b, g), grad_v.half, grad_v.token});
    });
}

}  // namespace ordito
