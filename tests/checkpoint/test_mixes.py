"""Which encoding each tensor gets in a quantization."""

from __future__ import annotations

import pytest

from ordito import catalogue
from ordito.checkpoint.mixes import MIXES, encodings, fit_rows, mix_named
from ordito.checkpoint.quants import FORMATS
from ordito.errors import OrditoError
from ordito.families import spec_from_config


def spec(name="Llama 3.1 8B"):
    return spec_from_config(catalogue.find(name).config)


@pytest.mark.parametrize("name", MIXES)
def test_every_mix_has_encodings_that_exist(name):
    found = encodings(spec(), MIXES[name])
    assert found.keys() == spec().tensors().keys()
    assert set(found.values()) <= set(FORMATS) | {"f32"}
    assert all(found[tensor] == "f32" for tensor, shape in spec().tensors().items() if len(shape) == 1)


def test_an_importance_matrix_changes_the_mix():
    down = next(name for name in spec().tensors() if name.endswith("down.weight"))
    assert encodings(spec(), MIXES["IQ4_XS"])[down] == "q5_k"
    assert encodings(spec(), MIXES["IQ4_XS"], has_imatrix=True)[down] == "iq4_xs"
    assert encodings(spec(), MIXES["Q4_0"])[down] == "q4_0"
    assert encodings(spec(), MIXES["Q4_0"], has_imatrix=True)[down] == "q4_1"


def test_rows_that_no_superblock_divides():
    assert fit_rows(576, "q4_k") == "q5_0"
    assert fit_rows(576, "iq4_xs") == "iq4_nl"
    assert fit_rows(100, "q4_k") == "f16"
    assert fit_rows(0, "q4_k") == "f32"


def test_experts_alone():
    found = encodings(spec("Mixtral 8x7B"), MIXES["MXFP4_MOE"])
    assert {encoding for name, encoding in found.items() if ".experts." in name} == {"mxfp4"}
    assert "mxfp4" not in {encoding for name, encoding in found.items() if ".experts." not in name}


def test_names():
    assert mix_named("q4_k_m") is mix_named("q4_K") is MIXES["Q4_K_M"]
    with pytest.raises(OrditoError, match="unknown quantization 'q4km'.*did you mean"):
        mix_named("q4km")
