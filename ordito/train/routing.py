"""Training mixtures of experts: load-balancing losses, the z-loss of routers, and loss-free balancing by a bias.

Losses are sums over the tokens (or texts) of one layer; terms are their means over layers. The gradient of a balancing loss
reaches a router through its probabilities alone: counts of choices have no gradient. Mixtures inside experts are refused:
their routers are not recorded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ordito.errors import OrditoError
from ordito.nn.feedforward import MixtureOfExperts, Mixtures, Router, Routing
from ordito.nn.transformer import Transformer
from ordito.train.batch import PADDING, Batch
from ordito.train.forward import Forward
from ordito.train.losses import z_loss
from ordito.train.objective import Objective, Term
from ordito.train.settings import MoeSettings


def probabilities(logits_TE: Tensor, score: str) -> Tensor:
    """Router probabilities (T, E), whose rows sum to one: softmax, or sigmoids divided by their sum (DeepSeek-V3)."""
    if score != "sigmoid":
        return logits_TE.softmax(dim=-1)
    scores_TE = logits_TE.sigmoid()
    return scores_TE / (scores_TE.sum(dim=-1, keepdim=True) + 1e-20)


def choices(chosen_TK: Tensor, n_experts: int) -> Tensor:
    """How many tokens chose each expert, (E,), int64."""
    return chosen_TK.flatten().bincount(minlength=n_experts)


def balance(probabilities_TE: Tensor, choices_E: Tensor, top_k: int) -> Tensor:
    """T E sum_e f_e P_e, where f_e is the share of the T K choices that fell on expert e, and P_e its mean probability.

    Divided by T, it is 1 if both are uniform, and E if all choices fell on one expert (arXiv:2101.03961, section 2.2, equations
    4 to 6). With K > 1 the choices are counted as in Megatron's and OLMoE's (arXiv:2409.02060).
    """
    n_tokens, n_experts = probabilities_TE.shape
    return n_experts / (top_k * max(n_tokens, 1)) * (choices_E * probabilities_TE.sum(dim=0)).sum()


def sequence_balance(probabilities_TE: Tensor, texts_T: Tensor, n_texts: int, top_k: int) -> Tensor:
    """The sum over texts of E sum_e f_e P_e, each over the tokens of one text (arXiv:2412.19437, equations 17 to 20).

    `texts_T` is the index of each token's text, from 0. As in the paper, f_e counts the K most probable experts, which with a
    choice bias are not always the chosen ones.
    """
    n_experts = probabilities_TE.shape[1]
    best_TE = torch.zeros_like(probabilities_TE).scatter_(1, probabilities_TE.topk(top_k, dim=-1).indices, 1.0)
    zeros_SE = probabilities_TE.new_zeros(n_texts, n_experts)
    counts_SE, sums_SE = zeros_SE.index_add(0, texts_T, best_TE), zeros_SE.index_add(0, texts_T, probabilities_TE)
    lengths_S = texts_T.bincount(minlength=n_texts).clamp(min=1)
    return (n_experts / top_k * (counts_SE * sums_SE).sum(dim=1) / lengths_S**2).sum()


def balance_of_transformers(logits_LTE: Tensor, choices_E: Tensor) -> Tensor:
    """T times `load_balancing_loss_func` of transformers, which sums choices and probabilities over layers first.

    Divided by T, it is `top_k` if both are uniform. Layers that each prefer a different expert look balanced to it.
    """
    n_layers, n_tokens, n_experts = logits_LTE.shape
    P_E = logits_LTE.softmax(dim=-1).sum(dim=(0, 1)) / n_layers
    return n_experts / (n_layers * max(n_tokens, 1)) * (choices_E * P_E).sum()


def updated_bias(bias_E: Tensor, choices_E: Tensor, speed: float) -> Tensor:
    """b_e + speed * sign(mean count - count_e): lowers the bias of overloaded experts (arXiv:2408.15664, algorithm 1)."""
    return bias_E + speed * (choices_E.sum() - len(choices_E) * choices_E).sign()


def with_routing(objective: Objective, module: Transformer, settings: MoeSettings) -> Objective:
    """The objective plus the routing losses of `settings`; also sets the capacity factor of the module's mixtures.

    Models with mixtures get a further term of weight 0, `expert_load`: the load of the busiest expert over the mean load, mean
    over layers. In training, its counts are those by which `after_step` updates the choice biases.

    `z` and `sequence_balance` do not depend on how a step is divided into micro-batches. `balance` does, as in most trainers:
    it is a product of two means over a micro-batch, and a step takes the mean of these products, weighted by tokens.

    Raises `OrditoError` if the settings ask for what the model does not have.
    """
    mixtures = [part for part in module.modules() if isinstance(part, MixtureOfExperts)]
    _check(module, mixtures, settings)
    if not mixtures:
        return objective
    for mixture in mixtures:
        mixture.capacity_factor, mixture.keep = settings.capacity_factor, settings.keep
    weighted = [
        (settings.balance, _balance_of_transformers() if settings.hf_compatible else mean_over_layers("balance", _balance)),
        (settings.z, mean_over_layers("router_z", lambda routing: z_loss(routing.logits_TE))),
        (settings.sequence_balance, _sequence_balance()),
    ]
    load = mean_over_layers("expert_load", _load_and_count if settings.bias_speed else _load)
    return objective + Objective((*((weight, term) for weight, term in weighted if weight), (0.0, load)))


@torch.no_grad()
def after_step(module: nn.Module, settings: MoeSettings) -> None:
    """Update the routers' choice biases from the counts of this step, summed over all processes, and reset the counts.

    The biases are parameters of the module, so checkpoints between steps need no counts.
    """
    if not settings.bias_speed:
        return
    for router in (part for part in module.modules() if isinstance(part, Router)):
        bias_E, choices_E = router.choice_bias, router.choices_E
        assert bias_E is not None, "with_routing refuses routers without a choice bias"
        if choices_E is None:
            choices_E = torch.zeros_like(bias_E, dtype=torch.int64)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(choices_E)
        bias_E.copy_(updated_bias(bias_E, choices_E, settings.bias_speed))
        router.choices_E = None


def mean_over_layers(name: str, loss: Callable[[Routing], Tensor]) -> Term:
    """A term: the mean over layers of a loss that sums over tokens, divided by the number of tokens."""

    def total(forward: Forward) -> Tensor:
        return torch.stack([loss(routing) for routing in forward.routings]).mean()

    return Term(name, total, _count_tokens)


def _count_tokens(batch: Batch) -> float:
    return batch.n_tokens


def _balance(routing: Routing) -> Tensor:
    block = routing.router.block
    return balance(probabilities(routing.logits_TE, block.score), choices(routing.chosen_TK, block.n_experts), block.top_k)


def _balance_of_transformers() -> Term:
    def total(forward: Forward) -> Tensor:
        logits_LTE = torch.stack([routing.logits_TE for routing in forward.routings])
        chosen = torch.stack([routing.chosen_TK for routing in forward.routings])
        return balance_of_transformers(logits_LTE, choices(chosen, logits_LTE.shape[-1]))

    return Term("balance", total, _count_tokens)


def _sequence_balance() -> Term:
    def total(forward: Forward) -> Tensor:
        begins_BT, valid_BT = _begins(forward.batch), forward.batch.documents_BT != PADDING
        texts_T = begins_BT.flatten().cumsum(0)[valid_BT.flatten()] - 1

        def loss(routing: Routing) -> Tensor:
            probabilities_TE = probabilities(routing.logits_TE, routing.router.block.score)
            return sequence_balance(probabilities_TE, texts_T, int(begins_BT.sum()), routing.router.block.top_k)

        return torch.stack([loss(routing) for routing in forward.routings]).mean()

    return Term("sequence_balance", total, lambda batch: float(_begins(batch).sum()))


def _begins(batch: Batch) -> Tensor:
    """True at the first token of each text, (B, T)."""
    documents_BT = batch.documents_BT
    begins_BT = documents_BT != PADDING
    begins_BT[:, 1:] &= documents_BT[:, 1:] != documents_BT[:, :-1]
    return begins_BT


def _load(routing: Routing) -> Tensor:
    """T times the load of the busiest expert over the mean load; divided by T, it is 1 if all are equally busy."""
    block = routing.router.block
    return choices(routing.chosen_TK, block.n_experts).max() * (block.n_experts / block.top_k)


def _load_and_count(routing: Routing) -> Tensor:
    """`_load`; in training, also adds the choices to `Router.choices_E`, for the update of the bias."""
    router = routing.router
    if router.training:
        found_E = choices(routing.chosen_TK, router.block.n_experts)
        router.choices_E = found_E if router.choices_E is None else router.choices_E + found_E
    return _load(routing)


def _check(module: Transformer, mixtures: list[MixtureOfExperts], settings: MoeSettings) -> None:
    given = [name for name, value in settings if value != MoeSettings.model_fields[name].default]
    if not given:
        return
    first, label = f"moe.{given[0]}", module.spec.architecture
    if not mixtures:
        raise OrditoError(
            f"{first} is for mixtures of experts, but this {label} model has none: ordito upcycle makes one of it"
        )
    if any(isinstance(mixture.experts, Mixtures) for mixture in mixtures):
        raise OrditoError(f"{first}: the experts of this {label} model are mixtures themselves, whose routers are not balanced")
    if settings.bias_speed and not all(mixture.router.block.choice_bias for mixture in mixtures):
        raise OrditoError(
            f"moe.bias_speed: the routers of this {label} model have no choice bias (DeepSeek-V3's have): use moe.balance"
        )
    if settings.bias_speed and not all(mixture.router.weight.requires_grad for mixture in mixtures):
        raise OrditoError("moe.bias_speed: the routers are frozen, and an adapter does not keep their bias: leave it at 0")
    if settings.hf_compatible and len({mixture.block.router.n_experts for mixture in mixtures}) > 1:
        raise OrditoError(
            f"moe.hf_compatible: the layers of this {label} model have different numbers of experts: leave it out"
        )
