// AMX's tile registers and the shapes that a thread has configured for them.
#pragma once

#include <cstdint>
#include <cstring>

namespace ordito {
namespace {

// The operand of LDTILECFG (Intel's Software Developer's Manual, volume 1, chapter 18).
struct alignas(64) TileShapes {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {};
    std::uint8_t rows[16] = {};

    constexpr void set(int tile, int of_rows, int of_bytes) {
        rows[tile] = static_cast<std::uint8_t>(of_rows), bytes[tile] = static_cast<std::uint16_t>(of_bytes);
    }
};
static_assert(sizeof(TileShapes) == 64);

// In assembly, since the compiler's intrinsics do not tell it that they read or write memory.
template <int tile>
[[gnu::always_inline]] inline void load_tile(const void* from, std::int64_t stride) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(tile), "r"(from), "r"(stride) : "memory");
}

template <int tile>
[[gnu::always_inline]] inline void store_tile(void* to, std::int64_t stride) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(tile), "r"(to), "r"(stride) : "memory");
}

// The shapes of all registers for integer products, by the bytes of a token's line and the number of lines (registers 0 to 3:
// sums, 4 and 5: codes of weights, 6 and 7: tokens), and for bfloat16.
constexpr TileShapes whole_shapes(int columns, int lines) {
    TileShapes shapes;
    for (int tile = 0; tile < 4; tile++) shapes.set(tile, lines, 64);
    for (int tile = 4; tile < 6; tile++) shapes.set(tile, columns / 4, 64);
    for (int tile = 6; tile < 8; tile++) shapes.set(tile, lines, columns);
    return shapes;
}

constexpr TileShapes square_shapes() {
    TileShapes shapes;
    for (int tile = 0; tile < 8; tile++) shapes.set(tile, 16, 64);
    return shapes;
}

inline const TileShapes kShapes[] = {whole_shapes(16, 8), whole_shapes(32, 8), whole_shapes(64, 8),
                                     whole_shapes(16, 16), whole_shapes(32, 16), square_shapes()};
inline const TileShapes& kSquare = kShapes[5];  // also the shapes of 64 bytes and 16 lines

inline const TileShapes& shapes_of(int columns, int lines) { return kShapes[3 * (lines / 16) + columns / 32]; }

// Configures this thread's tile registers while it lives. Shapes of ours are left in place afterwards, since configuring takes
// ten times as long as querying; another library's are restored (ggml configures them once and for all).
class Shaped {
  public:
    explicit Shaped(const TileShapes& shapes) {
        asm volatile("sttilecfg %0" : "=m"(before_));
        if (!same(before_, shapes)) load(shapes);
    }
    ~Shaped() {
        if (before_.palette && !ours()) load(before_);
    }
    Shaped(const Shaped&) = delete;
    Shaped& operator=(const Shaped&) = delete;

  private:
    static bool same(const TileShapes& a, const TileShapes& b) { return !std::memcmp(&a, &b, sizeof(TileShapes)); }
    static void load(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
    bool ours() const {
        for (const TileShapes& shapes : kShapes)
            if (same(before_, shapes)) return true;
        return false;
    }

    TileShapes before_;
};

}  // namespace
}  // namespace ordito
