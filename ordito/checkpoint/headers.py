"""The headers of a model on the hub, without its weights: sparse files of the right size, with holes instead of weights.

They are opened and checked like a complete model. The weights read as zeros and take no space on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ordito.checkpoint.gguf import read_one
from ordito.checkpoint.safetensors import MAX_HEADER
from ordito.checkpoint.store.hub import explained
from ordito.checkpoint.store.names import Reference
from ordito.checkpoint.store.variants import choose, configured
from ordito.errors import CheckpointError, DownloadError, ModelNotFoundError, OrditoError

_SMALL = ("config.json", "params.json", "model.safetensors.index.json", "modules.json", "sentence_bert_config.json")
_MAX_SMALL = 64 << 20  # bytes of a configuration or an index; DeepSeek-V3's index has 9 MB
_FIRST = 1 << 18  # bytes of the first request, enough for most headers of safetensors
_FIRST_GGUF = 4 << 20  # the same for GGUF, enough for most vocabularies
_MAX_GGUF = 256 << 20
_CHUNK = 1 << 16
_AT_ONCE = 8  # connections: DeepSeek-V3 comes in 163 files


def headers(ref: Reference, folder: Path) -> Path:
    """Write the headers of the model into `folder`, and return the path to open there.

    For a repository without weights only the configuration is fetched. Raises `ModelNotFoundError` or `DownloadError`.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(str(ref.repo), revision=ref.revision, files_metadata=True)
        sizes = {one.rfilename: one.size or 0 for one in info.siblings or []}
        repository = _Repository(ref, str(info.sha), sizes, folder)
        return repository.fetch()
    except OrditoError:
        raise
    except Exception as error:  # of several HTTP libraries, by version: none may reach the user as a traceback
        raise explained(error, ref) from error


class _Repository:
    """One commit of a repository, and the folder that mirrors its headers."""

    def __init__(self, ref: Reference, commit: str, sizes: dict[str, int], folder: Path) -> None:
        self.ref, self.commit, self.sizes, self.folder = ref, commit, sizes, folder

    def fetch(self) -> Path:
        try:
            chosen = choose(self.sizes, str(self.ref.repo), self.ref.quant)
        except ModelNotFoundError:
            if not configured(self.sizes):
                raise
            files, main = [name for name in _SMALL if name in self.sizes], "."
        else:
            files, main = list(chosen.files), chosen.main
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._file, files))
        return self.folder / main

    def _file(self, name: str) -> None:
        if name.endswith(".safetensors"):
            self._safetensors(name)
        elif name.endswith(".gguf"):
            self._gguf(name)
        elif name.rpartition("/")[2] in _SMALL:
            if self.sizes[name] > _MAX_SMALL:
                raise DownloadError(f"{self.ref.repo}: {name} has {self.sizes[name]} bytes, expected at most {_MAX_SMALL}")
            self._write(name, 0, self._read(name, 0, self.sizes[name]))

    def _safetensors(self, name: str) -> None:
        """Fetch the header of a safetensors file, whose length its first 8 bytes give."""
        first = self._read(name, 0, min(_FIRST, self.sizes[name]))
        known = min(8 + int.from_bytes(first[:8], "little"), 8 + MAX_HEADER, self.sizes[name])
        rest = self._read(name, len(first), known) if known > len(first) else b""
        self._write(name, 0, first + rest)

    def _gguf(self, name: str) -> None:
        """Fetch the header of a GGUF file. Its length is not given, so more is fetched until it can be read completely."""
        size, known = self.sizes[name], 0
        while True:
            more = min(max(_FIRST_GGUF, 4 * known), _MAX_GGUF, size)
            path = self._write(name, known, self._read(name, known, more))
            known = more
            try:
                file = read_one(path)
                if file.header_bytes <= known:
                    break
            except CheckpointError:
                if known == min(_MAX_GGUF, size):
                    raise
        # Rope scalings (`rope_freqs`, `rope_factors_*`) are tensors, but small, and part of the spec.
        for tensor in file.tensors.values():
            if tensor.name.startswith("rope_") and tensor.nbytes <= _FIRST:
                begin = file.begins[tensor.name]
                self._write(name, begin, self._read(name, begin, begin + tensor.nbytes))

    def _write(self, name: str, begin: int, data: bytes) -> Path:
        """Write data into the sparse file at offset `begin`."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(begin)
            file.write(data)
            file.truncate(self.sizes[name])
        return path

    def _read(self, name: str, begin: int, end: int) -> bytes:
        """The bytes of a file on the hub from `begin` up to `end`, and no more, whatever the server sends."""
        from huggingface_hub import hf_hub_url

        data = bytearray()
        with _answer(hf_hub_url(str(self.ref.repo), name, revision=self.commit), begin, end) as (status, chunks):
            if status != 206 and not (status == 200 and begin == 0):
                raise DownloadError(
                    f"the hub answered {self.ref.repo} with status {status} for a part of {name}; try again later"
                )
            while len(data) < end - begin and (chunk := next(chunks, b"")):
                data += chunk
        if len(data) < end - begin:
            raise DownloadError(f"{self.ref.repo}: the hub sent {len(data)} bytes of {name}, expected {end - begin}; try again")
        return bytes(data[: end - begin])


@contextmanager
def _answer(url: str, begin: int, end: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The status and the chunks of the hub's response, streamed. A redirect to another host does not get the user's token."""
    from huggingface_hub import utils

    tools: Any = utils  # its exports are not declared for type checkers
    headers = tools.build_hf_headers() | {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    session = tools.get_session()
    if hasattr(session, "stream"):  # httpx, since huggingface_hub 1
        with session.stream("GET", url, headers=headers, follow_redirects=True) as response:
            yield response.status_code, response.iter_bytes(_CHUNK)
    else:  # requests
        with session.get(url, headers=headers, stream=True) as response:
            yield response.status_code, response.iter_content(_CHUNK)
