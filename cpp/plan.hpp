// A forward pass as a flat list of operations over numbered buffers. Nothing here knows an architecture: what a model is was
// said when the list was made (ordito/native/plan.py).
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

// Columns of a buffer, which has a row for each token.
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

// dst = W src + bias (+ add): several maps of one input together. `screened`: of one map without more, a batch may ask for the
// greatest of each row only.
struct Linear {
    Slice src, dst, add;  // add.buffer < 0: nothing is added
    std::vector<Map> maps;
    bool screened;
};

// Turns the first 2 * pairs channels of `count` heads of `width`. `table` is a rotation of the batch.
struct Rotate {
    Slice at;
    int count, width, table;
    bool interleaved;
};

// Multiplies columns by a factor of the token's position.
struct Temper {
    Slice at;
    int columns, table;
};

struct Store {
    int slot;
    Slice k, v;
};

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

// Columns that no token stands behind: minus infinity.
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

// From here on only the rows that are wanted.
struct Select {
    Slice src, dst;
    int columns;
};

using Operation = std::variant<Embed, Norm, Linear, Rotate, Temper, Store, Attend, Activate, Add, Scale, Forbid, Gate, Experts, Select>;

// Cosines and sines of one rotation: frequencies in radians a position, and the factor on both. A rotation that changes with
// the length of the text is set again for every part of a batch.
struct Rotation {
    Vector frequencies;
    float magnitude;
};

struct Batch {
    std::vector<Part> parts;
    std::vector<int> ids;
    std::vector<std::int64_t> wanted;          // rows that Select keeps
    int greatest;                              // of those rows' logits, so many are wanted; 0: all
    std::vector<std::vector<Rotation>> rotations;  // [table][part], or [table][0] for all
    std::vector<Vector> factors;               // [table][row], of Temper
};

// How products with quantized weights are taken: activations rounded to whole numbers of 8 or 12 bits, or left as they are.
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

// Computes programs with one set of kernels on one pool; one at a time.
class Machine {
  public:
    Machine(const Kernels& kernels, int threads, Arithmetic arithmetic) : kernels_(kernels), pool_(threads), arithmetic_(arithmetic) {}

    // Runs a program; the buffer `result` is given away with what it holds: row `r` stands at `memory.data() + r * stride`.
    struct Result {
        Buffer memory;
        std::int64_t rows, stride;
        int columns;
    };
    Result run(const Program& program, const Batch& batch, int result);
    // Memory for the next result, so that the system need not find some and clear it.
    void lend(Buffer memory) {
        if (memory.size() > lent_.size()) lent_ = std::move(memory);
    }

    // The squares of all numbers with which a matrix was multiplied, summed for each of its columns; `tokens` were there.
    struct Inputs {
        std::vector<double> squares;
        std::int64_t tokens = 0;
    };
    void watch() { watching_ = true; }
    Inputs inputs(const Packed& weights) const {
        const auto found = inputs_.find(&weights);
        return found == inputs_.end() ? Inputs{std::vector<double>(weights.columns), 0} : found->second;
    }

    // Multiplications with additions that all threads can do in a second, in this arithmetic: the best of several moments.
    double peak();
    // Bytes that all threads read from memory in a second, as weights are read: large pages, asked for ahead.
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
    // Steps that are left of a pause without screening, and how long the next one is: longer each time that it did not pay.
    int pause_ = 0, next_pause_ = 1;
    std::optional<bool> many_valued_;  // what is known of the one matrix that is screened

    bool watching_ = false;
    std::unordered_map<const Packed*, Inputs> inputs_;
    void note(const Packed& weights, const float* x, std::int64_t stride, std::int64_t tokens);
};

}  // namespace ordito
