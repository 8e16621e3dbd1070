# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The lab's LAN: one network namespace with a bridge, and a port of that bridge for each node.

Nothing is ever created in the host's own namespace.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
import threading
from pathlib import Path

from lab import spawn
from lab.errors import LabError, run
from lab.state import Lab

BRIDGE = "lan0"
# A bridge without an address of its own takes that of a port, and another one when ports come and go: nodes would look
# for the gateway at the old one for as long as they remember it.
BRIDGE_MAC = "02:00:5e:00:02:01"
#: A bridge that is never up: a port moved to it keeps its carrier and forwards nothing.
NOWHERE = "cut0"
NAMESPACES = Path("/run/netns")
_IFNAMSIZ = 15


def namespace(lab_netns: str) -> Path:
    return NAMESPACES / lab_netns


def port(node: str) -> str:
    """Name of the bridge port of a node, unique also for long names."""
    name = f"p-{node}"
    if len(name) <= _IFNAMSIZ:
        return name
    return f"p-{hashlib.sha256(node.encode()).hexdigest()[:12]}"


def mac(lab: Lab, node: str) -> str:
    """Hardware address of a node's interface: locally administered and the same at every boot."""
    digest = hashlib.sha256(f"{lab.dir}/{node}".encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (0x02, *digest[:5]))


def batch(netns: str, *lines: str) -> None:
    """Run lines of ``ip`` in the lab's namespace, in one process."""
    run(["ip", "-n", netns, "-batch", "-"], stdin="\n".join(lines) + "\n")


def make_lan(lab: Lab) -> None:
    """Namespace, bridge and gateway addresses."""
    run(["ip", "netns", "add", lab.netns])
    batch(
        lab.netns,
        "link set lo up",
        f"link add {BRIDGE} address {BRIDGE_MAC} type bridge forward_delay 0 mcast_snooping 0",
        f"address add {lab.gateway}/{lab.prefix} dev {BRIDGE}",
        # Without looking for a duplicate, which would take a second after the first node's port is up.
        *([f"address add {lab.gateway6}/{lab.prefix6} dev {BRIDGE} nodad"] if lab.lan6 else []),
        f"link add {NOWHERE} type bridge",
        f"link set {BRIDGE} up",
    )


def has_lan(lab: Lab) -> bool:
    """Whether make_lan ran to its last step."""
    if not namespace(lab.netns).exists():
        return False
    command = ["ip", "-n", lab.netns, "-o", "-4", "address", "show", "dev", BRIDGE, "up"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f" {lab.gateway}/" in done.stdout


def remove_port(lab: Lab, node: str) -> None:
    """Remove the port of an earlier boot, if there is one."""
    _succeeds("ip", "-n", lab.netns, "link", "delete", "dev", port(node))
    _forget(lab, node)


def _forget(lab: Lab, node: str) -> None:
    # While the host remembers the node's hardware address, a connection to a node that is off takes a minute to fail.
    _succeeds("ip", "-n", lab.netns, "neighbor", "delete", lab.nodes[node], "dev", BRIDGE)


def add_veth(lab: Lab, node: str, node_netns: Path) -> None:
    """Join a node's namespace to the LAN; its end is called eth0."""
    name, address = port(node), mac(lab, node)
    batch(
        lab.netns,
        f"link add {name} type veth peer name eth0 address {address} netns {node_netns}",
        f"link set {name} master {_master(lab, node)} up",
    )


def add_tap(lab: Lab, node: str) -> None:
    """A tap on the LAN for a node with its own kernel."""
    name = port(node)
    batch(
        lab.netns,
        f"tuntap add dev {name} mode tap",
        f"link set {name} master {_master(lab, node)} up",
    )


def cut(lab: Lab, node: str) -> None:
    """Block a node's LAN port, also over reboots, until it is healed."""
    _cut_mark(lab, node).touch()
    _replug(lab, node)
    _forget(lab, node)


def heal(lab: Lab, node: str) -> None:
    """Undo cut."""
    _cut_mark(lab, node).unlink(missing_ok=True)
    _replug(lab, node)


def is_cut(lab: Lab, node: str) -> bool:
    return _cut_mark(lab, node).exists()


def _cut_mark(lab: Lab, node: str) -> Path:
    return lab.node_dir(node) / "cut"


def _master(lab: Lab, node: str) -> str:
    return NOWHERE if is_cut(lab, node) else BRIDGE


def _replug(lab: Lab, node: str) -> None:
    # A node that is switched off has no port; the mark decides when it gets one.
    if _succeeds("ip", "-n", lab.netns, "link", "show", "dev", port(node)):
        batch(lab.netns, f"link set {port(node)} master {_master(lab, node)}")


def connect(netns: str, address: str, number: int, timeout: float) -> socket.socket:
    """A TCP connection made inside the lab's namespace; OSError when nothing answers there."""
    made: list[socket.socket | OSError] = []

    def enter() -> None:
        # setns moves the calling thread only, and a socket stays in the namespace it was made in.
        try:
            spawn.enter_network(namespace(netns))
            made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    result = made[0]
    if isinstance(result, OSError):
        raise result
    result.settimeout(timeout)
    try:
        result.connect((address, number))
    except OSError:
        result.close()
        raise
    return result


def delete_namespace(netns: str) -> None:
    """Remove a namespace with everything in it, if there is one."""
    if namespace(netns).exists():
        try:
            run(["ip", "netns", "delete", netns])
        except LabError:
            # A crash between the creation of the file and of the mount leaves a plain file.
            namespace(netns).unlink(missing_ok=True)


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
