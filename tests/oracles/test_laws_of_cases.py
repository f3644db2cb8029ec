"""Laws that hold for every tiny model, whatever its family: cached = uncached, batched = alone, header = spec."""

from __future__ import annotations

import dataclasses
import itertools

import gguf
import pytest
import torch
from tiny import CASES, error, make, spec_of, token_ids

from ordito import families
from ordito.errors import ConfigError
from ordito.families.config import leaves
from ordito.nn import Transformer
from ordito.spec import MixtureOfExperts

LENGTH = 40


def module_of(name: str) -> Transformer:
    torch.manual_seed(11)
    make(name)  # draws numbers: with the weights that follow them, no T5 magnifies rounding errors beyond what tests allow
    module = Transformer(spec_of(name)).eval()
    for parameter in module.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return module


def generates(name: str) -> bool:
    spec = spec_of(name)
    stretches = any(leaf.rope is not None and leaf.rope.depends_on_length for _, leaf in spec.attentions)
    counts = any(mixture.router.capacity for mixture in leaves(spec, MixtureOfExperts))
    return spec.generates and spec.encoder is None and not stretches and not counts


GENERATING = [name for name in CASES if generates(name)]


@pytest.mark.parametrize("name", GENERATING)
@torch.no_grad()
def test_cached_equals_uncached(name):
    module, ids = module_of(name), token_ids(LENGTH)
    whole = module(ids)
    for cuts in ([1] * LENGTH, [13, 1, 1, 8, 17]):
        cache = module.new_cache(1, LENGTH)
        pieces = [module(piece, cache=cache) for piece in ids.split(cuts, dim=1)]
        assert error(torch.cat(pieces, dim=1), whole) <= 2e-5


@pytest.mark.parametrize("name", GENERATING)
@torch.no_grad()
def test_batched_equals_single(name):
    module, ids, lengths = module_of(name), token_ids(LENGTH), [LENGTH, 17, 1]
    for left in (False, True):
        batch, valid = torch.zeros(3, LENGTH, dtype=torch.long), torch.zeros(3, LENGTH, dtype=torch.bool)
        for row, length in enumerate(lengths):
            place = slice(LENGTH - length, LENGTH) if left else slice(0, length)
            batch[row, place], valid[row, place] = ids[0, :length], True
        together = module(batch, valid=valid)
        for row, length in enumerate(lengths):
            assert error(together[row][valid[row]], module(ids[:, :length])[0]) <= 2e-5


def header_of(name):
    """The GGUF header of a case, or None if GGUF cannot express it: what it cannot is refused, never written wrong."""
    try:
        return families.header_from_spec(dataclasses.replace(spec_of(name), ahead=(), pooling=None, pooler=None))
    except ConfigError as refusal:
        assert "GGUF" in str(refusal)
        return None


WITH_CASES = {families.family_of(spec_of(name)).name for name in CASES}


@pytest.mark.parametrize("family", sorted(f.name for f in families.families() if f.gguf and f.name in WITH_CASES))
def test_gguf_headers_are_those_of_the_gguf_package(family):
    names = [name for name in CASES if families.family_of(spec_of(name)).name == family]
    headers = [header for header in map(header_of, names) if header is not None]
    assert headers, f"none of {names} can be expressed"
    numbers = {arch: number for number, arch in gguf.MODEL_ARCH_NAMES.items()}
    for header in headers:
        expected = {gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[numbers[header.architecture]]}
        for tensor in header.shapes:
            if tensor.startswith("rope_factors_"):  # llama.cpp reads them in any file, the package lists them for a few
                continue
            module = tensor.rsplit(".", 1)[0]
            assert any(module in (form, form.format(bid=n)) for form, n in itertools.product(expected, range(8))), tensor
