"""Requests to tokens, over any runtime."""
