"""The cache that llama.cpp allocates for the real models is the one that we count."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from ordito import account
from ordito.checkpoint import store
from ordito.checkpoint.checkpoint import open_checkpoint

pytest.importorskip("llama_cpp")

REPORT = re.compile(r"llama_kv_cache: size = +([\d.]+) MiB \( *(\d+) cells, +(\d+) layers")
CONTEXT = 2048


@pytest.mark.parametrize("name", ["smollm2", "gemma3-270m"])
@pytest.mark.parametrize("full", [True, False], ids=["windows whole", "windows cut"])
def test_bytes_are_those_that_llama_cpp_reports(name, full):
    path = store.locate(name).path
    code = f"import llama_cpp; llama_cpp.Llama({str(path)!r}, n_ctx={CONTEXT}, n_batch=512, verbose=True, swa_full={full})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    reported = {int(layers): (float(size) * 2**20, int(cells)) for size, cells, layers in REPORT.findall(said)}
    cache = account(open_checkpoint(path).spec).kv_cache
    assert sorted(reported) == sorted(times for _, times in cache.kinds())
    for layer, times in cache.kinds():
        size, cells = reported[times]
        assert size == 2 * layer.numbers * times * cells
        if layer.span is None or full:
            assert cells == CONTEXT
        else:  # it keeps the window and room for a batch
            assert layer.span <= cells < CONTEXT
