#include "product.hpp"

namespace ordito {

namespace {

constexpr std::int64_t kRowsAtOnce = 128, kColumnsAtOnce = 1536;  // of a piece of work, whose sums stay in the L2 cache

}  // namespace

void Blocks::read(const Gemm& gemm, const Lines& rows, std::int64_t m, std::int64_t depth) {
    gemm_ = &gemm;
    depth_ = static_cast<int>(depth);
    const std::int64_t whole = ceil_div(depth, gemm.grain) * gemm.grain;
    // Rows a power of two apart would share few sets of the L1 cache: hence 64 bytes of padding.
    const std::int64_t stride = gemm.by_row ? whole * gemm.bytes + 64 : 0;
    const std::int64_t bytes = gemm.by_row ? gemm.rows * stride : ceil_div((whole * gemm.rows + gemm.slack) * gemm.bytes, 64) * 64;
    blocks_.resize(ceil_div(m, gemm.rows));
    auto* memory = reinterpret_cast<std::uint8_t*>(memory_.need(count() * bytes / sizeof(float)));
    for (std::int64_t p = 0; p < count(); p++) {
        const Lines lines = offset_by(rows, p * gemm.rows, 0);
        const auto present = static_cast<int>(std::min<std::int64_t>(gemm.rows, m - p * gemm.rows));
        const bool same = lines.bf16 == (gemm.bytes == 2), whole_block = present == gemm.rows && depth == whole;
        if (same && whole_block && lines.depth_stride == 1) {
            blocks_[p] = {lines.data, lines.line_stride * gemm.bytes, gemm.bytes};
        } else {
            blocks_[p] = {memory + p * bytes, gemm.by_row ? stride : gemm.bytes, gemm.by_row ? gemm.bytes : gemm.rows * gemm.bytes};
            gemm.pack_rows(lines, present, depth_, memory + p * bytes, stride);
        }
    }
}

void multiply(const Gemm& gemm, std::int64_t m, std::int64_t n, std::int64_t k, const Lines& rows, const Lines& columns, const Target& c,
              const Team& team) {
    const std::int64_t panels = ceil_div(n, gemm.columns), parts = std::max<std::int64_t>(1, ceil_div(k, gemm.depth));
    // The depth is cut into equal parts.
    const std::int64_t full = ceil_div(ceil_div(k, parts), gemm.grain) * gemm.grain;
    const auto depth_of = [&](std::int64_t part) { return std::max<std::int64_t>(0, std::min(full, k - part * full)); };
    const std::int64_t panel_bytes = Panels::bytes_for(gemm, full);
    thread_local Buffer memory;
    auto* packed = reinterpret_cast<std::uint8_t*>(memory.need(panels * parts * panel_bytes / sizeof(float)));
    const auto panels_of = [&](std::int64_t part) { return Panels{&gemm, panel_bytes, packed + part * panels * panel_bytes}; };
    team.run(panels * parts, [&](std::int64_t number) {
        const std::int64_t part = number / panels;
        panels_of(part).pack(offset_by(columns, 0, part * full), n, depth_of(part), number % panels);
    });

    const std::int64_t blocks = kRowsAtOnce / gemm.rows, high = blocks * gemm.rows;  // of a piece
    const std::int64_t pieces_down = ceil_div(m, high);
    // Wide pieces pack rows less often, but there must be enough pieces for every thread.
    const std::int64_t least_across = std::max(ceil_div(n, kColumnsAtOnce), ceil_div(std::int64_t{4} * team.threads(), pieces_down));
    const std::int64_t panels_across = ceil_div(panels, std::min(least_across, panels)), pieces_across = ceil_div(panels, panels_across);
    const std::int64_t block = std::int64_t{gemm.rows} * gemm.columns;
    team.run(pieces_down * pieces_across, [&](std::int64_t number) {
        const std::int64_t row = number / pieces_across * high, first = number % pieces_across * panels_across;
        const std::int64_t last = std::min(first + panels_across, panels);
        thread_local Blocks some;
        thread_local Buffer sum_memory;
        // Sums of all blocks, if the depth has several parts, else of one block.
        float* sums = sum_memory.need((parts > 1 ? blocks * panels_across : 1) * block);
        for (std::int64_t part = 0; part < parts; part++) {
            some.read(gemm, offset_by(rows, row, part * full), std::min(high, m - row), depth_of(part));
            const Panels of_part = panels_of(part);
            for (std::int64_t q = first; q < last; q++)
                for (std::int64_t p = 0; p < some.count(); p++) {
                    const auto down = static_cast<int>(std::min<std::int64_t>(gemm.rows, m - row - p * gemm.rows));
                    const auto across = static_cast<int>(std::min<std::int64_t>(gemm.columns, n - q * gemm.columns));
                    const Target to = offset_by(c, row + p * gemm.rows, q * gemm.columns);
                    const bool direct = !c.bf16 && down == gemm.rows && across == gemm.columns;
                    float* of_block = direct ? static_cast<float*>(to.data) : parts > 1 ? sums + ((q - first) * blocks + p) * block : sums;
                    some.multiply(p, of_part.at(q), part > 0, of_block, direct ? c.stride : gemm.columns);
                    if (part + 1 == parts && !direct) gemm.store(of_block, gemm.columns, down, across, to);
                }
        }
    });
}

}  // namespace ordito
