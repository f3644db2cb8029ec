// A forward pass as a flat list of operations over numbered buffers, made from a spec by ordito/native/plan.py. Nothing here
// knows an architecture. Below, `src`, `dst` and the like are columns of buffers; a buffer has a row for each token of a batch.
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

// dst = norm(src) * weight + bias, of each of `count` neighbouring pieces of `width` columns.
struct Norm {
    Slice src, dst;
    int width, count;
    bool centred;
    float eps;
    Vector weight, bias;
};

// One map of a Linear: columns of src from `from` on, to columns of dst from `to` on.
struct Map {
    Weights weights;
    Vector bias;
    int from, to;
};

// dst = W src + bias (+ add): several maps of one input together. `screened`: a single map of which a batch may ask for the
// largest results of each row only (screening.hpp).
struct Linear {
    Slice src, dst, add;  // add.buffer < 0: nothing is added
    std::vector<Map> maps;
    bool screened;
};

// Rotary embedding, in place: turns the first 2 * pairs channels of each of `count` heads of `width` channels by the angles of
// the batch's rotation number `table`.
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

// Appends keys and values (v.buffer < 0: they are part of the keys) to a slot of the KV cache.
struct Store {
    int slot;
    Slice k, v;
};

// dst = softmax(scores of q) values, over the keys and values of a slot of the KV cache.
struct Attend {
    AttentionShape shape;
    Slice q, dst;
};

// dst = act(gate) * (up + offset), or act(up) where gate.buffer < 0.
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

// dst = cap * tanh(scale * src / cap), or scale * src where cap is 0.
struct Scale {
    Slice src, dst;
    int columns;
    float scale, cap;
};

// Sets the logits of ids without a token to minus infinity.
struct Forbid {
    Slice at;
    std::vector<int> columns;
};

// dst = src * sigmoid(gate), gate one column.
struct Gate {
    Slice src, gate, dst;
    int columns;
};

// dst = sum over the chosen experts of weight * down(act(gate x) * up x); `route` reads the router's logits.
struct Experts {
    Slice src, logits, dst;
    RouterShape router;
    std::vector<Weights> gate, up, down;            // one an expert; gate may be empty
    std::vector<Vector> gate_bias, up_bias, down_bias;  // one an expert, or empty
    int columns, hidden;
    bool weigh_input;
    Activation act;
    float limit, offset, slope;
};

// dst = the rows of src that the batch wants; operations that follow have only these rows.
struct Select {
    Slice src, dst;
    int columns;
};

using Operation = std::variant<Embed, Norm, Linear, Rotate, Temper, Store, Attend, Activate, Add, Scale, Forbid, Gate, Experts, Select>;

// A rotary embedding: frequencies in radians per position, and the factor on cosines and sines. One that depends on the length
// of the text (dynamic NTK, LongRoPE) is given for every part of a batch.
struct Rotation {
    Vector frequencies;
    float magnitude;
};

struct Batch {
    std::vector<Part> parts;
    std::vector<int> ids;
    std::vector<std::int64_t> wanted;          // rows that Select keeps
    int greatest;                              // how many of the largest logits of each such row are needed; 0: all
    std::vector<std::vector<Rotation>> rotations;  // [table][part], or [table][0] for all
    std::vector<Vector> factors;               // [table][row], of Temper
};

// The arithmetic of products with quantized weights: activations are quantized to 8 or 12 bits, or stay fp32.
enum class Arithmetic { int8, int12, f32 };

class Program {
  public:
    Program(std::vector<int> widths, std::vector<Operation> operations) : widths_(std::move(widths)), operations_(std::move(operations)) {}

    const std::vector<int>& widths() const { return widths_; }
    const std::vector<Operation>& operations() const { return operations_; }

  private:
    std::vector<int> widths_;
    std::vector<Operation> operations_;
};

// Runs programs, one at a time, with the kernels of one instruction set on one pool of threads.
class Machine {
  public:
    Machine(const Kernels& kernels, int threads, Arithmetic arithmetic) : kernels_(kernels), pool_(threads), arithmetic_(arithmetic) {}

    // Runs a program and hands over the memory of its buffer `result`: row `r` stands at `memory.data() + r * stride`.
    struct Result {
        Buffer memory;
        std::int64_t rows, stride;
        int columns;
    };
    Result run(const Program& program, const Batch& batch, int result);
    // Lends memory for the next result, so that the system need not allocate and clear it.
    void lend(Buffer memory) {
        if (memory.size() > lent_.size()) lent_ = std::move(memory);
    }

    // What an importance matrix is made of: for each column of a matrix the sum of the squares of its inputs, over `tokens`.
    struct Inputs {
        std::vector<double> squares;
        std::int64_t tokens = 0;
    };
    void watch() { watching_ = true; }
    Inputs inputs(const Packed& weights) const {
        const auto found = inputs_.find(&weights);
        return found == inputs_.end() ? Inputs{std::vector<double>(weights.columns), 0} : found->second;
    }

    // Multiply-adds per second that all threads reach in this arithmetic: the best of several measurements.
    double peak();
    // Bytes per second that all threads read from memory as weights are read: from large pages, with prefetching.
    double bandwidth();

    Pool& pool() { return pool_; }
    Arena& arena() { return arena_; }
    const Kernels& kernels() const { return kernels_; }

  private:
    friend struct Executor;

    const Kernels& kernels_;
    Pool pool_;
    Arena arena_;
    Arithmetic arithmetic_;

    std::vector<Buffer> buffers_;
    Buffer rounded_, cosines_, hidden_, outputs_, attention_, lent_;
    std::vector<Buffer> panels_;  // one a thread
    // Steps left without screening after it did not pay, and the length of the next such pause, which grows each time.
    int pause_ = 0, next_pause_ = 1;
    std::optional<bool> many_valued_;  // of the one matrix that is screened, once it is known

    bool watching_ = false;
    std::unordered_map<const Packed*, Inputs> inputs_;
    void note(const Packed& weights, const float* x, std::int64_t stride, std::int64_t tokens);
};

}  // namespace ordito
