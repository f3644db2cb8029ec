"""An account as tables, for terminals and notebooks."""

from __future__ import annotations

from collections.abc import Iterator

from ordito.accounting.account import Account
from ordito.accounting.cache import Cache, variants
from ordito.accounting.table import Table
from ordito.units import short, size


def report(account: Account) -> list[Table]:
    """All tables: the parameters by module, the costs of a token, and the KV cache."""
    shown = [parameters(account)]
    if account.spec.generates:
        shown += [costs(account), caches(account)]
    elif account.spec.encoder is None:
        shown.append(costs(account))
    return shown


def parameters(account: Account) -> Table:
    """The tree of parameters with its sum; active parameters have a column if there are inactive experts."""
    whole, counted = account.tree, account.parameters
    sparse = whole.active != whole.parameters
    rows = []
    for level, part in whole.walk():
        if not level:
            continue
        name = f"{part.times} x layer  ({part.name})" if part.name[0].isdigit() else part.name
        numbers = [f"{part.parameters:,}", *([f"{part.active:,}"] if sparse else [])]
        shape = " x ".join(map(str, part.shape)) if part.shape else ""
        share = f"{100 * part.nbytes / whole.nbytes:.1f} %"
        rows.append(("  " * (level - 1) + name, shape, *numbers, size(part.nbytes), share, ", ".join(part.encodings)))
    numbers = [f"{counted.total:,}", *([f"{counted.active:,}"] if sparse else [])]
    nbytes = sum(part.nbytes for part in whole.parts if part.name != "ahead")
    rows.append(("sum", "", *numbers, size(nbytes), "", ""))
    if counted.ahead:
        numbers = [f"{whole.parameters:,}", *([f"{whole.active:,}"] if sparse else [])]
        rows.append(("sum with multi-token prediction", "", *numbers, size(whole.nbytes), "", ""))
    columns = ("part", ">shape", ">parameters", *([">active"] if sparse else []), ">bytes", ">share", "stored as")
    title = "Parameters" if account.stored is not None else "Parameters, and their bytes at 16 bits"
    return Table(title, columns, tuple(rows))


def costs(account: Account) -> Table:
    """FLOPs and bytes read for a token: decoding at several contexts, and prefill."""
    return Table("Cost per token", ("", ">FLOPs", ">attention's share", ">bytes read"), tuple(_costs(account)))


def _costs(account: Account) -> Iterator[tuple[str, str, str, str]]:
    flops, own = account.flops, account.spec.context
    if account.spec.generates:
        for context in [1, *account.contexts()]:
            work = flops.decode(context)
            yield (
                f"decode at {context:,}{beyond(context, own)}",
                short(work.total),
                share(work.attention, work.total),
                size(account.read(context)),
            )
    for tokens in sorted({min(512, own), own}):
        work = flops.prefill(tokens)
        yield (
            f"{'encoding' if account.spec.encoder else 'prefill'} of {tokens:,}, per token",
            short(work.total / tokens),
            share(work.attention, work.total),
            size(account.read_at_once(tokens) / tokens),
        )


def caches(account: Account) -> Table:
    """The KV cache as a whole: bytes that a token adds, and the size at several contexts."""
    cache, own = account.kv_cache, account.spec.context
    grows = cache.bytes_per_token_growing
    adds = f"{cache.bytes_per_token:,} bytes"
    if grows != cache.bytes_per_token:
        adds += f", {grows:,} once all windows are full"
    rows = [("per token", adds)]
    rows += [(f"at {context:,}", size(cache.at(context)) + beyond(context, own)) for context in account.contexts()]
    return Table("KV cache, at 16 bits", ("", ""), tuple(rows))


def cache_layers(account: Account) -> Table:
    """The KV cache by kind of layer, with its sum."""
    contexts = account.contexts()
    rows = [
        (
            f"{times} x",
            layer.kind if layer.span is None else f"{layer.kind} of {layer.span:,}",
            f"{2 * layer.numbers:,}",
            *(size(2 * times * layer.at(context)) for context in contexts),
        )
        for layer, times in account.kv_cache.kinds()
    ]
    total = (f"{account.kv_cache.bytes_per_token:,}", *(size(account.kv_cache.at(context)) for context in contexts))
    columns = (">layers", "kind", ">bytes per token", *(f">at {context:,}" for context in contexts))
    return Table("KV cache by layer, at 16 bits", columns, (*rows, ("all", "", *total)))


def cache_variants(account: Account) -> Table:
    """The KV cache beside those with other kinds of attention (`variants`)."""
    contexts, own = account.contexts(), account.kv_cache
    every: dict[str, Cache] = {"this model": own, **variants(account.spec)}
    rows = [
        (name, f"{cache.bytes_per_token:,}", *(_times(cache.at(context), own.at(context)) for context in contexts))
        for name, cache in every.items()
    ]
    return Table(
        "KV cache with other kinds of attention",
        ("", ">bytes per token", *(f">at {context:,}" for context in contexts)),
        tuple(rows),
    )


def outgrown(account: Account) -> str:
    """A sentence: at which context the cache takes more than the weights."""
    at = account.kv_cache.outgrows(account.nbytes)
    weights = f"the weights ({size(account.nbytes)})"
    if at is None:
        return f"The cache never outgrows {weights}: every layer has a window or chunk."
    return f"The cache outgrows {weights} at {at:,} tokens{beyond(at, account.spec.context)}."


def _times(nbytes: int, own: int) -> str:
    return size(nbytes) if nbytes == own else f"{size(nbytes)} ({nbytes / own:.2g} x)"


def beyond(context: int, own: int) -> str:
    """A remark on contexts beyond the model's own."""
    return f" (beyond its context of {own:,})" if context > own else ""


def share(part: float, whole: float) -> str:
    """A percentage.

    >>> share(1, 8)
    '12.5 %'
    """
    return f"{100 * part / whole:.1f} %" if whole else ""
