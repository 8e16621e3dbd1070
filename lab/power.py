# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Switching nodes on and off, rebooting them, and knowing which of it is the case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from lab import cgroup, processes, seed, ssh, state
from lab.errors import LabError, run
from lab.processes import MARK, Process
from lab.state import Lab

#: systemd reboots when its first process gets SIGRTMIN+5 (systemd(1), "Signals").
_REBOOT_SIGNAL = signal.SIGRTMIN + 5


@dataclass(frozen=True)
class Power:
    """on: whether the node runs; boots and since (seconds of the epoch) tell about the current boot."""

    on: bool
    pid: int = 0
    boots: int = 0
    since: float = 0.0


def start(lab: Lab, node: str) -> None:
    """Start the supervisor of a node that is off."""
    home = lab.node_dir(node)
    log = os.open(home / "console.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        subprocess.Popen(
            [sys.executable, "-m", "lab.supervise", lab.name, node],
            cwd=state.REPO, env={**os.environ, MARK: str(lab.dir)}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    finally:
        os.close(log)


def make(lab: Lab, node: str, authorized: str) -> str:
    """Write a node's own files unless it has them; returns its public host key."""
    home = lab.node_dir(node)
    upper, ready = home / "upper", home / "seeded"
    if not ready.exists():
        upper.mkdir(parents=True, exist_ok=True)
        seed.write(upper, seed.files(lab, node, authorized, ssh.key_pair(node)))
        ready.touch()
    return (home / "upper/etc/ssh/ssh_host_ed25519_key.pub").read_text()


def power(lab: Lab, node: str) -> Power:
    """What the records of a node say, checked against the processes that run."""
    supervisor = recorded(lab, node, "supervisor.json")
    if supervisor is None or not supervisor.alive:
        return Power(on=False)
    boot = state.read_json(lab.node_dir(node) / "boot.json") or {}
    return Power(True, supervisor.pid, boot.get("boots", 0), boot.get("since", 0.0))


def kill(lab: Lab, nodes: Iterable[str]) -> None:
    """Power loss: every process of the nodes ends at once. Disks stay."""
    victims: dict[str, list[Process]] = {node: _processes(lab, node) for node in nodes}
    left = processes.kill(one for group in victims.values() for one in group)
    for node in victims:
        # Somebody forked between the listing and the kill.
        left += processes.kill(_processes(lab, node))
        if not left:
            cgroup.remove(lab.netns, node)
    if left:
        raise LabError(f"processes {[one.pid for one in left]} do not end; look at them with ps")


def reboot(lab: Lab, node: str) -> None:
    """Ask the node's systemd for a reboot; works without SSH."""
    boot = recorded(lab, node, "boot.json")
    if boot is None or not boot.alive:
        raise LabError(f"node {node} is off; switch it on with: python -m lab up {node}")
    if lab.kind == "uml":
        run(["uml_mconsole", str(lab.node_dir(node) / "uml" / node / "mconsole"), "cad"])
        return
    leaders = processes.children(boot.pid)
    if not leaders:
        raise LabError(f"node {node} is just starting or stopping; try again")
    processes.send(leaders[0], _REBOOT_SIGNAL)


def boots(lab: Lab, node: str) -> int:
    """How many boots this node began since it was last switched on."""
    if lab.kind == "uml":
        # Its kernel restarts inside its own process; only the console tells.
        return (lab.node_dir(node) / "console.log").read_bytes().count(b"Linux version ")
    return power(lab, node).boots


def wait_rebooted(lab: Lab, node: str, before: int, deadline: float) -> bool:
    """Wait for a boot after boot number ``before``."""
    while time.monotonic() < deadline:
        if boots(lab, node) > before:
            return True
        time.sleep(0.05)
    return False


def recorded(lab: Lab, node: str, record: str) -> Process | None:
    found = state.read_json(lab.node_dir(node) / record)
    return Process(found["pid"], found["start"]) if found else None


def _processes(lab: Lab, node: str) -> list[Process]:
    # The supervisor first, or it would see its node end and could boot it again.
    records = [recorded(lab, node, name) for name in ("supervisor.json", "boot.json")]
    known = [one for one in records if one and one.alive]
    return known + [one for one in cgroup.members(lab.netns, node) if one not in known]
