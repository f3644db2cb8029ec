"""The compiled runtime (cpp/): packed weights, programs over buffers, and machines that run programs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Place = tuple[int, int]
"""A buffer and its first column."""

def available_kernels() -> list[str]:
    """The instruction sets that this processor has, the fastest first."""

def cache_bytes() -> int:
    """Bytes of all pages of the KV cache in use, shared ones counted once."""

def has_products(kind: str) -> bool:
    """Whether the fastest kernels have matrix products of this kind: "float32" or "bfloat16"."""

def has_team() -> bool:
    """Whether this process has an OpenMP runtime (PyTorch brings it on Linux), whose threads the functions below use."""

def multiply(kind: str, a: Any, b: Any, c: Any, threads: int, kernels: str | None = None) -> None:
    """c = a b, for (m, k) and (k, n) arrays or tensors, by OpenMP's threads if this process has its runtime.

    Operands are rounded to the kind and summed in fp32, each sum in one fixed order. Rows of c have to be contiguous, and one
    axis of a and of b. Raises `ValueError` for other matrices, and for a kind that the kernels have no products of.
    """

def cross_entropy(logits: Any, targets: Any, losses: Any, logs: Any, threads: int, kernels: str | None = None) -> None:
    """losses = logs - logits[target] of each row (n, V), with logs = log sum exp; of fp32 or bfloat16, computed in fp32.

    Raises `ValueError` for targets that are no columns, and for shapes that do not fit.
    """

def cross_entropy_gradient(
    logits: Any, targets: Any, logs: Any, weights: Any, grad: Any, threads: int, kernels: str | None = None
) -> None:
    """grad = weights (softmax(logits) - one-hot(target)) for each row, in the type of the logits. Raises as `cross_entropy`."""

def attend(
    kind: str,
    q: Any,
    k: Any,
    v: Any,
    mask: Any | None,
    sinks: Any | None,
    scale: float,
    cap: float,
    out: Any,
    logs: Any,
    threads: int,
    kernels: str | None = None,
) -> None:
    """out = softmax(cap tanh(scale q k / cap)) v for tensors (batch, heads, tokens, width); without the cap if it is 0.

    `mask`: bytes (batch, queries, keys), 0 for hidden keys; `sinks` (heads): scores of a key without a value; `logs`
    (batch, heads, queries), written: log sum exp of each row. Raises `ValueError` for shapes that do not fit.
    """

def attend_gradient(
    kind: str,
    q: Any,
    k: Any,
    v: Any,
    mask: Any | None,
    sinks: Any | None,
    scale: float,
    cap: float,
    out: Any,
    grad: Any,
    logs: Any,
    delta: Any,
    grad_q: Any,
    grad_k: Any,
    grad_v: Any,
    threads: int,
    kernels: str | None = None,
) -> None:
    """The gradients of q, k and v from `grad`, that of `out`. Also writes `delta` (batch, heads, queries), sum(out * grad).

    A sink's gradient is -sum exp(sink - logs) delta. Raises `ValueError` for shapes that do not fit.
    """

def norm_rows(x: Any, eps: float, weight: Any, y: Any, threads: int, kernels: str | None = None) -> None:
    """y = x / sqrt(mean(x^2) + eps) * weight for rows (n, D), each fp32 or bfloat16, computed in fp32.

    Raises `ValueError` for shapes that do not fit, as the functions below do.
    """

def norm_rows_gradient(
    x: Any, eps: float, weight: Any, grad: Any, grad_x: Any, grad_weight: Any | None, threads: int, kernels: str | None = None
) -> None:
    """The gradients of x and, unless `grad_weight` is None, of the weight (in fp32), from `grad`, that of y."""

def gate_rows(gate: Any, up: Any, y: Any, threads: int, kernels: str | None = None) -> None:
    """y = silu(gate) * up for rows (n, F)."""

def gate_rows_gradient(
    gate: Any, up: Any, grad: Any, grad_gate: Any, grad_up: Any, threads: int, kernels: str | None = None
) -> None:
    """The gradients of gate and up from `grad`, that of y."""

def rotate_heads(
    x: Any, cos: Any, sin: Any, interleaved: bool, back: bool, y: Any, threads: int, kernels: str | None = None
) -> None:
    """Rotary embedding: rotates the first channels of heads (B, N, T, H) by angles (B, T, pairs); `back`: the other way."""

class Strings(Sequence[str]):
    """Many strings in one piece of memory. Equal to a list of the same strings."""

    def __init__(self, strings: Iterable[str] = ()) -> None: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, places: slice) -> list[str]: ...
    def find(self, string: str) -> int | None:
        """The place of the first string that equals this one."""

    @property
    def distinct(self) -> int:
        """How many of the strings differ from all before them."""

    @property
    def longest(self) -> int:
        """Bytes of the longest string in UTF-8."""

    def characters_before(self, string: str) -> str:
        """The characters that precede `string` somewhere in the strings, each once."""

    def read(self, bytes: NDArray[np.uint8], position: int, count: int, errors: str) -> int | None:
        """Add `count` strings, from `position` on; each is its length in 8 bytes and then its UTF-8.

        Returns the position after them, or None if one would go beyond the end of the bytes. Raises `UnicodeDecodeError`.
        """

def lost_merge(merges: Strings, tokens: Strings) -> int | None:
    """The place of the first merge "left right" whose union is no token; a space at the beginning belongs to the left."""

class Packed:
    """The weights of a linear map, (rows, columns), in panels of 16 rows."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def lower_bytes(self) -> int:
        """Bytes of the lower bits of split codes; 0 if the codes are not split."""

    def row(self, row: int) -> Floats:
        """One row, dequantized."""

class Machine:
    """A thread pool and a set of kernels, which run one program at a time."""

    def __init__(self, threads: int, kernels: str | None, arithmetic: str) -> None:
        """Raises `ValueError` for kernels that this machine does not have, for an unknown arithmetic and for threads outside
        of 1 to 1024."""

    def allocate(self, format: str, rows: int, columns: int, split: bool = False, keep: bool = False) -> Packed:
        """Allocate a matrix, to be filled by `fill`. With `split`, the codes of q8_0 and q6_k are split for screening; with
        `keep`, numbers that are not quantized do not become integers of 16 bits.

        Raises `ValueError` for an unknown format and for rows that are not a whole number of blocks.
        """

    def fill(self, packed: Packed, bytes: NDArray[np.uint8], mapped: bool) -> None:
        """Pack a matrix from a file's bytes, in the background: it is complete after `ready`.

        `mapped` bytes are a mapped file's, whose pages are released once packed. Raises `ValueError` unless there are as many
        bytes as the matrix needs.
        """

    def ready(self) -> None:
        """Wait until every matrix is packed; `run`, `peak` and `bandwidth` do so themselves."""

    def peak(self) -> float:
        """Multiply-adds per second of all threads in the machine's arithmetic, measured now."""

    def bandwidth(self) -> float:
        """Bytes per second that all threads read from memory, measured now."""

    def watch(self) -> None:
        """Begin to sum the squares of the inputs of every matrix, for an importance matrix."""

    def inputs(self, packed: Packed) -> tuple[Floats, int]:
        """The sum of squares of each of a matrix's columns of inputs since `watch`, and the number of tokens."""

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
        """Run a program on tokens of several sequences; returns the buffer `result`, (rows, its width).

        `parts`: sequence, number of tokens, position, and whether they are its text, so that it advances. `wanted`: rows that
        are selected; `greatest`: how many of the largest logits of each are needed (0: all). `rotations`: of each table for
        each part, or one for all, frequencies and magnitude; `factors`: of each temperature for each row. Raises `Busy`.
        """

class Busy(ValueError):
    """Another thread is running a program on a sequence."""

class Cached:
    """The KV cache of one sequence, in pages."""

    length: int
    model: int
    """The number of the runtime that it belongs to."""

    def __init__(self, slots: Sequence[tuple[int, int, int, bool, int, bool]], type: str, model: int = 0) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def rewind(self, length: int) -> None: ...
    def clear(self, slot: int) -> None: ...
    def fork(self, length: int) -> Cached:
        """Another sequence with the first `length` tokens of this one, whose pages it shares."""

class Program:
    """A list of operations."""

class Builder:
    """Collects the operations of a program; cpp/plan.hpp describes each."""

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
    """Single kernels of one instruction set, the fastest unless named; `reference` is the plain C++."""

    def __init__(self, name: str | None) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def int16(self) -> bool:
        """Whether they multiply weights that are not quantized as integers of 16 bits, unless the arithmetic is float32."""

    def linear(self, weights: Packed, x: Floats, rounding: str) -> Floats:
        """W x for rows of x, (T, out), with activations quantized for int8 or int12, not at all for float32, or, `one`, to 8
        bits without outliers. Weights that are integers of 16 bits have activations of 16 bits."""

    def dequantize(self, weights: Packed) -> Floats: ...
    def encode(self, format: str, x: Floats, importance: Floats | None, threads: int) -> NDArray[np.uint8]:
        """Rows of numbers, (R, columns), encoded in a block format, (R, bytes of a row), with the least squared error.

        `importance` has a weight for each column. Raises `ValueError` for plain formats and rows that are not whole blocks.
        """
    def norm(self, x: Floats, centred: bool, eps: float, weight: Floats | None, bias: Floats | None) -> Floats: ...
    def activate(self, act: str, gate: Floats | None, up: Floats, limit: float, offset: float, slope: float) -> Floats: ...
    def scale_and_cap(self, x: Floats, scale: float, cap: float) -> Floats: ...
    def rotate(self, x: Floats, cos: Floats, sin: Floats, interleaved: bool) -> Floats: ...
    def attend_page(self, q: Floats, k: Floats, v: Floats, type: int) -> Floats:
        """softmax(q k) v over at most 32 keys, which are stored as f32 (0), f16 (1) or q8 (2)."""
