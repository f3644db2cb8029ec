"""The machine: its cores, the memory that is free, how fast it reads memory and multiplies matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ordito import _core
from ordito.accounting import Account
from ordito.memory import free_memory
from ordito.native.arithmetic import ARITHMETIC, default_dtype
from ordito.threads import usable_threads

PLAIN = ("f64", "f32", "f16", "bf16")
"""Encodings of weights that are not quantized."""


@dataclass(frozen=True)
class Machine:
    """The figures of a machine: free `memory` in bytes, memory `bandwidth` in bytes per second, and `flops` per second.

    `flops` are those of matrix products on all `cores`, in the arithmetic `int12` of the native runtime; `flops_int8` and
    `flops_fp32` those in `int8` and `float32` (None: the same). Products of 16-bit integers, if the machine has them (`int16`),
    are as fast as `int12`.
    """

    cores: int
    memory: int
    bandwidth: float
    flops: float
    flops_fp32: float | None = None
    flops_int8: float | None = None
    int16: bool = False

    @property
    def speed(self) -> str:
        """What it reads and computes in a second, in words."""
        arithmetics = ", ".join(f"{self.rate(name) / 1e9:.0f} in {name}" for name in ARITHMETIC)
        return f"{self.bandwidth / 1e9:.1f} GB/s; GFLOP/s of products: {arithmetics}"

    def rate(self, arithmetic: str) -> float:
        """FLOPs per second of matrix products in an arithmetic of the native runtime."""
        return {"float32": self.flops_fp32, "int8": self.flops_int8}.get(arithmetic) or self.flops

    def seconds(self, flops: float, shares: Mapping[str, float]) -> float:
        """Seconds for so many FLOPs, of which each arithmetic has a share."""
        return sum(flops * share / self.rate(arithmetic) for arithmetic, share in shares.items())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def this_machine(
    memory: int | None = None,
    bandwidth: float | None = None,
    threads: int | None = None,
    *,
    kernels: str | None = None,
) -> Machine:
    """This machine; figures that are not given are measured now, in about a second, with the fastest kernels unless named."""
    n = threads or usable_threads()
    return Machine(
        cores=n,
        memory=memory if memory is not None else free_memory(),
        bandwidth=bandwidth if bandwidth is not None else measured_bandwidth(n),
        flops=measured_flops(n, "int12", kernels),
        flops_fp32=measured_flops(n, "float32", kernels),
        flops_int8=measured_flops(n, "int8", kernels),
        int16=_core.Kernels(kernels).int16,
    )


def arithmetic_shares(found: Account, machine: Machine, dtype: str | None = None) -> dict[str, float]:
    """The share of a model's products that the native runtime computes in each arithmetic on a machine.

    `dtype` is what the model is loaded with: the default of its weights unless given.
    """
    matrices = [tensor for tensor in found.tensors if len(tensor.shape) > 1]
    stored = found.stored or {}
    encodings = {tensor.name: stored[tensor.name].encoding.lower() for tensor in matrices if tensor.name in stored}
    dtype = dtype or default_dtype(found.spec, set(encodings.values()))
    plain = sum(tensor.active for tensor in matrices if encodings.get(tensor.name) in PLAIN)
    share = plain / (sum(tensor.active for tensor in matrices) or 1)
    shares: dict[str, float] = {dtype: 1 - share}
    of_plain = dtype if dtype == "float32" else "int12" if machine.int16 else "float32"
    shares[of_plain] = shares.get(of_plain, 0.0) + share
    return {arithmetic: share for arithmetic, share in shares.items() if share}


def measured_bandwidth(threads: int) -> float:
    """Bytes that all cores together read from memory in a second, as the native runtime reads: the best of several passes."""
    return _core.Machine(threads, None, "float32").bandwidth()


def measured_flops(threads: int, dtype: str, kernels: str | None = None) -> float:
    """Operations per second of matrix products in an arithmetic of the native runtime."""
    return 2 * _core.Machine(threads, kernels, dtype).peak()
