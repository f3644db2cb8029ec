// A forward pass as a flat list of operations over numbered buffers, lowered from a spec by ordito/native/plan.py. Nothing here
// depends on an architecture. Below, `src`, `dst` and the like are columns of buffers; a buffer has a row for each token of a
// batch.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "attention.hpp"
#include "packed.hpp"
#include "routing.hpp"

namespace ordito {

using Weights = std::shared_ptr<Packed>;
using Vector = std::vector<float>;  // empty where there is none

// Columns of a buffer, from `offset` on.
struct Slice {
    int buffer = -1, offset = 0;
};

// dst = scale * table[id] (+ positions[position + first]) (+ types).
struct Embed {
    Slice dst;
    Weights table;
    float scale;
    Weights positions;
    std::int64_t first_position;
    Vector types;
};

// dst = norm(src) * weight + bias, separately for each of `count` adjacent vectors of `width` columns.
struct Norm {
    Slice src, dst;
    int width, count;
    bool centred;
    float eps;
    Vector weight, bias;
};

// One matrix of a Linear: reads columns of src from `from` on, and writes columns of dst from `to` on. All that are not plain read
// the same columns, which are quantized once.
struct Map {
    Weights weights;
    Vector bias;
    int from, to;
};

// dst = W src + bias (+ add), for several matrices at once. `screened`: a single matrix from column 0 to column 0, without
// bias and `add`, of whose products a batch may need only the largest of each row (screening.hpp).
struct Linear {
    Slice src, dst, add;  // add.buffer < 0: nothing is added
    std::vector<Map> maps;
    bool screened;
};

// Rotary embedding, in place: rotates the first 2 * pairs channels of each of `count` heads of `width` channels, by the batch's
// rotation `table`.
struct Rotate {
    Slice at;
    int count, width, table;
    bool interleaved;
};

// Attention temperature, in place: multiplies columns by a factor of the token's position, from the batch's `factors[table]`.
struct Temper {
    Slice at;
    int columns, table;
};

// Appends keys and values to a slot of the KV cache; v.buffer < 0: the values are part of the keys.
struct Store {
    int slot;
    Slice k, v;
};

// dst = softmax(q keys) values, over a slot of the KV cache.
struct Attend {
    AttentionShape shape;
    Slice q, dst;
};

// dst = act(gate) * (up + offset), or act(up) if gate.buffer < 0.
struct Activate {
    Slice gate, up, dst;
    int columns;
    Activation act;
    float limit, offset, slope;
};

struct Add {
    Slice a, b, dst;
    int columns;
};

// dst = cap * tanh(scale * src / cap), or scale * src if cap is 0.
struct Scale {
    Slice src, dst;
    int columns;
    float scale, cap;
};

// Sets the logits of ids that no token has to minus infinity.
struct Forbid {
    Slice at;
    std::vector<int> columns;
};

// dst = src * sigmoid(gate), gate one column.
struct Gate {
    Slice src, gate, dst;
    int columns;
};

// dst = sum over the chosen experts of weight * down(act(gate x) * up x); `route` chooses them by the router's logits.
struct Experts {
    Slice src, logits, dst;
    RouterShape router;
    std::vector<Weights> gate, up, down;                // one for each expert; gate may be empty
    std::vector<Vector> gate_bias, up_bias, down_bias;  // one for each expert, or empty
    int columns, hidden;
    bool weigh_input;
    Activation act;
    float limit, offset, slope;
};

// dst = the wanted rows of src; the operations that follow compute only these rows.
struct Select {
    Slice src, dst;
    int columns;
};

using Operation = std::variant<Embed, Norm, Linear, Rotate, Temper, Store, Attend, Activate, Add, Scale, Forbid, Gate, Experts, Select>;

// A rotary embedding: frequencies in radians per position, and a factor for cosines and sines. If they depend on the length of
// the text (dynamic NTK, LongRoPE), each part of a batch has its own.
struct Rotation {
    Vector frequencies;
    float magnitude;
};

struct Batch {
    std::vector<Part> parts;
    std::vector<int> ids;
    std::vector<std::int64_t> wanted;          // rows that Select keeps
    int greatest;                              // how many of the largest logits of each row are needed; 0: all
    std::vector<std::vector<Rotation>> rotations;  // [table][part], or [table][0] for all
    std::vector<Vector> factors;               // [table][row], of Temper
};

// The arithmetic of products: beside quantized weights activations are integers of 8 or 12 bits, or stay fp32. Beside plain ones
// they are integers of 16 bits, as the weights (`Machine::allocate`), unless the instruction set gains nothing.
enum class Arithmetic { int8, int12, f32 };

// Rows from which on a plain matrix becomes integers of 16 bits. With fewer than about 50, quantizing activations takes longer
// than the products.
constexpr std::int64_t kInt16Rows = 128;

class Program {
  public:
    Program(std::vector<int> widths, std::vector<Operation> operations) : widths_(std::move(widths)), operations_(std::move(operations)) {}

    const std::vector<int>& widths() const { return widths_; }
    const std::vector<Operation>& operations() const { return operations_; }

  private:
    std::vector<int> widths_;
    std::vector<Operation> operations_;
};

// Runs one program at a time, with the kernels of one instruction set and a thread pool.
class Machine {
  public:
    Machine(const Kernels& kernels, int threads, Arithmetic arithmetic) : kernels_(kernels), pool_(new Pool(threads)), arithmetic_(arithmetic) {}

    // Runs a program and hands over the memory of buffer `result`, whose row `r` begins at `memory.data() + r * stride`.
    struct Result {
        Buffer memory;
        std::int64_t rows, stride;
        int columns;
    };
    Result run(const Program& program, const Batch& batch, int result);
    // Gives memory back for the next result, so that the system need not allocate and clear new pages.
    void recycle(Buffer memory) {
        if (memory.size() > recycled_.size()) recycled_ = std::move(memory);
    }

    // Sums for an importance matrix: of each column of a matrix the squares of its inputs, over `tokens`. Collected after
    // `watch`.
    struct Inputs {
        std::vector<double> squares;
        std::int64_t tokens = 0;
    };
    void watch() { watching_ = true; }
    Inputs inputs(const Packed& weights) const {
        const auto found = inputs_.find(&weights);
        return found == inputs_.end() ? Inputs{std::vector<double>(weights.columns), 0} : found->second;
    }

    // Multiply-adds per second of all threads in this arithmetic: the best of several measurements.
    double peak();
    // Bytes per second that all threads read from memory, as weights are read: from large pages, with prefetching.
    double bandwidth();

    // Memory for a matrix that a file stores in `file`; with `split`, codes are split where they can be; with `keep`, plain numbers
    // stay as they are.
    Weights allocate(Format file, std::int64_t rows, std::int64_t columns, bool split, bool keep) {
        const bool known = kernels_.linear_quantized[static_cast<int>(Format::int16)];
        const bool int16 = known && !keep && arithmetic_ != Arithmetic::f32 && is_plain(file) && rows >= kInt16Rows;
        return ordito::allocate(file, rows, columns, int16 ? Repack::int16 : split ? Repack::split : Repack::none, arena_);
    }
    Pool& pool() { return *pool_; }

  private:
    friend struct Executor;

    const Kernels& kernels_;
    OwnsThreads<Pool> pool_;
    Arena arena_;
    Arithmetic arithmetic_;

    std::vector<Buffer> buffers_;
    Buffer quantized_[2];  // [1]: as int16
    Buffer hidden_, outputs_, attention_, recycled_;
    std::vector<Buffer> panels_;  // one for each thread: dequantized panels
    // Screening that did not pay is paused: steps left of the pause, and the length of the next one, which doubles
    // each time, up to a limit, and is 1 again after a success.
    int pause_ = 0, next_pause_ = 1;
    std::optional<bool> many_valued_;  // of the screened matrix, once it was determined

    bool watching_ = false;
    std::unordered_map<const Packed*, Inputs> inputs_;
    void record(const Packed& weights, const float* x, std::int64_t stride, std::int64_t tokens);
};

}  // namespace ordito
