"""Complaints of `ordito doctor` from the system's counters."""

from __future__ import annotations

from ordito.fitting.health import Counters, complaints

WELL = {"kernels": "avx2", "threads": 2, "bound": 2, "free": 8 << 30}


def test_counters_are_those_of_the_system(tmp_path):
    (tmp_path / "stat").write_text("cpu  10 20 30 400 50 60 70 80 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")
    (tmp_path / "vmstat").write_text("pgpgin 7\npswpin 9\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 5\nthrottled_usec 12\n")
    assert Counters.now(tmp_path, tmp_path) == Counters(ticks=720, idle=450, stolen=80, swapped=9, throttled=12_000)
    assert Counters.now(tmp_path / "none", tmp_path / "none") == Counters()


def test_throttling_in_a_group_of_the_first_version(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.stat").write_text("nr_periods 9\nnr_throttled 3\nthrottled_time 77\n")
    assert Counters.now(tmp_path / "none", tmp_path) == Counters(throttled=77)


def test_an_idle_machine_has_no_complaints():
    assert complaints(Counters(), Counters(ticks=100, idle=99), **WELL) == []


def test_everything_that_is_wrong_is_said_once():
    after = Counters(ticks=100, idle=20, stolen=10, swapped=1, throttled=5)
    found = complaints(Counters(), after, kernels="reference", threads=1, bound=4, free=1 << 20)
    for word in ("no fast kernels", "10 % of the processors", "70 %", "throttled", "swapping", "1 threads on 4", "1 MiB"):
        assert sum(word in line for line in found) == 1, word
    assert len(found) == 7
