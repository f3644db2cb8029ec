"""Exports of runs are loaded by transformers, PEFT and llama.cpp's format."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import training_runs as runs
import transformers

import ordito
from ordito.errors import ConfigError, OrditoWarning
from ordito.train import fit

IDS = [5, 17, 40, 8, 99, 23]


def run(folder, tmp_path, **settings):
    output = tmp_path / "out"
    fit(runs.configured(folder, runs.chats(tmp_path / "chats.jsonl"), output, steps=2, **settings))
    return output


def test_a_model_is_the_same_in_transformers(folder, tmp_path):
    output = run(folder, tmp_path)
    ours = ordito.load(output, backend="torch").logits(IDS)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(output)(torch.tensor([IDS])).logits[0].detach().numpy()
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert np.abs(ours - ordito.load(folder, backend="torch").logits(IDS)).max() > 1e-3  # something was learned


def test_attached_merged_and_exported_adapters_agree(folder, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    more = {"adapter": "lora", "lr": 1e-2}
    beside = run(folder, tmp_path / "a", **more, lora={"rank": 4})
    whole = run(folder, tmp_path / "b", **more, lora={"rank": 4, "merge": True})
    assert (beside / "adapter_model.safetensors").is_file()
    assert not (whole / "adapter_config.json").exists()
    found = [
        ordito.load(folder, adapter=beside, merge=False, backend="torch").logits(IDS),
        ordito.load(folder, adapter=beside, backend="torch").logits(IDS),
        ordito.load(beside, backend="torch").logits(IDS),
        ordito.load(whole, backend="torch").logits(IDS),
    ]
    for other in found[1:]:
        assert np.abs(found[0] - other).max() <= 1e-5 * np.abs(other).max()
    assert np.abs(found[0] - ordito.load(folder, backend="torch").logits(IDS)).max() > 1e-3


def test_rows_of_new_tokens_are_not_lost_beside_an_adapter(folder, tmp_path):
    (tmp_path / "new.txt").write_text("shuttle\n")
    values = {"adapter": "lora", "new_tokens": str(tmp_path / "new.txt")}
    data = runs.chats(tmp_path / "chats.jsonl")
    with pytest.raises(ConfigError, match=r"would not hold the rows.*lora\.saved=embedding,head"):
        fit(runs.configured(folder, data, tmp_path / "lost", **values, lora={"saved": ["embedding"]}))
    fit(runs.configured(folder, data, tmp_path / "beside", **values, lora={"saved": ["embedding", "head"]}, steps=1))
    assert (tmp_path / "beside" / "adapter_model.safetensors").is_file()
    fit(runs.configured(folder, data, tmp_path / "whole", **values, lora={"merge": True}, steps=2))
    model = ordito.load(tmp_path / "whole", backend="torch")
    (new,) = model.tokenizer.encode("shuttle", add_special_tokens=False)
    assert model.logits([new]).shape == (1, new + 1)


def test_a_chat_template_learned_by_a_base_model_is_exported(folder, tmp_path):
    base = tmp_path / "base"
    ordito.save(ordito.load(folder, backend="torch"), base)
    config = json.loads((base / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    (base / "chat_template.jinja").unlink(missing_ok=True)
    assert not ordito.load(base, backend="torch").talks
    output = tmp_path / "out"
    fit(runs.configured(base, runs.chats(tmp_path / "chats.jsonl"), output, steps=1, prompt_format="chatml"))
    assert ordito.load(output, backend="torch").talks
    messages = [{"role": "user", "content": "warp"}]
    assert "<|im_start|>user\nwarp" in transformers.AutoTokenizer.from_pretrained(output).apply_chat_template(
        messages, tokenize=False
    )


def test_an_export_converts_to_gguf(folder, tmp_path):
    output = run(folder, tmp_path)
    ordito.save(ordito.load(output, backend="torch"), tmp_path / "model.gguf", dtype="f16")
    found = ordito.load(tmp_path / "model.gguf", backend="torch").logits(IDS)
    assert np.abs(found - ordito.load(output, backend="torch").logits(IDS)).max() <= 0.02 * np.abs(found).max()


def test_early_stopping_exports_the_best_weights(folder, tmp_path):
    data, held = runs.chats(tmp_path / "chats.jsonl"), runs.chats(tmp_path / "held.jsonl", 7)
    output = tmp_path / "out"
    config = runs.configured(
        folder, data, output, steps=60, lr=0.3, eval_data=[str(held)], eval_every=1, patience=3, save_every=100
    )
    result = fit(config)
    losses = [record["eval_loss"] for record in runs.metrics(output)]
    assert result.stopped is not None
    assert len(losses) < 60
    best = int(np.argmin(losses)) + 1
    assert len(losses) == best + 3
    saved = runs.configured(output, held, tmp_path / "again", steps=1, lr=0.0, eval_data=[str(held)])
    fit(saved)
    assert runs.metrics(tmp_path / "again")[-1]["eval_loss"] == pytest.approx(min(losses), rel=1e-5)


def test_prompts_are_written_for_sentence_transformers(folder, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    data, output = tmp_path / "pairs.jsonl", tmp_path / "out"
    data.write_text('{"query": "warp", "positive": "weft"}\n' * 8)
    prompts = {"query_prompt": "query: ", "passage_prompt": "passage: "}
    fit(runs.configured(folder, data, output, "contrastive", steps=1, contrastive=prompts))
    model = ordito.load(output, dtype="float32")
    assert model.prompts == {"query": "query: ", "document": "passage: "}
    theirs = sentence_transformers.SentenceTransformer(str(output), device="cpu")
    theirs.tokenizer.pad_token = theirs.tokenizer.convert_ids_to_tokens(0)
    assert np.abs(theirs.encode_query("warp") - model.embed("warp", prompt="query")).max() <= 1e-5
    assert np.abs(theirs.encode_document("warp") - model.embed("warp", prompt="document")).max() <= 1e-5
    assert ordito.load(ordito.save(model, tmp_path / "saved")).prompts == model.prompts


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"patience": 2}, "patience does nothing without eval_data"),
        ({"samples": ["warp"]}, "samples does nothing without sample"),
        ({"optimizer": "muon", "adapter": "lora"}, "AdamW trains the adapter"),
    ],
)
def test_settings_that_do_nothing_alone_are_told(folder, tmp_path, settings, told):
    with pytest.warns(OrditoWarning, match=told):
        run(folder, tmp_path, **settings)
