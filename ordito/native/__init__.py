"""The native reading of a spec: a plan of operations that C++ runs on a CPU, on weights as they are stored."""
