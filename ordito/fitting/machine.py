"""The machine: its cores, the memory that is free, how fast it reads memory and multiplies matrices."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ordito import _core
from ordito.accounting import Account
from ordito.memory import free_memory
from ordito.native.arithmetic import default_dtype
from ordito.threads import usable_threads

PLAIN = ("f64", "f32", "f16", "bf16")
"""Encodings of weights that are not quantized."""


@dataclass(frozen=True)
class Machine:
    """The figures of a machine: free `memory` in bytes, memory `bandwidth` in bytes per second, and `flops` per second.

    `flops` are those of matrix products on all `cores`, in the arithmetic of the runtime; `flops_fp32` those in fp32 (None: the
    same), which it needs for fp32 weights and, unless it has products of 16-bit integers (`int16`), for all that are not
    quantized.
    """

    cores: int
    memory: int
    bandwidth: float
    flops: float
    flops_fp32: float | None = None
    int16: bool = False

    def seconds(self, flops: float, fp32: float = 0.0) -> float:
        """Seconds for so many FLOPs, of which a share is in fp32."""
        return flops * ((1 - fp32) / self.flops + fp32 / (self.flops_fp32 or self.flops))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def this_machine(
    memory: int | None = None,
    bandwidth: float | None = None,
    flops: float | None = None,
    threads: int | None = None,
    *,
    flops_fp32: float | None = None,
) -> Machine:
    """This machine; figures that are not given are measured now, in about a second."""
    n = threads or usable_threads()
    return Machine(
        cores=n,
        memory=memory if memory is not None else free_memory(),
        bandwidth=bandwidth if bandwidth is not None else measured_bandwidth(n),
        flops=flops if flops is not None else measured_flops(n),
        flops_fp32=flops_fp32 if flops_fp32 is not None else measured_flops(n, "float32"),
        int16=_core.Kernels(None).int16,
    )


def fp32_share(found: Account, machine: Machine) -> float:
    """The share of a model's products that the native runtime computes in fp32 on a machine."""
    matrices = [tensor for tensor in found.tensors if len(tensor.shape) > 1]
    whole = sum(tensor.active for tensor in matrices)
    if not whole or found.stored is None:
        return 0.0
    encodings = {tensor.name: found.stored[tensor.name].encoding.lower() for tensor in matrices}
    if machine.int16:
        return float(default_dtype(found.spec, set(encodings.values())) == "float32")
    return sum(tensor.active for tensor in matrices if encodings[tensor.name] in PLAIN) / whole


def measured_bandwidth(threads: int) -> float:
    """Bytes that all cores together read from memory in a second, as the native runtime reads: the best of several passes."""
    return _core.Machine(threads, None, "float32").bandwidth()


def measured_flops(threads: int, dtype: str = "int12") -> float:
    """Operations per second of matrix products in an arithmetic of the native runtime, by default that of quantized weights."""
    return 2 * _core.Machine(threads, None, dtype).peak()
