"""Encoders as they were published: files that hold more than the class which `architectures` names."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import ordito
from ordito.errors import ConfigError

SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IDS = [5, 9, 33, 7, 12]


def written(folder, peer, classes, spelled=lambda name: name, **more):
    """The folder of `peer` with other `architectures`, with names as `spelled` gives them and `more` tensors."""
    peer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": [classes]}))
    tensors = {spelled(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors | {name.replace("__", "."): tensor for name, tensor in more.items()}, folder / "model.safetensors")
    return ordito.load(folder)


def old(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(3)
    peer = transformers.BertForPreTraining(transformers.BertConfig(**SIZES)).eval()
    for parameter in peer.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    with torch.no_grad():
        return peer, peer(torch.tensor([IDS])).prediction_logits[0], peer.bert(torch.tensor([IDS])).last_hidden_state[0]


@pytest.mark.parametrize("spelled", [str, old])
@pytest.mark.parametrize("classes", ["BertForMaskedLM", "BertForPreTraining", "BertModel"])
def test_bert(classes, spelled, bert, tmp_path):
    peer, logits, hidden = bert
    model = written(tmp_path, peer, classes, spelled, bert__embeddings__position_ids=torch.arange(512)[None])
    assert abs(model.hidden(IDS) - hidden.numpy()).max() <= 1e-5 * hidden.abs().max()
    assert any(name.startswith("cls.seq_relationship") for name in model.checkpoint.ignored)
    assert (model.spec.head is None) == (classes == "BertModel") == (model.spec.pooler is not None)
    if model.spec.head is not None:
        assert abs(model.logits(IDS) - logits.numpy()).max() <= 1e-5 * logits.abs().max()
        assert "pooler.dense.weight" in model.checkpoint.ignored


@pytest.mark.parametrize("kind", ["Roberta", "XLMRoberta"])
def test_roberta(kind, tmp_path):
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**SIZES, max_position_embeddings=40)
    peer = getattr(transformers, f"{kind}ForMaskedLM")(config).eval()
    pooler = {"roberta__pooler__dense__weight": torch.ones(32, 32), "roberta__pooler__dense__bias": torch.ones(32)}
    model = written(tmp_path / "masked", peer, f"{kind}ForMaskedLM", **pooler)
    with torch.no_grad():
        expected = peer(torch.tensor([IDS])).logits[0].numpy()
    assert abs(model.logits(IDS) - expected).max() <= 1e-5 * abs(expected).max()
    bare = written(tmp_path / "bare", peer, f"{kind}Model", **pooler)
    assert (abs(bare.hidden(IDS) - model.hidden(IDS)) <= 1e-5).all()


@pytest.mark.filterwarnings("ignore:only the weights are written")
@pytest.mark.parametrize("kind", ["Bert", "XLMRoberta"])
def test_an_encoder_without_a_pooler(kind, tmp_path):
    """Embedders are published so, and GGUF files hold no pooler."""
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**SIZES, max_position_embeddings=40)
    peer = getattr(transformers, f"{kind}Model")(config, add_pooling_layer=False).eval()
    peer.save_pretrained(tmp_path / "theirs")
    model = ordito.load(tmp_path / "theirs")
    with torch.no_grad():
        expected = peer(torch.tensor([IDS])).last_hidden_state[0].numpy()
    assert model.spec.pooler is None
    assert abs(model.hidden(IDS) - expected).max() <= 1e-5 * abs(expected).max()
    if kind == "Bert":
        ordito.save(model, tmp_path / "model.gguf", dtype="f32")
        model = ordito.load(tmp_path / "model.gguf")
    ordito.save(model, tmp_path / "ours")
    again = type(peer).from_pretrained(tmp_path / "ours", add_pooling_layer=False).eval()
    with torch.no_grad():
        assert abs(again(torch.tensor([IDS])).last_hidden_state[0].numpy() - expected).max() <= 1e-5


def test_heads_of_other_tasks_are_refused(tmp_path):
    peer = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES))
    with pytest.raises(ConfigError, match="'BertForSequenceClassification', expected BertModel, BertForMaskedLM"):
        written(tmp_path, peer, "BertForSequenceClassification")
