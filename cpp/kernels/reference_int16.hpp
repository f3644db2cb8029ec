// Products and attention in 16-bit integers in plain C++, for `reference()`.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels.hpp"

namespace ordito {
namespace {

// Rounds n numbers to integers of at most `largest` and with a norm of at most `norm`; calls with(h, integer) for each. Returns
// the scale: NaN if one of the numbers is infinite or NaN.
template <class With>
float round_row(const float* x, int n, float largest, float norm, With with) {
    float most = 0, squares = 0;
    bool finite = true;
    for (int h = 0; h < n; h++) most = std::max(most, std::fabs(x[h])), finite = finite && std::isfinite(x[h]);
    const float unit = finite && most >= kLeastLargest ? 1 / most : 0;
    for (int h = 0; unit > 0 && h < n; h++) squares += x[h] * unit * x[h] * unit;
    const float integer = std::min(largest, norm / std::sqrt(squares));
    for (int h = 0; h < n; h++) with(h, unit > 0 ? static_cast<std::int16_t>(std::nearbyint(x[h] * (unit * integer))) : std::int16_t{0});
    return finite ? most / integer : std::nanf("");
}

void quantize_to_int16(const float* x, const Quantized& to, std::int64_t token) {
    for (std::int64_t b = 0; b < to.tiles(); b++, x += kCols) {
        auto* codes = reinterpret_cast<std::int16_t*>(to.codes(token) + b * to.step(token));
        const auto write = [&](int k, std::int16_t integer) { codes[k] = integer; };
        to.stats(token)[b * to.stats_step(token)].scale = round_row(x, kCols, kInt16Largest, kInt16Norm, write);
    }
}

void round_query(float* q, int width) {
    std::vector<std::int16_t> integers(2 * ((width + 1) / 2));
    const float scale = round_row(q, width, kInt16Largest, kRowNorm, [&](int h, std::int16_t integer) { integers[h] = integer; });
    std::memcpy(q, integers.data(), 2 * integers.size());
    q[integers.size() / 2] = scale;
}

void int16_scores(const float* q, std::int64_t stride, int rows, const void* keys, const float* scales, int width, const void*, float* result) {
    const int pairs = (width + 1) / 2;
    const auto* of_keys = static_cast<const std::int16_t*>(keys);
    for (int r = 0; r < rows; r++) {
        std::vector<std::int16_t> query(2 * pairs);
        std::memcpy(query.data(), q + r * stride, 4 * pairs);
        for (int key = 0; key < kPage; key++) {
            std::int64_t total = 0;
            for (int h = 0; h < width; h++) total += query[h] * of_keys[(h / 2 * kPage + key) * 2 + h % 2];
            result[r * kPage + key] = static_cast<float>(total) * q[r * stride + pairs] * scales[key];
        }
    }
}

void int16_weighted_sum(const float* p, int rows, int count, const void* values, const float* scales, int width, const void*, float* y,
                        std::int64_t stride) {
    const auto* of_values = static_cast<const std::int16_t*>(values);
    for (int r = 0; r < rows; r++) {
        float weights[kPage] = {}, squares = 0;
        for (int key = 0; key < count; key++) weights[key] = p[r * kPage + key] * scales[key], squares += weights[key] * weights[key];
        const float norm = std::sqrt(squares), inverse = norm < kLeastNorm ? 0 : kWeightNorm / norm;
        for (int h = 0; h < width; h++) {
            std::int64_t total = 0;
            for (int key = 0; key < count; key++)
                total += static_cast<std::int64_t>(std::nearbyint(weights[key] * inverse)) * of_values[(key / 2 * width + h) * 2 + key % 2];
            y[r * stride + h] += static_cast<float>(total) * (norm / kWeightNorm);
        }
    }
}

void store_int16_key(const float* x, int width, int number, void* keys, float* scales) {
    auto* to = static_cast<std::int16_t*>(keys);
    if (width % 2) to[(width / 2 * kPage + number) * 2 + 1] = 0;
    scales[number] = round_row(x, width, kInt16Largest, kRowNorm, [&](int h, std::int16_t integer) { to[(h / 2 * kPage + number) * 2 + h % 2] = integer; });
}

void store_int16_value(const float* x, int width, int number, void* values, float* scales) {
    auto* to = static_cast<std::int16_t*>(values);
    const int row = padded_row(width);
    scales[number] = round_row(x, width, kValueLargest, kRowNorm, [&](int h, std::int16_t integer) { to[(number / 2 * row + h) * 2 + number % 2] = integer; });
}

}  // namespace
}  // namespace ordito
