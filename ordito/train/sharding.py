"""A model divided among processes: FSDP2 over shares of the data, heads and channels over tensor parallel ones, experts.

Which gradients are whole, and which have to be summed, is settled here:

- FSDP2 (`fully_shard`, arXiv:2304.11277) sums those of what it shards while it scatters them. It is told not to divide: losses
  are divided by the counts of a whole step already.
- What every process along the axis of data holds whole (all with `parallel.data=replicate`, else adapters and heads) is summed
  when the step's last backward pass is over.
- Along the other axes all processes see the same rows. Of tensor parallel maps (Megatron-LM, arXiv:1909.08053, section 3) the
  first are divided by outputs, the second by inputs, and DTensor sums what comes out of these; norms of single heads see the
  heads of one process only, and their gradients are summed. Everything else computes the same numbers in each of them.
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
from ordito.train.experts import divided
from ordito.train.placement import divided_along, here, is_divided, whole
from ordito.train.processes import DATA, EXPERT, TENSOR, Processes
from ordito.train.subject import Subject
from ordito.train.task import Task


@dataclass(frozen=True, eq=False)
class Sharding:
    """A divided subject. If FSDP2 holds it (`sharded`), forward passes are made by all processes together.

    `over_data` and `over_tensor` are the trained parameters whose gradients are summed along these axes.
    """

    subject: Subject
    processes: Processes
    sharded: bool
    over_data: tuple[nn.Parameter, ...]
    over_tensor: tuple[nn.Parameter, ...]

    @classmethod
    def of(cls, subject: Subject, task: Task, config: Config, processes: Processes) -> Sharding:
        """Divide a subject among processes, in place. Raises `ConfigError`, before anything is divided, for what cannot be."""
        mesh, module, settings = processes.mesh, subject.module, config.parallel
        assert mesh is not None, "a process that is alone divides nothing"
        _check_run(subject, task, config, processes)
        alone: list[str] = []
        if settings.tensor > 1:
            _check_tensor(module, settings.tensor)
        if settings.expert > 1:
            _check_experts(module, settings.expert)
        if settings.tensor > 1:
            alone = _by_tensor(module, mesh[TENSOR])
        if settings.expert > 1:
            _by_expert(module, mesh[EXPERT])
        sharded = settings.data == "shard" and processes.data_size > 1
        if sharded:
            beside = {p for p in module.parameters() if p.requires_grad} if subject.adapters is not None else set()
            _by_data(module, mesh[DATA], beside)
        trained = subject.parameters()
        over_data = [parameter for parameter in trained.values() if DATA not in divided_along(parameter)]
        return cls(subject, processes, sharded, tuple(over_data), tuple(trained[name] for name in alone if name in trained))

    def sum_gradients(self) -> None:
        """Make the gradients of a step's backward passes those of all its rows."""
        assert self.processes.mesh is not None
        for parameters, axis in ((self.over_tensor, TENSOR), (self.over_data, DATA)):
            group = self.processes.mesh.get_group(axis)
            if parameters and group.size() > 1:
                _sum(parameters, group)

    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> float:
        """Cut the gradient to the norm `most`; returns its norm before, over what all processes hold.

        The factor is most / (norm + 1e-6), at most 1, as in `torch.nn.utils.clip_grad_norm_`.
        """
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        squares: dict[tuple[str, ...], float] = {}
        for grad in grads:
            axes = divided_along(grad)
            squares[axes] = squares.get(axes, 0.0) + float(here(grad).double().square().sum())
        norm = math.sqrt(sum(self.processes.sum_along(axes, value) for axes, value in squares.items()))
        factor = min(1.0, most / (norm + 1e-6))
        if factor < 1:
            for grad in grads:
                here(grad).mul_(factor)
        return norm

    def undo(self) -> None:
        """At the end of a run, gather the model: the first process has all of it then, as if it had been alone."""
        module = self.subject.module
        if isinstance(module, FSDPModule):
            module.reshard()
        for name, parameter in list(module.named_parameters()):
            if is_divided(parameter):
                gathered = whole(parameter.detach())
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
            "parallel: beside adapters the base is divided over data alone: set parallel.tensor=1 and parallel.expert=1, or "
            "adapter=none"
        )


def _check_tensor(module: nn.Module, size: int) -> None:
    for path, part in module.named_modules():
        if isinstance(part, LatentAttention):
            raise _no_tensor(path, size, "latent attention shares its keys among heads")
        if isinstance(part, Attention):
            b = part.block
            odd = {
                "sinks": b.sinks,
                "a relative bias": b.relative_bias is not None,
                "block-sparse attention": b.block_sparse is not None,
            }
            if found := [name for name, there in odd.items() if there]:
                raise _no_tensor(path, size, f"{found[0]} belongs to single heads")
            if b.n_heads % size or b.n_kv_heads % size:
                raise _no_tensor(path, size, f"{b.n_heads} heads and {b.n_kv_heads} key-value heads do not divide by it")
        if isinstance(part, FeedForward) and part.block.d_ff % size:
            raise _no_tensor(path, size, f"d_ff={part.block.d_ff} does not divide by it")


def _no_tensor(path: str, size: int, why: str) -> ConfigError:
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


def _by_tensor(module: nn.Module, mesh: DeviceMesh) -> list[str]:
    """Divide heads and channels; returns the parameters that each process has whole but uses on its own heads only."""
    alone: list[str] = []
    for path, part in list(module.named_modules()):
        if isinstance(part, Attention):
            maps = {"q": ColwiseParallel(), "k": ColwiseParallel(), "v": ColwiseParallel(), "o": RowwiseParallel()}
            parallelize_module(part, mesh, maps)
            b, n = part.block, mesh.size()
            part.block = replace(b, n_heads=b.n_heads // n, n_kv_heads=b.n_kv_heads // n)
            norms = {"q_norm": part.q_norm, "k_norm": part.k_norm}
            alone += [f"{path}.{name}.{leaf}" for name, norm in norms.items() if norm for leaf, _ in norm.named_parameters()]
        elif isinstance(part, FeedForward):
            gate = {} if part.gate is None else {"gate": ColwiseParallel()}
            parallelize_module(part, mesh, gate | {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return alone


def _by_expert(module: nn.Module, mesh: DeviceMesh) -> None:
    """Give each process its run of experts."""
    for mixture in (part for part in module.modules() if isinstance(part, MixtureOfExperts)):
        experts = mixture.experts
        assert isinstance(experts, Experts)
        for stack in (part for part in experts.modules() if isinstance(part, StackedLinear)):
            for name, parameter in list(stack.named_parameters()):
                here = distribute_tensor(parameter.data, mesh, [Shard(0)])
                setattr(stack, name, nn.Parameter(here, requires_grad=parameter.requires_grad))
        each: Callable[..., Tensor] = partial(divided, experts.each, mesh.get_group(), mixture.block.router.n_experts)
        experts.each = each  # type: ignore[method-assign]


def _by_data(module: nn.Module, mesh: DeviceMesh, trained_beside: set[nn.Parameter]) -> None:
    """Shard what the layers hold, layer by layer, and the rest as one. Routers' `choice_bias` moves by counts, as a whole."""
    biases = {part.choice_bias for part in module.modules() if isinstance(part, Router) and part.choice_bias is not None}
    ignored = trained_beside | biases
    for stack in (part for part in list(module.modules()) if isinstance(part, nn.ModuleList)):
        for layer in stack:
            fully_shard(layer, mesh=mesh, ignored_params=ignored)
    # The head is gathered with the embedding when `hidden` begins, and stays until its gradient is known: `project` finds it.
    fully_shard(module, mesh=mesh, ignored_params=ignored, reshard_after_forward=False)
    register_fsdp_forward_method(module, "hidden")
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def _sum(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
    """Sum gradients over a group. A parameter that no process used has none afterwards either; one that some used, all have."""
    listed = list(parameters)
    used = torch.tensor([parameter.grad is not None for parameter in listed], dtype=torch.int32)
    dist.all_reduce(used, dist.ReduceOp.MAX, group)
    for parameter, there in zip(listed, used.tolist(), strict=True):
        if there:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(here(parameter.grad), group=group)
