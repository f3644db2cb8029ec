"""Where tensors are that processes divide (`DTensor`); in a run of one process, nothing of this does anything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

T = TypeVar("T", bound=Tensor)


def is_divided(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a `DTensor`, which a single process does without importing."""
    return hasattr(tensor, "device_mesh")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, of which every process has a part; they must all ask for it."""
    return tensor.full_tensor() if is_divided(tensor) else tensor


def here(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has, in its memory."""
    return tensor.to_local() if is_divided(tensor) else tensor


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor divided as another of its shape is; every process has all of it. One of another shape stays whole."""
    if not is_divided(like) or is_divided(tensor) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def divided_along(tensor: Tensor) -> tuple[str, ...]:
    """The axes of the mesh along which processes have other parts of a tensor."""
    if not is_divided(tensor):
        return ()
    names = zip(tensor.device_mesh.mesh_dim_names or (), tensor.placements, strict=True)
    return tuple(name for name, placement in names if not placement.is_replicate())


def alike(tensors: Iterable[T]) -> list[list[T]]:
    """Tensors by the mesh that they are divided over, each in order: one operation takes no others together."""
    found: dict[object, list[T]] = {}
    for tensor in tensors:
        found.setdefault(tensor.device_mesh if is_divided(tensor) else None, []).append(tensor)
    return list(found.values())
