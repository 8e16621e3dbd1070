# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m lab VERB``: the command line of the lab."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

from lab import features, image, inventory, lifecycle, mirror, network, power, ssh, state
from lab.errors import LabError
from lab.state import Lab

DEFAULT_INVENTORY = state.REPO / "inventories" / "lab"


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    options.inventory = Path(options.inventory).resolve()
    try:
        return int(options.verb(options) or 0)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted; run the same command again, or: python -m lab down", file=sys.stderr)
        return 130


def up(options: argparse.Namespace) -> None:
    started = time.monotonic()
    wanted = _wanted(options)
    lab = lifecycle.up(wanted, options.inventory, options.kind, options.nodes)
    print(f"lab {lab.name}: up ({lab.kind}) in {time.monotonic() - started:.1f} s", flush=True)
    if options.inventory != DEFAULT_INVENTORY or wanted.name != "lab":
        print(f"for Ansible: export ANSIBLE_SSH_ARGS='-F {ssh.config_path(lab)}' ANSIBLE_REMOTE_USER=root")


def down(options: argparse.Namespace) -> None:
    name = _name(options)
    print(f"lab {name}: {'removed' if lifecycle.down(name) else 'nothing to remove'}")


def build(options: argparse.Namespace) -> None:
    wanted = _wanted(options)
    kind = features.choose(wanted.features, options.kind)
    root = image.root_tree()
    if kind == "uml":
        image.disk()
    mirror.package_mirror(root, wanted.packages)
    print(f"image and mirror for {kind} nodes are in {state.CACHE}")


def status(options: argparse.Namespace) -> None:
    lab = _lab(options)
    rows = [_row(lab, node) for node in lab.nodes]
    if options.json:
        print(json.dumps({"name": lab.name, "nodes": rows}, indent=1))
        return
    print(f"{'NODE':<12} {'KIND':<10} {'STATE':<6} {'ADDRESS':<16} {'UPTIME':>7} {'PID':>8}")
    for row in rows:
        print("{node:<12} {kind:<10} {state:<6} {address:<16} {uptime:>6}s {pid:>8}".format(**row))


def _row(lab: Lab, node: str) -> dict[str, str | int]:
    now = power.power(lab, node)
    condition = "off" if not now.on else "cut" if network.is_cut(lab, node) else "on"
    return {
        "node": node,
        "kind": lab.kind,
        "state": condition,
        "address": lab.nodes[node],
        "uptime": int(time.time() - now.since) if now.on else 0,
        "boots": now.boots,
        "pid": now.pid,
    }


def shell(options: argparse.Namespace) -> None:
    lab = _lab(options)
    (node,) = _nodes(lab, [options.node])
    command = ["ssh", "-F", str(ssh.config_path(lab)), node, *options.command]
    sys.stdout.flush()
    os.execvp(command[0], command)


def reboot(options: argparse.Namespace) -> None:
    lab = _lab(options)
    lifecycle.reboot(lab, _nodes(lab, options.nodes))


def kill(options: argparse.Namespace) -> None:
    lab = _lab(options)
    nodes = _nodes(lab, options.nodes)
    with state.locked(lab.dir):
        power.kill(lab, nodes)
    print(f"powered off: {', '.join(nodes)}; on again with: python -m lab up {' '.join(nodes)}")


def cut(options: argparse.Namespace) -> None:
    lab = _lab(options)
    for node in _nodes(lab, options.nodes):
        # It would hold up the next command until it is given up.
        ssh.disconnect(lab, node)
        network.cut(lab, node)


def heal(options: argparse.Namespace) -> None:
    lab = _lab(options)
    for node in _nodes(lab, options.nodes) or lab.nodes:
        network.heal(lab, node)


def _wanted(options: argparse.Namespace) -> inventory.Wanted:
    wanted = inventory.read(options.inventory)
    return dataclasses.replace(wanted, name=state.check_name(options.name)) if options.name else wanted


def _name(options: argparse.Namespace) -> str:
    """Never that of just any lab from the same inventory: ``down`` would take away somebody else's."""
    return state.check_name(options.name) if options.name else inventory.read(options.inventory).name


def _lab(options: argparse.Namespace) -> Lab:
    name = _name(options)
    lab = state.load(name)
    if lab is None:
        raise LabError(f"no lab named {name} is up; start one with: python -m lab up")
    return lab


def _nodes(lab: Lab, names: list[str]) -> list[str]:
    unknown = [name for name in names if name not in lab.nodes]
    if unknown:
        raise LabError(f"no node {', '.join(unknown)} in lab {lab.name}; it has {', '.join(lab.nodes)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description="Real Linux nodes from an inventory.")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("-n", "--name", help="lab name (default: lab_name of the inventory)")
    shared.add_argument("-i", "--inventory", default=DEFAULT_INVENTORY, help="inventory directory")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(function: object, name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text, parents=[shared, *parents])
        made.set_defaults(verb=function)
        return made

    kind = argparse.ArgumentParser(add_help=False)
    kind.add_argument("--kind", choices=features.KINDS, help="force the kind of node")
    one = verb(up, "up", "make the lab and switch on all nodes, or the named ones", kind)
    one.add_argument("nodes", nargs="*", metavar="NODE")
    verb(build, "build", "build the node image and the package mirror only", kind)
    verb(down, "down", "remove the lab with everything it made")
    one = verb(status, "status", "show the nodes")
    one.add_argument("--json", action="store_true")
    one = verb(shell, "ssh", "log in to a node, or run a command there")
    one.add_argument("node", metavar="NODE")
    one.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    for function, name, text in (
        (reboot, "reboot", "reboot nodes, all at once, and wait until they answer"),
        (kill, "kill", "power loss: end nodes at once, keep their disks"),
        (cut, "cut", "cut nodes off the LAN"),
    ):
        verb(function, name, text).add_argument("nodes", nargs="+", metavar="NODE")
    verb(heal, "heal", "undo cut, for all nodes or the named ones").add_argument("nodes", nargs="*", metavar="NODE")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
