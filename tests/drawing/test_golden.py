"""Pictures of ten models, byte for byte. After a change that is meant: `python tests/drawing/test_golden.py`, and look at them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ordito import catalogue
from ordito.drawing import draw
from ordito.families import spec_from_config

GOLDEN = Path(__file__).parent / "golden"
MODELS = {
    "gpt-2": "GPT-2 small",
    "llama-3": "Llama 3 8B",
    "gemma-3": "Gemma 3 27B",
    "mixtral": "Mixtral 8x7B v0.1",
    "deepseek-v3": "DeepSeek-V3",
    "gpt-oss": "gpt-oss-120b",
    "llama-4": "Llama 4 Maverick 17B-128E",
    "qwen3-moe": "Qwen3 30B-A3B",
    "bert": "BERT base uncased",
    "t5": "T5 small",
}


def picture(name: str) -> bytes:
    entry = catalogue.find(MODELS[name])
    return draw(spec_from_config(entry.config), titles=[entry.name]).svg().encode("utf-8")


@pytest.mark.parametrize("name", MODELS)
def test_the_picture_is_unchanged(name):
    assert picture(name) == (GOLDEN / f"{name}.svg").read_bytes(), "if this is meant: python tests/drawing/test_golden.py"


def test_every_golden_picture_is_tested():
    assert {path.stem for path in GOLDEN.iterdir()} == set(MODELS)


if __name__ == "__main__":
    for name in MODELS:
        (GOLDEN / f"{name}.svg").write_bytes(picture(name))
