from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file, save_file

import ordito
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.gguf import read_gguf
from ordito.errors import CheckpointError, ConfigError, OrditoError, TokenizerError
from ordito.nn.runtime import load_transformer
from ordito.nn.transformer import Transformer
from ordito.saving import write
from ordito.spec import Chain, Dense, Head, with_vocabulary
from ordito.text.from_checkpoint import load_tokenizer
from ordito.text.tokenizer import Tokenizer
from ordito.train.config import config_from
from ordito.train.subject import open_subject
from ordito.train.vocabulary import extend, read_tokens, with_tokens

NEW = ["ordito", " trama", "<|tool|>", "è bello"]
VOCABULARIES = sorted((Path(__file__).parents[3] / "shared" / "assets" / "tokenizer-goldens").glob("*.gguf"))


def open_tiny(folder):
    checkpoint = open_checkpoint(folder)
    return checkpoint, load_transformer(checkpoint), load_tokenizer(checkpoint)


@pytest.fixture(params=["own head", "tied head"])
def tiny(request, folder, tmp_path):
    """A tiny LLaMA with an untied or a tied head."""
    if request.param == "own head":
        return open_tiny(folder)
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder, tie_word_embeddings=True)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "tied")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "tied")
    opened = open_tiny(tmp_path / "tied")
    assert opened[0].spec.head.tied
    return opened


def test_new_ids_follow_the_old_ones(tiny):
    _, module, tokenizer = tiny
    extended = extend(module, tokenizer, NEW)
    n = tokenizer.vocab_size
    assert extended.ids == {token: n + i for i, token in enumerate(NEW)}
    assert extended.tokenizer.vocabulary.tokens[:n] == list(tokenizer.vocabulary.tokens)
    assert extended.tokenizer.encode("l'ordito e la trama: è bello") == [
        *tokenizer.encode("l'"),
        n,
        *tokenizer.encode(" e la"),
        n + 1,
        *tokenizer.encode(": "),
        n + 3,
    ]
    assert extended.tokenizer.decode(extended.tokenizer.encode("l'ordito è bello")) == "l'ordito è bello"


def test_only_markers_become_control_tokens(tiny):
    extended = extend(*tiny[1:], NEW)
    marker = extended.ids["<|tool|>"]
    assert extended.tokenizer.special_ids - tiny[2].special_ids == {marker}
    assert marker not in extended.tokenizer.encode("<|tool|>")
    assert extended.tokenizer.encode("<|tool|>", parse_special=True) == [marker]


def test_initial_rows_are_the_mean_of_the_pieces(tiny):
    _, module, tokenizer = tiny
    extended = extend(module, tokenizer, NEW)
    before, behind = module.state_dict(), extended.module.state_dict()
    tables = [name for name in before if behind[name].shape != before[name].shape]
    assert len(tables) == (1 if module.spec.head.tied else 2)
    for name in before:
        assert torch.equal(behind[name][: len(before[name])], before[name])
    for name in tables:
        for token, id in extended.ids.items():
            expected = before[name][tokenizer.encode(token)].mean(dim=0)
            assert (behind[name][id] - expected).abs().max().item() <= 1e-6


def test_initial_rows_may_be_the_mean_of_all(tiny):
    _, module, tokenizer = tiny
    extended = extend(module, tokenizer, NEW, rows="mean")
    table = extended.module.state_dict()["embedding.tokens.weight"]
    expected = table[: tokenizer.vocab_size].mean(dim=0)
    assert (table[tokenizer.vocab_size :] - expected).abs().max().item() <= 1e-6


def test_old_texts_have_the_same_tokens(tiny):
    _, module, tokenizer = tiny
    extended = extend(module, tokenizer, NEW)
    ids = torch.tensor([tokenizer.encode("the warp and the weft")])
    with torch.no_grad():
        before, behind = module(ids), extended.module(ids)
    # A product with more columns may be divided into other blocks, which sum in another order.
    assert (behind[..., : tokenizer.vocab_size] - before).abs().max() <= 1e-6 * before.abs().max()
    assert behind.shape[-1] == tokenizer.vocab_size + len(NEW)


def test_a_new_row_learns(tiny):
    extended = extend(*tiny[1:], NEW)
    ids = torch.tensor([extended.tokenizer.encode("l'ordito e")])
    extended.module(ids).logsumexp(-1).sum().backward()
    grad = extended.module.state_dict(keep_vars=True)["embedding.tokens.weight"].grad
    assert grad[extended.ids["ordito"]].abs().max().item() > 0


def test_extended_models_load_here_and_in_transformers(tiny, tmp_path):
    import transformers

    checkpoint, module, tokenizer = tiny
    extended = extend(module, tokenizer, NEW)
    weights = {name: tensor.numpy() for name, tensor in extended.module.state_dict().items()}
    write(tmp_path / "new", replace(checkpoint, spec=extended.module.spec), weights, extended.tokenizer)
    text = "l'ordito e la trama"
    ids = extended.tokenizer.encode(text)
    with torch.no_grad():
        expected = extended.module(torch.tensor([ids]))[0]

    ours = ordito.load(tmp_path / "new", backend="torch", dtype="float32")
    assert ours.tokenizer.encode(text) == ids
    assert ours.tokenizer.special_ids == extended.tokenizer.special_ids
    assert ours.tokenizer.chat_template == tokenizer.chat_template
    assert (torch.from_numpy(ours.logits(ids)) - expected).abs().max().item() <= 1e-5

    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert fast(text).input_ids == ids
    assert fast.convert_tokens_to_ids(NEW) == list(extended.ids.values())
    with torch.no_grad():
        assert (theirs(torch.tensor([ids])).logits[0] - expected).abs().max().item() <= 1e-5


def test_padding_rows_are_used_first(tiny):
    """Published embeddings are often padded, and their last rows are not those of new tokens."""
    _, module, tokenizer = tiny
    n = tokenizer.vocab_size
    wide = with_vocabulary(module.spec, n + 3, n)
    wide = replace(wide, head=replace(wide.head, unused=(n, n + 1, n + 2)))
    padded = Transformer(wide)
    extended = extend(padded, tokenizer, NEW[:2])
    assert extended.ids == {NEW[0]: n, NEW[1]: n + 1}
    assert extended.module.spec.vocab_size == n + 3
    assert extended.module.spec.head.unused == (n + 2,)
    grown = extend(padded, tokenizer, NEW)
    assert grown.module.spec.vocab_size == n + 4
    assert grown.module.spec.head.unused == ()
    table = padded.state_dict()["embedding.tokens.weight"]
    expected = table[tokenizer.encode(NEW[0])].mean(dim=0)
    assert (grown.module.state_dict()["embedding.tokens.weight"][n] - expected).abs().max().item() <= 1e-6


def test_heads_with_a_transform_and_a_bias_grow_too(folder):
    _, module, tokenizer = open_tiny(folder)
    D, V = module.spec.d_model, module.spec.vocab_size
    head = Chain(Dense(name="before", d_in=D, d_out=D), Head(d_model=D, vocab_size=V, tied=False, bias=True))
    module = Transformer(replace(module.spec, head=head))
    torch.nn.init.normal_(module.state_dict()["head.bias"])
    extended = extend(module, tokenizer, NEW)
    assert extended.module.spec.head.parts[0] == head.parts[0]
    bias = extended.module.state_dict()["head.bias"]
    assert bias[V].item() == pytest.approx(bias[tokenizer.encode(NEW[0])].mean().item(), abs=1e-6)
    assert extended.module(torch.tensor([[V, V + 1]])).shape == (1, 2, V + len(NEW))


def test_existing_tokens_are_skipped(tiny):
    _, module, tokenizer = tiny
    extended = extend(module, tokenizer, ["the", "ordito", "ordito"])
    assert extended.ids == {"the": tokenizer.id_of("the"), "ordito": tokenizer.vocab_size}
    same = extend(module, tokenizer, ["the"])
    assert same.module is module
    assert same.tokenizer is tokenizer


@pytest.mark.parametrize("token", ["", " ", "the", "a" * 20_000])
def test_tokens_that_cannot_be_added(tiny, token):
    with pytest.raises(TokenizerError, match="cannot add the token"):
        with_tokens(tiny[2], [token])


def test_a_tokenizer_of_another_model(tiny):
    _, module, tokenizer = tiny
    with pytest.raises(OrditoError, match="but the model embeds"):
        extend(module, with_tokens(tokenizer, ["abc"]), ["abd"])


def test_a_file_of_tokens(tmp_path):
    file = tmp_path / "tokens.txt"
    file.write_text("ordito\r\n trama\n\nè bello")
    assert read_tokens(file) == ["ordito", " trama", "è bello"]
    with pytest.raises(TokenizerError, match="cannot be read"):
        read_tokens(tmp_path / "none.txt")


@pytest.mark.parametrize("path", VOCABULARIES, ids=[path.stem for path in VOCABULARIES])
def test_published_vocabularies_can_be_extended_and_written(path, tmp_path):
    tokenizer = Tokenizer.from_gguf(read_gguf(path).metadata)
    try:
        extended = with_tokens(tokenizer, NEW)
    except TokenizerError as error:
        assert "cut alike" in str(error)
        pytest.skip(str(error))
    extended.to_folder(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    n = tokenizer.vocab_size
    for text in ("Hello, world!", "  two  spaces\n\n1234", "l'ordito", "perché no?", "la trama fine"):
        ids = extended.encode(text)
        assert again.encode(text) == ids
        if not any(token in text for token in NEW):
            assert ids == tokenizer.encode(text)
    assert n in extended.encode("l'ordito")
    assert again.vocab_size == n + len(NEW)


def test_a_run_extends_and_exports_its_model(folder, tmp_path):
    (tmp_path / "new.txt").write_text("ordito\n trama\n")
    given = {"objective": "sft", "model": str(folder), "data": ["x.jsonl"], "output": str(tmp_path / "run")}
    subject = open_subject(config_from(given | {"new_tokens": str(tmp_path / "new.txt")}))
    n = Tokenizer.from_folder(folder).vocab_size
    assert subject.tokenizer.encode("ordito") == [n]
    assert subject.spec.vocab_size == n + 2
    subject.export(tmp_path / "run")
    model = ordito.load(tmp_path / "run", backend="torch", dtype="float32")
    with torch.no_grad():
        expected = subject.module(torch.tensor([[n, n + 1]]))[0]
    assert (torch.from_numpy(model.logits([n, n + 1])) - expected).abs().max().item() <= 1e-5


def with_an_adapter(folder, tmp_path, *saved):
    (tmp_path / "new.txt").write_text("ordito\n trama\n")
    given = {"objective": "sft", "model": str(folder), "data": ["x.jsonl"], "output": "out", "adapter": "lora"}
    subject = open_subject(config_from(given | {"new_tokens": str(tmp_path / "new.txt"), "lora": {"saved": saved}}))
    subject.export(tmp_path / "run")
    return subject


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_with_new_tokens_loads_over_its_base(folder, tmp_path, merge):
    subject, n = with_an_adapter(folder, tmp_path, "embedding", "head"), Tokenizer.from_folder(folder).vocab_size
    with torch.no_grad():
        expected = subject.module(torch.tensor([[5, n, n + 1]]))[0].numpy()
    model = ordito.load(tmp_path / "run", merge=merge, backend=None if merge else "torch", dtype="float32")
    assert model.tokenizer.encode("ordito") == [n]
    assert abs(model.logits([5, n, n + 1]) - expected).max() <= 1e-4


def test_an_adapter_without_all_rows_of_new_tokens_is_reported(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"lora\.saved=embedding,head"):
        with_an_adapter(folder, tmp_path, "embedding")
    with_an_adapter(folder, tmp_path, "embedding", "head")
    file = tmp_path / "run" / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if "lm_head" not in name}, file)
    with pytest.raises(CheckpointError, match=r"no rows of head\.weight"):
        ordito.load(tmp_path / "run")
