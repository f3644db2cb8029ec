"""Helpers for tensors that may be sharded (`DTensor`); ordinary tensors pass through unchanged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

T = TypeVar("T", bound=Tensor)


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a `DTensor`, tested without importing torch.distributed."""
    return hasattr(tensor, "device_mesh")


def full(tensor: Tensor) -> Tensor:
    """The full tensor, gathered from all processes, which must all call it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The local shard of a tensor; it shares the tensor's memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor, complete in every process, sharded as `like`; returned as it is if the shapes differ."""
    if not is_sharded(like) or is_sharded(tensor) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def sharded_along(tensor: Tensor) -> tuple[str, ...]:
    """Names of the mesh axes along which a tensor is sharded."""
    if not is_sharded(tensor):
        return ()
    names = zip(tensor.device_mesh.mesh_dim_names or (), tensor.placements, strict=True)
    return tuple(name for name, placement in names if not placement.is_replicate())


def by_mesh(tensors: Iterable[T]) -> list[list[T]]:
    """Tensors grouped by device mesh, in order: fused operations cannot mix meshes."""
    found: dict[object, list[T]] = {}
    for tensor in tensors:
        found.setdefault(tensor.device_mesh if is_sharded(tensor) else None, []).append(tensor)
    return list(found.values())
