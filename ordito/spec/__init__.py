"""What an architecture is: blocks, combinators, checks and tensor names. Standard library only."""

from ordito.spec.blocks import (
    Activation,
    Attention,
    Dense,
    Embedding,
    FeedForward,
    Head,
    LatentAttention,
    MixtureOfExperts,
    Norm,
    Router,
)
from ordito.spec.combinators import Chain, Residual, Stack, Sum
from ordito.spec.model import Pooling, Spec
from ordito.spec.node import Block, Node, Shape
from ordito.spec.rope import (
    DivisorScaling,
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    Scaling,
    YarnScaling,
)

__all__ = [
    "Activation",
    "Attention",
    "Block",
    "Chain",
    "Dense",
    "DivisorScaling",
    "DynamicScaling",
    "Embedding",
    "FeedForward",
    "Head",
    "LatentAttention",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "MixtureOfExperts",
    "Node",
    "Norm",
    "Pooling",
    "Residual",
    "Rope",
    "Router",
    "Scaling",
    "Shape",
    "Spec",
    "Stack",
    "Sum",
    "YarnScaling",
]
