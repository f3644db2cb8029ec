// The table of kernels of the instruction set `Isa`, whose header is included first.
#pragma once

#include <iterator>
#include <utility>

#include "attend_int16.hpp"
#include "encode.hpp"
#include "gradients.hpp"
#include "int16.hpp"
#include "linear.hpp"
#include "quantize.hpp"
#include "gemm.hpp"
#include "softmax.hpp"

namespace ordito {
namespace {

template <int number>
void fill_format(Kernels& k) {
    constexpr Format f = static_cast<Format>(number);
    if constexpr (is_blocked(f)) {
        k.linear_quantized[number] = linear_quantized<f>;
        k.dequantize[number] = dequantize_panel<f>;
    }
}

template <int... numbers>
void fill_formats(Kernels& k, std::integer_sequence<int, numbers...>) {
    (fill_format<numbers>(k), ...);
}

// `I` is `Isa`: a template parameter, so that sets without products of int16 compile. They have the plain C++.
template <class I>
void fill_int16_attention(Kernels& k) {
    constexpr int type = static_cast<int>(CacheType::int16);
    if constexpr (I::int16_products) {
        k.round_query = round_query;
        k.scores[type] = page_scores_int16<I>;
        k.weighted_sum[type] = page_values_int16<I>;
        k.store_key[type] = store_key_int16;
        k.store_value[type] = store_value_int16;
    } else {
        const Kernels& plain = reference();
        k.round_query = plain.round_query;
        k.scores[type] = plain.scores[type];
        k.weighted_sum[type] = plain.weighted_sum[type];
        k.store_key[type] = plain.store_key[type];
        k.store_value[type] = plain.store_value[type];
    }
}

Kernels table_of(const char* name) {
    Kernels k{};
    k.name = name;
    k.int16_pairs = Isa::int16_pairs;
    k.int8_digits = Digits::outliers;
    k.quantize = quantize;
    fill_formats(k, std::make_integer_sequence<int, std::size(kLayouts)>());
    if constexpr (Isa::int16_products) k.linear_quantized[static_cast<int>(Format::int16)] = linear_int16<Isa>;
    k.bound[static_cast<int>(Format::q8_0_upper)] = bound<Format::q8_0_upper>;
    k.bound[static_cast<int>(Format::q6_k_upper)] = bound<Format::q6_k_upper>;
    k.encode = kEncoders;
    k.peak_loop[0] = peak_f32;
    k.peak_loop[1] = peak_integer<Digits::outliers>;
    k.peak_loop[2] = peak_integer<Digits::two>;
    k.linear[0] = linear_plain<Format::f32>;
    k.linear[1] = linear_plain<Format::f16>;
    k.linear[2] = linear_plain<Format::bf16>;
    k.norm = norm;
    k.activate = activate;
    k.add = add;
    k.add_scaled = add_scaled;
    k.scale_and_cap = scale_and_cap;
    k.rotate = rotate;
    k.scores[0] = page_scores<CacheType::f32>;
    k.scores[1] = page_scores<CacheType::f16>;
    k.scores[2] = page_scores<CacheType::q8>;
    k.weighted_sum[0] = page_values<CacheType::f32>;
    k.weighted_sum[1] = page_values<CacheType::f16>;
    k.weighted_sum[2] = page_values<CacheType::q8>;
    k.online_softmax = online_softmax;
    k.store_key[0] = store_key<CacheType::f32>;
    k.store_key[1] = store_key<CacheType::f16>;
    k.store_key[2] = store_key<CacheType::q8>;
    k.store_value[0] = store_value<CacheType::f32>;
    k.store_value[1] = store_value<CacheType::f16>;
    k.store_value[2] = store_value<CacheType::q8>;
    fill_int16_attention<Isa>(k);
    k.gemm[0] = &kF32Gemm;
    k.bf16_to_f32 = bf16_to_f32;
    k.f32_to_bf16 = f32_to_bf16;
    k.norm_gradient = norm_gradient;
    k.silu_gradient = silu_gradient;
    k.dot = dot;
    k.logsumexp = logsumexp;
    k.probabilities = probabilities;
    k.softmax_rows = softmax_rows;
    k.softmax_rows_gradient = softmax_rows_gradient;
    return k;
}

}  // namespace
}  // namespace ordito
