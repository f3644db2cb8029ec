"""The native runtime against PyTorch, on every tiny model of every family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_laws_of_cases import module_of
from tiny import CASES, SOURCE, token_ids

from ordito import _core
from ordito.checkpoint.adapted import Computed
from ordito.checkpoint.checkpoint import Checkpoint
from ordito.errors import OrditoError
from ordito.families import spec_from_config
from ordito.families.naming import Binding
from ordito.native.runtime import NativeRuntime
from ordito.nn import Transformer
from ordito.spec import Attention

LENGTH = 40
MODULES: dict[str, Transformer] = {}


def module(name: str) -> Transformer:
    if name not in MODULES:
        MODULES[name] = made = module_of(name)
        for _, block in made.spec.leaves():
            # T5 does not scale its scores: a softmax of one key would make rounding errors large.
            if isinstance(block, Attention) and block.relative_bias and block.scale == 1:
                for path, parameter in made.named_parameters():
                    parameter.data.mul_(0.05 if path.endswith("attention.q.weight") else 1)
                break
    return MODULES[name]


def native(made: Transformer, dtype: str = "float32", **settings) -> NativeRuntime:
    """The same weights in the native runtime."""
    stored = {
        name: Computed(name, tuple(tensor.shape), lambda tensor=tensor: tensor.detach().numpy())
        for name, tensor in made.state_dict().items()
    }
    bindings = [Binding(ours=(name,), theirs=(name,), shapes=(tensor.shape,)) for name, tensor in stored.items()]
    checkpoint = Checkpoint(Path("x"), (), "huggingface", made.spec, {}, stored, bindings, {})
    return NativeRuntime(checkpoint, dtype, threads=2, **settings)


def difference(got: np.ndarray, expected: torch.Tensor) -> float:
    """The largest difference over the largest finite value; NaN if anything is."""
    wanted = expected.detach().numpy()
    finite = np.isfinite(wanted)
    assert got.shape == wanted.shape
    assert (np.isfinite(got) == finite).all()
    return float(np.abs(got[finite] - wanted[finite]).max() / np.abs(wanted[finite]).max())


@pytest.mark.parametrize("kernels", _core.available_kernels())
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_native_equals_pytorch(name, kernels):
    made, ids = module(name), token_ids(LENGTH)
    runtime = native(made, kernels=kernels)
    source, given = None, None
    if made.spec.encoder is not None:
        source, given = made.encode(SOURCE), SOURCE[0].tolist()
        states = runtime.hidden([given])
        assert difference(states[0], source.states_BSD[0]) <= 3e-5
    expected = made.hidden(ids, source=source)
    assert difference(runtime.hidden([ids[0].tolist()], given)[0], expected[0]) <= 3e-5
    if made.spec.head is not None:
        assert difference(runtime.logits(ids[0].tolist(), given), made.project(expected)[0]) <= 3e-5


@pytest.mark.parametrize("name", [name for name in CASES if module(name).spec.generates])
def test_prefill_in_chunks_equals_prefill_at_once(name):
    made, ids = module(name), token_ids(LENGTH)[0].tolist()
    runtime = native(made)
    if runtime.reads_whole:
        pytest.skip("what comes later changes what came before")
    source = SOURCE[0].tolist() if made.spec.encoder is not None else None
    whole = runtime.session(source).feed(ids)
    for cuts in ([1] * LENGTH, [13, 1, 1, 8, 17]):
        session, start = runtime.session(source), 0
        for cut in cuts:
            logits = session.feed(ids[start : start + cut])
            start += cut
        assert np.array_equal(logits, whole), "the same numbers in another order"


ANSWERING = [name for name in CASES if module(name).spec.encoder is not None and module(name).spec.generates]


@pytest.mark.parametrize("name", ANSWERING)
def test_a_source_is_needed_and_the_last_one_counts(name):
    runtime, source, ids = native(module(name)), SOURCE[0].tolist(), token_ids(LENGTH)[0].tolist()
    for refused in (runtime.session, lambda: runtime.logits(ids)):
        with pytest.raises(OrditoError, match="answers a source: give one"):
            refused()
    with pytest.raises(OrditoError, match="a source without tokens"):
        runtime.logits(ids, [])
    assert np.isfinite(runtime.step([(runtime.sequence(), ids)], [0])).all()  # of nothing
    again = runtime.sequence(source[:3])
    runtime.read_source(again, source)
    assert np.array_equal(runtime.step([(again, ids)], range(len(ids))), runtime.logits(ids, source))


@pytest.mark.parametrize("name", ANSWERING)
def test_an_answer_that_begins_again_still_knows_its_source(name):
    runtime, source, ids = native(module(name)), SOURCE[0].tolist(), token_ids(LENGTH)[0].tolist()
    if runtime.reads_whole:
        pytest.skip("what comes later changes what came before")
    session = runtime.session(source)
    session.rewind(0)
    session.feed(ids[:9])
    session.rewind(4)
    assert np.array_equal(session.feed(ids[4:]), runtime.session(source).feed(ids))


@pytest.mark.parametrize("name", [name for name in CASES if module(name).spec.generates and module(name).spec.encoder is None])
def test_batched_equals_single(name):
    made, ids, lengths = module(name), token_ids(LENGTH)[0].tolist(), [LENGTH, 17, 1]
    runtime = native(made)
    alone = [runtime.session().feed(ids[:length]) for length in lengths]
    parts = [(runtime.sequence(), ids[:length]) for length in lengths]
    together = runtime.step(parts, [int(end) - 1 for end in np.cumsum(lengths)])
    assert np.array_equal(together, np.stack(alone))


@pytest.mark.parametrize("kernels", _core.available_kernels())
@pytest.mark.parametrize("name", [name for name in CASES if module(name).spec.generates and module(name).spec.encoder is None])
@torch.no_grad()
def test_a_cache_of_integers(name, kernels):
    """Close to fp32 in every kind of attention, and the same numbers in any split and in a batch."""
    made, ids = module(name), token_ids(LENGTH)[0].tolist()
    runtime = native(made, kernels=kernels)
    rows = runtime.step([(runtime.sequence(cache="int16"), ids)], range(LENGTH))
    assert difference(rows, made(token_ids(LENGTH))[0]) <= 3e-3
    if runtime.reads_whole:
        return
    parts = [(runtime.sequence(cache="int16"), ids[:length]) for length in (17, LENGTH, 1)]
    assert np.array_equal(runtime.step(parts, [16, 16 + LENGTH, 17 + LENGTH]), rows[[16, LENGTH - 1, 0]])
    sequence, got = runtime.sequence(cache="int16"), []
    for first, last in ((0, 13), (13, 14), (14, 15), (15, LENGTH)):
        got.append(runtime.step([(sequence, ids[first:last])], range(last - first)))
    assert np.array_equal(np.concatenate(got), rows)


@torch.no_grad()
def test_heads_of_one_channel_have_no_cache_of_integers():
    """A query of one channel has no room for its scale, so that the cache is one of f16."""
    made = Transformer(
        spec_from_config({"model_type": "gpt2", "vocab_size": 64, "n_positions": 64, "n_embd": 4, "n_layer": 2, "n_head": 4})
    ).eval()
    ids = list(range(50))
    runtime = native(made)
    sequence, halves = runtime.sequence(cache="int16"), runtime.sequence(cache="f16")
    got = runtime.step([(sequence, ids), (halves, ids)], range(2 * len(ids)))
    assert np.array_equal(got[:50], got[50:])
    assert difference(got[:50], made(torch.tensor([ids]))[0]) <= 3e-3
    assert sequence.nbytes == halves.nbytes


LARGE = {
    "model_type": "deepseek_v2",
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 128,
    "n_routed_experts": 160,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 128,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "max_position_embeddings": 64,
}


@torch.no_grad()
def test_integers_of_16_bits_in_latent_attention_and_a_large_mixture():
    """Of matrices that are large enough: each head's reads other columns, and the router has more rows than 128."""
    torch.manual_seed(0)
    made = Transformer(spec_from_config(LARGE)).eval()
    ids = list(range(3, 40))
    expected = made(torch.tensor([ids]))[0]
    assert difference(native(made).logits(ids), expected) <= 3e-5
    assert difference(native(made, "int12").logits(ids), expected) <= 1e-3
