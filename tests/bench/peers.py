# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Overlays of any size, as a document of ours and as input of `ip -batch` and `bridge -batch`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEVICE = "flannel.1"
UNDERLAY = "eth0"
# Peers' subnets are /23 of 10.0.0.0/8, so that 20,000 and more fit; nodes live in 172.16.0.0/12.
NETWORK = "10.0.0.0/8"
_FIRST_SUBNET, _SUBNET_SIZE = 10 << 24, 512
_FIRST_NODE = (172 << 24) + (16 << 16) + 1


@dataclass(frozen=True)
class Peer:
    """Node ``number`` of the overlay; 0 is the one that is measured."""

    number: int

    @property
    def address(self) -> str:
        return _dotted(_FIRST_NODE + self.number)

    @property
    def gateway(self) -> str:
        return _dotted(_FIRST_SUBNET + (self.number + 1) * _SUBNET_SIZE)

    @property
    def mac(self) -> str:
        return f"02:{self.number.to_bytes(5, 'big').hex(':')}"

    def entry(self) -> dict[str, Any]:
        return {
            "name": f"n{self.number}",
            "address": self.address,
            "subnet": f"{self.gateway}/23",
            "mac": self.mac,
        }


def document(peers: int) -> dict[str, Any]:
    """Parameters of overlay_network for node 0 with so many peers."""
    return {
        "network": NETWORK,
        "node": Peer(0).entry(),
        "peers": [Peer(number).entry() for number in range(1, peers + 1)],
        "interface": UNDERLAY,
    }


@dataclass(frozen=True)
class Batch:
    """Files for `ip -batch` and `bridge -batch`."""

    ip: Path
    bridge: Path


def device_commands() -> list[str]:
    own = Peer(0)
    return [
        f"link add {DEVICE} address {own.mac} mtu 1450 txqlen 0 type vxlan id 1 local {own.address} dev {UNDERLAY}"
        " dstport 8472 nolearning",
        f"address add {own.gateway}/32 dev {DEVICE}",
        f"link set {DEVICE} up",
    ]


def batch(directory: Path, name: str, first: int, last: int, action: str, with_device: bool = False) -> Batch:
    """Commands that ``action`` ("replace" or "delete") peers first to last."""
    ip = device_commands() if with_device else []
    bridge = []
    for peer in map(Peer, range(first, last + 1)):
        permanent = " nud permanent" if action == "replace" else ""
        ip.append(f"neigh {action} {peer.gateway} lladdr {peer.mac} dev {DEVICE}{permanent}")
        ip.append(f"route {action} {peer.gateway}/23 via {peer.gateway} dev {DEVICE} onlink")
        bridge.append(f"fdb {action} {peer.mac} dst {peer.address} dev {DEVICE} self permanent")
    files = Batch(directory / f"{name}.ip", directory / f"{name}.bridge")
    files.ip.write_text("\n".join(ip) + "\n")
    files.bridge.write_text("\n".join(bridge) + "\n")
    return files


def _dotted(number: int) -> str:
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
