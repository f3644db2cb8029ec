"""Files to specs and tensors, and models by name."""
