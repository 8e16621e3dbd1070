# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Processes of a program that share the network of this run, those of containers too."""

from __future__ import annotations

import dataclasses
import os
from typing import List, Optional

# Tests say another place.
PROC = "/proc"


@dataclasses.dataclass(frozen=True)
class Process:
    """``program`` is its path as the process itself sees it."""

    pid: int
    parent: int
    program: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.program})"


def of_program(name: str) -> List[Process]:
    """Those of programs called ``name`` in this network namespace; other ones have kernels' state of their own."""
    network = _link("thread-self/ns/net")
    pids = sorted(int(entry) for entry in os.listdir(PROC) if entry.isdigit())
    found = [_process(pid) for pid in pids if _link(f"{pid}/ns/net") == network]
    return [process for process in found if process is not None and os.path.basename(process.program) == name]


def is_there(process: Process) -> bool:
    return _process(process.pid) == process


def _process(pid: int) -> Optional[Process]:
    """None for one that is gone, and for the kernel's own."""
    program = _link(f"{pid}/exe")
    try:
        with open(os.path.join(PROC, str(pid), "stat"), encoding="utf-8", errors="replace") as stream:
            # The name in brackets may hold anything, so the fields are counted from its end.
            fields = stream.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Process(pid, int(fields[1]), _without(program, " (deleted)")) if program else None


def _without(text: str, end: str) -> str:
    return text[: -len(end)] if text.endswith(end) else text


def _link(path: str) -> str:
    try:
        return os.readlink(os.path.join(PROC, path))
    except OSError:
        return ""
