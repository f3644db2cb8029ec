"""Losses as pure functions of tensors. All are sums over rows, in fp32; the caller divides them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ordito.train.likelihood import token_losses

IMPOSSIBLE = -1e4
"""A stand-in for logits of -inf: the probability is 0 too, but sums and differences do not become NaN."""


def cross_entropy(logits_nV: Tensor, targets_n: Tensor, weights_n: Tensor | None = None) -> Tensor:
    """sum_i w_i (logsumexp_v z_iv - z_i,target), the summed negative log-likelihood of the targets; w is 1 by default."""
    losses_n = token_losses(logits_nV, targets_n)
    return losses_n.sum() if weights_n is None else (losses_n * weights_n).sum()


def z_loss(logits_nV: Tensor) -> Tensor:
    """sum_i logsumexp(z_i)^2: keeps logits from drifting (of routers: ST-MoE, arXiv:2202.08906, equation 5)."""
    return logits_nV.float().logsumexp(dim=-1).square().sum()


def divergence(student_nV: Tensor, teacher_nV: Tensor, beta: float) -> Tensor:
    """sum_i D_beta(teacher_i, student_i) of distributions given as log-probabilities, between 0 and 1 inclusive of `beta`.

    0: KL(teacher || student), forward. 1: KL(student || teacher), reverse. Between: the generalised Jensen-Shannon divergence
    beta KL(teacher || M) + (1 - beta) KL(student || M) with M = beta teacher + (1 - beta) student, never above ln 2
    (GKD, arXiv:2306.13649, equation 1). The ends are the limits of D_beta / beta and D_beta / (1 - beta), not of D_beta.
    """
    if beta == 0:
        return _kl(teacher_nV, student_nV)
    if beta == 1:
        return _kl(student_nV, teacher_nV)
    mixture_nV = torch.logaddexp(teacher_nV + math.log(beta), student_nV + math.log1p(-beta))
    return beta * _kl(teacher_nV, mixture_nV) + (1 - beta) * _kl(student_nV, mixture_nV)


def _kl(p_nV: Tensor, q_nV: Tensor) -> Tensor:
    """sum_i KL(p_i || q_i) of log-probabilities."""
    return (p_nV.exp() * (p_nV - q_nV)).sum()


def log_probabilities(logits_nV: Tensor, temperature: float) -> Tensor:
    """log softmax(z / temperature), in fp32; finite where logits are -inf."""
    return (logits_nV.float() / temperature).clamp(min=IMPOSSIBLE).log_softmax(dim=-1)


def distillation(student_nV: Tensor, teacher_nV: Tensor, beta: float, temperature: float) -> Tensor:
    """temperature^2 sum_i D_beta(softmax(t_i / temperature), softmax(s_i / temperature)) of logits.

    The square keeps the gradient's size when the temperature is raised (Hinton et al., arXiv:1503.02531, section 2), as
    DistillKit and sentence-transformers do; TRL's GKD, torchtune and axolotl leave it out.
    """
    student, teacher = log_probabilities(student_nV, temperature), log_probabilities(teacher_nV, temperature)
    return temperature**2 * divergence(student, teacher, beta)


def distillation_of_top(student_nV: Tensor, ids_nK: Tensor, teacher_nJ: Tensor, beta: float, temperature: float) -> Tensor:
    """`distillation` from what `top_of` kept of a teacher at this temperature: K tokens and the rest as one, J = K + 1.

    The divergence is that of J outcomes: never above that of all tokens, and equal to it if all are kept. (Renormalising the
    K probabilities instead would teach the student that no other token can follow.)
    """
    student = _kept(log_probabilities(student_nV, temperature), ids_nK)
    return temperature**2 * divergence(student, teacher_nJ, beta)


def top_of(logits_nV: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The k most probable tokens (n, K), and their log-probabilities, followed by that of all others together, (n, K + 1)."""
    logs_nV = log_probabilities(logits_nV, temperature)
    ids_nK = logs_nV.topk(k, dim=-1).indices
    return ids_nK, _kept(logs_nV, ids_nK)


def _kept(logs_nV: Tensor, ids_nK: Tensor) -> Tensor:
    # logsumexp of the others, not log(1 - sum of the kept): the rest may be smaller than the rounding error of 1.
    rest_n1 = logs_nV.scatter(1, ids_nK, IMPOSSIBLE).logsumexp(dim=-1, keepdim=True)
    return torch.cat((logs_nV.gather(1, ids_nK), rest_n1), dim=-1)


def squared_error(scores_n: Tensor, targets_n: Tensor) -> Tensor:
    """sum_i (s_i - y_i)^2."""
    return (scores_n.float() - targets_n).square().sum()


def similarities(queries_ED: Tensor, candidates_CD: Tensor) -> Tensor:
    """Cosines of every query with every candidate, (E, C), in fp32."""
    return F.normalize(queries_ED.float(), dim=-1) @ F.normalize(candidates_CD.float(), dim=-1).T


def info_nce(cosines_EC: Tensor, targets_E: Tensor, scale: float, left_out_EC: Tensor | None = None) -> Tensor:
    """sum_i -log(exp(s cos(q_i, c_target)) / sum_j exp(s cos(q_i, c_j))), s = `scale` = 1 / temperature (arXiv:1807.03748).

    `left_out_EC` masks candidates that are not negatives of a query.
    """
    logits_EC = scale * cosines_EC
    return cross_entropy(logits_EC if left_out_EC is None else logits_EC.masked_fill(left_out_EC, IMPOSSIBLE), targets_E)
