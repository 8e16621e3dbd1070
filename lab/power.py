# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Switching nodes on and off, rebooting them, and knowing which of it is the case."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from lab import cgroup, container, network, processes, seed, spawn, ssh, state, uml
from lab.errors import LabError
from lab.processes import Process
from lab.state import Lab


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
    # What a killed supervisor left would share addresses and disk with the new boot.
    processes.kill(_processes(lab, node))
    for record in ("supervisor.json", "boot.json"):
        (home / record).unlink(missing_ok=True)
    command = [sys.executable, "-m", "lab.supervise", lab.name, node]
    child = spawn.detached(command, lab_dir=lab.dir, log=home / "console.log", cwd=state.REPO)
    # The supervisor records itself too, but a busy machine may take seconds until it does.
    found = processes.process(child.pid)
    if found:
        state.write_json(home / "supervisor.json", {"pid": found.pid, "start": found.start})


def make(lab: Lab, node: str, authorized: str) -> str:
    """Write a node's own files unless it has them; returns its public host key."""
    home = lab.node_dir(node)
    public = home / "host_key.pub"
    if not public.exists():
        host_key = ssh.key_pair(node)
        (home / "upper").mkdir(parents=True, exist_ok=True)
        seed.write(home / "upper", seed.files(lab, node, authorized, host_key))
        # Last: its presence says that all the others are there.
        public.write_text(host_key[1])
    return public.read_text()


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
            network.remove_port(lab, node)
        ssh.disconnect(lab, node)
    if left:
        raise LabError(f"processes {[one.pid for one in left]} do not end; look at them with ps")


def reboot(lab: Lab, node: str) -> None:
    """Ask the node's systemd for a reboot; works without SSH."""
    boot = recorded(lab, node, "boot.json")
    if boot is None or not boot.alive:
        raise LabError(f"node {node} is off; switch it on with: python -m lab up {node}")
    ssh.disconnect(lab, node)
    if lab.kind == "uml":
        uml.reboot(lab, node)
    else:
        container.reboot(node, boot)


def wait_rebooted(lab: Lab, node: str, before: int, deadline: float) -> bool:
    """Wait for a boot after boot number ``before``."""
    while time.monotonic() < deadline:
        if power(lab, node).boots > before:
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
