"""Looking inside: the formulas of each step, and what a running model does at them."""

from ordito.lens.page import lines
from ordito.lens.trace import Trace, trace_run, trace_spec

__all__ = ["Trace", "lines", "trace_run", "trace_spec"]
