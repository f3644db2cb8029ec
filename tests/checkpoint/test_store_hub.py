"""Downloads from a fake hub, and the models in the user's Hugging Face cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest

from ordito.checkpoint import store
from ordito.errors import DownloadError, ModelNotFoundError

OLD, NEW = "1" * 40, "abcdef0123" * 4
CARD = b"---\nlanguage: it\nlicense: apache-2.0\n---\n# A model\n"
WEIGHTS = {
    "config.json": b"{}",
    "model.safetensors": b"\x02\0\0\0\0\0\0\0{}" * 5000,
    "tokenizer.json": b'{"model": 1}',
    "1_Pooling/config.json": b'{"p": 1}',
    "pytorch_model.bin": b"pickle",
    "README.md": CARD,
}
GGUF = {
    "m-Q4_K_M.gguf": b"GGUF4" * 2000,
    "m-Q8_0.gguf": b"GGUF8" * 3000,
    "m-F16-00001-of-00002.gguf": b"a" * 100,
    "m-F16-00002-of-00002.gguf": b"b" * 200,
    "mmproj-m-F16.gguf": b"c",
    "README.md": CARD.replace(b"apache-2.0", b"other\nlicense_name: house-rules"),
}


def etag(name: str, data: bytes) -> str:
    """As the hub does it: sha256 for large files, git's own checksum for the small ones."""
    if name.endswith((".gguf", ".safetensors")):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """Repositories, their branches, and every request that came."""

    def __init__(self) -> None:
        self.commits = {OLD: {"m-Q8_0.gguf": b"GGUF0"}, NEW: dict(GGUF)}
        self.repos: dict[str, dict[str, str]] = {"org/gguf": {"main": NEW, "v1": OLD}}
        self.requests: list[str] = []
        self.errors: dict[str, tuple[int, str]] = {}
        self.cut: set[str] = set()
        self.sent = 0
        self.address = ""

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(repo.encode()).hexdigest()
        self.commits[commit] = files
        self.repos[repo] = {"main": commit}
        return commit

    def fetched(self) -> list[str]:
        return [line.rpartition("/")[2] for line in self.requests if line.startswith("GET") and "/resolve/" in line]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.hub.sent += len(body)
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        api = path.startswith("/api/models/")
        words = path.removeprefix("/api/models").strip("/").split("/")
        repo, revision = "/".join(words[:2]), "/".join(words[3:4]) or "main"
        if repo in self.hub.errors:
            status, code = self.hub.errors[repo]
            return self.answer(status, X_Error_Code=code, X_Error_Message="no")
        if repo not in self.hub.repos:
            return self.answer(404, X_Error_Code="RepoNotFound")
        commit = self.hub.repos[repo].get(revision, revision)
        if commit not in self.hub.commits:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        files = self.hub.commits[commit]
        if api:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
            info = {"id": repo, "sha": commit, "siblings": siblings, "tags": [], "downloads": 0, "private": False}
            return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
        name = "/".join(words[4:])
        data, tag = files[name], etag(name, files[name])
        asked = self.headers.get("Range")
        first, last = (asked or "bytes=0-").removeprefix("bytes=").split("-")
        start, end = int(first), min(int(last) + 1 if last else len(data), len(data))
        if self.command == "GET" and name in self.hub.cut:
            self.hub.cut.remove(name)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return None
        part = asked is not None and (start, end) != (0, len(data))
        extra = {"Content_Range": f"bytes {start}-{end - 1}/{len(data)}"} if part else {}
        return self.answer(
            206 if part else 200, data[start:end], ETag=f'"{tag}"', X_Repo_Commit=commit, Accept_Ranges="bytes", **extra
        )


def use(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """What HF_ENDPOINT does, which is read when huggingface_hub is imported."""
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    for module in (huggingface_hub.constants, huggingface_hub.file_download):  # older versions keep it in both
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OurHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    use(monkeypatch, hub.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("ORDITO_HOME", str(tmp_path / "home"))
    yield hub
    server.shutdown()
    server.server_close()
    serving.join()


class Recorder(store.RichProgress):
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def start(self, label: str, total: int | None) -> None:
        self.events.append((label, total))

    def advance(self, done_bytes: int) -> None:
        self.events.append(done_bytes)

    def finish(self) -> None:
        self.events.append("finish")

    def note(self, message: str) -> None:
        self.events.append(message)


def test_gguf_the_preferred_quantization(hub: Hub, tmp_path: Path) -> None:
    progress = Recorder()
    model = store.locate("org/gguf", progress=progress)
    assert model.path == tmp_path / "hub" / "models--org--gguf" / "snapshots" / NEW / "m-Q4_K_M.gguf"
    assert model.path.read_bytes() == GGUF["m-Q4_K_M.gguf"]
    size = len(GGUF["m-Q4_K_M.gguf"]) + len(GGUF["README.md"])
    assert (model.name, model.source, model.size, model.fetched) == ("org/gguf", "hub", size, True)
    assert model.licence == "house-rules"
    assert "house-rules" in str(model.licence_notice)
    assert sorted(set(hub.fetched())) == ["README.md", "m-Q4_K_M.gguf"]
    assert progress.events[:2] == [
        "org/gguf: chose Q4_K_M (10.1 kB); there are also F16, Q8_0",
        ("org/gguf", size),
    ]
    assert progress.events[-2:] == [size, "finish"]


def test_what_is_there_is_found_without_the_network(hub: Hub) -> None:
    first = store.pull("org/gguf")
    hub.requests.clear()
    again = replace(first, fetched=False)
    assert store.locate("org/gguf") == store.pull("org/gguf") == store.locate("org/gguf", offline=True) == again
    assert store.locate(f"org/gguf@{NEW}").path == first.path
    assert store.locate("org/gguf:q4_k_m").path == first.path
    assert hub.requests == []
    store.pull("org/gguf:Q8_0")
    assert hub.fetched() == ["m-Q8_0.gguf"]
    assert store.locate("org/gguf", offline=True).path == first.path


def test_split_files_and_revisions(hub: Hub) -> None:
    split = store.pull("org/gguf:f16")
    assert split.path.name == "m-F16-00001-of-00002.gguf"
    assert (split.path.parent / "m-F16-00002-of-00002.gguf").read_bytes() == b"b" * 200
    assert not (split.path.parent / "mmproj-m-F16.gguf").exists()
    tagged = store.pull("org/gguf@v1")
    assert tagged.path.parent.name == OLD
    assert store.locate(f"org/gguf@{OLD}", offline=True).path == tagged.path
    assert store.locate(f"org/gguf@{OLD[:8]}", offline=True).path == tagged.path


def test_safetensors_with_what_belongs_to_them(hub: Hub) -> None:
    hub.add("org/st", WEIGHTS)
    model = store.pull("org/st")
    there = {path.relative_to(model.path).as_posix() for path in model.path.rglob("*") if path.is_file()}
    assert there == set(WEIGHTS) - {"pytorch_model.bin"}
    assert (model.licence, model.licence_notice) == ("apache-2.0", None)
    hub.requests.clear()
    assert store.locate("org/st").path == model.path
    assert hub.requests == []


def test_adapters_with_what_belongs_to_them(hub: Hub) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w" * 50, "tokenizer.json": b"{}", "README.md": CARD}
    hub.add("org/adapter", files | {"optimizer.pt": b"x", "checkpoint-9/adapter_model.safetensors": b"y"})
    model = store.locate("org/adapter")
    assert sorted(path.name for path in model.path.iterdir()) == sorted(files)
    hub.requests.clear()
    assert store.locate("org/adapter") == replace(model, fetched=False)
    assert not hub.requests
    hub.add("org/pickled", {"adapter_config.json": b"{}", "adapter_model.bin": b"pickle"})
    with pytest.raises(ModelNotFoundError, match="only as pickles"):
        store.locate("org/pickled")


def test_a_snapshot_without_vocabulary_is_completed_or_used_as_it_is(hub: Hub) -> None:
    commit = hub.add("org/st", WEIGHTS)
    snapshot = cached("org/st", {"config.json": b"{}", "model.safetensors": WEIGHTS["model.safetensors"]}, commit)
    assert store.locate("org/st", offline=True).path == snapshot
    hub.errors["org/st"] = (500, "")
    progress = Recorder()
    assert store.locate("org/st", progress=progress).path == snapshot
    assert "org/st has no tokenizer on this machine, and it could not be downloaded" in progress.events
    hub.errors.clear()
    assert store.locate("org/st").fetched
    assert (snapshot / "tokenizer.json").exists()
    assert "model.safetensors" not in hub.fetched()


def test_a_connection_that_breaks_is_taken_up_again(hub: Hub) -> None:
    hub.cut.add("m-Q4_K_M.gguf")
    with contextlib.suppress(DownloadError):  # old versions of huggingface_hub give up and resume in the next pull
        store.pull("org/gguf")
    assert store.pull("org/gguf").path.read_bytes() == GGUF["m-Q4_K_M.gguf"]
    assert hub.fetched().count("m-Q4_K_M.gguf") == 2


def test_force_fetches_the_newest_and_mends(hub: Hub) -> None:
    first = store.pull("org/gguf:Q8_0")
    first.path.resolve().write_bytes(b"damaged")
    with pytest.raises(DownloadError, match=r"org/gguf:Q8_0 is damaged: .*m-Q8_0.gguf has checksum .*--force org/gguf:Q8_0"):
        store.verify("org/gguf:Q8_0")
    assert store.pull("org/gguf:Q8_0", force=True).path.read_bytes() == GGUF["m-Q8_0.gguf"]
    assert store.verify("org/gguf:Q8_0").path == first.path
    hub.commits["2" * 40] = {"m-Q8_0.gguf": b"newer"}
    hub.repos["org/gguf"]["main"] = "2" * 40
    assert store.pull("org/gguf:Q8_0").path == first.path
    assert store.pull("org/gguf:Q8_0", force=True).path.read_bytes() == b"newer"
    assert store.locate("org/gguf:Q8_0", offline=True).path.read_bytes() == b"newer"
    assert {model.name for model in store.installed()} == {"org/gguf:Q8_0", f"org/gguf:Q8_0@{NEW[:12]}"}


def test_small_files_are_verified_by_gits_checksum(hub: Hub) -> None:
    hub.add("org/st", WEIGHTS)
    model = store.pull("org/st")
    assert store.verify("org/st") == replace(model, fetched=False)
    (model.path / "tokenizer.json").resolve().write_bytes(b'{"model": 2}')
    with pytest.raises(DownloadError, match=r"tokenizer\.json has checksum"):
        store.verify("org/st")


def test_listing_gives_names_that_find_the_same(hub: Hub) -> None:
    hub.add("org/st", WEIGHTS)
    for name in ("org/gguf:Q8_0", "org/gguf:F16", "org/gguf@v1", "org/st"):
        store.pull(name)
    listed = store.installed()
    assert [model.name for model in listed] == ["org/gguf:Q8_0@v1", "org/gguf:F16", "org/gguf:Q8_0", "org/st"]
    assert all(store.locate(model.name, offline=True) == model for model in listed)


def test_remove_one_quantization_then_the_snapshot(hub: Hub, tmp_path: Path) -> None:
    for name in ("org/gguf:Q8_0", "org/gguf:F16", "org/gguf@v1"):
        store.pull(name)
    assert store.remove("org/gguf:Q8_0") == len(GGUF["m-Q8_0.gguf"])
    assert [model.name for model in store.installed()] == ["org/gguf:Q8_0@v1", "org/gguf:F16"]
    assert store.remove("org/gguf:F16") == 300 + len(GGUF["README.md"])
    assert [model.name for model in store.installed()] == ["org/gguf:Q8_0@v1"]
    assert store.remove("org/gguf@v1") == 5
    assert store.installed() == []
    assert not (tmp_path / "hub" / "models--org--gguf").exists()
    with pytest.raises(ModelNotFoundError, match="not on this machine"):
        store.remove("org/gguf")


@pytest.mark.parametrize(
    ("name", "error", "kind", "told"),
    [
        ("org/gone", None, ModelNotFoundError, "the hub has no model 'org/gone', or it is private"),
        ("org/gguf@nope", None, ModelNotFoundError, "no revision 'nope'; give a branch"),
        ("org/gguf:Q5_K", None, ModelNotFoundError, "no GGUF file of quantization 'Q5_K'; it has F16, Q4_K_M, Q8_0"),
        ("org/gguf", (403, "GatedRepo"), DownloadError, "is gated: accept its terms .*hf auth login"),
        ("org/gguf", (401, "GatedRepo"), DownloadError, "is gated"),
        ("org/gguf", (401, "RepoNotFound"), ModelNotFoundError, "private"),
        ("org/gguf", (403, ""), DownloadError, r"refused org/gguf \(status 403\)"),
        ("org/gguf", (500, ""), DownloadError, "status 500: wait a little"),
    ],
)
def test_what_the_hub_refuses_becomes_one_sentence(
    hub: Hub, name: str, error: tuple[int, str] | None, kind: type[Exception], told: str
) -> None:
    if error:
        hub.errors["org/gguf"] = error
    for verb in (store.pull, store.locate):
        with pytest.raises(kind, match=told) as caught:
            verb(name)
        assert "\n" not in str(caught.value)


def test_repositories_of_pickles_are_refused_before_anything_is_fetched(hub: Hub) -> None:
    hub.add("org/old", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(ModelNotFoundError, match=r"org/old holds its weights only as pickles .*convert them"):
        store.pull("org/old")
    assert hub.fetched() == []


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(
        DownloadError, match=r"org/gguf could not be downloaded from the hub \(.*check the network, then try again$"
    ) as caught:
        store.pull("org/gguf")
    assert "\n" not in str(caught.value)


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFoundError, match="org/gguf is not on this machine; download it with `ordito pull"):
        store.locate("org/gguf", offline=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE is set"):
        store.locate("org/gguf")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        store.pull("org/gguf")
    assert hub.requests == []
    cached("org/gguf", {"m-Q8_0.gguf": b"GGUF"}, NEW)
    assert store.locate("org/gguf").path.name == "m-Q8_0.gguf"
    assert store.pull("org/gguf").path.name == "m-Q8_0.gguf"
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        store.pull("org/gguf", force=True)


def test_a_full_disk(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DownloadError, match=r"not enough disk space for org/gguf: 67.1 MB needed .*1.0 kB free"):
        store.pull("org/gguf")
    assert hub.fetched() == []


def test_two_pulls_at_once(hub: Hub) -> None:
    models: list[store.LocalModel] = []
    threads = [threading.Thread(target=lambda: models.append(store.pull("org/gguf"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(model.fetched for model in models) == [False, True]
    assert hub.fetched().count("m-Q4_K_M.gguf") == 1


def cached(repo: str, files: dict[str, bytes], commit: str, ref: str | None = "main") -> Path:
    """A repository as huggingface_hub lays it out, made by hand."""
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE) / ("models--" + repo.replace("/", "--"))
    snapshot = folder / "snapshots" / commit
    for name, data in files.items():
        blob = folder / "blobs" / etag(name, data)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(Path(*[".."] * (2 + len(Path(name).parts) - 1), "blobs", blob.name))
    if ref:
        (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return snapshot


def test_what_other_programs_cached_is_listed_when_it_can_be_read(hub: Hub) -> None:
    cached("a/weights", {name: WEIGHTS[name] for name in ("config.json", "model.safetensors", "tokenizer.json")}, OLD)
    cached("b/tokenizer-only", {"tokenizer.json": b"{}", "config.json": b"{}"}, OLD)
    cached("c/pickles", {"config.json": b"{}", "pytorch_model.bin": b"p", "tokenizer.json": b"{}"}, OLD)
    cached("d/half", {"m-Q8_0-00001-of-00002.gguf": b"x"}, OLD)
    cached("e/f", {"x.gguf": b"1", "y.gguf": b"22"}, OLD, ref=None)
    cached("f/other-ref", {"m-Q8_0.gguf": b"x"}, NEW, ref="refs/pr/3")
    broken = cached("g/broken", {"m-Q8_0.gguf": b"x"}, OLD)
    (broken / "m-Q8_0.gguf").resolve().unlink()
    index = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
    shard = {"config.json": b"{}", "tokenizer.json": b"{}", "model-00001-of-00002.safetensors": b"x"}
    cached("h/half", {**shard, "model.safetensors.index.json": index.encode()}, OLD)
    (Path(huggingface_hub.constants.HF_HUB_CACHE) / "datasets--x--y").mkdir()
    names = [model.name for model in store.installed()]
    assert names == [
        "a/weights",
        f"e/f:x.gguf@{OLD[:12]}",
        f"e/f:y.gguf@{OLD[:12]}",
        "f/other-ref:Q8_0@refs/pr/3",
    ]
    assert [store.locate(name, offline=True).name for name in names] == names
    assert hub.requests == []


def test_files_in_folders_of_a_repository(hub: Hub) -> None:
    big = {"BF16/m-00001-of-00002.gguf": b"1", "BF16/m-00002-of-00002.gguf": b"22", "Q8_0/m.gguf": b"333"}
    hub.add("org/nested", big)
    model = store.pull("org/nested:bf16")
    assert (model.path.name, model.size) == ("m-00001-of-00002.gguf", 3)
    assert [one.name for one in store.installed()] == ["org/nested:BF16"]
    assert store.verify("org/nested:BF16").path == model.path
    store.pull("org/nested:Q8_0")
    assert store.remove("org/nested:BF16") == 3
    assert [one.name for one in store.installed()] == ["org/nested:Q8_0"]


def test_a_file_that_two_revisions_share_stays_for_the_other(hub: Hub) -> None:
    cached("a/b", {"m-Q8_0.gguf": b"same", "m-F16.gguf": b"more"}, NEW)
    cached("a/b", {"m-Q8_0.gguf": b"same"}, OLD, ref="v1")
    assert store.remove("a/b:Q8_0") == 0
    assert store.locate("a/b@v1", offline=True).path.read_bytes() == b"same"
    assert [model.name for model in store.installed()] == ["a/b:Q8_0@v1", "a/b:F16"]


def test_what_killed_downloads_left_long_ago_is_deleted(hub: Hub, tmp_path: Path) -> None:
    blobs = tmp_path / "hub" / "models--org--gguf" / "blobs"
    blobs.mkdir(parents=True)
    names = ["aa.01234567.incomplete", "bb.89abcdef.incomplete", "cc.incomplete"]
    for name in names:
        (blobs / name).write_bytes(b"x")
    for name in names[1:]:
        os.utime(blobs / name, (0, 0))
    store.pull("org/gguf")
    assert {path.name for path in blobs.glob("*.incomplete")} == {names[0], names[2]}
