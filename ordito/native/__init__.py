"""Specs on CPUs without PyTorch: a plan of operations that the C++ runtime (cpp/) runs on weights as files store them."""
