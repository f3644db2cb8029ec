// Which experts work for a token, and with what weight (spec.Router).
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
    bool group_by_two;  // a group's score is the sum of its two best, else its best
    float jitter;
    int capacity;       // 0: none
};

// Chosen experts and their weights, top_k each, from the logits (E,) of one token.
void route(const RouterShape& shape, const float* logits, int* experts, float* weights);

}  // namespace ordito
