"""The differences between the weights of two checkpoints of the same architecture."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from test_checkpoint import CONFIG, SPEC, weights

from ordito.checkpoint.changes import by_layer, changes, comparable, to_dict
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.export import write_folder
from ordito.errors import CheckpointError
from ordito.families import spec_from_config


def written(folder, tensors, spec=SPEC):
    folder.mkdir()
    write_folder(folder, spec, tensors)
    return open_checkpoint(folder)


def test_only_what_changed(tmp_path):
    before, after = weights(), weights()
    after["layers.1.mlp.up.weight"] = after["layers.1.mlp.up.weight"] * np.float32(1.5)
    before["norm.weight"] = np.zeros_like(before["norm.weight"])
    found = {c.name: c for c in changes(written(tmp_path / "a", before), written(tmp_path / "b", after))}
    assert found.keys() == SPEC.tensors().keys()
    assert found["layers.1.mlp.up.weight"].relative == pytest.approx(0.5, rel=1e-6)
    assert math.isinf(found["norm.weight"].relative)
    assert to_dict(found.values())["norm.weight"] is None
    assert sum(c.relative for name, c in found.items() if name not in ("layers.1.mlp.up.weight", "norm.weight")) == 0.0


def test_the_table_has_a_row_for_each_layer(tmp_path):
    before, after = weights(), weights()
    for name in ("gate", "up", "down"):
        after[f"layers.0.mlp.{name}.weight"] = before[f"layers.0.mlp.{name}.weight"] * np.float32(1.25)
    table = by_layer(changes(written(tmp_path / "a", before), written(tmp_path / "b", after)))
    rows = {row[0]: dict(zip(table.names, row, strict=True)) for row in table.rows}
    assert rows.keys() == {"outside of layers", "layer 0", "layer 1"}
    assert rows["layer 0"]["mlp"] == "25 %"
    assert rows["layer 1"]["mlp"] == rows["layer 0"]["attention"] == rows["outside of layers"]["embedding"] == "="


def test_weights_that_are_not_finite_are_reported(tmp_path):
    before, after = weights(), weights()
    after["layers.0.mlp.up.weight"][0] = math.nan
    after["layers.0.attention.q.weight"][0] = math.inf
    for each in (before, after):
        each["layers.1.mlp.up.weight"][0] = math.nan
    found = list(changes(written(tmp_path / "a", before), written(tmp_path / "b", after)))
    table = by_layer(found)
    rows = {row[0]: dict(zip(table.names, row, strict=True)) for row in table.rows}
    assert rows["layer 0"]["mlp"] == rows["layer 0"]["attention"] == "not finite"
    assert rows["layer 1"]["mlp"] == "="
    assert to_dict(found)["layers.0.mlp.up.weight"] is None
    json.dumps(to_dict(found), allow_nan=False)


def test_shapes_must_agree(tmp_path):
    other = spec_from_config(CONFIG | {"intermediate_size": 13})
    one, two = written(tmp_path / "a", weights()), written(tmp_path / "b", weights(other), other)
    assert not comparable(one, two)
    with pytest.raises(CheckpointError, match="the shapes differ"):
        list(changes(one, two))
