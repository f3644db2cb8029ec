#include "product.hpp"

namespace ordito {

namespace {

constexpr std::int64_t kRowsAtOnce = 128, kColumnsAtOnce = 1536;  // of a piece of work: its sums are in the second cache

}  // namespace

void Blocks::read(const Products& by, const Lines& rows, std::int64_t m, std::int64_t depth) {
    by_ = &by;
    depth_ = static_cast<int>(depth);
    const std::int64_t whole = ceiled(depth, by.grain) * by.grain;
    // Rows that are no power of two apart meet in the first cache less often.
    const std::int64_t stride = by.by_row ? whole * by.bytes + 64 : 0;
    const std::int64_t bytes = by.by_row ? by.rows * stride : ceiled((whole * by.rows + by.slack) * by.bytes, 64) * 64;
    blocks_.resize(ceiled(m, by.rows));
    auto* memory = reinterpret_cast<std::uint8_t*>(memory_.need(count() * bytes / sizeof(float)));
    for (std::int64_t p = 0; p < count(); p++) {
        const Lines lines = moved(rows, p * by.rows, 0);
        const auto there = static_cast<int>(std::min<std::int64_t>(by.rows, m - p * by.rows));
        const bool same = lines.half == (by.bytes == 2), whole_block = there == by.rows && depth == whole;
        if (same && whole_block && lines.depth == 1) {
            blocks_[p] = {lines.data, lines.line * by.bytes, by.bytes};
        } else {
            blocks_[p] = {memory + p * bytes, by.by_row ? stride : by.bytes, by.by_row ? by.bytes : by.rows * by.bytes};
            by.pack_rows(lines, there, depth_, memory + p * bytes, stride);
        }
    }
}

void multiply(const Products& by, std::int64_t m, std::int64_t n, std::int64_t k, const Lines& rows, const Lines& columns, const Target& c,
              const Team& team) {
    const std::int64_t panels = ceiled(n, by.columns), parts = std::max<std::int64_t>(1, ceiled(k, by.depth));
    // Of the depth, in parts that are alike.
    const std::int64_t full = ceiled(ceiled(k, parts), by.grain) * by.grain;
    const auto depth_of = [&](std::int64_t part) { return std::max<std::int64_t>(0, std::min(full, k - part * full)); };
    const std::int64_t panel_bytes = Panels::bytes_for(by, full);
    thread_local Buffer memory;
    auto* packed = reinterpret_cast<std::uint8_t*>(memory.need(panels * parts * panel_bytes / sizeof(float)));
    const auto panels_of = [&](std::int64_t part) { return Panels{&by, panel_bytes, packed + part * panels * panel_bytes}; };
    team.run(panels * parts, [&](std::int64_t number) {
        const std::int64_t part = number / panels;
        panels_of(part).pack(moved(columns, 0, part * full), n, depth_of(part), number % panels);
    });

    const std::int64_t blocks = kRowsAtOnce / by.rows, high = blocks * by.rows;  // of a piece
    const std::int64_t pieces_down = ceiled(m, high);
    // Wide pieces pack rows less often, but there must be some for every thread.
    const std::int64_t least_across = std::max(ceiled(n, kColumnsAtOnce), ceiled(std::int64_t{4} * team.threads(), pieces_down));
    const std::int64_t panels_across = ceiled(panels, std::min(least_across, panels)), pieces_across = ceiled(panels, panels_across);
    const std::int64_t block = std::int64_t{by.rows} * by.columns;
    team.run(pieces_down * pieces_across, [&](std::int64_t number) {
        const std::int64_t row = number / pieces_across * high, first = number % pieces_across * panels_across;
        const std::int64_t last = std::min(first + panels_across, panels);
        thread_local Blocks some;
        thread_local Buffer sum_memory;
        // Sums of all blocks stay until their depth is through, or of one where it is through at once.
        float* sums = sum_memory.need((parts > 1 ? blocks * panels_across : 1) * block);
        for (std::int64_t part = 0; part < parts; part++) {
            some.read(by, moved(rows, row, part * full), std::min(high, m - row), depth_of(part));
            const Panels of_part = panels_of(part);
            for (std::int64_t q = first; q < last; q++)
                for (std::int64_t p = 0; p < some.count(); p++) {
                    const auto down = static_cast<int>(std::min<std::int64_t>(by.rows, m - row - p * by.rows));
                    const auto across = static_cast<int>(std::min<std::int64_t>(by.columns, n - q * by.columns));
                    const Target to = moved(c, row + p * by.rows, q * by.columns);
                    const bool straight = !c.half && down == by.rows && across == by.columns;
                    float* of_block = straight ? static_cast<float*>(to.data) : parts > 1 ? sums + ((q - first) * blocks + p) * block : sums;
                    some.times(p, of_part.at(q), part > 0, of_block, straight ? c.stride : by.columns);
                    if (part + 1 == parts && !straight) by.put(of_block, by.columns, down, across, to);
                }
        }
    });
}

}  // namespace ordito
