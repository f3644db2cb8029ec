"""Memory and cores that Linux grants, from the files of cgroups."""

from __future__ import annotations

import pytest

from ordito.fitting import machine
from ordito.threads import quota

MEMINFO = "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:   20000000 kB\n"


@pytest.fixture
def files(tmp_path):
    def write(**contents):
        for name, text in contents.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def meminfo(root):
    (root / "meminfo").write_text(MEMINFO)
    return root / "meminfo"


def test_memory_without_a_limit(files, tmp_path):
    assert machine.free_memory(tmp_path, meminfo(tmp_path)) == 20_000_000 * 1024


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 20_000_000 * 1024), ("8000000000", 8_000_000_000 - 3_000_000_000 + 500_000_000)]
)
def test_memory_in_a_cgroup(files, tmp_path, limit, expected):
    names = {"memory.max": limit, "memory.current": "3000000000\n", "memory.stat": "anon 1\ninactive_file 500000000\n"}
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    assert machine.free_memory(tmp_path, meminfo(tmp_path)) == expected


def test_memory_in_a_cgroup_of_the_first_version(tmp_path):
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text("4000000000\n")
    (folder / "memory.usage_in_bytes").write_text("1000000000\n")
    (folder / "memory.stat").write_text("cache 5\ntotal_inactive_file 0\n")
    assert machine.free_memory(tmp_path, meminfo(tmp_path)) == 3_000_000_000


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("150000 100000", 1.5), ("nonsense", None)])
def test_cores_of_a_cgroup(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    assert quota(tmp_path) == cores


def test_cores_of_a_cgroup_of_the_first_version(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert quota(tmp_path) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    assert quota(tmp_path) == 3.0


@pytest.mark.parametrize(
    ("membership", "tree", "cores", "left"),
    [
        ("0::/system.slice/job\n", "", ("cpu.max", "150000 100000"), ("memory.max", "memory.current", "inactive_file")),
        (
            "7:memory:/system.slice/job\n3:cpu,cpuacct:/system.slice/job\n0::/\n",
            "v1",
            ("cpu.cfs_quota_us", "150000"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_limits_of_the_own_group_and_of_those_above_it(tmp_path, monkeypatch, membership, tree, cores, left):
    """As for services and jobs: the process is in a group below the root, and the smallest limit binds."""
    own = tmp_path / "own"
    own.write_text(membership)
    monkeypatch.setattr("ordito.cgroups._MEMBERSHIP", own)
    root, (limit, used, files) = tmp_path / "fs", left
    for name, taken in (("system.slice", "2000000000"), ("system.slice/job", "500000000")):
        cpu, memory = (root / (kind if tree else "") / name for kind in ("cpu", "memory"))
        for folder in (cpu, memory):
            folder.mkdir(parents=True, exist_ok=True)
        (memory / limit).write_text("3000000000\n")
        (memory / used).write_text(taken)
        (memory / "memory.stat").write_text(f"{files} 0\n")
    (cpu / cores[0]).write_text(cores[1])
    (cpu / "cpu.cfs_period_us").write_text("100000\n")
    assert quota(root) == 1.5
    assert machine.free_memory(root, meminfo(tmp_path)) == 1_000_000_000


def test_a_cgroup_path_outside_of_the_container(tmp_path, monkeypatch):
    (tmp_path / "own").write_text("0::/docker/0123456789\n")
    monkeypatch.setattr("ordito.cgroups._MEMBERSHIP", tmp_path / "own")
    (tmp_path / "cpu.max").write_text("150000 100000")
    assert quota(tmp_path) == 1.5


def test_this_machine_can_compute():
    found = machine.this_machine(memory=1)
    assert found.memory == 1
    assert found.bandwidth > 1e8
    assert found.flops > 1e8
    assert found.cores >= 1
