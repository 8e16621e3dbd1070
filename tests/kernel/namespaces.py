# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Network namespaces for tests: unique names, seen only from outside by `ip`, `bridge` and the like, always removed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PREFIX = "flt-"
NETNS_DIR = Path("/run/netns")
#: Only what hangs takes as long.
PATIENT = 600.0
_COUNTER = itertools.count(1)


class Namespace:
    """A fresh network namespace with ``lo`` up. ``remove`` also ends the processes that were left in it."""

    def __init__(self, label: str = "", prefix: str = PREFIX) -> None:
        suffix = f"-{label}" if label else ""
        self.name = f"{prefix}{os.getpid()}-{next(_COUNTER)}{suffix}"
        _checked(["ip", "netns", "add", self.name])
        self.run("ip link set lo up")

    def command(self, command: str | Sequence[str]) -> list[str]:
        """``command`` (a string is split at spaces) as it is started from outside."""
        words = command.split() if isinstance(command, str) else list(command)
        return ["ip", "netns", "exec", self.name, *words]

    def run(
        self, command: str | Sequence[str], *, check: bool = True, data: str | None = None, timeout: float = PATIENT
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end; with ``check`` a failure fails the test with the command's words."""
        words = self.command(command)
        return _checked(words, data, timeout) if check else _run(words, data, timeout)

    def out(self, command: str | Sequence[str]) -> str:
        return self.run(command).stdout

    def json(self, command: str | Sequence[str]) -> Any:
        """Output of a command that prints JSON (`ip -j ...`, `bridge -j ...`); nothing printed is an empty list."""
        return json.loads(self.out(command) or "[]")

    def start(self, command: str | Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command that goes on; it ends with the namespace at the latest."""
        return subprocess.Popen(self.command(command), text=True, **options)

    def remove(self) -> None:
        for pid in _run(["ip", "netns", "pids", self.name]).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _run(["ip", "netns", "delete", self.name])


class Namespaces:
    """The factory behind fixture ``netns``: call it for one more namespace; ``remove`` takes all of them down."""

    def __init__(self, prefix: str = PREFIX) -> None:
        self.prefix = prefix
        self.made: list[Namespace] = []

    def __call__(self, label: str = "") -> Namespace:
        namespace = Namespace(label, self.prefix)
        self.made.append(namespace)
        return namespace

    def link(self, one: Namespace, name: str, other: Namespace, other_name: str) -> None:
        """A veth pair, up, from ``name`` in one namespace to ``other_name`` in the other."""
        one.run(f"ip link add {name} type veth peer name {other_name} netns {other.name}")
        one.run(f"ip link set {name} up")
        other.run(f"ip link set {other_name} up")

    def remove(self) -> None:
        while self.made:
            self.made.pop().remove()


def remove_abandoned(prefix: str = PREFIX) -> None:
    """Remove namespaces of test runs that were killed: the process whose id is in the name is gone."""
    for path in NETNS_DIR.glob(f"{prefix}*"):
        owner = path.name[len(prefix) :].split("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            _run(["ip", "netns", "delete", path.name])


def run_process(
    command: Sequence[str], data: str, environment: Mapping[str, str], timeout: float = PATIENT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(command), input=data, env=dict(environment), capture_output=True, text=True, timeout=timeout, check=False
    )


def _run(words: Sequence[str], data: str | None = None, timeout: float = PATIENT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(words), input=data or "", capture_output=True, text=True, timeout=timeout, check=False)


def _checked(
    words: Sequence[str], data: str | None = None, timeout: float = PATIENT
) -> subprocess.CompletedProcess[str]:
    done = _run(words, data, timeout)
    assert done.returncode == 0, f"{' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done
