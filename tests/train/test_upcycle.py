"""Sparse upcycling: the weights of the mixture, impossible settings, the command."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import ordito
from ordito import families
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.convert import Weights
from ordito.errors import OrditoError
from ordito.train.upcycle import upcycle


def test_copies_are_equal_and_routers_differ_and_repeat(folder):
    checkpoint = open_checkpoint(folder)
    dense = Weights(checkpoint)
    _, weights = upcycle(checkpoint.spec, dense, 4, 2, seed=3)
    for e in range(4):
        assert np.array_equal(weights["layers.0.mlp.experts.down.weight"][e], dense["layers.0.mlp.down.weight"])
    assert not np.array_equal(weights["layers.0.mlp.router.weight"], weights["layers.1.mlp.router.weight"])
    again = upcycle(checkpoint.spec, dense, 4, 2, seed=3)[1]
    assert np.array_equal(weights["layers.1.mlp.router.weight"], again["layers.1.mlp.router.weight"])
    routers = np.concatenate([weights[f"layers.{i}.mlp.router.weight"].ravel() for i in range(2)])
    assert abs(routers.std() - 0.02) <= 0.004


def test_all_parts_of_a_copy_are_chosen_together(folder):
    checkpoint = open_checkpoint(folder)
    spec, weights = upcycle(checkpoint.spec, Weights(checkpoint), 4, 2, granularity=2)
    router = weights["layers.0.mlp.router.weight"]
    assert router.shape == (8, spec.d_model)
    assert np.array_equal(router[0::2], router[1::2])
    assert weights["layers.0.mlp.experts.up.weight"].shape == (8, 24, spec.d_model)


def test_impossible_settings_are_refused(folder):
    checkpoint = open_checkpoint(folder)
    dense = Weights(checkpoint)
    with pytest.raises(OrditoError, match="3 of 2 experts"):
        upcycle(checkpoint.spec, dense, 2, 3)
    with pytest.raises(OrditoError, match="which 5 parts do not share evenly"):
        upcycle(checkpoint.spec, dense, 4, 2, granularity=5)
    with pytest.raises(OrditoError, match="mixtral cannot express"):
        upcycle(checkpoint.spec, dense, 4, 2, every=2)
    with pytest.raises(OrditoError, match="a bert model cannot be upcycled"):
        upcycle(families.spec_from_config({"model_type": "bert"}), {}, 4, 2)


def test_the_command(folder, tmp_path, capsys, monkeypatch):
    from ordito.cli import main

    def cli(*arguments):
        monkeypatch.setattr(sys, "argv", ["ordito", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, capsys.readouterr().err

    dense = ordito.load(folder)
    ids = dense.tokenizer.encode("the warp and the weft")
    for out in ("moe", "moe.gguf"):
        code, said = cli("upcycle", folder, tmp_path / out, "--experts", 4, "--dtype", "f32")
        assert code == 0, said
        assert "with 4 experts, 2 for a token" in said
        moe = ordito.load(tmp_path / out)
        assert moe.spec.architecture == "mixtral"
        assert np.abs(moe.logits(ids) - dense.logits(ids)).max() <= 1e-4
        assert moe.tokenizer.chat_template == dense.tokenizer.chat_template
    code, said = cli("upcycle", folder, tmp_path / "moe")
    assert code == 1
    assert "exists already" in said
