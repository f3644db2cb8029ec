// The table of the instruction set `Isa` that was included before.
#pragma once

#include <iterator>
#include <utility>

#include "attend.hpp"
#include "encode.hpp"
#include "gradients.hpp"
#include "linear.hpp"
#include "products.hpp"
#include "soften.hpp"

namespace ordito {
namespace {

template <int number>
void fill_format(Kernels& k) {
    constexpr Format f = static_cast<Format>(number);
    if constexpr (!is_plain(f)) {
        k.linear_whole[number] = linear_whole<f>;
        k.unpack[number] = unpack_panel<f>;
    }
}

template <int... numbers>
void fill_formats(Kernels& k, std::integer_sequence<int, numbers...>) {
    (fill_format<numbers>(k), ...);
}

Kernels table_of(const char* name) {
    Kernels k{};
    k.name = name;
    k.in_pairs = Isa::in_pairs;
    k.eight = Digits::wide;
    k.quantize = quantize<Isa>;
    fill_formats(k, std::make_integer_sequence<int, std::size(kLayouts)>());
    k.most[static_cast<int>(Format::q8_0_upper)] = most<Format::q8_0_upper>;
    k.most[static_cast<int>(Format::q6_k_upper)] = most<Format::q6_k_upper>;
    k.encode = kEncoders;
    k.multiply[0] = multiply_plain;
    k.multiply[1] = multiply_codes<Digits::wide>;
    k.multiply[2] = multiply_codes<Digits::two>;
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
    k.weigh[0] = page_values<CacheType::f32>;
    k.weigh[1] = page_values<CacheType::f16>;
    k.weigh[2] = page_values<CacheType::q8>;
    k.softmax_step = softmax_step;
    k.store_key[0] = store_key<CacheType::f32>;
    k.store_key[1] = store_key<CacheType::f16>;
    k.store_key[2] = store_key<CacheType::q8>;
    k.store_value[0] = store_value<CacheType::f32>;
    k.store_value[1] = store_value<CacheType::f16>;
    k.store_value[2] = store_value<CacheType::q8>;
    k.products[0] = &kPlainProducts;
    k.widen = widen;
    k.narrow = narrow;
    k.norm_gradient = norm_gradient;
    k.silu_gradient = silu_gradient;
    k.dot = dot;
    k.log_sum = log_sum;
    k.probabilities = probabilities;
    k.soften = soften;
    k.soften_gradient = soften_gradient;
    return k;
}

}  // namespace
}  // namespace ordito
