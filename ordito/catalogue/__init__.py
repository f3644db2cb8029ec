"""Published models by name: what they are called, where they are, their configurations and the sizes that were announced."""

from ordito.catalogue.entries import Entry, find, models, titles

__all__ = ["Entry", "find", "models", "titles"]
