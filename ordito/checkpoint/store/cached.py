"""Models in the Hugging Face cache on this machine, found without the network."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ordito.checkpoint.store.home import CHUNK, sha256_of, sizes_below
from ordito.checkpoint.store.local import missing_shards
from ordito.checkpoint.store.names import LocalModel, Reference
from ordito.checkpoint.store.variants import choose, gguf_sets, has_vocabulary
from ordito.errors import DownloadError, ModelNotFoundError

COMMIT = re.compile(r"[0-9a-f]{40}")
_OPEN_LICENCES = ("apache-2.0", "mit", "bsd-", "cc-by-4.0", "cc0-1.0", "unlicense", "isc")


def cache_folder() -> Path:
    """Where huggingface_hub keeps its repositories, however the user configured it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repo_folder(repo: str) -> Path:
    """The folder of one repository in the cache."""
    return cache_folder() / ("models--" + repo.replace("/", "--"))


def commit_of(ref: Reference) -> str | None:
    """The commit of the reference's revision (a branch, tag or commit), or None if the cache does not have it."""
    assert ref.repo is not None, ref
    folder, revision = repo_folder(ref.repo), ref.revision or "main"
    try:
        return (folder / "refs" / revision).read_text("utf-8").strip()
    except (OSError, ValueError):
        pass
    if re.fullmatch(r"[0-9a-f]{7,40}", revision):
        fitting = [path.name for path in folder.glob(f"snapshots/{revision}*")]
        return fitting[0] if len(fitting) == 1 else None
    return None


def find(ref: Reference, with_tokenizer: bool = True) -> LocalModel | None:
    """The model in the cache, or None. `with_tokenizer`: safetensors count only with a tokenizer's files beside them."""
    commit = commit_of(ref)
    if commit is None or not COMMIT.fullmatch(commit):
        return None
    assert ref.repo is not None, ref
    snapshot = repo_folder(ref.repo) / "snapshots" / commit
    try:
        return _read(snapshot, ref.repo, ref.quant, with_tokenizer, ref.name)
    except ModelNotFoundError:
        return None


def _read(snapshot: Path, repo: str, quant: str | None, with_tokenizer: bool, name: str) -> LocalModel:
    files = sizes_below(snapshot)
    chosen = choose(files, repo, quant)
    # Other programs download single files. A model card shows that all were downloaded, and that there is no tokenizer.
    partial = with_tokenizer and not has_vocabulary(files) and "README.md" not in files
    if chosen.main == "." and (partial or missing_shards(snapshot, files)):
        raise ModelNotFoundError(f"{repo} is not complete in the cache")
    licence = licence_of(snapshot)
    return LocalModel(
        name=name,
        path=snapshot if chosen.main == "." else snapshot / chosen.main,
        source="hub",
        licence=licence,
        licence_notice=notice_of(licence, repo, snapshot),
        size=sum(files[file] for file in chosen.files),
    )


def licence_of(snapshot: Path) -> str | None:
    """The licence that the model card names in its front matter."""
    try:
        card = (snapshot / "README.md").read_text("utf-8", errors="replace")
    except OSError:
        return None
    front = re.match(r"---[ \t]*\n(.*?)\n---", card, re.DOTALL)
    if front is None:
        return None
    fields = dict(re.findall(r"^(license|license_name):[ \t]*[\"']?([^\s\"'#]+)", front[1], re.MULTILINE))
    named = fields.get("license_name") if fields.get("license") == "other" else None
    return named or fields.get("license")


def notice_of(licence: str | None, repo: str, snapshot: Path) -> str | None:
    """A notice about a licence that is not one of the well-known open ones, or None."""
    if licence is None or licence.casefold().startswith(_OPEN_LICENCES):
        return None
    return f"{repo} is under the licence {licence!r}, whose terms you accept by using it: see {snapshot / 'README.md'}."


def snapshots() -> Iterator[tuple[str, Path, str | None]]:
    """Every repository's snapshots: repository, folder, and a branch or tag that points to it (main first)."""
    for folder in sorted(cache_folder().glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        refs: dict[str, str] = {}
        for name in sizes_below(folder / "refs"):
            commit = (folder / "refs" / name).read_text("utf-8", errors="replace").strip()
            if name == "main" or refs.get(commit) != "main":
                refs[commit] = name
        for snapshot in sorted(folder.glob("snapshots/*")):
            if COMMIT.fullmatch(snapshot.name) and snapshot.is_dir():
                yield repo, snapshot, refs.get(snapshot.name)


def installed() -> Iterator[LocalModel]:
    """Every complete model of the cache, each under a name by which `find` finds it."""
    for repo, snapshot, ref in snapshots():
        revision = "" if ref == "main" else f"@{ref or snapshot.name[:12]}"
        sets = [one for one in gguf_sets(sizes_below(snapshot)) if one.complete]
        tags = [one.tag for one in sets]
        names = [one.tag if one.tag and tags.count(one.tag) == 1 else one.main for one in sets]
        for quant in names or [""]:
            try:
                name = f"{repo}:{quant}{revision}" if quant else repo + revision
                yield _read(snapshot, repo, quant or None, with_tokenizer=True, name=name)
            except ModelNotFoundError:
                continue


def remove(ref: Reference) -> int:
    """Delete a snapshot with huggingface_hub, or, if it holds several GGUF models, only the one named. Returns bytes freed."""
    from huggingface_hub import scan_cache_dir

    commit = commit_of(ref)
    assert commit is not None, ref
    scanned = scan_cache_dir(cache_folder())
    revisions = [one for repo in scanned.repos if repo.repo_id == ref.repo for one in repo.revisions]
    revision = next((one for one in revisions if one.commit_hash == commit), None)
    if revision is None:
        raise DownloadError(f"{ref.name} lies in a damaged part of the Hugging Face cache; delete {repo_folder(str(ref.repo))}")
    snapshot = Path(revision.snapshot_path)
    sets = gguf_sets(sizes_below(snapshot))
    if ref.quant is None or len(sets) < 2:
        strategy = scanned.delete_revisions(commit)
        strategy.execute()
        return int(strategy.expected_freed_size)
    chosen = choose(sizes_below(snapshot), str(ref.repo), ref.quant)
    doomed = {snapshot / file for file in chosen.files if file.casefold().endswith(".gguf")}
    kept = {file.blob_path for one in revisions for file in one.files if file.file_path not in doomed}
    freed = 0
    for file in revision.files:
        if file.file_path in doomed:
            file.file_path.unlink()
            if file.blob_path not in kept:
                freed += file.size_on_disk
                file.blob_path.unlink(missing_ok=True)
    return freed


def damaged(model: LocalModel) -> list[str]:
    """Messages about files whose checksum is not the one that their blob is named by: SHA-256 if large, git's if small."""
    wrong = []
    folder = model.path if model.path.is_dir() else model.path.parent
    for name in sorted(sizes_below(folder)) if model.path.is_dir() else _parts(model.path):
        path = folder / name
        expected = Path(os.readlink(path)).name if path.is_symlink() else ""
        if len(expected) == 64:
            got = sha256_of(path)
        elif COMMIT.fullmatch(expected):
            got = _git_blob(path)
        else:
            wrong.append(f"{path} has no checksum in this cache, which keeps copies instead of links")
            continue
        if got != expected:
            wrong.append(f"{path} has checksum {got}, expected {expected}")
    return wrong


def _parts(main: Path) -> tuple[str, ...]:
    sizes = {path.name: path.stat().st_size for path in main.parent.iterdir() if path.is_file()}
    return next(one.files for one in gguf_sets(sizes) if main.name in one.files)


def _git_blob(path: Path) -> str:
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
