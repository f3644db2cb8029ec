#include "routing.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace ordito {

namespace {

std::vector<float> softmax(const std::vector<float>& x) {
    const float most = *std::max_element(x.begin(), x.end());
    std::vector<float> p(x.size());
    float total = 0;
    for (std::size_t i = 0; i < x.size(); i++) total += p[i] = std::exp(x[i] - most);
    for (float& one : p) one /= total;
    return p;
}

float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

// Indices of the k largest numbers, in descending order; of equal ones the first.
std::vector<int> top_k_of(const std::vector<float>& x, int k) {
    std::vector<int> order(x.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
    order.resize(k);
    return order;
}

// SparseMixer: each choice has its softmax over the remaining logits near the largest (arXiv:2310.00811, without noise).
void sparsemixer(const RouterShape& shape, const std::vector<float>& logits, int* experts, float* weights) {
    std::vector<float> left = logits;
    for (int k = 0; k < shape.top_k; k++) {
        const auto found = std::max_element(left.begin(), left.end());
        const float most = *found;
        float total = 0;
        for (int e = 0; e < shape.n_experts; e++)
            if ((most - logits[e]) / std::max(std::fabs(logits[e]), most) <= 2 * shape.jitter) total += std::exp(left[e] - most);
        experts[k] = static_cast<int>(found - left.begin());
        weights[k] = shape.scale / total;
        left[experts[k]] = -INFINITY;
    }
}

// Sets the scores outside of the best groups to minus infinity.
void keep_groups(const RouterShape& shape, std::vector<float>& choice) {
    const int size = shape.n_experts / shape.n_groups;
    std::vector<float> groups(shape.n_groups);
    for (int g = 0; g < shape.n_groups; g++) {
        std::vector<float> group(choice.begin() + g * size, choice.begin() + (g + 1) * size);
        std::sort(group.rbegin(), group.rend());
        groups[g] = shape.group_by_two ? group[0] + group[1] : group[0];
    }
    std::vector<bool> kept(shape.n_groups, false);
    for (int g : top_k_of(groups, shape.top_groups)) kept[g] = true;
    for (int e = 0; e < shape.n_experts; e++)
        if (!kept[e / size]) choice[e] = -INFINITY;
}

}  // namespace

void route(const RouterShape& shape, const float* given, int* experts, float* weights) {
    const std::vector<float> logits(given, given + shape.n_experts);
    if (shape.score == Score::sparsemixer) return sparsemixer(shape, logits, experts, weights);
    std::vector<float> scores = logits;
    if (shape.score == Score::sigmoid) std::transform(logits.begin(), logits.end(), scores.begin(), sigmoid);
    else scores = softmax(logits);
    std::vector<float> choice = shape.choose_first ? logits : scores;
    for (std::size_t e = 0; e < shape.choice_bias.size(); e++) choice[e] += shape.choice_bias[e];
    if (shape.n_groups > 1) keep_groups(shape, choice);
    const std::vector<int> chosen = top_k_of(choice, shape.top_k);
    std::vector<float> found(shape.top_k);
    for (int k = 0; k < shape.top_k; k++) found[k] = shape.choose_first ? logits[chosen[k]] : scores[chosen[k]];
    if (shape.choose_first) {
        if (shape.score == Score::sigmoid) std::transform(found.begin(), found.end(), found.begin(), sigmoid);
        else found = softmax(found);
    }
    if (shape.renormalise) {
        const float total = std::accumulate(found.begin(), found.end(), 0.f) + 1e-20f;
        for (float& one : found) one /= total;
    }
    for (int k = 0; k < shape.top_k; k++) experts[k] = chosen[k], weights[k] = found[k] * shape.scale;
}

}  // namespace ordito
