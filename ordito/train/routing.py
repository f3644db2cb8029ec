"""Training mixtures of experts: terms that keep the experts equally busy, and the bias that does so without a term.

Losses of routers are sums over tokens (or texts) of one layer; terms take their mean over the layers. The gradient of a
balance reaches a router through its probabilities alone: shares of choices are counted. The routers of the layers that a
forward pass runs through count; those of mixtures inside experts are refused, for they are not recorded.
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
    """What a router gives each expert, rows that sum to one, (T, E): a softmax, or sigmoids by their sum (DeepSeek-V3)."""
    if score != "sigmoid":
        return logits_TE.softmax(dim=-1)
    scores_TE = logits_TE.sigmoid()
    return scores_TE / (scores_TE.sum(dim=-1, keepdim=True) + 1e-20)


def choices(chosen_TK: Tensor, n_experts: int) -> Tensor:
    """How many tokens chose each expert, (E,), int64."""
    return chosen_TK.flatten().bincount(minlength=n_experts)


def balance(probabilities_TE: Tensor, choices_E: Tensor, top_k: int) -> Tensor:
    """T E sum_e f_e P_e: f_e is the share of the T K choices that fell on e, P_e its mean probability.

    Over T it is 1 where both are even, E where all fell on one. Sources: arXiv:2101.03961, section 2.2, equations 4 to 6;
    with K > 1 the choices are counted as in Megatron's and OLMoE's (arXiv:2409.02060).
    """
    n_tokens, n_experts = probabilities_TE.shape
    return n_experts / (top_k * max(n_tokens, 1)) * (choices_E * probabilities_TE.sum(dim=0)).sum()


def sequence_balance(probabilities_TE: Tensor, texts_T: Tensor, n_texts: int, top_k: int) -> Tensor:
    """The sum over texts of E sum_e f_e P_e, each over the tokens of one text (arXiv:2412.19437, equations 17 to 20).

    `texts_T` numbers the text of each token from 0. As in the paper f_e counts the K most probable, which with a bias of
    choice are not always the chosen ones.
    """
    n_experts = probabilities_TE.shape[1]
    best_TE = torch.zeros_like(probabilities_TE).scatter_(1, probabilities_TE.topk(top_k, dim=-1).indices, 1.0)
    zeros_SE = probabilities_TE.new_zeros(n_texts, n_experts)
    counts_SE, sums_SE = zeros_SE.index_add(0, texts_T, best_TE), zeros_SE.index_add(0, texts_T, probabilities_TE)
    lengths_S = texts_T.bincount(minlength=n_texts).clamp(min=1)
    return (n_experts / top_k * (counts_SE * sums_SE).sum(dim=1) / lengths_S**2).sum()


def balance_of_transformers(logits_LTE: Tensor, choices_E: Tensor) -> Tensor:
    """T times `load_balancing_loss_func` of transformers: choices and probabilities are added up over layers, then multiplied.

    Over T it is `top_k` where both are even. Layers that each prefer another expert look even to it.
    """
    n_layers, n_tokens, n_experts = logits_LTE.shape
    P_E = logits_LTE.softmax(dim=-1).sum(dim=(0, 1)) / n_layers
    return n_experts / (n_layers * max(n_tokens, 1)) * (choices_E * P_E).sum()


def moved_bias(bias_E: Tensor, choices_E: Tensor, speed: float) -> Tensor:
    """b_e + speed sign(mean count - count_e): who was asked too often is asked less (arXiv:2408.15664, algorithm 1)."""
    return bias_E + speed * (choices_E.sum() - len(choices_E) * choices_E).sign()


def with_routing(objective: Objective, module: Transformer, settings: MoeSettings) -> Objective:
    """The objective with what the settings add for the mixtures of a module, whose capacity is set as well.

    Of a model with mixtures `expert_load` is measured beside it, with weight 0: how much more than its share the busiest
    expert does, mean over layers. In training its counts are what `after_step` moves the biases by.

    Sums of `z` and `sequence_balance` do not depend on how a step is cut into micro-batches. `balance` does, as nearly
    everywhere: it is a product of two means of a micro-batch, and steps take the mean of these products by tokens.

    Raises `OrditoError` if the settings ask for what the model does not have.
    """
    mixtures = [part for part in module.modules() if isinstance(part, MixtureOfExperts)]
    _check(module, mixtures, settings)
    if not mixtures:
        return objective
    for mixture in mixtures:
        mixture.capacity_factor, mixture.keep = settings.capacity_factor, settings.keep
    weighted = [
        (settings.balance, _balance_of_transformers() if settings.hf_compatible else over_layers("balance", _balance)),
        (settings.z, over_layers("router_z", lambda one: z_loss(one.logits_TE))),
        (settings.sequence_balance, _sequence_balance()),
    ]
    load = over_layers("expert_load", _counted if settings.bias_speed else _load)
    return objective + Objective((*((weight, term) for weight, term in weighted if weight), (0.0, load)))


@torch.no_grad()
def after_step(module: nn.Module, settings: MoeSettings) -> None:
    """Move the routers' biases by the choices since the last step, of all processes, and forget these.

    Between steps nothing is kept but the biases, which are parameters of the module.
    """
    if not settings.bias_speed:
        return
    for router in (part for part in module.modules() if isinstance(part, Router)):
        bias_E, choices_E = router.choice_bias, router.choices_E
        assert bias_E is not None, "with_routing refuses routers without a bias of choice"
        if choices_E is None:
            choices_E = torch.zeros_like(bias_E, dtype=torch.int64)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(choices_E)
        bias_E.copy_(moved_bias(bias_E, choices_E, settings.bias_speed))
        router.choices_E = None


def over_layers(name: str, loss: Callable[[Routing], Tensor]) -> Term:
    """A term: the mean over layers of a loss that sums over tokens, by the tokens that are there."""

    def total(forward: Forward) -> Tensor:
        return torch.stack([loss(one) for one in forward.routings]).mean()

    return Term(name, total, _count_tokens)


def _count_tokens(batch: Batch) -> float:
    return batch.n_tokens


def _balance(one: Routing) -> Tensor:
    block = one.router.block
    return balance(probabilities(one.logits_TE, block.score), choices(one.chosen_TK, block.n_experts), block.top_k)


def _balance_of_transformers() -> Term:
    def total(forward: Forward) -> Tensor:
        logits_LTE = torch.stack([one.logits_TE for one in forward.routings])
        chosen = torch.stack([one.chosen_TK for one in forward.routings])
        return balance_of_transformers(logits_LTE, choices(chosen, logits_LTE.shape[-1]))

    return Term("balance", total, _count_tokens)


def _sequence_balance() -> Term:
    def total(forward: Forward) -> Tensor:
        begins_BT, there_BT = _begins(forward.batch), forward.batch.documents_BT != PADDING
        texts_T = begins_BT.flatten().cumsum(0)[there_BT.flatten()] - 1

        def loss(one: Routing) -> Tensor:
            of_experts_TE = probabilities(one.logits_TE, one.router.block.score)
            return sequence_balance(of_experts_TE, texts_T, int(begins_BT.sum()), one.router.block.top_k)

        return torch.stack([loss(one) for one in forward.routings]).mean()

    return Term("sequence_balance", total, lambda batch: float(_begins(batch).sum()))


def _begins(batch: Batch) -> Tensor:
    """Where a text begins, (B, T)."""
    documents_BT = batch.documents_BT
    begins_BT = documents_BT != PADDING
    begins_BT[:, 1:] &= documents_BT[:, 1:] != documents_BT[:, :-1]
    return begins_BT


def _load(one: Routing) -> Tensor:
    """T times the choices that fell on the busiest expert, over the mean: 1 where all are even."""
    block = one.router.block
    return choices(one.chosen_TK, block.n_experts).max() * (block.n_experts / block.top_k)


def _counted(one: Routing) -> Tensor:
    """`_load`; what is chosen in training is kept for the bias."""
    router = one.router
    if router.training:
        found_E = choices(one.chosen_TK, router.block.n_experts)
        router.choices_E = found_E if router.choices_E is None else router.choices_E + found_E
    return _load(one)


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
            f"moe.bias_speed: the routers of this {label} model have no bias of choice (DeepSeek-V3's have): use moe.balance"
        )
    if settings.bias_speed and not all(mixture.router.weight.requires_grad for mixture in mixtures):
        raise OrditoError("moe.bias_speed: the routers are frozen, and an adapter does not keep their bias: leave it at 0")
    if settings.hf_compatible and len({mixture.block.router.n_experts for mixture in mixtures}) > 1:
        raise OrditoError(
            f"moe.hf_compatible: the layers of this {label} model have different numbers of experts: leave it out"
        )
