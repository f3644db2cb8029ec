"""Groups of settings: adapters, Muon, mixtures of experts, parallelism. Those of a task are in the task's file."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


Name = Annotated[str, BeforeValidator(_text), Field(min_length=1)]
"""A path (text, or a `Path`) or another name, not empty."""


class Settings(BaseModel):
    """A group of settings: frozen, typed, ranged; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LowRankSettings(Settings):
    """Adapters: LoRA (arXiv:2106.09685), DoRA (2402.09353) and QLoRA (2305.14314)."""

    rank: int = Field(16, ge=1, le=4096, description="Rank r of the maps.")
    alpha: float = Field(32.0, gt=0, description="Scaling is alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability that an input element is dropped in training.")
    root: bool = Field(False, description="Scaling is alpha / sqrt(r) instead (rsLoRA, arXiv:2312.03732).")
    targets: tuple[str, ...] = Field(
        ("linear",),
        description="Modules that are adapted: 'linear' (all maps of all layers, experts too), or ends of names (q, v).",
    )
    merge: bool = Field(False, description="At the end, write a whole model with the maps merged in instead of an adapter.")
    saved: tuple[str, ...] = Field(
        (), description="Modules that are trained whole and kept with the adapter (embedding, head)."
    )


class MuonSettings(Settings):
    """Muon (kellerjordan.github.io/posts/muon) for matrices of the layers; everything else stays with AdamW."""

    lr: float = Field(0.02, gt=0, description="Peak learning rate of the matrices.")
    momentum: float = Field(0.95, ge=0, lt=1, description="Nesterov momentum.")
    steps: int = Field(5, ge=1, le=20, description="Newton-Schulz iterations.")
    scale: Literal["original", "match_rms_adamw"] = Field(
        "original", description="sqrt(max(1, rows / columns)), or 0.2 sqrt(max(rows, columns)) (arXiv:2502.16982)."
    )


class MoeSettings(Settings):
    """Mixtures of experts; everything is off by default."""

    balance: float = Field(0.0, ge=0, description="Weight of the load-balancing loss of a batch (Switch: 0.01).")
    hf_compatible: bool = Field(
        False, description="Use the load-balancing loss of transformers: summed over layers first, at least top_k."
    )
    sequence_balance: float = Field(
        0.0, ge=0, description="Weight of the load-balancing loss of each text (DeepSeek-V3: 0.0001)."
    )
    z: float = Field(0.0, ge=0, description="Weight of the routers' z-loss (ST-MoE: 0.001).")
    bias_speed: float = Field(0.0, ge=0, description="Update rate of routers' choice bias (DeepSeek-V3: 0.001).")
    capacity_factor: float | None = Field(
        None, gt=0, description="Tokens of a text per expert, at most, over the even share; no limit if not given."
    )
    keep: Literal["first", "likeliest"] = Field("first", description="Which tokens an expert keeps if it cannot process all.")


class ParallelSettings(Settings):
    """Runs of several processes (`torchrun`): their number is data * expert * tensor, of which data follows from the others."""

    data: Literal["shard", "replicate"] = Field(
        "shard", description="Weights and optimizer states sharded along the data axis (FSDP2), or replicated."
    )
    tensor: int = Field(1, ge=1, le=1024, description="Processes that share heads and channels of each layer.")
    expert: int = Field(1, ge=1, le=1024, description="Processes that share the experts of each mixture.")
