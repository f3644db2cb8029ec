// The interface of an instruction set: a table of kernels. `reference()` is plain C++, against which the others are tested.
//
// Every result is computed from its own inputs in one fixed order of summation, whatever the number of tokens in the batch: a
// request gets the same numbers alone and in a batch.
#pragma once

#include <cstdint>
#include <iterator>
#include <vector>

#include "../formats.hpp"

namespace ordito {

constexpr int kPage = 32;      // tokens of a page of the KV cache
constexpr int kMostRows = 32;  // queries that attend to a page at once

constexpr int padded_row(int width) { return (width + 15) / 16 * 16; }  // channels of a row of values in a page

constexpr int kDigitBase = 16;    // a 12-bit activation is 16 * high + low; 16 times a 4-bit weight code still fits a byte
constexpr int kGroupTokens = 16;  // tokens of a group (`Quantized`)
// The scale is set as if the largest value without the outliers were at least this share of the largest outlier: then 12 bits
// hold the outliers.
constexpr float kOutlierShare = 127.f / (127 * kDigitBase);

// How a block of 32 activations of a token is quantized to integers, x ~ scale * integer, and how these lie in memory.
enum class Digits {
    one,              // 8 bits
    two,              // 12 bits, 16 * high + low: the 32 high digits, then the 32 low ones
    outliers,         // 8 bits, and 12 bits for the four neighbours with the largest value: 32 low digits, then `Outliers`
    outliers_in_two,  // the same integers in the layout of `two`: the high digits of all others are zero
    four,             // 16 bits: int16, for weights in `Format::int16`
};

// The high digits of columns 4 * place to 4 * place + 3 of a block. Outliers do not set the scale of the other 28 activations
// then: with plain 8 bits, a few outliers do most of the harm (SmolLM2's KL divergence from fp32 is 3e-3, and 5e-4 this way).
struct Outliers {
    std::int8_t codes[4];
    std::int32_t place;
    std::int64_t unused;
};

constexpr int code_bytes(Digits digits) {
    return digits == Digits::one ? kCols : digits == Digits::outliers ? kCols + static_cast<int>(sizeof(Outliers)) : 2 * kCols;
}

// The integer of a block's largest activation, the outliers aside.
constexpr int largest_integer(Digits digits) { return digits == Digits::two ? 127 * kDigitBase : 127; }

// The high digit of a 12-bit integer: what is left for the low one is between -8 and 7.
constexpr std::int32_t high_digit(std::int32_t integer) { return (integer + kDigitBase / 2) >> 4; }

// What is kept beside the integers of a block: its scale, the sum of its 32 dequantized activations and that of the first 16,
// and the sum of its integers.
struct BlockStats {
    float scale, sum, first_half;
    std::int32_t integers;
};
static_assert(kCols % sizeof(BlockStats) == 0 && sizeof(Outliers) % sizeof(BlockStats) == 0);

// Quantized activations of several tokens. Up to 16 tokens form a group, stored block by block (32 columns): the codes of all
// its tokens, then their stats, so that a kernel reads one contiguous stretch for all of them. The last group may be smaller.
// `int16_pairs`: behind its codes, a token's integers follow again as int16 for pmaddwd: of every four columns the first and
// the third, then the second and the fourth.
struct Quantized {
    std::uint8_t* data;
    Digits digits;
    bool int16_pairs;
    std::int64_t columns, tokens;

    std::int64_t tiles() const { return columns / kCols; }
    std::int64_t token_bytes() const { return code_bytes(digits) + 2 * int16_pairs * kCols; }  // a token's codes of a block
    std::int64_t record() const { return token_bytes() + static_cast<std::int64_t>(sizeof(BlockStats)); }
    // With room for the whole tiles that kernels read behind a group that is not full.
    std::int64_t bytes() const { return tokens * tiles() * record() + kGroupTokens * token_bytes(); }

    // The number of tokens in a token's group.
    int group_size(std::int64_t token) const {
        const std::int64_t rest = tokens - token / kGroupTokens * kGroupTokens;
        return rest < kGroupTokens ? static_cast<int>(rest) : kGroupTokens;
    }
    // A token's codes and stats of the first block. The next block is `step` bytes, or `stats_step` stats, further on.
    std::uint8_t* codes(std::int64_t token) const {
        return data + token / kGroupTokens * kGroupTokens * tiles() * record() + token % kGroupTokens * token_bytes();
    }
    BlockStats* stats(std::int64_t token) const {
        std::uint8_t* group = codes(token / kGroupTokens * kGroupTokens);
        return reinterpret_cast<BlockStats*>(group + group_size(token) * token_bytes()) + token % kGroupTokens;
    }
    std::int64_t step(std::int64_t token) const { return group_size(token) * record(); }
    std::int64_t stats_step(std::int64_t token) const { return step(token) / static_cast<std::int64_t>(sizeof(BlockStats)); }

    // `count` tokens from `token`, the first of a group.
    Quantized part(std::int64_t token, std::int64_t count) const {
        return {data + token * tiles() * record(), digits, int16_pairs, columns, count};
    }
};

// Where a panel's products go: y[t * stride + row] = W x + bias + add[t * add_stride + row]; bias and add may be null.
struct Output {
    float* y;
    std::int64_t stride;
    const float* bias;
    const float* add;
    std::int64_t add_stride;
    int rows;  // of the panel's 16
};

enum class Activation : int { none, silu, gelu, gelu_tanh, gelu_sigmoid, relu, tanh };

// The type of keys and values in a page of the KV cache: keys [channel][key], values [key][channel], so that neither product
// needs a horizontal sum; with int16, keys [pair of channels][key][2], values [pair of keys][channel][2]. With q8 and int16
// each key and each value of a head has a scale.
enum class CacheType : int { f32, f16, q8, int16 };
constexpr int kCacheTypes = 4;
constexpr bool has_scales(CacheType type) { return type == CacheType::q8 || type == CacheType::int16; }

// Bounds of int16 in attention before they are rounded: of the norms of queries, keys and values, of a value, and of the norm
// of a page's weights, so that sums of products fit 32 bits: 46,000^2, and 23,100 * 16,383 * sqrt(32).
constexpr float kRowNorm = 46000, kValueLargest = 16383, kWeightNorm = 23100;
constexpr float kLeastNorm = 1e-30f;  // weights whose norm is below become zeros

// An operand of a matrix product: the rows of A or the columns of B, as a strided view of fp32 or bfloat16.
struct Lines {
    const void* data;
    bool bf16;                               // else fp32
    std::int64_t line_stride, depth_stride;  // in numbers, from line to line and along a line; one of them is 1
};

// The rows of a matrix that is written: fp32, or bfloat16, to which fp32 is rounded.
struct Target {
    void* data;
    bool bf16;
    std::int64_t stride;  // in numbers, from row to row
};

// The micro-kernel of a matrix product C = A B: it multiplies a block of rows of A with a panel of columns of B (as in BLIS).
struct Gemm {
    int rows, columns;  // of a block of C
    int depth;          // rows of B that are multiplied at once, so that a panel stays in the L1 cache
    int grain;          // blocks and panels are padded with zeros to a multiple of this depth
    int bytes;          // of a number in a block
    int slack;          // numbers that packing may write behind a block
    bool by_row;        // a packed block of A is [row][depth], `stride` bytes from row to row; else [depth][row]

    void (*pack_rows)(const Lines& from, int lines, int depth, void* block, std::int64_t stride);
    void (*pack_columns)(const Lines& from, int lines, int depth, void* panel);
    // c (rows, columns) = A B, or c += A B with `add`; `c_stride` in numbers. The strides of A are in bytes: of a packed block,
    // or of A itself where its rows are contiguous.
    void (*multiply)(const void* a, std::int64_t row_stride, std::int64_t depth_stride, const void* b, int depth, bool add, float* c,
                     std::int64_t c_stride);
    // Writes the first rows and columns of a block of C.
    void (*store)(const float* c, std::int64_t c_stride, int rows, int columns, const Target& to);
};

// The attention mask of some rows: a byte for each column, 0 if hidden; rows are `stride` bytes apart. Null: all visible.
struct Mask {
    const std::uint8_t* bytes;
    std::int64_t stride;
    int columns;  // columns from this one on are hidden
};

// Encodes a block of a format (its layout says how many numbers): x, the weight of each squared error, the bytes of the block.
using EncodeBlock = void (*)(const float* x, const float* w, std::uint8_t* out);

struct Kernels {
    const char* name;
    bool int16_pairs;    // whether quantized activations are needed as int16 too (`Quantized`)
    Digits int8_digits;  // the form of activations in int8: `outliers` or `outliers_in_two`

    // Quantizes one token's activations; columns are a multiple of 32.
    void (*quantize)(const float* x, const Quantized& to, std::int64_t token);
    // A panel of quantized weights times the first `tokens` of x: all of them, or whole groups.
    void (*linear_quantized[std::size(kLayouts)])(const Panel& panel, const Quantized& x, int tokens, const Output& out);
    // For screening: the largest of a panel's 16 rows of estimate + sqrt(sum of spread * scale^2), for each token. `estimates`:
    // [token][row]; `spreads`: [token][scale of a row]. Null for formats other than upper bits.
    void (*bound[std::size(kLayouts)])(const std::uint8_t* upper, std::int64_t columns, const float* spreads, const float* estimates,
                                       int tokens, float* most);
    // A panel of plain weights times fp32 activations (rows of x are `stride` apart); two panels at once if `second` is given.
    void (*linear[3])(const std::uint8_t* panel, const std::uint8_t* second, std::int64_t columns, const float* x,
                      std::int64_t stride, int tokens, const Output& out, const Output& second_out);
    // Multiply-adds on data in registers and the L1 cache, to measure peak speed: `rounds` times the number that it returns.
    // [0] fp32, [1] int8 activations, [2] int12.
    std::int64_t (*peak_loop[3])(std::int64_t rounds);
    // Dequantizes a panel to a panel of fp32.
    void (*dequantize[std::size(kLayouts)])(const Panel& panel, std::int64_t columns, float* out);
    // Encodes blocks as files hold them; null for plain formats.
    const EncodeBlock* encode;

    // y = norm(x) * weight + bias over n numbers; LayerNorm if `centred`, else RMSNorm. weight and bias may be null.
    void (*norm)(const float* x, std::int64_t n, bool centred, float eps, const float* weight, const float* bias, float* y);
    // y = act(gate) * (up + offset), or act(up) without a gate; `limit` clamps both as spec.FeedForward says (0: none).
    void (*activate)(Activation act, const float* gate, const float* up, std::int64_t n, float limit, float offset, float slope,
                     float* y);
    // y = a + b.
    void (*add)(const float* a, const float* b, std::int64_t n, float* y);
    // y += factor * x.
    void (*add_scaled)(float factor, const float* x, std::int64_t n, float* y);
    // y = cap * tanh(x * scale / cap), or x * scale where cap is 0.
    void (*scale_and_cap)(const float* x, std::int64_t n, float scale, float cap, float* y);
    // Rotary embedding in place: rotates the pairs of channels (i, i + n) or, interleaved, (2 i, 2 i + 1), i < n.
    void (*rotate)(float* x, const float* cos, const float* sin, std::int64_t n, bool interleaved);

    // Rounds a query for scores of `CacheType::int16`, in place: an even number of int16, then the scale. At least two channels.
    void (*round_query)(float* q, int width);
    // scores[r][key] = q_r . key for the 32 keys of a page; q_r are `stride` apart. `next` is read afterwards and prefetched,
    // or null.
    void (*scores[kCacheTypes])(const float* q, std::int64_t stride, int rows, const void* keys, const float* scales, int width,
                      const void* next, float* scores);
    // y_r += sum over the first `count` keys of p[r][key] * value.
    void (*weighted_sum[kCacheTypes])(const float* p, int rows, int count, const void* values, const float* scales, int width,
                            const void* next, float* y, std::int64_t stride);
    // One step of an online softmax (arXiv:1805.02867) over up to 32 rows of a page's scores, in place: exp(score - row_max).
    // Updates each row's `row_max` and `total`; `rescale` is the factor for what was summed before.
    void (*online_softmax)(float* scores, int rows, float* row_max, float* total, float* rescale);
    // Writes a key, or a value, of `width` channels as item `number` of a page.
    void (*store_key[kCacheTypes])(const float* x, int width, int number, void* keys, float* scales);
    void (*store_value[kCacheTypes])(const float* x, int width, int number, void* values, float* scales);

    // Matrix products of [0] fp32 and [1] bfloat16, to which fp32 operands are rounded; null if the set has none.
    const Gemm* gemm[2];
    // Conversions of n numbers; to bfloat16, rounded to nearest even.
    void (*bf16_to_f32)(const std::uint16_t* x, std::int64_t n, float* y);
    void (*f32_to_bf16)(const float* x, std::int64_t n, std::uint16_t* y);
    // RMSNorm's gradients, y = norm(x) * weight: that of x, and that of the weight is added to `grad_weight` unless it is null.
    void (*norm_gradient)(const float* x, const float* grad, std::int64_t n, float eps, const float* weight, float* grad_x,
                          float* grad_weight);
    // SwiGLU's gradients, y = silu(gate) * up: those of gate and up.
    void (*silu_gradient)(const float* gate, const float* up, const float* grad, std::int64_t n, float* grad_gate, float* grad_up);
    // The dot product of n numbers, each operand fp32 or bfloat16.
    float (*dot)(const void* a, bool a_bf16, const void* b, bool b_bf16, std::int64_t n);
    // log(sum exp x) of n numbers.
    float (*logsumexp)(const void* x, bool bf16, std::int64_t n);
    // y = weight * exp(x - log), in the type of x.
    void (*probabilities)(const void* x, bool bf16, std::int64_t n, float log, float weight, void* y);
    // Softmax over rows of attention scores, in place, not yet divided by its sum: exp(s - max) with s = cap * tanh(scale *
    // score / cap), or scale * score if cap is 0. Gives log(sum exp s) as `logs` and 1 / sum exp(s - max) as `inverses`; `sink`
    // is one more score in both sums unless it is -inf.
    void (*softmax_rows)(float* scores, std::int64_t stride, int rows, int columns, const Mask& mask, float scale, float cap,
                         float sink, float* logs, float* inverses);
    // Its gradient: scores become p = exp(s - log), and gradients of p become those of the scores, p (gradient - delta)
    // ds/dscore.
    void (*softmax_rows_gradient)(float* scores, float* gradients, std::int64_t stride, int rows, int columns, const Mask& mask,
                                  float scale, float cap, const float* logs, const float* delta);
};

const Kernels& reference();

// The sets that this machine can run, the fastest first; the last is `reference`.
std::vector<const Kernels*> available_kernels();

}  // namespace ordito
