// Which experts a token is routed to, and with what weights (spec.Router).
#pragma once

#include <cstdint>
#include <vector>

namespace ordito {

enum class Score { softmax, sigmoid, sparsemixer };

struct RouterShape {
    int n_experts, top_k;
    Score score;
    bool choose_first, renormalise;
    float scale;
    std::vector<float> choice_bias;  // (E,) or empty
    int n_groups, top_groups;
    bool group_by_two;  // a group's score is the sum of its two largest, else its largest
    float jitter;
    int capacity;       // 0: none
};

// The chosen experts and their weights, top_k each, from a token's logits (E,).
void route(const RouterShape& shape, const float* logits, int* experts, float* weights);

}  // namespace ordito
