"""A model divided among processes: FSDP2 along the data axis, tensor parallelism and expert parallelism along the others.

How gradients become those of the whole step:

- FSDP2 (`fully_shard`, arXiv:2304.11277) reduce-scatters the gradients of the parameters that it shards. Averaging is off:
  losses are divided by the counts of the whole step already.
- Gradients of parameters that are replicated along the data axis (all with `parallel.data=replicate`, else adapters and heads)
  are all-reduced after the last backward pass of the step.
- Along the other axes all processes read the same rows. Tensor parallelism (Megatron-LM, arXiv:1909.08053, section 3) divides
  the first linear maps by outputs and the second by inputs, whose partial outputs DTensor sums. Norms of queries and keys see
  the heads of one process only, so their gradients are summed. Everything else computes the same numbers in each process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from ordito.errors import ConfigError
from ordito.nn.attention import Attention, LatentAttention
from ordito.nn.feedforward import Experts, FeedForward, MixtureOfExperts, Router, StackedLinear
from ordito.train.config import Config
from ordito.train.experts import expert_parallel
from ordito.train.placement import full, is_sharded, local, sharded_along
from ordito.train.processes import DATA, EXPERT, TENSOR, Processes
from ordito.train.subject import Subject
from ordito.train.task import Task


@dataclass(frozen=True, eq=False)
class Sharding:
    """A subject divided among processes. If FSDP2 shards it (`sharded`), all processes must make the same number of passes.

    `over_data` and `over_tensor` are the trained parameters whose gradients are all-reduced along these axes.
    """

    subject: Subject
    processes: Processes
    sharded: bool
    over_data: tuple[nn.Parameter, ...]
    over_tensor: tuple[nn.Parameter, ...]

    @classmethod
    def of(cls, subject: Subject, task: Task, config: Config, processes: Processes) -> Sharding:
        """Divide a subject among processes, in place. Raises `ConfigError`, before any change, if it cannot be divided."""
        mesh, module, settings = processes.mesh, subject.module, config.parallel
        assert mesh is not None, "a single process has nothing to divide"
        _check_run(subject, task, config, processes)
        own_heads: list[str] = []
        if settings.tensor > 1:
            _check_tensor(module, settings.tensor)
        if settings.expert > 1:
            _check_experts(module, settings.expert)
        if settings.tensor > 1:
            own_heads = _parallelize_tensors(module, mesh[TENSOR])
        if settings.expert > 1:
            _parallelize_experts(module, mesh[EXPERT])
        sharded = settings.data == "shard" and processes.data_size > 1
        if sharded:
            saved = {p for p in module.parameters() if p.requires_grad} if subject.adapters is not None else set()
            _shard_over_data(module, mesh[DATA], saved)
        trained = subject.parameters()
        over_data = [parameter for parameter in trained.values() if DATA not in sharded_along(parameter)]
        return cls(subject, processes, sharded, tuple(over_data), tuple(trained[name] for name in own_heads if name in trained))

    def sum_gradients(self) -> None:
        """All-reduce, after the backward passes of a step, the gradients that FSDP2 and DTensor have not summed."""
        assert self.processes.mesh is not None
        for parameters, axis in ((self.over_tensor, TENSOR), (self.over_data, DATA)):
            group = self.processes.mesh.get_group(axis)
            if parameters and group.size() > 1:
                _sum(parameters, group)

    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> float:
        """Clip the gradient to the norm `most`; returns its norm before, over the shards of all processes.

        The factor is most / (norm + 1e-6), at most 1, as in `torch.nn.utils.clip_grad_norm_`.
        """
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        squares: dict[tuple[str, ...], float] = {}
        for grad in grads:
            axes = sharded_along(grad)
            squares[axes] = squares.get(axes, 0.0) + float(local(grad).double().square().sum())
        norm = math.sqrt(sum(self.processes.sum_along(axes, value) for axes, value in squares.items()))
        factor = min(1.0, most / (norm + 1e-6))
        if factor < 1:
            for grad in grads:
                local(grad).mul_(factor)
        return norm

    def undo(self) -> None:
        """Gather all parameters in the first process, for the export at the end of a run."""
        module = self.subject.module
        if isinstance(module, FSDPModule):
            module.reshard()
        for name, parameter in list(module.named_parameters()):
            if is_sharded(parameter):
                gathered = full(parameter.detach())
                if self.processes.first:
                    owner, _, leaf = name.rpartition(".")
                    setattr(module.get_submodule(owner), leaf, nn.Parameter(gathered, parameter.requires_grad))


def _check_run(subject: Subject, task: Task, config: Config, processes: Processes) -> None:
    parallel = config.parallel
    if task.whole and processes.data_size > 1:
        raise ConfigError(
            f"all examples of a step meet in one batch in {config.objective}, and {processes.data_size} processes would divide "
            "them: train it in one process"
        )
    if task.rewrite is not None:
        raise ConfigError("what a student writes itself (on_policy) is written in one process: leave torchrun out")
    if config.compile:
        raise ConfigError("compile=true is for one process: set compile=false, or leave torchrun out")
    if subject.adapters is not None and (parallel.tensor > 1 or parallel.expert > 1):
        raise ConfigError(
            "parallel: an adapter allows sharding over data only: set parallel.tensor=1 and parallel.expert=1, or adapter=none"
        )


def _check_tensor(module: nn.Module, size: int) -> None:
    for path, part in module.named_modules():
        if isinstance(part, LatentAttention):
            raise _cannot_divide(path, size, "latent attention shares its keys among heads")
        if isinstance(part, Attention):
            b = part.block
            odd = {
                "sinks": b.sinks,
                "a relative bias": b.relative_bias is not None,
                "block-sparse attention": b.block_sparse is not None,
            }
            if found := [name for name, there in odd.items() if there]:
                raise _cannot_divide(path, size, f"{found[0]} belongs to single heads")
            if b.n_heads % size or b.n_kv_heads % size:
                raise _cannot_divide(path, size, f"{b.n_heads} heads and {b.n_kv_heads} key-value heads do not divide by it")
        if isinstance(part, FeedForward) and part.block.d_ff % size:
            raise _cannot_divide(path, size, f"d_ff={part.block.d_ff} does not divide by it")


def _cannot_divide(path: str, size: int, why: str) -> ConfigError:
    return ConfigError(f"parallel.tensor={size} cannot divide {path}: {why}; set parallel.tensor=1 and shard over data")


def _check_experts(module: nn.Module, size: int) -> None:
    mixtures = [part for part in module.modules() if isinstance(part, MixtureOfExperts)]
    if not mixtures:
        raise ConfigError(f"parallel.expert={size}: this model has no experts: set parallel.expert=1")
    for mixture in mixtures:
        n = mixture.block.router.n_experts
        if not isinstance(mixture.experts, Experts):
            raise ConfigError(f"parallel.expert={size}: experts that are mixtures themselves stay together: set it to 1")
        if n % size:
            raise ConfigError(f"parallel.expert={size}: {n} experts do not divide by it, expected a divisor of {n}")


def _parallelize_tensors(module: nn.Module, mesh: DeviceMesh) -> list[str]:
    """Divide heads and channels; returns replicated parameters that each process applies to its own heads."""
    own_heads: list[str] = []
    for path, part in list(module.named_modules()):
        if isinstance(part, Attention):
            maps = {"q": ColwiseParallel(), "k": ColwiseParallel(), "v": ColwiseParallel(), "o": RowwiseParallel()}
            parallelize_module(part, mesh, maps)
            b, n = part.block, mesh.size()
            part.block = replace(b, n_heads=b.n_heads // n, n_kv_heads=b.n_kv_heads // n)
            for name, norm in (("q_norm", part.q_norm), ("k_norm", part.k_norm)):
                own_heads += [f"{path}.{name}.{leaf}" for leaf, _ in norm.named_parameters()] if norm else []
        elif isinstance(part, FeedForward):
            gate = {} if part.gate is None else {"gate": ColwiseParallel()}
            parallelize_module(part, mesh, gate | {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return own_heads


def _parallelize_experts(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the experts along the mesh: each process has a contiguous range of them."""
    for mixture in (part for part in module.modules() if isinstance(part, MixtureOfExperts)):
        experts = mixture.experts
        assert isinstance(experts, Experts)
        for stack in (part for part in experts.modules() if isinstance(part, StackedLinear)):
            for name, parameter in list(stack.named_parameters()):
                sharded = distribute_tensor(parameter.data, mesh, [Shard(0)])
                setattr(stack, name, nn.Parameter(sharded, requires_grad=parameter.requires_grad))
        n_experts = mixture.block.router.n_experts
        grouped: Callable[..., Tensor] = partial(expert_parallel, experts.grouped, mesh.get_group(), n_experts)
        experts.grouped = grouped  # type: ignore[method-assign]


def _shard_over_data(module: nn.Module, mesh: DeviceMesh, saved: set[nn.Parameter]) -> None:
    """Apply FSDP2 to each layer, and to the rest of the module as one group.

    Not sharded are `saved`, the tensors that an adapter trains whole, and routers' `choice_bias`, which has no gradient.
    """
    biases = {part.choice_bias for part in module.modules() if isinstance(part, Router) and part.choice_bias is not None}
    ignored = saved | biases
    for stack in (part for part in list(module.modules()) if isinstance(part, nn.ModuleList)):
        for layer in stack:
            fully_shard(layer, mesh=mesh, ignored_params=ignored)
    # The head is in the group of the embedding, which `hidden` gathers; it must stay gathered until `project` has run.
    fully_shard(module, mesh=mesh, ignored_params=ignored, reshard_after_forward=False)
    register_fsdp_forward_method(module, "hidden")
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo supports no other reduction


def _sum(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
    """All-reduce gradients over a group. A parameter that only some processes used counts as zero in the others."""
    listed = list(parameters)
    used = torch.tensor([parameter.grad is not None for parameter in listed], dtype=torch.int32)
    dist.all_reduce(used, dist.ReduceOp.MAX, group)
    for parameter, there in zip(listed, used.tolist(), strict=True):
        if there:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(local(parameter.grad), group=group)
