"""Architectures as data: blocks, combinators, their checks and the names of their tensors. Standard library only."""

from ordito.spec.attention import (
    Attention,
    BlockSparse,
    LatentAttention,
    LogTemperature,
    RelativeBias,
    SteppedTemperature,
    Temperature,
)
from ordito.spec.blocks import GELU_SIGMOID_SLOPE, Activation, Dense, Embedding, Head, Norm
from ordito.spec.combinators import Chain, Residual, Stack, Sum
from ordito.spec.feedforward import FeedForward, MixtureOfExperts, Router
from ordito.spec.fold import Group, Run, fold
from ordito.spec.model import NextToken, Pooling, Spec, expect_spec, leaves_of, stacks_of, with_vocabulary
from ordito.spec.node import Block, Node, Shape
from ordito.spec.rope import (
    DivisorScaling,
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    QwenScaling,
    Rope,
    Scaling,
    YarnScaling,
)

__all__ = [
    "GELU_SIGMOID_SLOPE",
    "Activation",
    "Attention",
    "Block",
    "BlockSparse",
    "Chain",
    "Dense",
    "DivisorScaling",
    "DynamicScaling",
    "Embedding",
    "FeedForward",
    "Group",
    "Head",
    "LatentAttention",
    "LinearScaling",
    "Llama3Scaling",
    "LogTemperature",
    "LongRopeScaling",
    "MixtureOfExperts",
    "NextToken",
    "Node",
    "Norm",
    "Pooling",
    "QwenScaling",
    "RelativeBias",
    "Residual",
    "Rope",
    "Router",
    "Run",
    "Scaling",
    "Shape",
    "Spec",
    "Stack",
    "SteppedTemperature",
    "Sum",
    "Temperature",
    "YarnScaling",
    "expect_spec",
    "fold",
    "leaves_of",
    "stacks_of",
    "with_vocabulary",
]
