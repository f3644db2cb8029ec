"""The cgroups of this process, in which Linux keeps the limits of containers, services and jobs."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def groups(controller: str, root: Path = ROOT) -> list[Path]:
    """The folders of this process's cgroup and its ancestors, whose limits apply too: those of version 2, then of version 1.

    In a container /proc/self/cgroup may give a path on the host, which does not exist there: then only `root`, which is the
    container's own cgroup, is found.
    """
    try:
        lines = [line.split(":", 2) for line in _MEMBERSHIP.read_text().splitlines()]
    except OSError:  # not Linux
        lines = []
    found = []
    for tree, name in ((root, ""), (root / controller, controller)):  # version 2 has one tree, without a name
        own = next((path for _, names, path in lines if name in names.split(",")), "/")
        folder = tree / own.lstrip("/")
        found += [at for at in (folder, *folder.parents) if at.is_relative_to(tree) and at.is_dir()]
    return found
