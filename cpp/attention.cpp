#include "attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace ordito {

namespace {

constexpr int kTileRows = kMostRows;        // queries of a tile
constexpr std::int64_t kSplit = 128;        // keys of a split, which has a softmax of its own; splits are joined in order
constexpr std::int64_t kManyTiles = 8;      // tiles per thread from which on a tile's splits are computed one after the other
constexpr std::size_t kParallelJoin = 32;   // splits from which on they are joined in parallel

// The state of an online softmax, for each row: the weighted sum of values, the largest score, the sum of weights.
struct Partial {
    float* sums;  // (rows, padded value width)
    float* row_max;
    float* total;
};

// The queries of one tile: `tokens` from `token` on, heads `head` to `head + heads` of one key-value head.
struct Tile {
    const Part* part;
    int group, head, heads;
    std::int64_t token;
    int tokens;
    int rows() const { return heads * tokens; }
};

struct Job {
    const AttentionShape& shape;
    const Kernels& kernels;
    Rows q, y;
    const PageLayout& layout(const Tile& tile) const { return tile.part->sequence->layout(shape.slot); }
};

// The bucket of a distance (positive: the key comes before), spec.RelativeBias; the logarithm in fp32, as in training.
int bucket(const AttentionShape& shape, std::int64_t behind) {
    int n = shape.causal ? shape.n_buckets : shape.n_buckets / 2;
    const int after = !shape.causal && behind < 0 ? n : 0;
    const std::int64_t distance = shape.causal ? std::max<std::int64_t>(behind, 0) : std::abs(behind);
    const int exact = n / 2;
    if (distance < exact) return after + static_cast<int>(distance);
    const float ratio = std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
                        static_cast<float>(std::log(static_cast<double>(shape.max_distance) / exact));
    return after + std::min(n - 1, exact + static_cast<int>(ratio * static_cast<float>(n - exact)));
}

struct Range {
    std::int64_t from, to;
};

// The keys that a query at `position` may see, apart from block sparsity.
Range visible(const AttentionShape& shape, std::int64_t position, std::int64_t held) {
    Range range{0, held};
    if (shape.cross) return range;
    if (shape.causal) range.to = std::min(held, position + 1);
    if (shape.window) {
        range.from = std::max<std::int64_t>(range.from, position - shape.window + 1);
        range.to = std::min(range.to, position + shape.window);
    }
    if (shape.chunk) {
        range.from = std::max(range.from, position / shape.chunk * shape.chunk);
        range.to = std::min(range.to, (position / shape.chunk + 1) * shape.chunk);
    }
    return range;
}

bool hidden_by_blocks(const AttentionShape& shape, std::int64_t position, std::int64_t key, int head) {
    if (!shape.sparse_block) return false;
    const std::int64_t q = position / shape.sparse_block, k = key / shape.sparse_block;
    return q - k >= shape.sparse_local && (k + head + 1) % shape.sparse_stride != 0;
}

Range visible(const Job& job, const Tile& tile) {
    const std::int64_t held = tile.part->sequence->held(job.shape.slot), first = tile.part->position + tile.token;
    return {visible(job.shape, first, held).from, visible(job.shape, first + tile.tokens - 1, held).to};
}

// Copies the queries of a tile, one a row, times scale, and rounds them if the cache has integers.
void gather(const Job& job, const Tile& tile, float* q) {
    const int width = job.layout(tile).shape().key_width;
    for (int r = 0; r < tile.rows(); r++) {
        const std::int64_t token = tile.part->first + tile.token + r / tile.heads;
        const float* from = job.q.data + token * job.q.stride + static_cast<std::int64_t>(tile.head + r % tile.heads) * width;
        for (int h = 0; h < width; h++) q[r * width + h] = from[h] * job.shape.scale;
        if (tile.part->sequence->type() == CacheType::int16) job.kernels.round_query(q + r * width, width);
    }
}

// Transposes a page of latents [key][channel] to keys [channel][key].
template <class T>
void transpose_page(const T* rows, int width, int row, T* keys) {
    for (int h = 0; h < width; h++)
        for (int key = 0; key < kPage; key++) keys[h * kPage + key] = rows[key * row + h];
}

// The same for pairs: [pair of keys][channel][2] to [pair of channels][key][2].
void transpose_pairs(const std::int16_t* rows, int width, int row, std::int16_t* keys) {
    for (int h = 0; h < width; h++)
        for (int key = 0; key < kPage; key++) keys[(h / 2 * kPage + key) * 2 + h % 2] = rows[(key / 2 * row + h) * 2 + key % 2];
}

void mask(const Job& job, const Tile& tile, std::int64_t start, float* scores) {
    const AttentionShape& shape = job.shape;
    const std::int64_t held = tile.part->sequence->held(shape.slot);
    for (int r = 0; r < tile.rows(); r++) {
        float* row = scores + r * kPage;
        const std::int64_t position = tile.part->position + tile.token + r / tile.heads;
        const int head = tile.head + r % tile.heads;
        const Range seen = visible(shape, position, held);
        if (!shape.relative.empty())
            for (int key = 0; key < kPage; key++)
                row[key] += shape.relative[bucket(shape, position - start - key) * shape.n_heads + head];
        for (int key = 0; key < kPage; key++)
            if (start + key < seen.from || start + key >= seen.to || hidden_by_blocks(shape, position, start + key, head))
                row[key] = -INFINITY;
    }
}

// Adds one page to the softmax of a tile; keys from `to` on are absent.
void attend_page(const Job& job, const Tile& tile, const float* q, std::int64_t start, std::int64_t to, Partial out) {
    const Sequence& sequence = *tile.part->sequence;
    const PageLayout& form = job.layout(tile);
    std::uint8_t* page = sequence.page(job.shape.slot, start);
    if (!page) return;
    const int type = static_cast<int>(sequence.type()), rows = tile.rows(), width = form.shape().key_width, row = form.value_row();
    const int sums_width = padded_row(form.shape().value_width);
    const void *keys = form.keys(page, tile.group), *values = form.values(page, tile.group);
    const float *key_scales = form.key_scales(page, tile.group), *value_scales = form.value_scales(page, tile.group);
    // The next page is prefetched beyond this split too: another thread that reads it shares the cache, or will read it soon.
    std::uint8_t* following = start + kPage < sequence.held(job.shape.slot) ? sequence.page(job.shape.slot, start + kPage) : nullptr;
    const void* next_keys = following && !form.shape().value_in_key ? form.keys(following, tile.group) : nullptr;
    const void* next_values = following ? form.values(following, tile.group) : nullptr;
    thread_local std::vector<std::uint8_t> transposed;
    if (form.shape().value_in_key) {
        transposed.resize(static_cast<std::size_t>(width) * kPage * sizeof(float));
        if (type == 0) transpose_page(static_cast<const float*>(values), width, row, reinterpret_cast<float*>(transposed.data()));
        if (type == 1) transpose_page(static_cast<const std::uint16_t*>(values), width, row, reinterpret_cast<std::uint16_t*>(transposed.data()));
        if (type == 2) transpose_page(static_cast<const std::uint8_t*>(values), width, row, transposed.data());
        if (type == 3) transpose_pairs(static_cast<const std::int16_t*>(values), width, row, reinterpret_cast<std::int16_t*>(transposed.data()));
        keys = transposed.data();
        key_scales = value_scales;
    }
    alignas(64) float scores[kTileRows * kPage];
    job.kernels.scores[type](q, width, rows, keys, key_scales, width, next_keys, scores);
    if (job.shape.softcap != 0) job.kernels.scale_and_cap(scores, rows * kPage, 1, job.shape.softcap, scores);
    const bool fully_visible = start >= visible(job.shape, tile.part->position + tile.token + tile.tokens - 1, to).from &&
                               start + kPage <= visible(job.shape, tile.part->position + tile.token, to).to;
    if (!fully_visible || !job.shape.relative.empty() || job.shape.sparse_block) mask(job, tile, start, scores);
    float rescale[kTileRows];
    job.kernels.online_softmax(scores, rows, out.row_max, out.total, rescale);
    for (int r = 0; r < rows; r++)
        if (rescale[r] != 1) job.kernels.scale_and_cap(out.sums + r * sums_width, sums_width, rescale[r], 0, out.sums + r * sums_width);
    const int count = static_cast<int>(std::min<std::int64_t>(kPage, to - start));
    if (row == sums_width) {
        job.kernels.weighted_sum[type](scores, rows, count, values, value_scales, row, next_values, out.sums, sums_width);
        return;
    }
    thread_local std::vector<float> wide;  // values are the first channels of longer rows
    wide.assign(static_cast<std::size_t>(rows) * row, 0.f);
    job.kernels.weighted_sum[type](scores, rows, count, values, value_scales, row, next_values, wide.data(), row);
    for (int r = 0; r < rows; r++) job.kernels.add(out.sums + r * sums_width, wide.data() + r * row, sums_width, out.sums + r * sums_width);
}

// A tile, its queries and the state of its softmax.
struct Work {
    const Tile* tile;
    const float* q;
    Partial out;
};

void reset(const Tile& tile, int width, Partial out) {
    std::fill(out.sums, out.sums + static_cast<std::size_t>(tile.rows()) * width, 0.f);
    std::fill(out.row_max, out.row_max + tile.rows(), -INFINITY);
    std::fill(out.total, out.total + tile.rows(), 0.f);
}

// The softmax over keys `from` to `to` of one split, for tiles of the same tokens: page by page, in the order of memory.
void attend_split(const Job& job, const Work* works, int count, std::int64_t from, std::int64_t to) {
    for (const Work* work = works; work < works + count; work++)
        reset(*work->tile, padded_row(job.layout(*work->tile).shape().value_width), work->out);
    for (std::int64_t start = from / kPage * kPage; start < to; start += kPage)
        for (const Work* work = works; work < works + count; work++) attend_page(job, *work->tile, work->q, start, to, work->out);
}

// Joins the softmax of another split into one.
void join(const Kernels& kernels, int rows, int width, Partial into, Partial other) {
    for (int r = 0; r < rows; r++) {
        if (other.total[r] == 0) continue;
        const float row_max = std::max(into.row_max[r], other.row_max[r]);
        const float a = into.total[r] == 0 ? 0 : std::exp(into.row_max[r] - row_max), b = std::exp(other.row_max[r] - row_max);
        float* sums = into.sums + static_cast<std::size_t>(r) * width;
        if (a != 1) kernels.scale_and_cap(sums, width, a, 0, sums);
        kernels.add_scaled(b, other.sums + static_cast<std::size_t>(r) * width, width, sums);
        into.total[r] = into.total[r] * a + other.total[r] * b;
        into.row_max[r] = row_max;
    }
}

void normalise(const Job& job, const Tile& tile, Partial from) {
    const int width = job.layout(tile).shape().value_width, sums_width = padded_row(width);
    for (int r = 0; r < tile.rows(); r++) {
        const int head = tile.head + r % tile.heads;
        float total = from.total[r], factor = 1;
        if (!job.shape.sinks.empty()) {
            const float row_max = std::max(from.row_max[r], job.shape.sinks[head]);
            factor = std::exp(from.row_max[r] - row_max);
            total = total * factor + std::exp(job.shape.sinks[head] - row_max);
        }
        const float by = total > 0 ? factor / total : 0;
        const std::int64_t token = tile.part->first + tile.token + r / tile.heads;
        float* to = job.y.data + token * job.y.stride + static_cast<std::int64_t>(head) * width;
        const float* sums = from.sums + static_cast<std::size_t>(r) * sums_width;
        for (int h = 0; h < width; h++) to[h] = sums[h] * by;
    }
}

std::vector<Tile> tiles_of(const AttentionShape& shape, const std::vector<Part>& parts) {
    std::vector<Tile> tiles;
    for (const Part& part : parts) {
        const int groups = part.sequence->layout(shape.slot).shape().heads, shared = shape.n_heads / groups;
        const int heads = std::min(shared, kTileRows), tokens = kTileRows / heads;
        for (std::int64_t token = 0; token < part.count; token += tokens)
            for (int group = 0; group < groups; group++)
                for (int head = 0; head < shared; head += heads)
                    tiles.push_back({&part, group, group * shared + head, std::min(heads, shared - head), token,
                                     static_cast<int>(std::min<std::int64_t>(tokens, part.count - token))});
    }
    return tiles;
}

using Vector = std::vector<float>;

constexpr std::size_t partial_floats(int rows, int width) { return static_cast<std::size_t>(rows) * (width + 2); }

Partial partial_at(float* memory, int rows, int width) {
    return {memory, memory + static_cast<std::size_t>(rows) * width, memory + static_cast<std::size_t>(rows) * (width + 1)};
}

// One tile is a piece of work, its splits one after the other.
void attend_by_tiles(const Job& job, const std::vector<Tile>& tiles, const SlotShape& kept, Pool& pool) {
    const int width = padded_row(kept.value_width);
    pool.run(static_cast<std::int64_t>(tiles.size()), [&](std::int64_t number, int) {
        const Tile& tile = tiles[number];
        const std::size_t of_queries = static_cast<std::size_t>(kTileRows) * kept.key_width, of_partial = partial_floats(kTileRows, width);
        thread_local Vector memory;  // the queries, the joined state, the state of one split
        memory.resize(std::max(memory.size(), of_queries + 2 * of_partial));
        float* queries = memory.data();
        gather(job, tile, queries);
        const Partial all = partial_at(queries + of_queries, kTileRows, width);
        const Partial one = partial_at(queries + of_queries + of_partial, kTileRows, width);
        const Range seen = visible(job, tile);
        bool first = true;
        for (std::int64_t start = seen.from / kSplit * kSplit; start < seen.to; start += kSplit) {
            const Work work{&tile, queries, first ? all : one};
            attend_split(job, &work, 1, std::max(seen.from, start), std::min(seen.to, start + kSplit));
            if (!first) join(job.kernels, tile.rows(), width, all, one);
            first = false;
        }
        if (first) reset(tile, width, all);
        normalise(job, tile, all);
    });
}

// One split is a piece of work, for all tiles of the same tokens; then the splits of each tile are joined.
void attend_by_splits(const Job& job, const std::vector<Tile>& tiles, const SlotShape& kept, Pool& pool, Buffer& scratch) {
    const int width = padded_row(kept.value_width);
    struct Item {
        std::size_t first_work, tiles;
        Range keys;
    };
    struct TileWork {  // of a tile: offset of its queries, first Work, step from split to split, number of splits
        std::size_t queries, first_work, step, splits;
    };
    std::vector<Item> items;
    std::vector<TileWork> tile_works;
    std::vector<Work> works;
    std::size_t floats = 0;
    const auto take = [&](std::size_t count) { return std::exchange(floats, floats + (count + 15) / 16 * 16); };
    for (std::size_t t = 0, next; t < tiles.size(); t = next) {
        for (next = t; next < tiles.size() && tiles[next].part == tiles[t].part && tiles[next].token == tiles[t].token; next++) {}
        const Range seen = visible(job, tiles[t]);
        const std::int64_t from = seen.from / kSplit * kSplit, to = std::max(seen.to, from + 1);  // at least one split
        const std::int64_t splits = (to - from + kSplit - 1) / kSplit;
        for (std::size_t tile = t; tile < next; tile++)
            tile_works.push_back({take(static_cast<std::size_t>(tiles[tile].rows()) * kept.key_width), works.size() + tile - t, next - t,
                                  static_cast<std::size_t>(splits)});
        for (std::int64_t start = from; start < to; start += kSplit) {
            items.push_back({works.size(), next - t, {std::max(seen.from, start), std::min(seen.to, start + kSplit)}});
            for (std::size_t tile = t; tile < next; tile++) works.push_back({&tiles[tile], nullptr, {}});
        }
    }
    int rows = 0;
    for (const Tile& tile : tiles) rows = std::max(rows, tile.rows());
    const std::size_t of_partial = floats, each = (partial_floats(rows, width) + 15) / 16 * 16;
    float* memory = scratch.need(of_partial + works.size() * each);
    for (std::size_t t = 0; t < tiles.size(); t++) gather(job, tiles[t], memory + tile_works[t].queries);
    for (std::size_t w = 0; w < works.size(); w++) {
        works[w].q = memory + tile_works[works[w].tile - tiles.data()].queries;
        works[w].out = partial_at(memory + of_partial + w * each, works[w].tile->rows(), width);
    }
    pool.run(static_cast<std::int64_t>(items.size()), [&](std::int64_t number, int) {
        const Item& item = items[number];
        attend_split(job, &works[item.first_work], static_cast<int>(item.tiles), item.keys.from, item.keys.to);
    });
    const auto close = [&](std::int64_t t, int) {
        const Partial sum = works[tile_works[t].first_work].out;
        for (std::size_t split = 1; split < tile_works[t].splits; split++)
            join(job.kernels, tiles[t].rows(), width, sum, works[tile_works[t].first_work + split * tile_works[t].step].out);
        normalise(job, tiles[t], sum);
    };
    if (works.size() < kParallelJoin)
        for (std::size_t t = 0; t < tiles.size(); t++) close(static_cast<std::int64_t>(t), 0);
    else
        pool.run(static_cast<std::int64_t>(tiles.size()), close);
}

}  // namespace

void store(const std::vector<Part>& parts, int slot, Rows k, Rows v, const Kernels& kernels, Pool& pool) {
    for (const Part& part : parts) {
        Sequence& sequence = *part.sequence;
        const PageLayout& form = sequence.layout(slot);
        const SlotShape& shape = form.shape();
        const std::int64_t start = sequence.held(slot);
        sequence.extend(slot, part.count);
        const int type = static_cast<int>(sequence.type());
        const auto write = [&](std::int64_t token, int) {
            std::uint8_t* page = sequence.page(slot, start + token);
            const int number = static_cast<int>((start + token) % kPage);
            for (int head = 0; head < shape.heads; head++) {
                const float* key = k.data + (part.first + token) * k.stride + static_cast<std::int64_t>(head) * shape.key_width;
                if (shape.value_in_key) {
                    kernels.store_value[type](key, shape.key_width, number, form.values(page, head), form.value_scales(page, head));
                    continue;
                }
                const float* value = v.data + (part.first + token) * v.stride + static_cast<std::int64_t>(head) * shape.value_width;
                kernels.store_key[type](key, shape.key_width, number, form.keys(page, head), form.key_scales(page, head));
                kernels.store_value[type](value, shape.value_width, number, form.values(page, head), form.value_scales(page, head));
            }
        };
        // Pages, not tokens, are shared out: threads that write into one page would share its cache lines.
        const std::int64_t first = start / kPage, pages = (start + part.count + kPage - 1) / kPage - first;
        pool.run(pages, [&](std::int64_t page, int thread) {
            const std::int64_t from = std::max<std::int64_t>(0, (first + page) * kPage - start);
            const std::int64_t to = std::min(part.count, (first + page + 1) * kPage - start);
            for (std::int64_t token = from; token < to; token++) write(token, thread);
        });
    }
}

void attend(const AttentionShape& shape, const std::vector<Part>& parts, Rows q, Rows y, const Kernels& kernels, Pool& pool, Buffer& scratch) {
    const Job job{shape, kernels, q, y};
    const std::vector<Tile> tiles = tiles_of(shape, parts);
    const SlotShape& kept = parts.front().sequence->layout(shape.slot).shape();
    if (static_cast<std::int64_t>(tiles.size()) >= kManyTiles * pool.threads()) attend_by_tiles(job, tiles, kept, pool);
    else attend_by_splits(job, tiles, kept, pool, scratch);
}

}  // namespace ordito
