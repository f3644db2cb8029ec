"""The published models as rows: filters, orders, and the numbers of their configurations."""

from __future__ import annotations

import pytest

from ordito import catalogue
from ordito.accounting import account
from ordito.comparing.published import ORDERS, ordered, rows
from ordito.errors import OrditoError
from ordito.families import spec_from_config


def names(found):
    return [row.entry.name for row in found]


def test_every_entry_is_a_row():
    assert names(rows()) == [entry.name for entry in catalogue.models()]
    for row in rows():
        assert (row.shape is None) == row.entry.closed
        if row.shape:
            assert row.shape.total == row.entry.exact_parameters


def test_filters():
    assert {row.entry.family for row in rows(family="Gemma")} == {"gemma"}
    assert all(row.entry.closed for row in rows(closed=True))
    assert not any(row.entry.closed for row in rows(closed=False))
    assert all(row.entry.released >= "2025" for row in rows(since="2025"))
    assert names(rows(name="mixtral 8x7b")) == ["Mixtral 8x7B v0.1", "Mixtral 8x7B Instruct v0.1"]
    with pytest.raises(OrditoError, match="did you mean gemma"):
        rows(family="gema")


def test_orders():
    by_active = [row.shape.active for row in ordered(rows(), "active") if row.shape]
    assert by_active == sorted(by_active, reverse=True)
    assert ordered(rows(), "active")[-1].shape is None
    released = [row.entry.released for row in ordered(rows(), "released")]
    assert released == sorted(released)
    assert all(len(ordered(rows(), order)) == len(rows()) for order in ORDERS)
    with pytest.raises(OrditoError, match="did you mean active"):
        ordered(rows(), "activ")


def test_a_row():
    (row,) = rows(name="Mixtral 8x22B v0.1")
    counted = account(spec_from_config(row.entry.config))
    data = row.to_dict()
    assert (data["total"], data["active"]) == (counted.parameters.total, counted.parameters.active)
    assert data["kv_bytes_per_token"] == counted.kv_cache.bytes_per_token
    assert (data["experts"], data["attention"], data["windows"]) == ("2 of 8", "grouped-query", False)


def test_closed_models_say_what_is_public():
    for row in rows(closed=True):
        data = row.to_dict()
        assert data["total"] is None
        assert data["context"]
        assert data["modalities"]
        assert data["released"]
