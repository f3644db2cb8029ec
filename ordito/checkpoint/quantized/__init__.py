"""Safetensors that other libraries quantized: the several tensors of a quantized weight are read as one weight.

`config.json` names the method under `quantization_config`. Each method has a file here, with one function that combines the
tensors of a weight (`X.qweight`, `X.scales`, ...) to one tensor under the plain name, `X.weight`. All others, of modules that
are not quantized, are passed through. Weights are decoded only when they are read.

Decoded values are the library's: computed with the same formula, then rounded to the data type of its scales.
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

    Raises `CheckpointError` for an unknown method and for tensors that do not fit together, `ConfigError` for impossible
    settings.
    """
    section = Reader(config, where).section("quantization_config")
    if section is None:
        return dict(tensors)
    # The first files of bitsandbytes did not name the method.
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
