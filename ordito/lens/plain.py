"""The steps of the plain blocks: embedding, norm, dense map, head."""

from __future__ import annotations

from ordito.lens.step import Step, Where, number
from ordito.spec import Dense, Embedding, Head, Norm
from ordito.units import plural


def embedding(block: Embedding, path: str, x: str, out: str, where: Where) -> list[Step]:
    """One step: the scaled embedding of the token, plus those of its position and type."""
    factor = f"{number(block.scale)} " if block.scale != 1.0 else ""
    terms = [f"{factor}E[id]"]
    notes = [f"E: {block.vocab_size:,} x {block.d_model:,}, one row per token"]
    if factor:
        notes.append("the factor is rounded to the weights' dtype")
    if block.n_positions:
        first = f" + {block.first_position}" if block.first_position else ""
        terms.append(f"P[p{first}]")
        here = "" if where.position is None else f"; here row {where.position + block.first_position}"
        notes.append(f"P: {block.n_positions:,} x {block.d_model:,}, one learned row per position p{here}")
    if block.n_types:
        terms.append("T[0]")
        notes.append(f"T: {block.n_types} x {block.d_model:,}, one row per token type")
    formula, result = f"{out} = {' + '.join(terms)}", (path, "output")
    return [Step(path=path, formula=formula, notes=tuple(notes), shape=(block.d_model,), recorded=result)]


def normalised(block: Norm, x: str) -> tuple[str, str | None]:
    """The formula of a norm, and a note on its precision or None."""
    eps = number(block.eps)
    y = f"{x} / sqrt(mean({x}^2) + {eps})" if block.kind == "rms" else f"({x} - mean({x})) / sqrt(var({x}) + {eps})"
    if block.weight:
        y += f" · ({number(block.weight_offset)} + w)" if block.weight_offset else " · w"
    if block.bias:
        y += " + b"
    return y, "multiplied by the weight in fp32" if block.scale_in_fp32 else None


def norm(block: Norm, path: str, x: str, out: str, where: Where) -> list[Step]:
    """One step: the last axis normalised."""
    formula, note = normalised(block, x)
    return [
        Step(
            path=path,
            formula=f"{out} = {formula}",
            notes=(note,) if note else (),
            shape=(block.d_model,),
            recorded=(path, "output"),
        )
    ]


def dense(block: Dense, path: str, x: str, out: str, where: Where) -> list[Step]:
    """One step: a linear map, and its activation."""
    y = f"W {x}{' + b' if block.bias else ''}"
    return [
        Step(
            path=path,
            formula=f"{out} = {block.activation}({y})" if block.activation else f"{out} = {y}",
            notes=(f"W: {block.d_out:,} x {block.d_in:,}",),
            shape=(block.d_out,),
            recorded=(path, "output"),
        )
    ]


def head(block: Head, path: str, x: str, out: str, where: Where) -> list[Step]:
    """One step: logits, their soft cap and unused rows."""
    matrix = "E" if block.tied else "W"
    z = f"{number(block.scale)} {matrix} {x}" if block.scale != 1.0 else f"{matrix} {x}"
    z += " + b" if block.bias else ""
    if block.softcap is not None:
        z = f"{number(block.softcap)} tanh(({z}) / {number(block.softcap)})"
    tied = "E: the embedding matrix, tied" if block.tied else f"W: {block.vocab_size:,} x {block.d_model:,}"
    notes = [f"{tied}; one logit per token of the vocabulary"]
    if block.unused:
        first = ", ".join(map(str, block.unused[:3])) + (", ..." if len(block.unused) > 3 else "")
        notes.append(f"{plural(len(block.unused), 'unused logit')}: -inf ({first})")
    shape = (block.vocab_size,)
    return [Step(path=path, formula=f"z = {z}", notes=tuple(notes), shape=shape, recorded=(path, "output"))]
