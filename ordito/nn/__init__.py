"""The PyTorch reading of a spec."""

from ordito.nn.cache import Cache
from ordito.nn.transformer import Transformer

__all__ = ["Cache", "Transformer"]
