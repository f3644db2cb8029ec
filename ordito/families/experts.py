"""What the families with routed experts have in common: names of their tensors, and their GGUF metadata."""

from __future__ import annotations

from typing import Any

from ordito.families.config import leaves
from ordito.families.decoder import Sizes
from ordito.families.naming import As, Reshaped
from ordito.families.reader import Reader
from ordito.spec import FeedForward, MixtureOfExperts, Router, Spec

Table = dict[str | tuple[str, ...], str | As]


def separate(prefix: str, gate: str, up: str, down: str) -> Table:
    """Names of experts whose tensors are separate, as on the hub; `prefix` has a `{}` for the layer and one for the expert."""
    names = {"gate": gate, "up": up, "down": down}
    return {f"layers.{{}}.mlp.experts.{ours}": f"{prefix}.{theirs}" for ours, theirs in names.items()}


def stacked(prefix: str) -> Table:
    """Names of experts stacked in one tensor, gate and up fused (E, 2F, D), as in transformers 5's modules."""
    ours = "layers.{}.mlp.experts"
    return {
        (f"{ours}.gate.weight", f"{ours}.up.weight"): f"{prefix}.gate_up_proj",
        f"{ours}.down.weight": f"{prefix}.down_proj",
    }


def mixtral(sizes: Sizes, n_experts: int, top_k: int) -> MixtureOfExperts:
    """Mixtral's mixture of experts: the softmax weights of the chosen experts are renormalised to sum to 1."""
    router = Router(n_experts=n_experts, top_k=top_k, renormalise=True)
    return MixtureOfExperts(d_model=sizes.d_model, router=router, expert=sizes.mlp())


def gguf_names(spec: Spec) -> Table:
    """Names of the router, the routed experts and the shared expert in GGUF files."""
    return {
        "layers.{}.mlp.router": "blk.{}.ffn_gate_inp",
        "layers.{}.mlp.router.choice_bias": "blk.{}.exp_probs_b.bias",
        **{f"layers.{{}}.mlp.experts.{part}": f"blk.{{}}.ffn_{part}_exps" for part in ("gate", "up", "down")},
        **{f"layers.{{}}.mlp.shared.{part}": f"blk.{{}}.ffn_{part}_shexp" for part in ("gate", "up", "down")},
        "layers.{}.mlp.shared_gate": As("blk.{}.ffn_gate_inp_shexp", Reshaped((1, spec.d_model), (spec.d_model,))),
    }


def counts_from_header(reader: Reader) -> dict[str, Any]:
    """`n_experts` and `top_k` of GGUF metadata."""
    return {"n_experts": reader.bounded("expert_count"), "top_k": reader.size("expert_used_count")}


def metadata_from_experts(spec: Spec) -> dict[str, Any]:
    """Counts and width of the routed experts in GGUF metadata."""
    mixture = leaves(spec, MixtureOfExperts)[0]
    assert isinstance(mixture.expert, FeedForward), "no published family nests its mixtures"
    return {
        "expert_count": mixture.router.n_experts,
        "expert_used_count": mixture.router.top_k,
        "expert_feed_forward_length": mixture.expert.d_ff,
    }
