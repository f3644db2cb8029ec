#include "plan.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "screening.hpp"

namespace ordito {

namespace {

constexpr std::int64_t kSerial = 1 << 14;       // numbers below which one thread computes everything
constexpr int kLongestPause = 16;               // see Machine::pause_
constexpr int kTokenBlock = 64;                 // tokens whose activations stay in a core's cache while panels are streamed

std::int64_t row_length(int width) { return (width + 15) / 16 * 16; }

}  // namespace

// One run of a program.
struct Executor {
    Executor(Machine& machine, const Program& program, const Batch& batch)
        : m(machine), program(program), batch(batch), rows(static_cast<std::int64_t>(batch.ids.size())) {}

    Machine& m;
    const Program& program;
    const Batch& batch;
    std::int64_t rows;

    const Kernels& k() const { return m.kernels_; }
    std::int64_t stride(int buffer) const { return row_length(program.widths()[buffer]); }

    // The address of a slice, or null for none. It may allocate the buffer, so it must not be called in parallel.
    Rows rows_of(Slice s) {
        if (s.buffer < 0) return {nullptr, 0};
        return {m.buffers_[s.buffer].need(rows * stride(s.buffer)) + s.offset, stride(s.buffer)};
    }

    // Calls with(row) for all rows, in parallel if `columns` numbers for each are enough work.
    template <class With>
    void each_row(std::int64_t columns, With with) {
        if (rows * columns < kSerial) {
            for (std::int64_t r = 0; r < rows; r++) with(r);
            return;
        }
        const std::int64_t piece = std::max<std::int64_t>(1, kSerial / 4 / std::max<std::int64_t>(1, columns));
        m.pool_->run((rows + piece - 1) / piece, [&](std::int64_t number, int) {
            for (std::int64_t r = number * piece; r < std::min(rows, (number + 1) * piece); r++) with(r);
        });
    }

    // Calls with(part, row, position) for every token of the batch.
    template <class With>
    void each_token(With with) {
        for (std::size_t p = 0; p < batch.parts.size(); p++)
            for (std::int64_t i = 0; i < batch.parts[p].count; i++) with(p, batch.parts[p].first + i, batch.parts[p].position + i);
    }

    void operator()(const Embed& op) {
        const Rows dst = rows_of(op.dst);
        std::vector<std::int64_t> positions(rows);
        each_token([&](std::size_t, std::int64_t r, std::int64_t position) { positions[r] = position; });
        const int columns = static_cast<int>(op.table->columns);
        each_row(4 * columns, [&](std::int64_t r) {
            float* to = dst[r];
            dequantize_row(*op.table, batch.ids[r], to);
            if (op.scale != 1) k().scale_and_cap(to, columns, op.scale, 0, to);
            if (op.positions) {
                std::vector<float> learned(columns);
                dequantize_row(*op.positions, positions[r] + op.first_position, learned.data());
                k().add(to, learned.data(), columns, to);
            }
            if (!op.types.empty()) k().add(to, op.types.data(), columns, to);
        });
    }

    void operator()(const Norm& op) {
        const Rows src = rows_of(op.src), dst = rows_of(op.dst);
        each_row(static_cast<std::int64_t>(op.width) * op.count, [&](std::int64_t r) {
            const float* from = src[r];
            float* to = dst[r];
            for (int i = 0; i < op.count; i++)
                k().norm(from + i * op.width, op.width, op.centred, op.eps, op.weight.empty() ? nullptr : op.weight.data(),
                         op.bias.empty() ? nullptr : op.bias.data(), to + i * op.width);
        });
    }

    // Quantizes rows of numbers. Each of `parts` (given by its number of rows) is multiplied separately, so it begins a new
    // group.
    Quantized quantized(const float* x, std::int64_t step, std::int64_t columns, const std::vector<std::int64_t>& parts, Digits digits, Buffer& memory) {
        Quantized all{nullptr, digits, k().int16_pairs && digits != Digits::four, columns, 0};
        std::vector<std::pair<std::int64_t, std::int64_t>> groups;  // first row, and rows left of its part
        for (const std::int64_t part : parts) {
            for (std::int64_t row = 0; row < part; row += kGroupTokens) groups.emplace_back(all.tokens + row, part - row);
            all.tokens += part;
        }
        all.data = reinterpret_cast<std::uint8_t*>(memory.need(all.bytes() / sizeof(float)));
        const auto one = [&](std::int64_t number, int) {
            const auto [first, left] = groups[number];
            const Quantized to = all.part(first, left);
            for (int t = 0; t < to.group_size(0); t++) k().quantize(x + (first + t) * step, to, t);
        };
        if (all.tokens * columns < kSerial)
            for (std::size_t number = 0; number < groups.size(); number++) one(static_cast<std::int64_t>(number), 0);
        else
            m.pool_->run(static_cast<std::int64_t>(groups.size()), one);
        return all;
    }

    bool quantizes_input(const Packed& w) const { return m.arithmetic_ != Arithmetic::f32 && !is_plain(w.format); }

    Digits digits_for(const Packed& w) const {
        return w.format == Format::int16 ? Digits::four : m.arithmetic_ == Arithmetic::int8 ? k().int8_digits : Digits::two;
    }

    // The activations that several matrices multiply, quantized once as each of them needs them.
    class Inputs {
      public:
        const Quantized& of(const Packed& w) const { return quantized_[w.format == Format::int16]; }
        void need(const Packed& w, Executor& executor, const float* x, std::int64_t step, const std::vector<std::int64_t>& parts) {
            const bool int16 = w.format == Format::int16;
            if (executor.quantizes_input(w) && !quantized_[int16].data)
                quantized_[int16] = executor.quantized(x, step, w.columns, parts, executor.digits_for(w), executor.m.quantized_[int16]);
        }

      private:
        Quantized quantized_[2]{};
    };

    // Whether only the largest logits are wanted, and screening can find them.
    bool screens(const Packed& w) {
        if (!is_split(w.format) || !quantizes_input(w) || m.watching_) return false;
        if (!batch.greatest || batch.greatest > kMaxTopK || rows > kMaxScreened) return false;
        if (!m.many_valued_) m.many_valued_ = many_valued(w);
        if (!*m.many_valued_) return false;
        if (m.pause_ == 0) return true;
        m.pause_--;
        return false;
    }

    // Screens the products of W with all rows of src. Returns false if the whole product is cheaper: dst is then still to be
    // computed, and screening pauses for some steps.
    bool screened(const Packed& w, const Rows& src, const Rows& dst) {
        const Quantized exact = quantized(src.data, src.stride, w.columns, std::vector<std::int64_t>(rows, 1), digits_for(w), m.quantized_[0]);
        const Quantized rough = quantized(src.data, src.stride, w.columns, {rows}, Digits::one, m.outputs_);
        const bool done = screen(w, {src.data, src.stride, rows, rough, exact}, batch.greatest, dst, k(), *m.pool_);
        if (!done) m.pause_ = m.next_pause_;
        m.next_pause_ = done ? 1 : std::min(2 * m.next_pause_, kLongestPause);
        return done;
    }

    // Where the products of one matrix go.
    struct LinearOutput {
        float* y;
        std::int64_t stride;
        const float* bias;
        const float* add;
        std::int64_t add_stride;

        Output panel(std::int64_t number, std::int64_t all_rows, std::int64_t token) const {
            const std::int64_t row = number * kRows;
            return {y + token * stride + row, stride, bias ? bias + row : nullptr, add ? add + token * add_stride + row : nullptr, add_stride,
                    static_cast<int>(std::min<std::int64_t>(kRows, all_rows - row))};
        }
    };

    // Prefetches the lines of memory that the tokens' results are written to: they are far apart.
    static void prefetch(const Output& out, int tokens) {
        for (int t = 0; t < tokens; t++) {
            __builtin_prefetch(out.y + t * out.stride, 1);
            if (out.add) __builtin_prefetch(out.add + t * out.add_stride);
        }
    }

    // Panels `from` to `to` of W times `count` tokens; `x_quantized` is the quantized x, if W needs it.
    void panels(const Packed& w, std::int64_t from, std::int64_t to, const float* x, std::int64_t x_stride, const Quantized& x_quantized,
                std::int64_t count, const LinearOutput& target, int thread) {
        const int format = static_cast<int>(w.format);
        if (quantizes_input(w)) {
            for (std::int64_t token = 0; token < count; token += kTokenBlock) {
                const int some = static_cast<int>(std::min<std::int64_t>(kTokenBlock, count - token));
                const Quantized part = x_quantized.part(token, count - token);
                for (std::int64_t p = from; p < to; p++) {
                    const Output out = target.panel(p, w.rows, token);
                    prefetch(out, some);
                    k().linear_quantized[format](w.panel(p), part, some, out);
                }
            }
            return;
        }
        float* unpacked = is_plain(w.format) ? nullptr : m.panels_[thread].need(2 * w.columns * kRows);
        for (std::int64_t p = from; p < to; p += 2) {
            const bool two = p + 1 < to;
            const std::uint8_t *first = w.panel(p).tiles, *second = two ? w.panel(p + 1).tiles : nullptr;
            if (unpacked) {
                k().dequantize[format](w.panel(p), w.columns, unpacked);
                if (two) k().dequantize[format](w.panel(p + 1), w.columns, unpacked + w.columns * kRows);
                first = reinterpret_cast<const std::uint8_t*>(unpacked);
                second = two ? reinterpret_cast<const std::uint8_t*>(unpacked + w.columns * kRows) : nullptr;
            }
            for (std::int64_t token = 0; token < count; token += kTokenBlock) {
                const int some = static_cast<int>(std::min<std::int64_t>(kTokenBlock, count - token));
                const Output out = target.panel(p, w.rows, token), second_out = two ? target.panel(p + 1, w.rows, token) : out;
                k().linear[unpacked ? 0 : format](first, second, w.columns, x + token * x_stride, x_stride, some, out, second_out);
            }
        }
    }

    // Panels of a piece of work.
    static std::int64_t piece_of(const Packed& w, std::int64_t count, int threads) {
        const std::int64_t by_bytes = std::max<std::int64_t>(1, kPieceBytes / static_cast<std::int64_t>(w.stride()));
        const std::int64_t even = std::max<std::int64_t>(1, w.panels() / (2 * threads));
        const std::int64_t piece = std::min(count > 1 ? std::max<std::int64_t>(by_bytes, 2) : by_bytes, even);
        return piece > 1 ? piece / 2 * 2 : 1;
    }

    void operator()(const Linear& op) {
        const Rows src = rows_of(op.src), dst = rows_of(op.dst);
        const Rows add = rows_of(op.add);
        if (op.screened && screens(*op.maps.front().weights) && screened(*op.maps.front().weights, src, dst)) return;
        Inputs inputs;
        struct Piece {
            int map;
            std::int64_t from, to;
        };
        std::vector<Piece> pieces;
        for (int i = 0; i < static_cast<int>(op.maps.size()); i++) {
            const Packed& w = *op.maps[i].weights;
            if (m.watching_) m.record(w, src.data + op.maps[i].from, src.stride, rows);
            inputs.need(w, *this, src.data + op.maps[i].from, src.stride, {rows});
            const std::int64_t step = piece_of(w, rows, m.pool_->threads());
            for (std::int64_t p = 0; p < w.panels(); p += step) pieces.push_back({i, p, std::min(p + step, w.panels())});
        }
        m.pool_->run(static_cast<std::int64_t>(pieces.size()), [&](std::int64_t number, int thread) {
            const Piece& piece = pieces[number];
            const Map& map = op.maps[piece.map];
            const LinearOutput target{dst.data + map.to, dst.stride, map.bias.empty() ? nullptr : map.bias.data(),
                                      add.data ? add.data + map.to : nullptr, add.stride};
            panels(*map.weights, piece.from, piece.to, src.data + map.from, src.stride, inputs.of(*map.weights), rows, target, thread);
        });
    }

    // Cosines, then sines, of a rotation for all rows; computed once for all layers.
    const float* angles(int table) {
        if (angles_.size() <= static_cast<std::size_t>(table)) angles_.resize(table + 1);
        std::vector<float>& made = angles_[table];
        const std::vector<Rotation>& given = batch.rotations[table];
        const std::size_t pairs = given.front().frequencies.size();
        if (made.empty()) {
            made.resize(2 * pairs * rows);
            std::vector<std::pair<const Rotation*, float>> turns(rows);
            each_token([&](std::size_t p, std::int64_t r, std::int64_t position) {
                turns[r] = {given.size() == 1 ? &given.front() : &given[p], static_cast<float>(position)};
            });
            constexpr std::int64_t kCosine = 32;  // the cost of a cosine and a sine, in multiplications
            each_row(kCosine * static_cast<std::int64_t>(pairs), [&](std::int64_t r) {
                const auto [rotation, position] = turns[r];
                for (std::size_t i = 0; i < pairs; i++) {
                    const float angle = position * rotation->frequencies[i];
                    made[2 * pairs * r + i] = std::cos(angle) * rotation->magnitude;
                    made[2 * pairs * r + pairs + i] = std::sin(angle) * rotation->magnitude;
                }
            });
        }
        return made.data();
    }

    void operator()(const Rotate& op) {
        const Rows at = rows_of(op.at);
        const float* all = angles(op.table);
        const std::int64_t pairs = static_cast<std::int64_t>(batch.rotations[op.table].front().frequencies.size());
        each_row(static_cast<std::int64_t>(op.count) * op.width, [&](std::int64_t r) {
            for (int head = 0; head < op.count; head++)
                k().rotate(at[r] + head * op.width, all + 2 * pairs * r, all + 2 * pairs * r + pairs, pairs, op.interleaved);
        });
    }

    void operator()(const Temper& op) {
        const Rows at = rows_of(op.at);
        each_row(op.columns, [&](std::int64_t r) { k().scale_and_cap(at[r], op.columns, batch.factors[op.table][r], 0, at[r]); });
    }

    void operator()(const Store& op) {
        store(batch.parts, op.slot, rows_of(op.k), rows_of(op.v), k(), *m.pool_);
    }

    void operator()(const Attend& op) { attend(op.shape, batch.parts, rows_of(op.q), rows_of(op.dst), k(), *m.pool_, m.attention_); }

    void operator()(const Activate& op) {
        const Rows gate = rows_of(op.gate), up = rows_of(op.up), dst = rows_of(op.dst);
        each_row(4 * op.columns, [&](std::int64_t r) {
            k().activate(op.act, gate.data ? gate[r] : nullptr, up[r], op.columns, op.limit, op.offset, op.slope, dst[r]);
        });
    }

    void operator()(const Add& op) {
        const Rows a = rows_of(op.a), b = rows_of(op.b), dst = rows_of(op.dst);
        each_row(op.columns, [&](std::int64_t r) { k().add(a[r], b[r], op.columns, dst[r]); });
    }

    void operator()(const Scale& op) {
        const Rows src = rows_of(op.src), dst = rows_of(op.dst);
        each_row(op.columns, [&](std::int64_t r) { k().scale_and_cap(src[r], op.columns, op.scale, op.cap, dst[r]); });
    }

    void operator()(const Forbid& op) {
        const Rows at = rows_of(op.at);
        for (std::int64_t r = 0; r < rows; r++)
            for (int column : op.columns) at[r][column] = -INFINITY;
    }

    void operator()(const Gate& op) {
        const Rows gate = rows_of(op.gate), src = rows_of(op.src), dst = rows_of(op.dst);
        each_row(op.columns, [&](std::int64_t r) {
            const float by = 1 / (1 + std::exp(-gate[r][0]));
            k().scale_and_cap(src[r], op.columns, by, 0, dst[r]);
        });
    }

    void operator()(const Experts& op);

    void operator()(const Select& op) {
        const Rows src = rows_of(op.src);
        const std::int64_t wanted = static_cast<std::int64_t>(batch.wanted.size());
        float* to = m.buffers_[op.dst.buffer].need(wanted * stride(op.dst.buffer));
        for (std::int64_t r = 0; r < wanted; r++)
            std::memcpy(to + r * stride(op.dst.buffer), src.data + batch.wanted[r] * src.stride, op.columns * sizeof(float));
        rows = wanted;
    }

  private:
    struct Assignment {
        int expert;
        std::int64_t token;
        float weight;
    };
    std::vector<Assignment> assignments(const Experts& op, const Rows& logits) const;

    std::vector<std::vector<float>> angles_;
};

// Routes all tokens, and sorts the result by expert, so that each expert's weights are read once for all tokens that chose it.
// An expert that has reached the router's capacity in a part of the batch takes no more of its tokens.
std::vector<Executor::Assignment> Executor::assignments(const Experts& op, const Rows& logits) const {
    const int n = op.router.n_experts, top = op.router.top_k;
    std::vector<Assignment> assigned;
    std::vector<int> experts(top);
    std::vector<float> weights(top);
    std::vector<std::int64_t> taken(n);
    for (const Part& part : batch.parts) {
        std::fill(taken.begin(), taken.end(), 0);
        for (std::int64_t r = part.first; r < part.first + part.count; r++) {
            route(op.router, logits[r], experts.data(), weights.data());
            for (int i = 0; i < top; i++) {
                const bool full = op.router.capacity && taken[experts[i]]++ >= op.router.capacity;
                if (!full) assigned.push_back({experts[i], r, weights[i]});
            }
        }
    }
    std::stable_sort(assigned.begin(), assigned.end(), [](const Assignment& a, const Assignment& b) { return a.expert < b.expert; });
    return assigned;
}

void Executor::operator()(const Experts& op) {
    const Rows logits = rows_of(op.logits), src = rows_of(op.src), dst = rows_of(op.dst);
    const std::vector<Assignment> assigned = assignments(op, logits);
    const std::int64_t count = static_cast<std::int64_t>(assigned.size()), width = row_length(op.columns), inner = row_length(op.hidden);

    float* x = m.outputs_.need(count * width);
    for (std::int64_t i = 0; i < count; i++)
        k().scale_and_cap(src[assigned[i].token], op.columns, op.weigh_input ? assigned[i].weight : 1, 0, x + i * width);

    struct Piece {
        int expert, map;
        std::int64_t from, to, first, tokens;
    };
    std::vector<std::int64_t> expert_counts;  // tokens of each chosen expert
    for (std::int64_t i = 0; i < count; i++)
        if (i && assigned[i].expert == assigned[i - 1].expert) expert_counts.back()++;
        else expert_counts.push_back(1);
    const auto part_of = [](const Quantized& all, std::int64_t first, std::int64_t tokens) {
        return all.data ? all.part(first, tokens) : all;
    };
    // The pieces of work of these matrices of all chosen experts.
    const auto pieces_of = [&](std::initializer_list<const std::vector<Weights>*> maps) {
        std::vector<Piece> pieces;
        for (std::int64_t first = 0, next; first < count; first = next) {
            for (next = first; next < count && assigned[next].expert == assigned[first].expert; next++) {}
            int number = 0;
            for (const auto* map : maps) {
                if (!map->empty()) {
                    const Packed& w = *(*map)[assigned[first].expert];
                    const std::int64_t step = piece_of(w, next - first, m.pool_->threads());
                    for (std::int64_t p = 0; p < w.panels(); p += step)
                        pieces.push_back({assigned[first].expert, number, p, std::min(p + step, w.panels()), first, next - first});
                }
                number++;
            }
        }
        return pieces;
    };
    const auto product = [&](const Packed& w, const std::vector<Vector>& bias, const Piece& piece, const float* from, std::int64_t step,
                             const Inputs& inputs, float* to, std::int64_t to_step, int thread) {
        const LinearOutput target{to + piece.first * to_step, to_step, bias.empty() ? nullptr : bias[piece.expert].data(), nullptr, 0};
        panels(w, piece.from, piece.to, from + piece.first * step, step, part_of(inputs.of(w), piece.first, piece.tokens), piece.tokens, target, thread);
    };

    // Results of gates precede those of ups.
    float* both = m.hidden_.need(2 * count * inner);
    float *gates = both, *ups = both + count * inner;
    Inputs inputs;
    if (count) inputs.need(*op.up.front(), *this, x, width, expert_counts);
    if (count && !op.gate.empty()) inputs.need(*op.gate.front(), *this, x, width, expert_counts);
    const auto record = [&](const std::vector<Weights>& maps, const float* from, std::int64_t step) {
        if (m.watching_ && !maps.empty())
            for (std::int64_t i = 0; i < count; i++) m.record(*maps[assigned[i].expert], from + i * step, step, 1);
    };
    record(op.gate, x, width);
    record(op.up, x, width);
    const auto up_pieces = pieces_of({&op.gate, &op.up});
    m.pool_->run(static_cast<std::int64_t>(up_pieces.size()), [&](std::int64_t number, int thread) {
        const Piece& piece = up_pieces[number];
        const bool gate = piece.map == 0;
        product(*(gate ? op.gate : op.up)[piece.expert], gate ? op.gate_bias : op.up_bias, piece, x, width, inputs, gate ? gates : ups, inner, thread);
    });
    const auto activate = [&](std::int64_t i) {
        k().activate(op.act, op.gate.empty() ? nullptr : gates + i * inner, ups + i * inner, op.hidden, op.limit, op.offset, op.slope, ups + i * inner);
    };
    if (count * op.hidden < kSerial / 4)
        for (std::int64_t i = 0; i < count; i++) activate(i);
    else
        m.pool_->run(count, [&](std::int64_t i, int) { activate(i); });
    record(op.down, ups, inner);
    Inputs hidden;
    if (count) hidden.need(*op.down.front(), *this, ups, inner, expert_counts);
    const auto down_pieces = pieces_of({&op.down});
    m.pool_->run(static_cast<std::int64_t>(down_pieces.size()), [&](std::int64_t number, int thread) {
        const Piece& piece = down_pieces[number];
        product(*op.down[piece.expert], op.down_bias, piece, ups, inner, hidden, x, width, thread);
    });

    for (std::int64_t r = 0; r < rows; r++) std::fill(dst[r], dst[r] + op.columns, 0.f);
    for (std::int64_t i = 0; i < count; i++)
        k().add_scaled(op.weigh_input ? 1 : assigned[i].weight, x + i * width, op.columns, dst[assigned[i].token]);
}

void Machine::record(const Packed& weights, const float* x, std::int64_t stride, std::int64_t tokens) {
    Inputs& inputs = inputs_[&weights];
    inputs.squares.resize(weights.columns);
    inputs.tokens += tokens;
    const std::int64_t step = tokens > 1 ? 64 : weights.columns;
    pool_->run((weights.columns + step - 1) / step, [&](std::int64_t number, int) {
        const std::int64_t from = number * step, to = std::min(from + step, weights.columns);
        for (std::int64_t t = 0; t < tokens; t++)
            for (std::int64_t c = from; c < to; c++) inputs.squares[c] += static_cast<double>(x[t * stride + c]) * x[t * stride + c];
    });
}

Machine::Result Machine::run(const Program& program, const Batch& batch, int result) {
    if (buffers_.size() < program.widths().size()) buffers_.resize(program.widths().size());
    panels_.resize(pool_->threads());
    if (recycled_.size() > buffers_[result].size()) std::swap(buffers_[result], recycled_);
    Executor executor(*this, program, batch);
    for (const Operation& operation : program.operations()) std::visit(executor, operation);
    return {std::exchange(buffers_[result], {}), executor.rows, row_length(program.widths()[result]), program.widths()[result]};
}

}  // namespace ordito
