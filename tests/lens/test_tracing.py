"""Tracing tokens through tiny models: the numbers are those of inference, and errors are one sentence."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

import ordito
from ordito.errors import ContextError, MissingDependencyError, OrditoError, OrditoWarning
from ordito.lens import record, trace
from ordito.lens.numbers import Choice, Looks, Sum, Vector, best
from ordito.lens.page import lines, said
from ordito.lens.recording import logit_lens
from ordito.lens.step import Addition

TEXT = "the warp and the weft"


@pytest.fixture(scope="module")
def model(folder):
    return ordito.load(folder, backend="torch")


@pytest.fixture(scope="module")
def mixture(folder, tmp_path_factory):
    """A tiny gpt-oss with the tokenizer of the tiny LLaMA: routers, sinks, windows."""
    config = transformers.GptOssConfig(
        vocab_size=transformers.AutoConfig.from_pretrained(folder).vocab_size,
        hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        num_local_experts=5, num_experts_per_tok=2, sliding_window=3, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    torch.manual_seed(1)
    return with_tokenizer(transformers.GptOssForCausalLM(config), folder, tmp_path_factory.mktemp("oss"))


@pytest.fixture(scope="module")
def pair(folder, tmp_path_factory):
    """A tiny T5 with the tokenizer of the tiny LLaMA."""
    config = transformers.T5Config(
        vocab_size=transformers.AutoConfig.from_pretrained(folder).vocab_size,
        d_model=48, d_kv=16, d_ff=64, num_layers=2, num_decoder_layers=3, num_heads=4, decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(4)
    return with_tokenizer(transformers.T5ForConditionalGeneration(config), folder, tmp_path_factory.mktemp("t5"))


def with_tokenizer(peer, folder, target):
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    peer.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((folder / name).read_bytes())
    return ordito.load(target, backend="torch")


def numbered(found):
    return [step for section in found.sections for step in section.steps if step.numbers is not None]


def test_predictions_are_the_models_next_tokens(model):
    found = trace(model, TEXT)
    ids = model.tokenizer.encode(TEXT, parse_special=True)
    assert [token.id for token in found.tokens] == ids
    assert found.position == len(ids) - 1
    logits = model.logits(ids)[-1]
    assert [(guess.id, pytest.approx(guess.probability, rel=1e-5)) for guess in found.guesses] == best(logits, 5)
    assert found.guesses[0].id == model.generate(TEXT, max_tokens=1).token_ids[0]
    assert sum(share for _, share in best(logits, len(logits))) == pytest.approx(1)


def test_the_guess_after_the_last_layer_is_the_answer(model):
    found = trace(model, TEXT)
    layers = [section for section in found.sections if section.layer is not None]
    assert layers[-1].guess.id == found.guesses[0].id
    assert layers[-1].guess.probability == pytest.approx(found.guesses[0].probability, rel=1e-5)
    assert [section.guess is None for section in found.sections if section.layer is None] == [True] * 3


def test_the_logit_lens_is_norm_and_head_of_the_stream(model):
    recording = record(model, [3, 5, 9])
    early = logit_lens(model, recording["layers.0", "output"])
    module = model.runtime.module
    with torch.no_grad():
        expected = module.head(module.norm(torch.from_numpy(recording["layers.0", "output"])))
    assert np.abs(early - expected.numpy()).max() <= 1e-6
    assert np.abs(early - model.logits([3, 5, 9])).max() > 1e-2


def test_an_earlier_token_can_be_traced(model):
    ids = model.tokenizer.encode(TEXT)
    found = trace(model, TEXT, token=1)
    assert found.position == 1
    assert [guess.id for guess in found.guesses] == [id for id, _ in best(model.logits(ids)[1], 5)]
    assert numbered(found) != numbered(trace(model, TEXT))


def test_the_stream_adds_up(model):
    found, recording = trace(model, TEXT), record(model, model.tokenizer.encode(TEXT))
    last = found.position
    additions = [step for step in numbered(found) if isinstance(step, Addition)]
    assert [step.added for step in additions] == ["attention", "mlp"] * 2
    for step in additions:
        added = recording[step.path, "output"][last]
        before, after = recording[step.before][last], recording[step.recorded][last]
        assert np.abs(before + added - after).max() <= 1e-5 * np.abs(after).max()
        size = np.linalg.norm(added.astype(np.float64)) / np.linalg.norm(before.astype(np.float64))
        assert isinstance(step.numbers, Sum)
        assert step.numbers.change == pytest.approx(size, rel=1e-4)


@pytest.mark.parametrize("name", ["model", "mixture", "pair"])
def test_every_recorded_step_has_numbers(name, request):
    model = request.getfixturevalue(name)
    found = trace(model, TEXT)
    silent = {step.formula.split(" = ")[0] for s in found.sections for step in s.steps if step.numbers is None}
    assert silent <= {"cache k, v", "s_j"} | ({"k", "v"} if name == "pair" else set())
    for step in numbered(found):
        if isinstance(step.numbers, Looks):
            assert len(step.numbers.heads) == step.shape[0]
            assert all(0 <= look.position < step.shape[1] for look in step.numbers.heads)
        if type(step.numbers) is Vector and step.shape:
            assert step.numbers.low <= step.numbers.first[0] <= step.numbers.high
    json.dumps(found.to_dict(), allow_nan=False)
    assert max(map(len, lines(found))) <= 110


def test_shapes_are_those_of_the_recording(model, mixture, pair):
    for each in (model, mixture, pair):
        ids = each.tokenizer.encode(TEXT)
        source = ids if each.spec.encoder is not None else None
        recording = record(each, [each.start_id] if source else ids, source)
        for section in trace(each, TEXT).sections:
            values = recording.source if section.encoder else recording
            compared = [step for step in section.steps if step.recorded in values]
            assert compared
            for step in compared:
                assert values[step.recorded][0].size == np.prod(step.shape), step


def test_routers_and_sinks_are_shown(mixture):
    found = trace(mixture, TEXT)
    choices = [step.numbers for step in numbered(found) if isinstance(step.numbers, Choice)]
    assert len(choices) == 2
    for choice in choices:
        assert len(choice.experts) == 2
        assert sum(choice.weights) == pytest.approx(1)
        assert choice.weights[0] >= choice.weights[1]
    looks = [step.numbers for step in numbered(found) if isinstance(step.numbers, Looks)]
    assert all(0 < look.sink < 1 for each in looks for look in each.heads)
    last, windowed = found.position, looks[0]
    assert all(last - 3 < look.position <= last for look in windowed.heads)
    page = "\n".join(lines(found))
    assert "expert " in page
    assert "sink " in page


def test_an_encoder_decoder_traces_source_and_answer(pair):
    found = trace(pair, TEXT)
    ids = pair.tokenizer.encode(TEXT)
    assert [guess.id for guess in found.guesses] == [id for id, _ in best(pair.logits([pair.start_id], ids)[0], 5)]
    crossing = [step for step in numbered(found) if step.path.endswith(".cross") and isinstance(step.numbers, Looks)]
    assert [step.shape for step in crossing] == [(4, len(ids))] * 3
    page = "\n".join(lines(found))
    assert "encoder layer 0" in page
    assert "in the source" in page


def test_an_embedder_ends_in_its_vector(folder, tmp_path):
    config = transformers.BertConfig(
        vocab_size=transformers.AutoConfig.from_pretrained(folder).vocab_size,
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, max_position_embeddings=40,
    )  # fmt: skip
    torch.manual_seed(2)
    transformers.BertModel(config).save_pretrained(tmp_path)
    for name, content in {
        "modules.json": [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
                         {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}],
        "1_Pooling/config.json": {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True},
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    model = ordito.load(tmp_path)
    found = trace(model, TEXT)
    assert found.guesses == ()
    assert found.sections[-1].steps[-1].numbers == Vector.of(model.embed(TEXT)[0])
    assert "pooler" in [section.path for section in found.sections]


def test_without_a_text_or_weights_there_are_formulas_alone(model):
    bare = trace(model)
    assert not bare.has_numbers
    assert not numbered(bare)
    assert [numbers for _, numbers in bare.folded() if numbers] == [(0, 1)]
    with pytest.warns(OrditoWarning, match="the text is not read"):
        assert trace(model.spec, TEXT).to_dict()["sections"] == bare.to_dict()["sections"]
    assert "layers 0-1 (identical)" in lines(bare)


def test_one_layer_can_be_chosen(model):
    page = lines(trace(model, TEXT), layer=1)
    assert "layer 1" in page
    assert "layer 0" not in page
    assert "layers 0-1 (identical)" in lines(trace(model), layer=1)


@pytest.mark.parametrize(
    ("ask", "kind", "says"),
    [
        (lambda model: trace("smollm2", "the"), OrditoError, r"trace: got str, expected a model \(ordito\.load"),
        (lambda model: trace(model, ""), OrditoError, "empty"),
        (lambda model: trace(model, "the", token=7), OrditoError, "got token 7 of a text of"),
        (lambda model: trace(model, "the", token=-1), OrditoError, "expected 0 to"),
        (lambda model: trace(model, token=1), OrditoError, "no text"),
        (lambda model: trace(model, "the loom " * 64), ContextError, "context holds 64"),
        (lambda model: lines(trace(model), layer=2), OrditoError, "got layer 2, expected 0 to 1"),
        (lambda model: record(model, []), OrditoError, "not empty"),
        (lambda model: record(model, [3, 10_000]), OrditoError, "got token ids from 3 to 10000"),
        (lambda model: record(model, [3], positions=[1]), OrditoError, "got position 1"),
        (lambda model: record(model, [3], [4]), OrditoError, "takes no source_ids"),
    ],
)
def test_impossible_arguments_are_refused(model, ask, kind, says):
    with pytest.raises(kind, match=says):
        ask(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_nan_is_located(folder, value):
    damaged = ordito.load(folder, backend="torch")
    damaged.runtime.module.get_parameter("layers.1.mlp.up.weight").data[0, 0] = value
    with pytest.raises(OrditoError, match=r"no numbers from layers\.1\.mlp\.up output on: its weights are damaged"):
        trace(damaged, TEXT)


def test_recording_removes_its_hooks(model):
    module = model.runtime.module
    before = model.logits([3, 4])
    record(model, [3, 4])
    with pytest.raises(OrditoError):
        record(model, [3], positions=[5])
    assert not any(part._forward_hooks for part in module.modules())
    assert (model.logits([3, 4]) == before).all()


def test_control_characters_are_escaped():
    assert said("\x1b[31m") == r"'\x1b[31m'"
    assert said("\u202eevil") == r"'\u202eevil'"
    assert len(said("a" * 100)) == 22


def test_the_package_imports_without_pytorch():
    code = (
        "import sys, ordito, ordito.lens; from ordito.lens.page import lines; from ordito.families import spec_from_config;"
        "lines(ordito.trace(spec_from_config({'model_type': 'gpt2'}))); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_numbers_need_pytorch(model, monkeypatch):
    monkeypatch.setattr("ordito.engine.backends.find_spec", lambda name: None)
    assert not trace(model.spec).has_numbers
    with pytest.raises(MissingDependencyError, match="pip install 'ordito\\[torch\\]'"):
        trace(model, TEXT)
