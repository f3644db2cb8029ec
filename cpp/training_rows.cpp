#include "training_rows.hpp"

#include <cstring>

#include "product.hpp"

namespace ordito {

namespace {

constexpr std::int64_t kRowsOfPiece = 64;  // rows whose gradients of weights are summed together, for any number of threads

// Access to rows in fp32: bfloat16 rows go through a buffer.
class Row {
  public:
    explicit Row(const Kernels& kernels) : kernels_(kernels) {}

    // A row in fp32: in place if it is stored so, else converted into `memory`.
    const float* read(Buffer& memory, const Lines& rows, std::int64_t row, std::int64_t width) const {
        const void* at = offset_by(rows, row, 0).data;
        if (!rows.bf16) return static_cast<const float*>(at);
        kernels_.bf16_to_f32(static_cast<const std::uint16_t*>(at), width, memory.need(width));
        return memory.data();
    }
    // Where to compute a row, and how to store it if that is not its final place.
    float* place(Buffer& memory, const Target& rows, std::int64_t row, std::int64_t width) const {
        return rows.bf16 ? memory.need(width) : static_cast<float*>(offset_by(rows, row, 0).data);
    }
    void write(const float* made, const Target& rows, std::int64_t row, std::int64_t width) const {
        if (rows.bf16) kernels_.f32_to_bf16(made, width, static_cast<std::uint16_t*>(offset_by(rows, row, 0).data));
    }

  private:
    const Kernels& kernels_;
};

}  // namespace

void norm_rows(const Kernels& kernels, const Lines& x, std::int64_t n, std::int64_t width, float eps, const float* weight, const Target& y,
               const Team& team) {
    team.run(ceil_div(n, kRowsOfPiece), [&](std::int64_t piece) {
        thread_local Buffer x_memory, y_memory;
        const Row row(kernels);
        for (std::int64_t r = piece * kRowsOfPiece; r < std::min(n, (piece + 1) * kRowsOfPiece); r++) {
            float* made = row.place(y_memory, y, r, width);
            kernels.norm(row.read(x_memory, x, r, width), width, false, eps, weight, nullptr, made);
            row.write(made, y, r, width);
        }
    });
}

void norm_rows_gradient(const Kernels& kernels, const Lines& x, std::int64_t n, std::int64_t width, float eps, const float* weight,
                        const Lines& grad, const Target& grad_x, float* grad_weight, const Team& team) {
    const std::int64_t pieces = ceil_div(n, kRowsOfPiece);
    std::vector<float> sums(grad_weight ? pieces * width : 0);
    team.run(pieces, [&](std::int64_t piece) {
        thread_local Buffer x_memory, grad_memory, made_memory;
        const Row row(kernels);
        float* sum = grad_weight ? &sums[piece * width] : nullptr;
        for (std::int64_t r = piece * kRowsOfPiece; r < std::min(n, (piece + 1) * kRowsOfPiece); r++) {
            float* made = row.place(made_memory, grad_x, r, width);
            kernels.norm_gradient(row.read(x_memory, x, r, width), row.read(grad_memory, grad, r, width), width, eps, weight, made, sum);
            row.write(made, grad_x, r, width);
        }
    });
    if (!grad_weight) return;
    std::memset(grad_weight, 0, width * sizeof(float));
    for (std::int64_t piece = 0; piece < pieces; piece++) kernels.add(grad_weight, &sums[piece * width], width, grad_weight);
}

void gate_rows(const Kernels& kernels, const Lines& gate, const Lines& up, std::int64_t n, std::int64_t width, const Target& y, const Team& team) {
    team.run(ceil_div(n, kRowsOfPiece), [&](std::int64_t piece) {
        thread_local Buffer gate_memory, up_memory, made_memory;
        const Row row(kernels);
        for (std::int64_t r = piece * kRowsOfPiece; r < std::min(n, (piece + 1) * kRowsOfPiece); r++) {
            float* made = row.place(made_memory, y, r, width);
            kernels.activate(Activation::silu, row.read(gate_memory, gate, r, width), row.read(up_memory, up, r, width), width, 0, 0, 0, made);
            row.write(made, y, r, width);
        }
    });
}

void gate_rows_gradient(const Kernels& kernels, const Lines& gate, const Lines& up, std::int64_t n, std::int64_t width, const Lines& grad,
                        const Target& grad_gate, const Target& grad_up, const Team& team) {
    team.run(ceil_div(n, kRowsOfPiece), [&](std::int64_t piece) {
        thread_local Buffer gate_memory, up_memory, grad_memory, made_gate_memory, made_up_memory;
        const Row row(kernels);
        for (std::int64_t r = piece * kRowsOfPiece; r < std::min(n, (piece + 1) * kRowsOfPiece); r++) {
            float* made_gate = row.place(made_gate_memory, grad_gate, r, width);
            float* made_up = row.place(made_up_memory, grad_up, r, width);
            kernels.silu_gradient(row.read(gate_memory, gate, r, width), row.read(up_memory, up, r, width), row.read(grad_memory, grad, r, width),
                                  width, made_gate, made_up);
            row.write(made_gate, grad_gate, r, width);
            row.write(made_up, grad_up, r, width);
        }
    });
}

void rotate_heads(const Kernels& kernels, const Heads<const void>& x, std::int64_t batch, std::int64_t heads, std::int64_t tokens,
                  std::int64_t width, const Angles& angles, const Heads<void>& y, const Team& team) {
    team.run(batch * heads, [&](std::int64_t number) {
        const std::int64_t b = number / heads, h = number % heads;
        thread_local Buffer x_memory, made_memory, sine_memory;
        const Row row(kernels);
        const Lines from{x.of(b, h), x.bf16, x.token, 1};
        const Target to{y.of(b, h), y.bf16, y.token};
        for (std::int64_t t = 0; t < tokens; t++) {
            const float *cos = angles.cos + b * angles.cos_batch + t * angles.pairs, *sin = angles.sin + b * angles.sin_batch + t * angles.pairs;
            if (angles.back) {
                float* turned = sine_memory.need(angles.pairs);
                for (std::int64_t i = 0; i < angles.pairs; i++) turned[i] = -sin[i];
                sin = turned;
            }
            float* made = row.place(made_memory, to, t, width);
            std::memcpy(made, row.read(x_memory, from, t, width), width * sizeof(float));
            kernels.rotate(made, cos, sin, angles.pairs, angles.interleaved);
            row.write(made, to, t, width);
        }
    });
}

}  // namespace ordito
