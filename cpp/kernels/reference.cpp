// Every kernel in plain C++: the fast ones are tested against it, and it runs where no instruction set of ours is available.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "../packed.hpp"
#include "encode.hpp"
#include "reference_int16.hpp"

namespace ordito {
namespace {

void quantize(const float* x, const Quantized& to, std::int64_t token) {
    if (to.digits == Digits::four) return quantize_to_int16(x, to, token);
    auto* codes = reinterpret_cast<std::int8_t*>(to.codes(token));
    BlockStats* at = to.stats(token);
    const std::int64_t step = to.step(token), stats_step = to.stats_step(token);
    for (std::int64_t b = 0; b < to.tiles(); b++, codes += step, at += stats_step) {
        const float* from = x + b * kCols;
        float fours[kCols / 4] = {};  // the largest magnitude of each four neighbours
        for (int k = 0; k < kCols; k++) fours[k / 4] = std::max(fours[k / 4], std::fabs(from[k]));
        const auto place = static_cast<int>(std::max_element(fours, fours + kCols / 4) - fours);
        const float most = fours[place];
        fours[place] = 0;
        const float next = *std::max_element(fours, fours + kCols / 4);
        const bool outliers = to.digits == Digits::outliers || to.digits == Digits::outliers_in_two;
        const float largest = outliers ? std::max(next, most * kOutlierShare) : most;
        const bool finite = std::all_of(from, from + kCols, [](float number) { return std::isfinite(number); });
        const float factor = finite && largest >= kLeastLargest ? static_cast<float>(largest_integer(to.digits)) / largest : 0;
        std::int32_t sums[2] = {};
        Outliers four{{}, place, 0};
        for (int k = 0; k < kCols; k++) {
            const auto integer = finite ? static_cast<std::int32_t>(std::nearbyint(from[k] * factor)) : 0;
            const bool outlier = outliers && k / 4 == place;
            const std::int32_t high = outlier || to.digits == Digits::two ? high_digit(integer) : 0;
            if (outlier) four.codes[k % 4] = static_cast<std::int8_t>(high);
            const bool in_two = code_bytes(to.digits) == 2 * kCols;
            if (in_two) codes[k] = static_cast<std::int8_t>(high);
            codes[in_two * kCols + k] = static_cast<std::int8_t>(integer - kDigitBase * high);
            sums[k / 16] += integer;
        }
        if (to.digits == Digits::outliers) std::memcpy(codes + kCols, &four, sizeof four);
        const float scale = finite ? largest / static_cast<float>(largest_integer(to.digits)) : std::nanf("");
        *at = {scale, scale * static_cast<float>(sums[0] + sums[1]), scale * static_cast<float>(sums[0]), sums[0] + sums[1]};
    }
}

// Integer k of a token's 32.
int integer_at(const std::int8_t* codes, int k, Digits digits) {
    if (digits == Digits::one) return codes[k];
    if (digits != Digits::outliers) return kDigitBase * codes[k] + codes[kCols + k];
    Outliers outliers;
    std::memcpy(&outliers, codes + kCols, sizeof outliers);
    return (k / 4 == outliers.place ? kDigitBase * outliers.codes[k % 4] : 0) + codes[k];
}

void write_output(const Output& out, int token, int row, float value) {
    if (row >= out.rows) return;
    if (out.bias) value += out.bias[row];
    if (out.add) value += out.add[token * out.add_stride + row];
    out.y[token * out.stride + row] = value;
}

// Calls with(tile number, TileRow) for all tiles of one row of a panel.
template <class With>
void each_tile(Format format, const Panel& panel, std::int64_t columns, int row, With with) {
    const std::uint8_t *tile = panel.tiles, *super = nullptr;
    for (std::int64_t b = 0; b < columns / kCols; b++) {
        if (super_bytes(layout(format).scales) && b % (kSuper / kCols) == 0) super = tile, tile += super_bytes(layout(format).scales);
        with(b, read_tile(format, super, tile, is_split(format) ? panel.lower + b * lower_tile_bytes(format) : nullptr, row));
        tile += tile_bytes(format);
    }
}

template <int number>
void linear_quantized(const Panel& panel, const Quantized& x, int tokens, const Output& out) {
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < out.rows; r++) {
            float total = 0;
            each_tile(static_cast<Format>(number), panel, x.columns, r, [&](std::int64_t b, const TileRow& tile) {
                const auto* codes = reinterpret_cast<const std::int8_t*>(x.codes(t) + b * x.step(t));
                const BlockStats& at = x.stats(t)[b * x.stats_step(t)];
                for (int half = 0; half < 2; half++) {
                    std::int32_t dot = 0, sum = 0;
                    for (int k = 16 * half; k < 16 * half + 16; k++) {
                        const int integer = integer_at(codes, k, x.digits);
                        dot += tile.codes[k] * integer, sum += integer;
                    }
                    total += at.scale * (tile.scale[half] * static_cast<float>(dot) + tile.offset[half] * static_cast<float>(sum));
                }
            });
            write_output(out, t, r, total);
        }
}

void linear_int16(const Panel& panel, const Quantized& x, int tokens, const Output& out) {
    const auto* scales = reinterpret_cast<const float*>(panel.tiles);
    const auto* integers = reinterpret_cast<const std::int16_t*>(panel.tiles + kRows * sizeof(float));
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < out.rows; r++) {
            float total = 0;
            for (std::int64_t b = 0; b < x.tiles(); b++) {
                const auto* codes = reinterpret_cast<const std::int16_t*>(x.codes(t) + b * x.step(t));
                std::int32_t sum = 0;
                for (int k = 0; k < kCols; k++) sum += integers[((b * kCols + k) / 2 * kRows + r) * 2 + k % 2] * codes[k];
                total += x.stats(t)[b * x.stats_step(t)].scale * static_cast<float>(sum);
            }
            write_output(out, t, r, scales[r] * total);
        }
}

template <int number>
void dequantize(const Panel& panel, std::int64_t columns, float* out) {
    for (int r = 0; r < kRows; r++)
        each_tile(static_cast<Format>(number), panel, columns, r, [&](std::int64_t b, const TileRow& tile) {
            for (int k = 0; k < kCols; k++)
                out[(b * kCols + k) * kRows + r] = tile.scale[k / 16] * static_cast<float>(tile.codes[k]) + tile.offset[k / 16];
        });
}

float plain(Format format, const std::uint8_t* panel, std::int64_t number) {
    if (format == Format::f32) return reinterpret_cast<const float*>(panel)[number];
    const std::uint16_t bits = reinterpret_cast<const std::uint16_t*>(panel)[number];
    return format == Format::f16 ? half_to_float(bits) : bfloat_to_float(bits);
}

template <int number>
void linear(const std::uint8_t* panel, const std::uint8_t* second, std::int64_t columns, const float* x, std::int64_t stride,
            int tokens, const Output& out, const Output& second_out) {
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < out.rows; r++) {
            float total = 0;
            for (std::int64_t k = 0; k < columns; k++) total += plain(static_cast<Format>(number), panel, k * kRows + r) * x[t * stride + k];
            write_output(out, t, r, total);
        }
    if (second) linear<number>(second, nullptr, columns, x, stride, tokens, second_out, second_out);
}

void norm(const float* x, std::int64_t n, bool centred, float eps, const float* weight, const float* bias, float* y) {
    double mean = 0, square = 0;
    if (centred)
        for (std::int64_t i = 0; i < n; i++) mean += x[i] / static_cast<double>(n);
    for (std::int64_t i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean) / static_cast<double>(n);
    for (std::int64_t i = 0; i < n; i++) {
        const auto normed = static_cast<float>((x[i] - mean) / std::sqrt(square + eps));
        y[i] = normed * (weight ? weight[i] : 1) + (bias ? bias[i] : 0);
    }
}

float activated(Activation act, float x, float slope) {
    switch (act) {
        case Activation::silu: return x / (1 + std::exp(-x));
        case Activation::gelu: return 0.5f * x * (1 + std::erf(x * 0.70710678118654752f));
        case Activation::gelu_tanh: return 0.5f * x * (1 + std::tanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
        case Activation::gelu_sigmoid: return x / (1 + std::exp(-slope * x));
        case Activation::relu: return std::max(x, 0.f);
        case Activation::tanh: return std::tanh(x);
        case Activation::none: break;
    }
    return x;
}

void activate(Activation act, const float* gate, const float* up, std::int64_t n, float limit, float offset, float slope, float* y) {
    for (std::int64_t i = 0; i < n; i++) {
        if (!gate) {
            y[i] = activated(act, up[i], slope);
            continue;
        }
        float g = gate[i], u = up[i];
        if (limit > 0) g = std::min(g, limit), u = std::clamp(u, -limit, limit);
        y[i] = activated(act, g, slope) * (u + offset);
    }
}

void add(const float* a, const float* b, std::int64_t n, float* y) {
    for (std::int64_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

void add_scaled(float factor, const float* x, std::int64_t n, float* y) {
    for (std::int64_t i = 0; i < n; i++) y[i] += factor * x[i];
}

void scale_and_cap(const float* x, std::int64_t n, float scale, float cap, float* y) {
    for (std::int64_t i = 0; i < n; i++) y[i] = cap != 0 ? cap * std::tanh(x[i] * scale / cap) : x[i] * scale;
}

void rotate(float* x, const float* cos, const float* sin, std::int64_t n, bool interleaved) {
    for (std::int64_t i = 0; i < n; i++) {
        float &a = x[interleaved ? 2 * i : i], &b = x[interleaved ? 2 * i + 1 : n + i];
        const float turned = a * cos[i] - b * sin[i];
        b = b * cos[i] + a * sin[i];
        a = turned;
    }
}

template <CacheType type>
float cached(const void* from, std::int64_t number) {
    if constexpr (type == CacheType::f32) return static_cast<const float*>(from)[number];
    else if constexpr (type == CacheType::f16) return half_to_float(static_cast<const std::uint16_t*>(from)[number]);
    else return static_cast<const std::int8_t*>(from)[number];
}

template <CacheType type>
void scores(const float* q, std::int64_t stride, int rows, const void* keys, const float* scales, int width, const void*,
            float* result) {
    for (int r = 0; r < rows; r++)
        for (int key = 0; key < kPage; key++) {
            float total = 0;
            for (int h = 0; h < width; h++) total += q[r * stride + h] * cached<type>(keys, h * kPage + key);
            result[r * kPage + key] = type == CacheType::q8 ? total * scales[key] : total;
        }
}

template <CacheType type>
void weighted_sum(const float* p, int rows, int count, const void* values, const float* scales, int width, const void*, float* y,
                  std::int64_t stride) {
    for (int r = 0; r < rows; r++)
        for (int key = 0; key < count; key++)
            for (int h = 0; h < width; h++) {
                const float by = type == CacheType::q8 ? p[r * kPage + key] * scales[key] : p[r * kPage + key];
                y[r * stride + h] += by * cached<type>(values, static_cast<std::int64_t>(key) * width + h);
            }
}

void online_softmax(float* scores, int rows, float* row_max, float* total, float* rescale) {
    for (int r = 0; r < rows; r++) {
        float* row = scores + r * kPage;
        const float now = std::max(row_max[r], *std::max_element(row, row + kPage));
        if (now == -INFINITY) {
            std::fill(row, row + kPage, 0.f);
            rescale[r] = 1;
            continue;
        }
        rescale[r] = now == row_max[r] ? 1 : std::exp(row_max[r] - now);
        float sum = 0;
        for (int key = 0; key < kPage; key++) sum += row[key] = std::exp(row[key] - now);
        total[r] = total[r] * rescale[r] + sum;
        row_max[r] = now;
    }
}

template <CacheType type>
void store(const float* x, int width, int number, int item_step, int channel_step, void* to, float* scales) {
    float most = 0;
    for (int h = 0; h < width; h++) most = std::max(most, std::fabs(x[h]));
    if constexpr (type == CacheType::q8) scales[number] = most / 127;
    for (int h = 0; h < width; h++) {
        const int at = number * item_step + h * channel_step;
        if constexpr (type == CacheType::f32) static_cast<float*>(to)[at] = x[h];
        else if constexpr (type == CacheType::f16) static_cast<std::uint16_t*>(to)[at] = float_to_half(x[h]);
        else static_cast<std::int8_t*>(to)[at] = static_cast<std::int8_t>(most > 0 ? std::nearbyint(x[h] * (127 / most)) : 0);
    }
}

template <CacheType type>
void store_key(const float* x, int width, int number, void* keys, float* scales) {
    store<type>(x, width, number, 1, kPage, keys, scales);
}

template <CacheType type>
void store_value(const float* x, int width, int number, void* values, float* scales) {
    store<type>(x, width, number, padded_row(width), 1, values, scales);
}

std::int64_t peak_scalar(std::int64_t rounds) {
    volatile float x = 1;
    for (std::int64_t round = 0; round < rounds; round++) x = x * 0.5f + 0.5f;
    return 1;
}

constexpr int kBlock = 4;  // rows and columns of a block of a matrix product

float plain_number(const void* x, bool bf16, std::int64_t i) {
    return bf16 ? bfloat_to_float(static_cast<const std::uint16_t*>(x)[i]) : static_cast<const float*>(x)[i];
}

void store_number(const Target& to, std::int64_t i, float number) {
    if (to.bf16) static_cast<std::uint16_t*>(to.data)[i] = float_to_bfloat(number);
    else static_cast<float*>(to.data)[i] = number;
}

// Packs lines, [depth][line].
template <bool bf16>
void pack_lines(const Lines& from, int lines, int depth, void* panel) {
    for (int k = 0; k < depth; k++)
        for (int i = 0; i < kBlock; i++) {
            const float number = i < lines ? plain_number(from.data, from.bf16, i * from.line_stride + k * from.depth_stride) : 0;
            store_number({panel, bf16, 0}, k * kBlock + i, number);
        }
}

template <bool bf16>
void pack_block(const Lines& from, int lines, int depth, void* block, std::int64_t) {
    pack_lines<bf16>(from, lines, depth, block);
}

template <bool bf16>
void multiply_lines(const void* a, std::int64_t row_stride, std::int64_t depth_stride, const void* b, int depth, bool add, float* c,
                    std::int64_t stride) {
    for (int i = 0; i < kBlock; i++)
        for (int j = 0; j < kBlock; j++) {
            float sum = add ? c[i * stride + j] : 0;
            for (int k = 0; k < depth; k++)
                sum += plain_number(static_cast<const std::uint8_t*>(a) + i * row_stride + k * depth_stride, bf16, 0) *
                       plain_number(b, bf16, k * kBlock + j);
            c[i * stride + j] = sum;
        }
}

void store_block(const float* c, std::int64_t stride, int rows, int columns, const Target& to) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) store_number(to, i * to.stride + j, c[i * stride + j]);
}

template <bool bf16>
constexpr Gemm kGemm = {kBlock, kBlock, 64, 1, bf16 ? 2 : 4, 0, false, pack_block<bf16>, pack_lines<bf16>, multiply_lines<bf16>,
                        store_block};

void bf16_to_f32(const std::uint16_t* x, std::int64_t n, float* y) {
    for (std::int64_t i = 0; i < n; i++) y[i] = bfloat_to_float(x[i]);
}

void f32_to_bf16(const float* x, std::int64_t n, std::uint16_t* y) {
    for (std::int64_t i = 0; i < n; i++) y[i] = float_to_bfloat(x[i]);
}

void norm_gradient(const float* x, const float* grad, std::int64_t n, float eps, const float* weight, float* grad_x, float* grad_weight) {
    double square = 0, along = 0;
    for (std::int64_t i = 0; i < n; i++) square += x[i] * x[i] / static_cast<double>(n), along += grad[i] * weight[i] * x[i] / static_cast<double>(n);
    const double scale = 1 / std::sqrt(square + eps);
    for (std::int64_t i = 0; i < n; i++) {
        if (grad_weight) grad_weight[i] += static_cast<float>(grad[i] * x[i] * scale);
        grad_x[i] = static_cast<float>(scale * (grad[i] * weight[i] - x[i] * along * scale * scale));
    }
}

void silu_gradient(const float* gate, const float* up, const float* grad, std::int64_t n, float* grad_gate, float* grad_up) {
    for (std::int64_t i = 0; i < n; i++) {
        const float share = 1 / (1 + std::exp(-gate[i]));
        grad_up[i] = grad[i] * gate[i] * share;
        grad_gate[i] = grad[i] * up[i] * share * (1 + gate[i] * (1 - share));
    }
}

float dot(const void* a, bool a_bf16, const void* b, bool b_bf16, std::int64_t n) {
    float sum = 0;
    for (std::int64_t i = 0; i < n; i++) sum += plain_number(a, a_bf16, i) * plain_number(b, b_bf16, i);
    return sum;
}

float logsumexp(const void* x, bool bf16, std::int64_t n) {
    float most = -INFINITY, sum = 0;
    for (std::int64_t i = 0; i < n; i++) most = std::max(most, plain_number(x, bf16, i));
    for (std::int64_t i = 0; i < n; i++) sum += std::exp(plain_number(x, bf16, i) - most);
    return most + std::log(sum);
}

void probabilities(const void* x, bool bf16, std::int64_t n, float log, float weight, void* y) {
    for (std::int64_t i = 0; i < n; i++) store_number({y, bf16, 0}, i, weight * std::exp(plain_number(x, bf16, i) - log));
}

float scaled(float score, float scale, float cap) { return cap ? cap * std::tanh(score * scale / cap) : score * scale; }

bool visible(const Mask& mask, int row, int column) {
    return column < mask.columns && (!mask.bytes || mask.bytes[row * mask.stride + column]);
}

void softmax_rows(float* scores, std::int64_t stride, int rows, int columns, const Mask& mask, float scale, float cap, float sink, float* logs,
                  float* inverses) {
    for (int r = 0; r < rows; r++) {
        float *row = scores + r * stride, most = sink, total = 0;
        for (int c = 0; c < columns; c++) {
            row[c] = visible(mask, r, c) ? scaled(row[c], scale, cap) : -INFINITY;
            most = std::max(most, row[c]);
        }
        for (int c = 0; c < columns; c++) total += row[c] = row[c] == -INFINITY ? 0 : std::exp(row[c] - most);
        if (sink != -INFINITY) total += std::exp(sink - most);
        inverses[r] = total > 0 ? 1 / total : 0;
        logs[r] = total > 0 ? most + std::log(total) : INFINITY;
    }
}

void softmax_rows_gradient(float* scores, float* gradients, std::int64_t stride, int rows, int columns, const Mask& mask, float scale, float cap,
                           const float* logs, const float* delta) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            float &score = scores[r * stride + c], &gradient = gradients[r * stride + c];
            const float s = scaled(score, scale, cap), p = visible(mask, r, c) ? std::exp(s - logs[r]) : 0;
            gradient = p * (gradient - delta[r]) * scale * (cap ? 1 - s * s / (cap * cap) : 1);
            score = p;
        }
}

template <Format upper>
void bound(const std::uint8_t* tiles, std::int64_t columns, const float* spreads, const float* estimates, int tokens, float* most) {
    constexpr int halves = layout(upper).scales == Scales::k16 ? 2 : 1;
    for (int t = 0; t < tokens; t++, spreads += halves * (columns / kCols), estimates += kRows)
        for (int r = 0; r < kRows; r++) {
            float sum = 0;
            each_tile(upper, {tiles, nullptr}, columns, r, [&](std::int64_t b, const TileRow& tile) {
                for (int half = 0; half < halves; half++) sum += tile.scale[half] * tile.scale[half] * spreads[halves * b + half];
            });
            const float all = estimates[r] + std::sqrt(sum);
            most[t] = r ? std::max(most[t], all) : all;
        }
}

template <int... numbers>
void fill_formats(Kernels& k, std::integer_sequence<int, numbers...>) {
    ((k.linear_quantized[numbers] = is_blocked(static_cast<Format>(numbers)) ? linear_quantized<numbers> : nullptr), ...);
    ((k.dequantize[numbers] = is_blocked(static_cast<Format>(numbers)) ? dequantize<numbers> : nullptr), ...);
}

Kernels make() {
    Kernels k{};
    k.name = "reference";
    k.quantize = quantize;
    k.int8_digits = Digits::outliers;
    fill_formats(k, std::make_integer_sequence<int, std::size(kLayouts)>());
    k.linear_quantized[static_cast<int>(Format::int16)] = linear_int16;
    k.bound[static_cast<int>(Format::q8_0_upper)] = bound<Format::q8_0_upper>;
    k.bound[static_cast<int>(Format::q6_k_upper)] = bound<Format::q6_k_upper>;
    k.encode = kEncoders;
    for (auto& multiply : k.peak_loop) multiply = peak_scalar;
    k.linear[0] = linear<0>, k.linear[1] = linear<1>, k.linear[2] = linear<2>;
    k.norm = norm;
    k.activate = activate;
    k.add = add;
    k.add_scaled = add_scaled;
    k.scale_and_cap = scale_and_cap;
    k.rotate = rotate;
    k.scores[0] = scores<CacheType::f32>, k.scores[1] = scores<CacheType::f16>, k.scores[2] = scores<CacheType::q8>;
    k.weighted_sum[0] = weighted_sum<CacheType::f32>, k.weighted_sum[1] = weighted_sum<CacheType::f16>;
    k.weighted_sum[2] = weighted_sum<CacheType::q8>;
    k.online_softmax = online_softmax;
    k.store_key[0] = store_key<CacheType::f32>, k.store_key[1] = store_key<CacheType::f16>, k.store_key[2] = store_key<CacheType::q8>;
    k.store_value[0] = store_value<CacheType::f32>, k.store_value[1] = store_value<CacheType::f16>;
    k.store_value[2] = store_value<CacheType::q8>;
    k.round_query = round_query;
    k.scores[3] = int16_scores;
    k.weighted_sum[3] = int16_weighted_sum;
    k.store_key[3] = store_int16_key;
    k.store_value[3] = store_int16_value;
    k.bf16_to_f32 = bf16_to_f32;
    k.f32_to_bf16 = f32_to_bf16;
    k.norm_gradient = norm_gradient;
    k.silu_gradient = silu_gradient;
    k.dot = dot;
    k.logsumexp = logsumexp;
    k.probabilities = probabilities;
    k.softmax_rows = softmax_rows;
    k.softmax_rows_gradient = softmax_rows_gradient;
    k.gemm[0] = &kGemm<false>, k.gemm[1] = &kGemm<true>;
    return k;
}

}  // namespace

const Kernels& reference() {
    static const Kernels kernels = make();
    return kernels;
}

}  // namespace ordito
