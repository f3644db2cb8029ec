"""Safetensors that other libraries quantized: the tensors that make up one weight, read as that weight.

`config.json` names the library under `quantization_config`. Each library has a file here, with one function that takes the
tensors which belong together (`X.qweight`, `X.scales`, ...) and gives one tensor under the plain name, `X.weight`. All else,
such as the modules that were left as they are, passes through. Nothing is decoded before it is asked for.

Values are those of the library: computed as it computes them, then rounded to the type in which it keeps its scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ordito.checkpoint.quantized.awq import awq
from ordito.checkpoint.quantized.bitsandbytes import bitsandbytes
from ordito.checkpoint.quantized.compressed import compressed_tensors
from ordito.checkpoint.quantized.fp8 import fp8
from ordito.checkpoint.quantized.gptq import gptq
from ordito.checkpoint.quantized.mxfp4 import mxfp4
from ordito.checkpoint.quantized.parts import Parts, QuantizedTensor
from ordito.checkpoint.stored import Stored, StoredTensor, shown
from ordito.errors import CheckpointError
from ordito.families.reader import Reader

_METHODS: dict[str, Callable[[Parts, Reader], Iterator[QuantizedTensor]]] = {
    "awq": awq,
    "bitsandbytes": bitsandbytes,
    "compressed-tensors": compressed_tensors,
    "fp8": fp8,
    "gptq": gptq,
    "mxfp4": mxfp4,
}


def read_quantized(tensors: Mapping[str, StoredTensor], config: Mapping[str, Any], where: str) -> dict[str, Stored]:
    """The tensors of a model under their plain names. `config` is all of config.json, `where` its path for messages.

    Raises `CheckpointError` for a method that is not known and for tensors that do not fit together, `ConfigError` for
    settings that cannot be.
    """
    section = Reader(config, where).section("quantization_config")
    if section is None:
        return dict(tensors)
    # The first files of bitsandbytes did not name it.
    unnamed = "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & section.values.keys() else "none"
    method = section.text("quant_method", unnamed)
    if method not in _METHODS:
        raise CheckpointError(
            f"{where}: the weights are quantized with the method {shown(method)}, expected one of {', '.join(_METHODS)}; "
            "choose a file in another format"
        )
    parts = Parts(tensors, where)
    quantized: dict[str, Stored] = {tensor.name: tensor for tensor in _METHODS[method](parts, section)}
    if both := quantized.keys() & parts.left.keys():
        raise CheckpointError(f"{where}: tensor {shown(min(both))} is there both quantized and plain, expected one of them")
    return {**parts.left, **quantized}
