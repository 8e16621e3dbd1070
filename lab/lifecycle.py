# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A whole lab: up, down, status."""

from __future__ import annotations

import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import cgroup, features, image, inventory, mirror, network, power, processes, spawn, ssh, state
from lab.errors import LabError, need
from lab.processes import Process
from lab.state import Lab

#: Four User-mode Linux nodes need half a minute on two cores; a busy machine several times that.
WAIT_SECONDS = 180


def up(wanted: inventory.Wanted, directory: Path, kind: str | None, only: list[str]) -> Lab:
    """Make the lab and switch on its nodes (or only the named ones); changes nothing where all runs."""
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and mounts: run it as root")
    need("ip", "nsenter", "unshare", "nc", "ssh")
    unknown = sorted(set(only) - set(wanted.nodes))
    if unknown:
        raise LabError(f"no such node in {directory}: {', '.join(unknown)}")
    with state.locked(state.lab_dir(wanted.name)):
        lab = _describe(wanted, directory, kind)
        _own(lab)
        lab.save()
        if not network.has_lan(lab):
            network.delete_namespace(lab.netns)
            network.make_lan(lab)
        authorized = ssh.lab_key(lab)
        keys = {node: power.make(lab, node, authorized) for node in lab.nodes}
        ssh.write_config(lab, keys)
        _serve(lab)
        _switch_on(lab, only or list(lab.nodes))
    return lab


def down(name: str) -> bool:
    """Remove everything of a lab; False when there was nothing."""
    directory, sockets = state.lab_dir(name), state.run_dir(name)
    netns = state.netns_name(name)
    there = directory.exists() or sockets.exists() or network.namespace(netns).exists()
    _check_owner(name)
    if not there and not processes.marked(directory):
        return False
    with state.locked(directory):
        for _ in range(3):
            if not _processes(name):
                break
            processes.kill(_processes(name))
        network.delete_namespace(netns)
        cgroup.remove(netns)
        shutil.rmtree(sockets, ignore_errors=True)
        shutil.rmtree(directory)
    if not any(state.LABS.iterdir()):
        state.LABS.rmdir()
    return True


def _processes(name: str) -> list[Process]:
    netns = state.netns_name(name)
    lab = state.load(name)
    # Supervisors first, or they would boot a node whose processes ended.
    nodes = [power.recorded(lab, node, "supervisor.json") for node in lab.nodes] if lab else []
    found = [one for one in nodes if one and one.alive]
    for one in (
        processes.marked(state.lab_dir(name))
        + cgroup.members(netns)
        + processes.inside(network.namespace(netns))
    ):
        if one not in found and one.pid != os.getpid():
            found.append(one)
    return found


def _describe(wanted: inventory.Wanted, directory: Path, kind: str | None) -> Lab:
    known = state.load(wanted.name)
    if known and known.inventory != str(directory):
        raise LabError(
            f"a lab named {wanted.name} was made from {known.inventory}; "
            f"remove it (python -m lab down --name {wanted.name}) or give another --name"
        )
    if known and kind and kind != known.kind and any(power.power(known, node).on for node in known.nodes):
        raise LabError(f"lab {known.name} runs as {known.kind}; run down first, then up --kind {kind}")
    chosen = kind or (known.kind if known else None)
    chosen = features.choose(wanted.features, chosen)
    root = image.root_tree()
    disk = image.disk() if chosen == "uml" else ""
    packages = mirror.package_mirror(root, wanted.packages)
    return Lab(
        name=wanted.name, inventory=str(directory), kind=chosen, lan=wanted.lan, gateway=wanted.gateway,
        memory=wanted.memory, nodes=wanted.nodes, root=str(root), disk=str(disk), mirror=str(packages),
    )  # fmt: skip


def _check_owner(name: str) -> None:
    owner = state.run_dir(name) / "owner"
    if owner.exists() and owner.read_text() != str(state.lab_dir(name)):
        raise LabError(f"the lab name {name} is in use by {owner.read_text()}; give another --name")


def _own(lab: Lab) -> None:
    _check_owner(lab.name)
    sockets = state.run_dir(lab.name)
    sockets.mkdir(mode=0o700, exist_ok=True)
    (sockets / "owner").write_text(str(lab.dir))


def _serve(lab: Lab) -> None:
    """Offer the package mirror and the lab's files directory over HTTP at the gateway address."""
    served, record = lab.dir / "www", lab.dir / "http.json"
    (lab.dir / "files").mkdir(exist_ok=True)
    served.mkdir(exist_ok=True)
    for name, target in (("debian", lab.mirror), ("files", str(lab.dir / "files"))):
        fresh = served / f".{name}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(served / name)
    known = state.read_json(record)
    if known and Process(**known).alive:
        return
    child = spawn.detached(
        [sys.executable, "-m", "http.server", "80", "--bind", lab.gateway, "--directory", str(served),
         "--protocol", "HTTP/1.1"],
        lab_dir=lab.dir, log=lab.dir / "http.log", namespace=network.namespace(lab.netns),
    )  # fmt: skip
    found = processes.process(child.pid)
    if found:
        state.write_json(record, {"pid": found.pid, "start": found.start})


def _switch_on(lab: Lab, nodes: list[str]) -> None:
    off = [node for node in nodes if not power.power(lab, node).on]
    started = time.monotonic()
    for node in off:
        power.start(lab, node)
    if not off:
        print(f"lab {lab.name}: {len(nodes)} {lab.kind} nodes run already; nothing to do", flush=True)
    wait(lab, off, started)


def wait(lab: Lab, nodes: list[str], started: float) -> None:
    """Wait until each node answers over SSH; prints a line for each and a countdown."""
    deadline = started + WAIT_SECONDS
    waiting = set(nodes)
    with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as pool:
        jobs = {node: pool.submit(_wait_one, lab, node, deadline) for node in nodes}
        shown = time.monotonic()
        while waiting:
            for node in sorted(waiting):
                if jobs[node].done():
                    waiting.discard(node)
                    if jobs[node].result():
                        seconds = time.monotonic() - started
                        print(f"  {node:<12} {lab.nodes[node]:<15} answers after {seconds:.1f} s", flush=True)
            if waiting and time.monotonic() - shown >= 5:
                shown = time.monotonic()
                print(f"  waiting for {', '.join(sorted(waiting))}: {deadline - shown:.0f} s left", flush=True)
            time.sleep(0.02)
    silent = [node for node in nodes if not jobs[node].result()]
    if silent:
        logs = ", ".join(str(lab.node_dir(node) / "console.log") for node in silent)
        raise LabError(f"no SSH answer from {', '.join(silent)}; see {logs}")


def _wait_one(lab: Lab, node: str, deadline: float) -> bool:
    time.sleep(0.2)
    while time.monotonic() < deadline:
        if ssh.answers(lab, node):
            return True
        time.sleep(0.1)
    return False


def reboot(lab: Lab, nodes: list[str]) -> None:
    """Reboot nodes all at once, and wait until each has booted anew and answers."""
    started = time.monotonic()
    before = {node: power.power(lab, node).boots for node in nodes}
    for node in nodes:
        power.reboot(lab, node)
    for node, old in before.items():
        if not power.wait_rebooted(lab, node, old, started + WAIT_SECONDS):
            raise LabError(f"node {node} did not reboot; see {lab.node_dir(node) / 'console.log'}")
    wait(lab, nodes, started)
