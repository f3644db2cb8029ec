"""The compiled runtime: weights as kernels read them, programs over buffers, and machines that run programs (cpp/)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Place = tuple[int, int]
"""A buffer and its first column."""

def available_kernels() -> list[str]:
    """The instruction sets that this processor has, the fastest first."""

def cache_bytes() -> int:
    """Bytes of all pages that some `Cached` holds, each counted once."""

def has_products(kind: str) -> bool:
    """Whether the fastest kernels have products of plain matrices of this kind: "float32" or "bfloat16"."""

def has_team() -> bool:
    """Whether this process has OpenMP's runtime, whose threads `multiply` and what follows use: PyTorch brings it on Linux."""

def multiply(kind: str, a: Any, b: Any, c: Any, threads: int, kernels: str | None = None) -> None:
    """c = a b, of (m, k) and (k, n) arrays or tensors, by threads of OpenMP's runtime where there is one.

    Numbers are rounded to the kind and summed up in fp32, each sum in one order; c has rows that are contiguous, a and b an
    axis. Raises `ValueError` for other matrices, and for a kind that the kernels have no products of.
    """

def cross_entropy(logits: Any, targets: Any, losses: Any, logs: Any, threads: int, kernels: str | None = None) -> None:
    """losses = logs - logits[target] of each row (n, V), with logs = log sum exp; of fp32 or bfloat16, computed in fp32.

    Raises `ValueError` for targets that are no columns, and for shapes that do not fit.
    """

def cross_entropy_gradient(
    logits: Any, targets: Any, logs: Any, weights: Any, grad: Any, threads: int, kernels: str | None = None
) -> None:
    """grad = weights (softmax(logits) - one-hot(target)) of each row, in the type of the logits. Raises as `cross_entropy`."""

def attend(
    kind: str,
    q: Any,
    k: Any,
    v: Any,
    seen: Any | None,
    sinks: Any | None,
    scale: float,
    cap: float,
    out: Any,
    logs: Any,
    threads: int,
    kernels: str | None = None,
) -> None:
    """out = softmax(cap tanh(scale q k / cap)) v of (batch, heads, tokens, width), without the cap where it is 0.

    `seen` are bytes (batch, queries, keys), `sinks` (heads) scores of a key without a value, `logs` (batch, heads, queries) the
    log of each row's sum. Raises `ValueError` for shapes that do not fit.
    """

def attend_gradient(
    kind: str,
    q: Any,
    k: Any,
    v: Any,
    seen: Any | None,
    sinks: Any | None,
    scale: float,
    cap: float,
    out: Any,
    grad: Any,
    logs: Any,
    along: Any,
    grad_q: Any,
    grad_k: Any,
    grad_v: Any,
    threads: int,
    kernels: str | None = None,
) -> None:
    """The gradients of q, k and v from that of `out`; `along` (batch, heads, queries) is out * grad, summed up.

    A sink's gradient is -sum exp(sink - logs) along. Raises `ValueError` for shapes that do not fit.
    """

def norm_rows(x: Any, eps: float, weight: Any, y: Any, threads: int, kernels: str | None = None) -> None:
    """y = x / sqrt(mean(x^2) + eps) * weight of rows (n, D), each of fp32 or bfloat16, computed in fp32.

    Raises `ValueError` for shapes that do not fit, here and in what follows.
    """

def norm_rows_gradient(
    x: Any, eps: float, weight: Any, grad: Any, grad_x: Any, grad_weight: Any | None, threads: int, kernels: str | None = None
) -> None:
    """The gradients of x and, unless it is None, of the weight, in fp32."""

def gate_rows(gate: Any, up: Any, y: Any, threads: int, kernels: str | None = None) -> None:
    """y = silu(gate) * up of rows (n, F)."""

def gate_rows_gradient(
    gate: Any, up: Any, grad: Any, grad_gate: Any, grad_up: Any, threads: int, kernels: str | None = None
) -> None:
    """The gradients of gate and up."""

def rotate_heads(
    x: Any, cos: Any, sin: Any, interleaved: bool, back: bool, y: Any, threads: int, kernels: str | None = None
) -> None:
    """Turns the first channels of heads (B, N, T, H) by angles (B, T, pairs), or `back` by them."""

def read_strings(bytes: NDArray[np.uint8], position: int, count: int, errors: str, values: list[str]) -> int | None:
    """Append `count` strings, each a length of 8 bytes and then its UTF-8, from a position on, to `values`.

    The position after them, or None where one would end past the end of the bytes. Raises `UnicodeDecodeError`.
    """

class Packed:
    """The weights of a linear map, (rows, columns), in panels of 16 rows."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def format(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def lower_bytes(self) -> int:
        """Of codes' lower parts; 0 where they are not kept apart."""

    def row(self, row: int) -> Floats:
        """One row in fp32."""

class Machine:
    """A pool of threads and a set of kernels, which run one program at a time."""

    def __init__(self, threads: int, kernels: str | None, arithmetic: str) -> None:
        """Raises `ValueError` for kernels or an arithmetic that are not there."""

    @property
    def kernels(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def left_out(self) -> int:
        """How often a thread was left out for a while because it kept the others waiting."""

    def room(self, format: str, rows: int, columns: int, in_parts: bool = False) -> Packed:
        """A matrix that is still to be filled, one of q8_0 or q6_k with its codes `in_parts` if so wanted.

        Raises `ValueError` for rows that are no whole number of blocks.
        """

    def fill(self, packed: Packed, bytes: NDArray[np.uint8], mapped: bool) -> None:
        """A matrix from the bytes that a file has of it: it is packed while this returns, and there after `ready`.

        Bytes that are `mapped` from a file are given back to the system then. Raises `ValueError` where they are not as many
        as the matrix needs.
        """

    def ready(self) -> None:
        """Wait until every matrix is packed; whatever computes does so by itself."""

    def peak(self) -> float:
        """Multiplications with additions that all threads do in a second, in the machine's arithmetic, measured now."""

    def bandwidth(self) -> float:
        """Bytes that all threads read from memory in a second, measured now."""

    def watch(self) -> None:
        """From now on, note what matrices are multiplied with."""

    def inputs(self, packed: Packed) -> tuple[Floats, int]:
        """Sums of squares of the columns with which a matrix was multiplied, and how many tokens that were."""

    def run(
        self,
        program: Program,
        parts: Sequence[tuple[Cached, int, int, bool]],
        ids: NDArray[np.int32],
        wanted: Sequence[int],
        greatest: int,
        rotations: Sequence[Sequence[tuple[Floats, float]]],
        factors: Sequence[Floats],
        result: int,
    ) -> Floats:
        """Run a program on tokens of several sequences, (sequence, tokens, position, whether they are its text); a buffer."""

class Busy(ValueError):
    """Another thread reads a sequence."""

class Cached:
    """Keys and values of one text, in pages."""

    length: int
    model: int
    """What its maker knows it by."""

    def __init__(self, slots: Sequence[tuple[int, int, int, bool, int, bool]], type: str, model: int = 0) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def rewind(self, length: int) -> None: ...
    def clear(self, slot: int) -> None: ...
    def fork(self, length: int) -> Cached:
        """Another sequence that begins with the first `length` tokens of this one and shares their pages."""

class Program:
    """A list of operations."""

    @property
    def operations(self) -> int: ...

class Builder:
    """Lists the operations of a program; cpp/plan.hpp says what each does."""

    def buffer(self, width: int) -> int: ...
    def build(self) -> Program: ...
    def embed(
        self, dst: Place, table: Packed, scale: float, positions: Packed | None, first_position: int, types: Floats | None
    ) -> None: ...
    def norm(
        self,
        src: Place,
        dst: Place,
        width: int,
        count: int,
        centred: bool,
        eps: float,
        weight: Floats | None,
        bias: Floats | None,
    ) -> None: ...
    def linear(
        self,
        src: Place,
        dst: Place,
        add: Place | None,
        maps: Sequence[tuple[Packed, Floats | None, int, int]],
        screened: bool = False,
    ) -> None: ...
    def rotate(self, at: Place, count: int, width: int, table: int, interleaved: bool) -> None: ...
    def temper(self, at: Place, columns: int, table: int) -> None: ...
    def store(self, slot: int, k: Place, v: Place | None) -> None: ...
    def attend(
        self,
        slot: int,
        q: Place,
        dst: Place,
        n_heads: int,
        scale: float,
        causal: bool = True,
        cross: bool = False,
        window: int = 0,
        chunk: int = 0,
        softcap: float = 0,
        sinks: Floats | None = None,
        relative: Floats | None = None,
        n_buckets: int = 0,
        max_distance: int = 0,
        sparse: tuple[int, int, int] = (0, 0, 0),
    ) -> None: ...
    def activate(
        self,
        gate: Place | None,
        up: Place,
        dst: Place,
        columns: int,
        act: str | None,
        limit: float,
        offset: float,
        slope: float,
    ) -> None: ...
    def add(self, x: Place, y: Place, dst: Place, columns: int) -> None: ...
    def scale(self, src: Place, dst: Place, columns: int, scale: float, cap: float) -> None: ...
    def forbid(self, at: Place, columns: Sequence[int]) -> None: ...
    def gate(self, src: Place, gate: Place, dst: Place, columns: int) -> None: ...
    def select(self, src: Place, dst: Place, columns: int) -> None: ...
    def experts(
        self,
        src: Place,
        logits: Place,
        dst: Place,
        columns: int,
        hidden: int,
        router: Mapping[str, Any],
        gate: Sequence[Packed],
        up: Sequence[Packed],
        down: Sequence[Packed],
        gate_bias: Sequence[Floats],
        up_bias: Sequence[Floats],
        down_bias: Sequence[Floats],
        weigh_input: bool,
        act: str | None,
        limit: float,
        offset: float,
        slope: float,
    ) -> None: ...

class Kernels:
    """Single kernels of one instruction set, the fastest unless named; `reference` is plain C++."""

    def __init__(self, name: str | None) -> None: ...
    @property
    def name(self) -> str: ...
    def linear(self, weights: Packed, x: Floats, rounding: str) -> Floats:
        """W x for rows of x, (T, out), with activations as int8, int12 or float32 takes them, or in 8 bits alone (`one`)."""

    def unpack(self, weights: Packed) -> Floats: ...
    def encode(self, format: str, x: Floats, importance: Floats | None, threads: int) -> NDArray[np.uint8]:
        """Rows of numbers, (R, columns), as the bytes of a format of blocks, (R, bytes of a row), by the least squared error.

        `importance` has a weight for each column. Raises `ValueError` for plain formats and for rows that are no whole blocks.
        """
    def norm(self, x: Floats, centred: bool, eps: float, weight: Floats | None, bias: Floats | None) -> Floats: ...
    def activate(self, act: str, gate: Floats | None, up: Floats, limit: float, offset: float, slope: float) -> Floats: ...
    def scale_and_cap(self, x: Floats, scale: float, cap: float) -> Floats: ...
    def rotate(self, x: Floats, cos: Floats, sin: Floats, interleaved: bool) -> Floats: ...
    def attend_page(self, q: Floats, k: Floats, v: Floats, type: int) -> Floats:
        """softmax(q k) v over at most 32 keys, which are kept as f32 (0), f16 (1) or q8 (2)."""
