"""Tiny models of the family `deepseek`."""

from sizes import BASE

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 16,
}
MLA = {
    **BASE,
    "num_key_value_heads": 4,
    "num_hidden_layers": 3,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "intermediate_size": 88,
    "moe_intermediate_size": 40,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.7,
}

CASES = {
    "deepseek2, lite": (
        "DeepseekV2ForCausalLM",
        "DeepseekV2Config",
        {**MLA, "q_lora_rank": None, "rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}},
    ),
    "deepseek2, groups, all biases, tied": (
        "DeepseekV2ForCausalLM",
        "DeepseekV2Config",
        {
            **MLA,
            "q_lora_rank": 28,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "attention_bias": True,
            "mlp_bias": True,
            "first_k_dense_replace": 0,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-3,
        },
    ),
    "deepseek2, unlike magnitudes": (
        "DeepseekV2ForCausalLM",
        "DeepseekV2Config",
        {**MLA, "q_lora_rank": 28, "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.3}},
    ),
    "deepseek2, dense, a magnitude of many digits": (
        "DeepseekV2ForCausalLM",
        "DeepseekV2Config",
        {
            **MLA,
            "q_lora_rank": 28,
            "first_k_dense_replace": 3,
            "mlp_bias": True,
            "rope_parameters": {**YARN, "mscale": 0.5**0.5, "mscale_all_dim": 0.5**0.5},
        },
    ),
    "deepseek3": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **MLA,
            "q_lora_rank": 28,
            "n_group": 4,
            "topk_group": 2,
            "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        },
    ),
    "deepseek3, half rope, not renormalised, biases": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **MLA,
            "q_lora_rank": None,
            "n_group": 2,
            "topk_group": 1,
            "rope_interleave": False,
            "norm_topk_prob": False,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "first_k_dense_replace": 2,
        },
    ),
    "deepseek3 without a head": (
        "DeepseekV3Model",
        "DeepseekV3Config",
        {**MLA, "q_lora_rank": 28, "n_group": 1, "topk_group": 1},
    ),
}
