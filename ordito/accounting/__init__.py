"""Spec -> exact numbers, without weights: parameters, active parameters, bytes, cache and FLOPs."""

from ordito.accounting.account import Account, Parameters, account
from ordito.accounting.cache import CONTEXTS, Cache, Layer, cache_of, cached_numbers, variants
from ordito.accounting.flops import Flops, Work
from ordito.accounting.parameters import Count, Tensor, count, tensors
from ordito.accounting.table import Table
from ordito.accounting.tree import Part, Stored, tree_of

__all__ = [
    "CONTEXTS",
    "Account",
    "Cache",
    "Count",
    "Flops",
    "Layer",
    "Parameters",
    "Part",
    "Stored",
    "Table",
    "Tensor",
    "Work",
    "account",
    "cache_of",
    "cached_numbers",
    "count",
    "tensors",
    "tree_of",
    "variants",
]
