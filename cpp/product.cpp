#include "product.hpp"

#include <algorithm>
#include <cstdint>

#include "packed.hpp"

namespace ordito {

namespace {

constexpr std::int64_t kRowsAtOnce = 128, kColumnsAtOnce = 1536;  // of a piece of work: its sums are in the second cache

std::int64_t ceiled(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

Lines from(const Lines& lines, std::int64_t line, std::int64_t depth) {
    Lines moved = lines;
    moved.data = static_cast<const std::uint8_t*>(lines.data) + (line * lines.line + depth * lines.depth) * (lines.half ? 2 : 4);
    return moved;
}

Target at(const Target& rows, std::int64_t row, std::int64_t column) {
    Target moved = rows;
    moved.data = static_cast<std::uint8_t*>(rows.data) + (row * rows.stride + column) * (rows.half ? 2 : 4);
    return moved;
}

}  // namespace

void multiply(const Products& by, std::int64_t m, std::int64_t n, std::int64_t k, const Lines& rows, const Lines& columns, const Target& c,
              const Team& team) {
    const std::int64_t column_panels = ceiled(n, by.columns), parts = std::max<std::int64_t>(1, ceiled(k, by.depth));
    // Of the depth, in parts that are alike.
    const std::int64_t full = ceiled(ceiled(k, parts), by.grain) * by.grain;
    const auto depth_of = [&](std::int64_t part) { return static_cast<int>(std::min(full, k - part * full)); };
    // Bytes with what packing may write behind. Rows that are no power of two apart meet in the first cache less often.
    const std::int64_t row_stride = by.by_row ? full * by.bytes + 64 : 0;
    const std::int64_t column_bytes = ceiled((full * by.columns + by.slack) * by.bytes, 64) * 64;
    const std::int64_t row_bytes = by.by_row ? by.rows * row_stride : ceiled((full * by.rows + by.slack) * by.bytes, 64) * 64;
    thread_local Buffer column_memory;
    auto* packed = reinterpret_cast<std::uint8_t*>(column_memory.need(column_panels * parts * column_bytes / sizeof(float)));
    const auto column_panel = [&](std::int64_t part, std::int64_t p) { return packed + (part * column_panels + p) * column_bytes; };
    team.run(column_panels * parts, [&](std::int64_t number) {
        const std::int64_t part = number / column_panels, p = number % column_panels;
        by.pack_columns(from(columns, p * by.columns, part * full), static_cast<int>(std::min<std::int64_t>(by.columns, n - p * by.columns)),
                        depth_of(part), column_panel(part, p));
    });

    const std::int64_t row_panels = kRowsAtOnce / by.rows, high = row_panels * by.rows;  // of a piece
    const std::int64_t pieces_down = ceiled(m, high);
    // Wide pieces pack rows less often, but there must be some for every thread.
    const std::int64_t least_across = std::max(ceiled(n, kColumnsAtOnce), ceiled(std::int64_t{4} * team.threads(), pieces_down));
    const std::int64_t panels_across = ceiled(column_panels, std::min(least_across, column_panels));
    const std::int64_t pieces_across = ceiled(column_panels, panels_across);
    const std::int64_t block = std::int64_t{by.rows} * by.columns;
    team.run(pieces_down * pieces_across, [&](std::int64_t number) {
        const std::int64_t row = number / pieces_across * high, first = number % pieces_across * panels_across;
        const std::int64_t last = std::min(first + panels_across, column_panels), here = std::min(row_panels, ceiled(m - row, by.rows));
        thread_local Buffer row_memory, sum_memory;
        auto* panels = reinterpret_cast<std::uint8_t*>(row_memory.need(row_panels * row_bytes / sizeof(float)));
        // Sums of all blocks stay until their depth is through, or of one where it is through at once.
        float* sums = sum_memory.need((parts > 1 ? row_panels * panels_across : 1) * block);
        for (std::int64_t part = 0; part < parts; part++) {
            const int depth = depth_of(part);
            struct { const void* data; std::int64_t stride; } of[kRowsAtOnce];
            for (std::int64_t p = 0; p < here; p++) {
                const Lines lines = from(rows, row + p * by.rows, part * full);
                const int there = static_cast<int>(std::min<std::int64_t>(by.rows, m - row - p * by.rows));
                const bool ready = by.by_row && lines.half && lines.depth == 1 && there == by.rows && depth % by.grain == 0;
                of[p] = {ready ? lines.data : panels + p * row_bytes, ready ? lines.line * by.bytes : row_stride};
                if (!ready) by.pack_rows(lines, there, depth, panels + p * row_bytes, row_stride);
            }
            for (std::int64_t q = first; q < last; q++)
                for (std::int64_t p = 0; p < here; p++) {
                    const int down = static_cast<int>(std::min<std::int64_t>(by.rows, m - row - p * by.rows));
                    const int across = static_cast<int>(std::min<std::int64_t>(by.columns, n - q * by.columns));
                    const Target to = at(c, row + p * by.rows, q * by.columns);
                    const bool straight = !c.half && down == by.rows && across == by.columns;
                    float* of_block = straight ? static_cast<float*>(to.data) : parts > 1 ? sums + ((q - first) * row_panels + p) * block : sums;
                    by.multiply(of[p].data, of[p].stride, column_panel(part, q), depth, part > 0, of_block, straight ? c.stride : by.columns);
                    if (part + 1 == parts && !straight) by.put(of_block, by.columns, down, across, to);
                }
        }
    });
}

}  // namespace ordito
