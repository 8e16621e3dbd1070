# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The files that make a node itself: name, address, keys. Everything else comes from the shared image."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lab import mirror
from lab.state import Lab


def files(lab: Lab, node: str, authorized: str, host_key: tuple[str, str]) -> dict[str, tuple[int, str]]:
    """Path inside the node to (mode, content).

    :param authorized: public key that may log in as root.
    :param host_key: the node's own SSH key, private and public part.
    """
    private, public = host_key
    return {
        "etc/hostname": (0o644, f"{node}\n"),
        # As the Debian installer writes it: a node knows its own name only.
        "etc/hosts": (0o644, f"127.0.0.1 localhost\n127.0.1.1 {node}\n::1 localhost ip6-localhost\n"),
        "etc/machine-id": (0o444, machine_id(lab, node) + "\n"),
        "etc/systemd/network/10-lan.network": (0o644, _network(lab, node)),
        "etc/apt/sources.list.d/lab.list": (0o644, mirror.source_line(lab.gateway)),
        "root/.ssh/authorized_keys": (0o600, authorized),
        "etc/ssh/ssh_host_ed25519_key": (0o600, private),
        "etc/ssh/ssh_host_ed25519_key.pub": (0o644, public),
    }


def machine_id(lab: Lab, node: str) -> str:
    """Unique among labs and nodes, and the same when a lab is made again."""
    return hashlib.sha256(f"{lab.dir}/{node}".encode()).hexdigest()[:32]


def write(root: Path, content: dict[str, tuple[int, str]]) -> None:
    """Write the files below root, with directories as the image has them."""
    for name, (mode, text) in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)
        path.chmod(mode)
    (root / "root").chmod(0o700)
    (root / "root/.ssh").chmod(0o700)


def _network(lab: Lab, node: str) -> str:
    ipv6 = f"Address={lab.nodes6[node]}/{lab.prefix6}\nGateway={lab.gateway6}\n" if node in lab.nodes6 else ""
    return f"""[Match]
Name=eth0

[Network]
Address={lab.nodes[node]}/{lab.prefix}
Gateway={lab.gateway}
{ipv6}IPv6AcceptRA=no
ConfigureWithoutCarrier=yes
"""
