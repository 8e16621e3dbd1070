# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A control group for each lab and node, in every hierarchy systemd could use for its services.

Without one of its own, every container would share the cgroup of whoever started it, and the systemd of one
would stop the services of another. Works with cgroup v1, v2 and both, with or without systemd on the host.
"""

from __future__ import annotations

import time
from pathlib import Path

from lab.errors import LabError
from lab.processes import Process, process


def hierarchies() -> list[Path]:
    """Mount points of cgroup2 and of systemd's own v1 hierarchy."""
    found = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found.append(Path(where))
    return found


def groups(lab_netns: str) -> list[Path]:
    """Where a lab's groups are, if it has any."""
    return [top / lab_netns for top in hierarchies()]


def join(lab_netns: str, node: str) -> None:
    """Put the calling process into the node's group, made if absent."""
    if not hierarchies():
        raise LabError("no cgroup2 and no name=systemd cgroup hierarchy is mounted; mount one at /sys/fs/cgroup")
    for top in hierarchies():
        group = top / lab_netns / node
        group.mkdir(parents=True, exist_ok=True)
        (group / "cgroup.procs").write_text("0")


def members(lab_netns: str, node: str = "") -> list[Process]:
    """Every process in the groups of a lab, or of one node of it."""
    pids: set[int] = set()
    for top in hierarchies():
        for listing in (top / lab_netns / node).rglob("cgroup.procs"):
            try:
                pids.update(map(int, listing.read_text().split()))
            except OSError:
                continue
    return [found for found in map(process, sorted(pids - {0})) if found]


def remove(lab_netns: str, node: str = "", timeout: float = 5.0) -> None:
    """Remove the emptied groups; the kernel needs a moment after the last process ended."""
    deadline = time.monotonic() + timeout
    for top in hierarchies():
        group = top / lab_netns / node
        while group.is_dir() and not _remove_tree(group) and time.monotonic() < deadline:
            time.sleep(0.02)


def _remove_tree(group: Path) -> bool:
    try:
        for child in [path for path in group.iterdir() if path.is_dir()]:
            _remove_tree(child)
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
