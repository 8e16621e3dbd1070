# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Which processes belong to a lab, and how to end exactly those.

A process is known by its id and its start time, so that a recycled id is never signalled.
Processes nobody recorded (a crash between fork and record) are found by the mark in their environment,
by the lab's control group, or by being inside the lab's network namespace.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: Set in the environment of everything a lab starts; the value is the lab's state directory.
MARK = "FAIRLEAD_LAB"


@dataclass(frozen=True)
class Process:
    """A process id with its start time (clock ticks after boot, /proc/PID/stat field 22)."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.start


def start_time(pid: int) -> int | None:
    """Start time of a running process; None for none, and for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def process(pid: int) -> Process | None:
    start = start_time(pid)
    return None if start is None else Process(pid, start)


def children(pid: int) -> list[Process]:
    """Direct children of all threads of a process."""
    pids: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids += map(int, path.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [found for found in map(process, pids) if found]


def marked(directory: Path) -> list[Process]:
    """Processes started on behalf of the lab with this state directory."""
    wanted = f"{MARK}={directory}".encode()
    found = []
    for pid in _pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0"):
            found.append(process(pid))
    return [one for one in found if one]


def inside(namespace: Path) -> list[Process]:
    """Processes whose network namespace is the one bound at this path."""
    try:
        wanted = namespace.stat()
    except FileNotFoundError:
        return []
    found = []
    for pid in _pids():
        try:
            if os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), wanted):
                found.append(process(pid))
        except OSError:
            continue
    return [one for one in found if one]


def kill(victims: Iterable[Process], timeout: float = 10.0) -> list[Process]:
    """SIGKILL each process through its pidfd and wait; returns those still there after timeout seconds."""
    handles: dict[int, Process] = {}
    for victim in victims:
        handle = _signal(victim, signal.SIGKILL)
        if handle is not None:
            handles[handle] = victim
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    deadline = time.monotonic() + timeout
    left = dict(handles)
    while left and time.monotonic() < deadline:
        for handle, _ in poll.poll(200):
            poll.unregister(handle)
            left.pop(handle)
    for handle in handles:
        os.close(handle)
    return [victim for victim in left.values() if victim.alive]


def send(target: Process, number: int) -> bool:
    """Signal one process; False when it is gone."""
    handle = _signal(target, number)
    if handle is None:
        return False
    os.close(handle)
    return True


def _signal(target: Process, number: int) -> int | None:
    if target.pid == os.getpid():
        return None
    try:
        handle = os.pidfd_open(target.pid)
    except ProcessLookupError:
        return None
    # The descriptor pins the process: once the start time fits, the signal cannot hit another one.
    if target.alive:
        try:
            signal.pidfd_send_signal(handle, number)
            return handle
        except ProcessLookupError:
            pass
    os.close(handle)
    return None


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
