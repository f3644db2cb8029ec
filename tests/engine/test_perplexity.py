"""Perplexity and divergence against the definition, on a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ordito
from ordito.engine.perplexity import perplexity
from ordito.errors import OrditoError

IDS = [(37 * i + 11) % 250 + 2 for i in range(50)]


@pytest.fixture(scope="module")
def runtime(folder):
    return ordito.load(folder).runtime


def test_perplexity_is_its_definition(runtime):
    losses = []
    for window in (IDS[:16], IDS[16:32], IDS[32:48]):
        ids = [0, *window[1:]]
        logits = runtime.logits(ids).astype(np.float64)
        for t in range(8, 15):
            losses.append(np.log(np.exp(logits[t]).sum()) - logits[t, ids[t + 1]])
    found = perplexity(runtime, IDS, context=16, start=0)
    assert found.perplexity == pytest.approx(np.exp(np.mean(losses)), rel=1e-6)
    assert (found.tokens, found.windows, found.divergence) == (21, 3, None)
    assert perplexity(runtime, IDS, context=16, windows=2).windows == 2


def test_a_model_does_not_diverge_from_itself(runtime, folder):
    found = perplexity(runtime, IDS, context=16, reference=runtime)
    assert found.divergence == found.greatest == 0
    assert found.same_best == 1
    other = perplexity(runtime, IDS, context=16, reference=ordito.load(folder, backend="torch").runtime)
    assert 0 < other.divergence < 1e-8


def test_texts_and_windows_that_do_not_fit_are_refused(runtime):
    with pytest.raises(OrditoError, match="at least the 60"):
        perplexity(runtime, IDS, context=60)
    with pytest.raises(OrditoError, match="expected 4 to 64"):
        perplexity(runtime, IDS, context=65)


def test_on_the_command_line(folder, tmp_path, capsys, monkeypatch):
    from ordito.cli import main

    (tmp_path / "text").write_text("the warp and the weft of a loom " * 9)
    command = ["ordito", "perplexity", str(folder), "-f", str(tmp_path / "text"), "-c", "16", "--reference", str(folder)]
    monkeypatch.setattr("sys.argv", [*command, "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["perplexity"] > 1
    assert found["divergence"] < 1e-8
