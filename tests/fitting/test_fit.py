"""Whether a model fits: memory by its parts, the largest context, rates from the machine's figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ordito import catalogue
from ordito.accounting import account
from ordito.errors import OrditoError
from ordito.families import spec_from_config
from ordito.fitting import MIXES, Machine, fit, held_as
from ordito.fitting.backends import CHUNK, MARGIN, backend
from ordito.fitting.memory import demand
from ordito.fitting.vocabularies import assumed
from ordito.native.screening import spared
from ordito.nn import Transformer
from ordito.nn import cache as torch_cache
from ordito.nn import runtime as torch_runtime
from ordito.spec import Pooling

MACHINE = Machine(cores=2, memory=16 * 10**9, bandwidth=50e9, flops=1e12)
TINY = {"vocab_size": 96, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 24}
TINY |= {"num_key_value_heads": 2, "max_position_embeddings": 64}


def published(name):
    return spec_from_config(catalogue.find(name).config)


def asked(spec):
    return demand(account(spec), assumed(spec.vocab_size))


@pytest.mark.parametrize(
    "config",
    [
        TINY | {"model_type": "llama"},
        TINY | {"model_type": "gemma3_text", "head_dim": 6, "sliding_window": 8},
        {
            "model_type": "deepseek_v3",
            "num_hidden_layers": 4,
            "hidden_size": 32,
            "vocab_size": 96,
            "num_nextn_predict_layers": 0,
        }
        | {"n_routed_experts": 8, "n_group": 1, "topk_group": 1, "num_attention_heads": 4, "intermediate_size": 8}
        | {"moe_intermediate_size": 8},
    ],
    ids=["llama", "gemma3", "deepseek3"],
)
def test_weights_and_cache_are_what_pytorch_allocates(config):
    spec, runtime = spec_from_config(config), backend("torch")
    with torch.device("meta"):
        module = Transformer(spec)
        cache = module.new_cache(1, 40, 512)
    memory = runtime.memory(asked(spec), 0, 0, 40)
    assert torch_cache.MARGIN == MARGIN
    assert torch_runtime.CHUNK == CHUNK
    biases = sum(t.nbytes for name, t in module.named_parameters() if name.endswith("choice_bias"))
    assert memory.weights == sum(t.nbytes for t in module.parameters()) - biases
    rooms = [40 if span is None else min(40, span - 1 + MARGIN + CHUNK) for span in cache.spans]
    used = sum(t[:, :room].nbytes for pair, room in zip(cache.slots, rooms, strict=True) for t in pair)
    assert memory.cache == used
    long = runtime.memory(asked(spec), 0, 0, 2000).cache
    whole = module.new_cache(1, 2000, 512)
    assert long == sum(t.nbytes for pair in whole.slots for t in pair)


def test_it_fits_up_to_a_context():
    spec = published("llama-3.2-1b")
    found = fit(spec, machine=MACHINE, quant="Q4_K_M", context=4096)
    assert found.fits
    largest = found.chosen.largest_context
    runtime, file = backend(), found.chosen.file
    assert runtime.memory(asked(spec), file, file, largest).total <= MACHINE.memory
    assert largest == spec.context or runtime.memory(asked(spec), file, file, largest + 1).total > MACHINE.memory


def test_it_does_not_fit():
    found = fit(published("llama-3.1-70b"), machine=MACHINE)
    assert not found.fits
    assert found.chosen.largest_context is None
    assert found.chosen.name == "BF16"
    assert all(not choice.fits for choice in found.quantizations)


def test_rates_follow_the_machine():
    spec = published("llama-3.2-1b")
    slow = fit(spec, machine=MACHINE, quant="Q8_0")
    fast = fit(spec, machine=Machine(cores=2, memory=16 * 10**9, bandwidth=100e9, flops=2e12), quant="Q8_0")
    assert fast.decode.predicted == pytest.approx(2 * slow.decode.predicted)
    assert fast.prefill.predicted == pytest.approx(2 * slow.prefill.predicted)
    assert slow.decode.limit > slow.decode.predicted
    held = held_as(spec, "Q8_0")
    needed = sum(one.nbytes for one in held.values()) + account(spec).kv_cache.at(4096)
    assert fit(spec, machine=MACHINE, quant="Q8_0", backend_name="torch").decode.limit == pytest.approx(
        MACHINE.bandwidth / needed
    )
    assert slow.decode.limit == pytest.approx(MACHINE.bandwidth / (needed - spared(spec, held)))


def test_more_sequences_take_more_cache_and_share_the_weights():
    spec = published("llama-3.2-1b")
    one, eight = (fit(spec, machine=MACHINE, quant="Q8_0", context=512, batch=batch) for batch in (1, 8))
    assert eight.memory.cache == pytest.approx(8 * one.memory.cache, rel=0.02)
    assert eight.memory.weights == one.memory.weights
    assert one.decode.predicted < eight.decode.predicted <= 8 * one.decode.predicted


def test_an_encoder_has_no_decoding_rate():
    found = fit(published("bert-base-uncased"), machine=MACHINE)
    assert found.decode is None
    assert found.memory.cache == 0
    assert found.context == 512


def test_weights_that_are_not_quantized_are_multiplied_in_fp32():
    spec, machine = published("llama-3.2-1b"), Machine(cores=2, memory=10**11, bandwidth=1e15, flops=1e12, flops_fp32=5e11)
    plain, quantized = (fit(spec, machine=machine, quant=quant).prefill for quant in ("BF16", "Q8_0"))
    assert quantized.limit == pytest.approx(2 * plain.limit)
    assert plain.predicted < quantized.predicted < 2 * plain.predicted  # fp32 products come nearer to their peak
    assert fit(spec, machine=machine, quant="Q8_0", backend_name="torch").prefill.limit == plain.limit


def test_models_of_a_billion_parameters_are_multiplied_in_8_bits():
    machine = Machine(cores=2, memory=10**11, bandwidth=1e15, flops=1e12, flops_int8=2e12, int16=True)
    small, large = (published(name) for name in ("Qwen3 0.6B", "llama-3.2-1b"))
    for spec, times in ((small, 1), (large, 2)):
        plain, quantized = (fit(spec, machine=machine, quant=quant).prefill.limit for quant in ("BF16", "Q8_0"))
        assert quantized == pytest.approx(times * plain)  # plain weights are integers of 16 bits in either


def test_weights_that_are_not_quantized_are_multiplied_as_integers_unless_they_are_fp32():
    figures = {"cores": 2, "memory": 10**11, "bandwidth": 1e15, "flops": 1e12, "flops_fp32": 5e11}
    spec, machine = published("llama-3.2-1b"), Machine(**figures, int16=True)
    exact, plain, quantized = (fit(spec, machine=machine, quant=quant).prefill for quant in ("F32", "BF16", "Q8_0"))
    assert quantized.limit == pytest.approx(plain.limit) == pytest.approx(2 * exact.limit)
    embedder = replace(published("bert-base-uncased"), pooling=Pooling(kind="mean"))
    memory = [fit(embedder, machine=Machine(**figures, int16=int16), quant="F32").memory for int16 in (False, True)]
    assert memory[1].weights == pytest.approx(memory[0].weights / 2, rel=2e-3)  # vectors stay in fp32


def test_an_encoder_decoder_counts_its_encoder_and_cross_attention():
    """Prefill is the encoder's; the cache of the source is as large as the answer's, and is read by each token."""
    spec = published("T5 small")
    counted = account(spec)
    found = fit(spec, machine=MACHINE, context=512)
    kept = 2 * counted.kv_cache.at(512)
    assert kept <= found.memory.cache < kept + 24 * 2**20  # in whole blocks
    assert found.prefill.limit == pytest.approx(512 * MACHINE.flops / counted.flops.encode(512).total)
    assert found.decode.limit == pytest.approx(MACHINE.bandwidth / (counted.weights_read + kept), rel=1e-3)


def test_a_prefill_reads_every_expert_that_a_token_chooses():
    spec, fast = published("Mixtral 8x7B v0.1"), Machine(cores=2, memory=10**12, bandwidth=50e9, flops=1e18)
    counted = account(spec)
    assert fit(spec, machine=fast).prefill.limit == pytest.approx(512 * 50e9 / counted.read_at_once(512), rel=1e-3)


@pytest.mark.parametrize(
    "name", ["Gemma 3 1B", "Mixtral 8x7B v0.1", "DeepSeek-V2-Lite", "gpt-oss-20b", "BERT base uncased", "T5 small"]
)
def test_every_kind_of_model_has_a_fit(name):
    found = fit(published(name), machine=MACHINE)
    assert found.memory.total == sum(value for name, value in found.memory.to_dict().items() if name != "total")
    assert found.prefill.predicted > 0
    sizes = {choice.name: choice.file for choice in found.quantizations}
    assert sizes.keys() == MIXES.keys()
    assert sizes["F32"] >= sizes["F16"] == sizes["BF16"] >= sizes["Q8_0"] >= sizes["Q6_K"] >= sizes["Q5_K_M"] >= sizes["Q4_K_M"]
    assert 1.01 * sizes["Q4_0"] >= sizes["Q2_K"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"context": 10**9}, "a context of"), ({"batch": 0}, "a batch"), ({"quant": "Q4_K_X"}, "Q4_K_M"), ({"quant": ""}, "''")],
)
def test_wrong_arguments(wrong, said):
    with pytest.raises(OrditoError, match=said):
        fit(published("llama-3.2-1b"), machine=MACHINE, **wrong)


def test_anything_but_a_spec_is_refused():
    with pytest.raises(OrditoError, match="fit: got str, expected a Spec"):
        fit("llama-3.2-1b", machine=MACHINE)


def test_sizes_of_published_quantizations():
    """Files of Llama 3.1 8B as llama-quantize writes them, with 8 MB of header."""
    spec = published("llama-3.1-8b")
    sizes = {name: sum(held.nbytes for held in held_as(spec, name).values()) for name in MIXES}
    assert sizes["Q4_K_M"] == pytest.approx(4_920_739_232 - 7_800_000, rel=1e-3)
    assert sizes["Q8_0"] == pytest.approx(8_540_775_840 - 7_800_000, rel=1e-3)
    assert sizes["Q6_K"] == pytest.approx(6_596_011_424 - 7_800_000, rel=1e-3)
    assert sizes["Q3_K_M"] == pytest.approx(4_018_918_176 - 7_800_000, rel=1e-3)
    assert sizes["Q2_K"] == pytest.approx(3_179_131_680 - 7_800_000, rel=1e-3)
    assert sizes["Q5_K_M"] == pytest.approx(5_732_987_680 - 7_800_000, rel=1e-3)
