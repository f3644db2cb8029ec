"""Ordito: every open LLM family from one readable codebase. An architecture is data; everything else is a reader of it."""

__version__ = "0.1.0"
