// What an instruction set has to offer: a table of functions. `reference()` is the plain C++ that the others are held against.
//
// Every result is made from its own inputs in one fixed order, whatever the number of tokens that are computed together: a
// request gets the same numbers alone and in a batch.
#pragma once

#include <cstdint>
#include <iterator>
#include <vector>

#include "../formats.hpp"

namespace ordito {

constexpr int kPage = 32;  // keys of a page of the cache

constexpr int kFine = 16;      // a code in fine ones: codes of four bits times it are still bytes
constexpr int kTogether = 16;  // tokens of a group
// Of the greatest number: what the others' greatest is taken for at least, so that 12 bits hold it.
constexpr float kWideShare = 127.f / (127 * kFine);

// The whole numbers that 32 activations of a token become, x ~ scale * number, and how they stand.
enum class Digits {
    one,          // 8 bits
    two,          // 12 bits, kFine * code + fine: the codes, and behind them the fine ones
    wide,         // 8 bits, and of the four neighbours with the greatest 12: fine codes, and behind them `Wide`
    wide_in_two,  // the same numbers, as `two` has them: other codes are zero
};

// The codes of the columns 4 * place to 4 * place + 3, beside the fine ones of all. What is far from the others does not make their
// scale then: with 8 bits alone, few numbers do most of the harm (SmolLM2's divergence from fp32 is 3e-3, and 5e-4 like this).
struct Wide {
    std::int8_t codes[4];
    std::int32_t place;
    std::int64_t unused;
};

constexpr int code_bytes(Digits digits) {
    return digits == Digits::one ? kCols : digits == Digits::wide ? kCols + static_cast<int>(sizeof(Wide)) : 2 * kCols;
}

// What 32 activations are multiplied with to become codes, of which the largest is 127. They are zero where all are so small that
// this would be no number.
inline float to_codes(float largest) { return largest > 1e-36f ? 127 / largest : 0; }

// Their scale; where one of them is no number, and so their sum, it is none either, and nothing that is multiplied with them is.
inline float scale_of(float largest, Digits digits, float sum) {
    return largest / static_cast<float>(digits == Digits::two ? 127 * kFine : 127) + 0 * sum;
}

// What stands beside the numbers of 32 activations. `sum` is that of the 32 as they were rounded, `sums` of 16 each.
struct Measures {
    float scale, sum, sums[2];
};
static_assert(kCols % sizeof(Measures) == 0 && sizeof(Wide) % sizeof(Measures) == 0);

// Activations of several tokens in whole numbers. Up to 16 tokens are a group, which stands as [32 columns]: the codes of all its
// tokens, and then all their measures; so a kernel that computes them at once reads one stretch of memory. The last group has what
// is left. `in_pairs`: behind its codes a token has the whole numbers again, in 16 bits, of each four columns the first and the
// third, and then the second and the fourth.
struct Quantized {
    std::uint8_t* data;
    Digits digits;
    bool in_pairs;
    std::int64_t columns, tokens;

    std::int64_t tiles() const { return columns / kCols; }
    std::int64_t line() const { return code_bytes(digits) + 2 * in_pairs * kCols; }  // bytes of a token's codes
    std::int64_t record() const { return line() + static_cast<std::int64_t>(sizeof(Measures)); }
    // All bytes, and as many as tiles read behind a group that is not full.
    std::int64_t bytes() const { return tokens * tiles() * record() + kTogether * line(); }

    // How many tokens stand together with one.
    int together(std::int64_t token) const {
        const std::int64_t rest = tokens - token / kTogether * kTogether;
        return rest < kTogether ? static_cast<int>(rest) : kTogether;
    }
    // The first 32 columns of a token: its codes and its measures. The next ones are `step` bytes on, whole measures too.
    std::uint8_t* codes(std::int64_t token) const {
        return data + token / kTogether * kTogether * tiles() * record() + token % kTogether * line();
    }
    Measures* measures(std::int64_t token) const {
        std::uint8_t* group = codes(token / kTogether * kTogether);
        return reinterpret_cast<Measures*>(group + together(token) * line()) + token % kTogether;
    }
    std::int64_t step(std::int64_t token) const { return together(token) * record(); }
    std::int64_t measures_step(std::int64_t token) const { return step(token) / static_cast<std::int64_t>(sizeof(Measures)); }

    // `count` tokens from one on that begins a group.
    Quantized part(std::int64_t token, std::int64_t count) const { return {data + token * tiles() * record(), digits, in_pairs, columns, count}; }
};

// Where the rows of one panel go: y[t * stride + row] = W x + bias + add[t * add_stride + row]; bias and add may be null.
struct Output {
    float* y;
    std::int64_t stride;
    const float* bias;
    const float* add;
    std::int64_t add_stride;
    int rows;  // of the panel's 16
};

enum class Activation : int { none, silu, gelu, gelu_tanh, gelu_sigmoid, relu, tanh };

// How keys and values are kept in a page: keys [channel][key], values [key][channel], so that neither product adds up across
// a vector. With 8 bits each key and each value of a head has a scale.
enum class CacheType : int { f32, f16, q8 };

// Lines of plain numbers: the rows of a matrix or, with the steps exchanged, its columns.
struct Lines {
    const void* data;
    bool half;                 // bfloat16, else fp32
    std::int64_t line, depth;  // numbers from a line to the next, and along one; one of both is 1
};

// Rows of plain numbers that are written: fp32, or bfloat16, to which fp32 is rounded.
struct Target {
    void* data;
    bool half;
    std::int64_t stride;  // numbers from a row to the next
};

// Products of plain matrices C = A B by blocks: of some rows of A, and of some columns of B in a panel, along their depth.
struct Products {
    int rows, columns;  // of a block
    int depth;          // of what is multiplied at once: it is in the first cache
    int grain;          // blocks are filled up with zeros to a depth that is a multiple of it
    int bytes;          // of a number in a block
    int slack;          // numbers behind a block that packing writes over
    bool by_row;        // blocks have the rows of A one after the other, else [depth][row]

    // `stride`: bytes from a row of a block to the next where they stand so.
    void (*pack_rows)(const Lines& from, int lines, int depth, void* block, std::int64_t stride);
    void (*pack_columns)(const Lines& from, int lines, int depth, void* panel);
    // c, (rows, columns), is the product of rows and columns, or has it added; its rows are `c_stride` numbers apart. The rows of
    // A are `row` bytes apart, and in their depth numbers are `along`: in a block, or where they are one after the other in A.
    void (*multiply)(const void* a, std::int64_t row, std::int64_t along, const void* b, int depth, bool add, float* c, std::int64_t c_stride);
    // The first so many rows and columns of a block, to where they belong.
    void (*put)(const float* c, std::int64_t c_stride, int rows, int columns, const Target& to);
};

// Which of a row's columns are seen: a byte for each, rows `stride` apart; without bytes all that there are.
struct Seen {
    const std::uint8_t* bytes;
    std::int64_t stride;
    int columns;  // that are there; columns behind them are not seen
};

// One block of a format: as many numbers as its layout says, how much the square of an error in each costs, and the bytes.
using EncodeBlock = void (*)(const float* x, const float* w, std::uint8_t* out);

struct Kernels {
    const char* name;
    bool in_pairs;  // activations are wanted so too
    Digits eight;   // how those of 8 bits are wanted: wide ones apart, or in two

    // One token's activations; columns are a multiple of 32.
    void (*quantize)(const float* x, const Quantized& to, std::int64_t token);
    // A panel of quantized weights times the activations of `tokens`: all that there are, or a number of whole groups.
    void (*linear_whole[std::size(kLayouts)])(const Panel& panel, const Quantized& x, int tokens, const Output& out);
    // The greatest of the rows of a panel of upper parts, estimate + sqrt(sum of spread * scale^2), for each of `tokens`: they have 16
    // estimates, and a spread for each scale of a row. Null for all other formats.
    void (*most[std::size(kLayouts)])(const std::uint8_t* upper, std::int64_t columns, const float* spreads, const float* estimates,
                                      int tokens, float* most);
    // A panel of plain weights times fp32 activations (rows of x are `stride` apart); two at once where `second` is given.
    void (*linear[3])(const std::uint8_t* panel, const std::uint8_t* second, std::int64_t columns, const float* x,
                      std::int64_t stride, int tokens, const Output& out, const Output& second_out);
    // So many multiplications and additions (rounds times the number it returns for one) on data in registers and the first
    // cache: what products cannot exceed. [0] fp32, [1] activations of 8 bits, [2] of 12.
    std::int64_t (*multiply[3])(std::int64_t rounds);
    // A panel of quantized weights as a panel of fp32.
    void (*unpack[std::size(kLayouts)])(const Panel& panel, std::int64_t columns, float* out);
    // Numbers to a block of few bits, as a file holds it; null for plain formats.
    const EncodeBlock* encode;

    // y = norm(x) * weight + bias over n numbers; `centred`: LayerNorm. weight and bias may be null.
    void (*norm)(const float* x, std::int64_t n, bool centred, float eps, const float* weight, const float* bias, float* y);
    // y = act(gate) * (up + offset), or act(up) without a gate; limits as spec.FeedForward says (0: none).
    void (*activate)(Activation act, const float* gate, const float* up, std::int64_t n, float limit, float offset, float slope, float* y);
    // y = a + b.
    void (*add)(const float* a, const float* b, std::int64_t n, float* y);
    // y += factor * x.
    void (*add_scaled)(float factor, const float* x, std::int64_t n, float* y);
    // y = cap * tanh(x * scale / cap), or x * scale where cap is 0.
    void (*scale_and_cap)(const float* x, std::int64_t n, float scale, float cap, float* y);
    // Turns pairs of channels: (i, i + n) or, interleaved, (2 i, 2 i + 1), i < n.
    void (*rotate)(float* x, const float* cos, const float* sin, std::int64_t n, bool interleaved);

    // scores[r][key] = q_r . key for the 32 keys of a page; q_r are `stride` apart. `next` is what will be read after, or null.
    void (*scores[3])(const float* q, std::int64_t stride, int rows, const void* keys, const float* scales, int width, const void* next,
                      float* scores);
    // y_r += sum over the first `count` keys of p[r][key] * value.
    void (*weigh[3])(const float* p, int rows, int count, const void* values, const float* scales, int width, const void* next, float* y,
                     std::int64_t stride);
    // One step of a softmax over many pages, of up to 32 rows of a page's scores, in place: exp(score - greatest). Each row's
    // `greatest` and `total` are kept; `shrink` is the factor by which what was summed before shrinks.
    void (*softmax_step)(float* scores, int rows, float* greatest, float* total, float* shrink);
    // Writes a key, or a value, of `width` channels as item `number` of a page.
    void (*store_key[3])(const float* x, int width, int number, void* keys, float* scales);
    void (*store_value[3])(const float* x, int width, int number, void* values, float* scales);

    // Products of fp32, [0], and of bfloat16, [1], to which fp32 is rounded; null where an instruction set has nothing for them.
    const Products* products[2];
    // n numbers of bfloat16 as fp32, and fp32 rounded to bfloat16.
    void (*widen)(const std::uint16_t* x, std::int64_t n, float* y);
    void (*narrow)(const float* x, std::int64_t n, std::uint16_t* y);
    // Of y = norm(x) * weight, not centred: the gradient of x from that of y, and that of the weight added to `grad_weight`,
    // unless that is null.
    void (*norm_gradient)(const float* x, const float* grad, std::int64_t n, float eps, const float* weight, float* grad_x, float* grad_weight);
    // Of y = silu(gate) * up: the gradients of both from that of y.
    void (*silu_gradient)(const float* gate, const float* up, const float* grad, std::int64_t n, float* grad_gate, float* grad_up);
    // The sum of n products of plain numbers, bfloat16 where they are `half`, else fp32.
    float (*dot)(const void* a, bool a_half, const void* b, bool b_half, std::int64_t n);
    // log(sum exp x) of n plain numbers.
    float (*log_sum)(const void* x, bool half, std::int64_t n);
    // y = weight * exp(x - log), in the type of x.
    void (*probabilities)(const void* x, bool half, std::int64_t n, float log, float weight, void* y);
    // Attention over plain rows. Scores q . k become exp(s - max) with s = cap * tanh(scale * score / cap), or scale * score where
    // cap is 0; `logs` are log(sum exp s), `inverses` 1 / sum exp(s - max), both with a `sink` in their sums unless it is -inf.
    void (*soften)(float* scores, std::int64_t stride, int rows, int columns, const Seen& seen, float scale, float cap, float sink,
                   float* logs, float* inverses);
    // Scores become probabilities p = exp(s - log), and gradients of p those of the scores: p (gradient - along), through s.
    void (*soften_gradient)(float* scores, float* gradients, std::int64_t stride, int rows, int columns, const Seen& seen, float scale,
                            float cap, const float* logs, const float* along);
};

const Kernels& reference();

// Those that this machine can run, the fastest first; the last is `reference`.
std::vector<const Kernels*> available_kernels();

}  // namespace ordito
