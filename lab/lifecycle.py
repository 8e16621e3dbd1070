# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A whole lab: up, reboot, down."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from lab import cache, cgroup, features, image, inventory, mirror, network, power, processes, serve, ssh, state, waiting
from lab.errors import LabError, need
from lab.processes import Process
from lab.state import Lab

#: What forks while it is being killed is found by the next look.
_KILL_ROUNDS = 5


def up(wanted: inventory.Wanted, directory: Path, kind: str | None, only: list[str]) -> Lab:
    """Make the lab and switch on its nodes (or only the named ones); changes nothing where all runs."""
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and mounts: run it as root")
    need("ip", "nsenter", "unshare", "nc", "ssh")
    unknown = sorted(set(only) - set(wanted.nodes))
    if unknown:
        raise LabError(f"no such node in {directory}: {', '.join(unknown)}")
    _check_owner(wanted.name)
    with state.locked(state.lab_dir(wanted.name)):
        known = state.load(wanted.name)
        lab = _again(known, wanted, directory, kind) if known else _new(wanted, directory, kind)
        _record(lab)
        if known:
            _forget(known, set(known.nodes) - set(lab.nodes))
        if not network.has_lan(lab):
            network.delete_namespace(lab.netns)
            network.make_lan(lab)
        authorized = ssh.lab_key(lab)
        ssh.write_config(lab, {node: power.make(lab, node, authorized) for node in lab.nodes})
        serve.serve(lab)
        _switch_on(lab, only or list(lab.nodes))
    cache.prune(state.paths_in_use())
    return lab


def reboot(lab: Lab, nodes: list[str]) -> None:
    """Reboot nodes all at once, and wait until each has booted anew and answers."""
    started = time.monotonic()
    before = {node: power.power(lab, node).boots for node in nodes}
    for node in nodes:
        power.reboot(lab, node)
    for node, boots in before.items():
        if not power.wait_rebooted(lab, node, boots, started + waiting.WAIT_SECONDS):
            raise LabError(f"node {node} did not reboot; see {lab.node_dir(node) / 'console.log'}")
    waiting.wait(lab, nodes, started)


def down(name: str) -> bool:
    """Remove everything of a lab, whatever state it is in; False when there was nothing."""
    directory, sockets, netns = state.lab_dir(name), state.run_dir(name), state.netns_name(name)
    _check_owner(name)
    traces = (directory, sockets, network.namespace(netns), *cgroup.groups(netns))
    if not any(trace.exists() for trace in traces) and not processes.marked(directory):
        return False
    with state.locked(directory):
        left = _end_all(name)
        if left:
            raise LabError(f"processes {[one.pid for one in left]} do not end; look at them with ps")
        network.delete_namespace(netns)
        cgroup.remove(netns)
        shutil.rmtree(sockets, ignore_errors=True)
        shutil.rmtree(directory)
    with contextlib.suppress(OSError):
        # The last one out; another lab may be just coming in.
        state.LABS.rmdir()
    return True


def _new(wanted: inventory.Wanted, directory: Path, kind: str | None) -> Lab:
    chosen = features.choose(wanted.features, kind)
    root = image.root_tree()
    disk = str(image.disk()) if chosen == "uml" else ""
    packages = mirror.package_mirror(root, wanted.packages)
    return Lab(
        name=wanted.name, inventory=str(directory), kind=chosen, lan=wanted.lan, gateway=wanted.gateway,
        memory=wanted.memory, nodes=wanted.nodes, root=str(root), disk=disk, mirror=str(packages),
        lan6=wanted.lan6, gateway6=wanted.gateway6, nodes6=wanted.nodes6,
    )  # fmt: skip


def _again(known: Lab, wanted: inventory.Wanted, directory: Path, kind: str | None) -> Lab:
    """The known lab with what may change while it exists: nodes, packages, memory. Its disks keep their image."""
    first = f"run first: python -m lab down --name {known.name}"
    if known.inventory != str(directory):
        raise LabError(f"a lab named {known.name} was made from {known.inventory}; give another --name, or {first}")
    if kind and kind != known.kind:
        raise LabError(f"lab {known.name} was made with nodes of kind {known.kind}, not {kind}; {first}")
    both = [node for node in wanted.nodes if node in known.nodes]
    moved = [node for node in both if _addresses(known, node) != _addresses(wanted, node)]
    if moved or (known.lan, known.gateway, known.lan6) != (wanted.lan, wanted.gateway, wanted.lan6):
        raise LabError(f"addresses changed ({', '.join(moved) or 'lab_lan, lab_gateway or lab_lan6'}); {first}")
    gone = [path for path in (known.root, known.disk) if path and not Path(path).exists()]
    if gone:
        raise LabError(f"{gone[0]}, from which the nodes were made, is gone; {first}")
    features.choose(wanted.features, known.kind)
    for path in (known.root, known.disk):
        if path:
            cache.touch(Path(path))
    packages = mirror.package_mirror(Path(known.root), wanted.packages)
    return replace(known, nodes=wanted.nodes, nodes6=wanted.nodes6, memory=wanted.memory, mirror=str(packages))


def _addresses(lab: Lab | inventory.Wanted, node: str) -> tuple[str | None, str | None]:
    return lab.nodes.get(node), lab.nodes6.get(node)


def _record(lab: Lab) -> None:
    sockets = state.run_dir(lab.name)
    sockets.mkdir(mode=0o700, exist_ok=True)
    (sockets / "owner").write_text(str(lab.dir))
    lab.save()


def _check_owner(name: str) -> None:
    owner = state.run_dir(name) / "owner"
    text = owner.read_text() if owner.exists() else ""
    if text and text != str(state.lab_dir(name)) and Path(text).exists():
        raise LabError(f"the lab name {name} is in use by {text}; give another --name")


def _forget(lab: Lab, nodes: Collection[str]) -> None:
    """Nodes that left the inventory."""
    power.kill(lab, nodes)
    for node in nodes:
        shutil.rmtree(lab.node_dir(node), ignore_errors=True)


def _switch_on(lab: Lab, nodes: list[str]) -> None:
    started = time.monotonic()
    off = [node for node in nodes if not power.power(lab, node).on]
    for node in off:
        power.start(lab, node)
    if not off:
        print(f"lab {lab.name}: {', '.join(nodes)} run already; nothing to do", flush=True)
    # A node that is on already may still be booting, when the `up` that started it was interrupted.
    late = [node for node in nodes if node not in off and not ssh.answers(lab, node)]
    waiting.wait(lab, off + late, started)


def _end_all(name: str) -> list[Process]:
    for _ in range(_KILL_ROUNDS):
        found = _processes(name)
        if not found:
            return []
        processes.kill(found)
    return _processes(name)


def _processes(name: str) -> list[Process]:
    lab, netns = state.load(name), state.netns_name(name)
    # Supervisors first, or they would boot a node whose processes ended.
    nodes = [power.recorded(lab, node, "supervisor.json") for node in lab.nodes] if lab else []
    found = {one: None for one in nodes if one and one.alive}
    found |= dict.fromkeys(processes.marked(state.lab_dir(name)))
    found |= dict.fromkeys(cgroup.members(netns))
    found |= dict.fromkeys(processes.inside(network.namespace(netns)))
    return [one for one in found if one.pid != os.getpid()]
