# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Overlays of any size, as a document of ours and as input of `ip -batch` and `bridge -batch`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNDERLAY = "eth0"
# Peers' subnets are /23 of 10.0.0.0/8, so that 20,000 and more fit; nodes live in 172.16.0.0/12.
_FIRST_SUBNET, _SUBNET_SIZE = 10 << 24, 512
_FIRST_NODE = (172 << 24) + (16 << 16) + 1


@dataclass(frozen=True)
class Half:
    """What an overlay has of one IP family. ``suffix`` is that of its keys in documents, ``bits`` the length of an
    address, ``length`` that of a subnet's prefix."""

    suffix: str
    network: str
    device: str
    mtu: int
    bits: int
    length: int


IPV4 = Half("", "10.0.0.0/8", "flannel.1", 1450, 32, 23)
IPV6 = Half("6", "fd00:10:244::/48", "flannel-v6.1", 1430, 128, 64)
FAMILIES = {"ipv4": (IPV4,), "dual": (IPV4, IPV6)}


@dataclass(frozen=True)
class Peer:
    """Node ``number`` of the overlay; 0 is the one that is measured."""

    number: int

    def address(self, half: Half) -> str:
        return _dotted(_FIRST_NODE + self.number) if half is IPV4 else f"2001:db8::{self.number + 1:x}"

    def gateway(self, half: Half) -> str:
        place = self.number + 1
        return _dotted(_FIRST_SUBNET + place * _SUBNET_SIZE) if half is IPV4 else f"fd00:10:244:{place:x}::"

    def subnet(self, half: Half) -> str:
        return f"{self.gateway(half)}/{half.length}"

    def mac(self, half: Half) -> str:
        return f"{'02' if half is IPV4 else '06'}:{self.number.to_bytes(5, 'big').hex(':')}"

    def entry(self, family: str) -> dict[str, Any]:
        made = {"name": f"n{self.number}"}
        for half in FAMILIES[family]:
            for key, of in (("address", self.address), ("subnet", self.subnet), ("mac", self.mac)):
                made[key + half.suffix] = of(half)
        return made


def document(peers: int, family: str) -> dict[str, Any]:
    """Parameters of overlay_network for node 0 with so many peers."""
    return {
        **networks(family),
        "node": Peer(0).entry(family),
        "peers": [Peer(number).entry(family) for number in range(1, peers + 1)],
        "interface": UNDERLAY,
    }


def networks(family: str) -> dict[str, str]:
    return {f"network{half.suffix}": half.network for half in FAMILIES[family]}


def underlay_addresses(family: str) -> list[str]:
    lengths = {IPV4: 12, IPV6: 64}
    return [f"{Peer(0).address(half)}/{lengths[half]}" for half in FAMILIES[family]]


@dataclass(frozen=True)
class Batch:
    """Files for `ip -batch` and `bridge -batch`."""

    ip: Path
    bridge: Path

    def commands(self) -> list[list[str]]:
        return [["ip", "-batch", str(self.ip)], ["bridge", "-batch", str(self.bridge)]]


def device_commands(half: Half) -> list[str]:
    own, device = Peer(0), half.device
    return [
        f"link add {device} address {own.mac(half)} mtu {half.mtu} txqlen 0 type vxlan id 1 local {own.address(half)}"
        f" dev {UNDERLAY} dstport 8472 nolearning",
        f"address add {own.gateway(half)}/{half.bits} dev {device}",
        f"link set {device} up",
    ]


def batch(
    directory: Path, name: str, family: str, numbers: Iterable[int], action: str, with_device: bool = False
) -> Batch:
    """Commands that ``action`` ("replace" or "delete") the peers of these numbers."""
    peers = [Peer(number) for number in numbers]
    ip: list[str] = []
    bridge: list[str] = []
    for half in FAMILIES[family]:
        device, permanent = half.device, " nud permanent" if action == "replace" else ""
        ip += device_commands(half) if with_device else []
        for peer in peers:
            gateway, mac = peer.gateway(half), peer.mac(half)
            ip.append(f"neigh {action} {gateway} lladdr {mac} dev {device}{permanent}")
            ip.append(f"route {action} {peer.subnet(half)} via {gateway} dev {device} onlink")
            bridge.append(f"fdb {action} {mac} dst {peer.address(half)} dev {device} self permanent")
    files = Batch(directory / f"{name}.ip", directory / f"{name}.bridge")
    files.ip.write_text("\n".join(ip) + "\n")
    files.bridge.write_text("\n".join(bridge) + "\n")
    return files


def dump_commands(family: str) -> list[list[str]]:
    """What shows the tables that a run without changes reads."""
    made = []
    for half in FAMILIES[family]:
        ip, on_device = ["ip", "-6" if half is IPV6 else "-4"], ["show", "dev", half.device]
        made += [
            ["ip", "-d", "link", *on_device],
            [*ip, "address", *on_device],
            [*ip, "neigh", *on_device],
            ["bridge", "fdb", *on_device],
            [*ip, "route", "show"],
        ]
    return made


def teardown_commands(family: str) -> list[list[str]]:
    return [["ip", "link", "delete", half.device] for half in FAMILIES[family]]


def _dotted(number: int) -> str:
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
