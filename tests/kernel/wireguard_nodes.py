# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes of an encrypted overlay for tests: their keys, documents for them, and their devices seen by `wg` and `ip`."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import snapshot as plain_snapshot

DEVICES = ("flannel-wg", "flannel-wg-v6")
NETWORK, NETWORK6 = "10.244.0.0/16", "fd00::/48"
PSK = base64.b64encode(bytes(range(1, 33))).decode()


class Keys:
    """Private keys of numbered nodes in files, as `wg` itself makes them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._public: dict[int, str] = {}

    def path(self, number: int) -> Path:
        return self._directory / f"key{number}"

    def public(self, number: int) -> str:
        if number not in self._public:
            private = _wg("genkey")
            self.path(number).write_text(private)
            self._public[number] = _wg("pubkey", private).strip()
        return self._public[number]

    def anew(self, number: int) -> str:
        self._public.pop(number, None)
        return self.public(number)

    def member(self, number: int, dual: bool = False) -> dict[str, Any]:
        half = {"address": f"192.0.2.{number}", "subnet": f"10.244.{number}.0/24"}
        half6 = {"address6": f"2001:db8::{number:x}", "subnet6": f"fd00:0:0:{number:x}::/64"}
        return {"name": f"n{number}", "public_key": self.public(number), **half, **(half6 if dual else {})}

    def document(self, own: int, *peers: int, dual: bool = False, **backend: Any) -> dict[str, Any]:
        """Parameters of overlay_network for node ``own``."""
        networks = {"network": NETWORK, **({"network6": NETWORK6} if dual else {})}
        return {
            **networks,
            "backend": {"type": "wireguard", "key_file": str(self.path(own)), **backend},
            "node": self.member(own, dual),
            "peers": [self.member(peer, dual) for peer in peers],
        }


def _wg(command: str, data: str = "") -> str:
    return subprocess.run(["wg", command], input=data, capture_output=True, text=True, check=True).stdout


def peers_of(node: Namespace, device: str = "flannel-wg") -> dict[str, dict[str, str]]:
    """By public key: preshared key, endpoint, allowed addresses and keepalive as `wg` tells them."""
    found = {}
    for line in node.out(f"wg show {device} dump").splitlines()[1:]:
        key, psk, endpoint, allowed, _handshake, _rx, _tx, keepalive = line.split("\t")
        found[key] = {"psk": psk, "endpoint": endpoint, "allowed": allowed, "keepalive": keepalive}
    return found


def devices_of(node: Namespace) -> list[str]:
    # A link of another kind is an empty entry.
    return sorted(link["ifname"] for link in node.json("ip -j link show type wireguard") if link)


def device_of(node: Namespace, device: str = "flannel-wg") -> dict[str, str]:
    private, public, port, mark = node.out(f"wg show {device} dump").splitlines()[0].split("\t")
    return {"private": private, "public": public, "port": port, "mark": mark}


def snapshot(node: Namespace) -> dict[str, Any]:
    """Everything that a run could change in the kernel, keys too."""
    devices = {name: (device_of(node, name), peers_of(node, name)) for name in devices_of(node)}
    return {**plain_snapshot(node), "wireguard": devices}


def dual_pod(netns: Namespaces, node: Namespace, number: int, mtu: int) -> Namespace:
    """A pod 10.244.N.2 and fd00:0:0:N::2 of node N, with the node as its gateway."""
    inside = netns(f"pod{number}")
    netns.link(node, "pod0", inside, "eth0")
    for namespace, device in ((node, "pod0"), (inside, "eth0")):
        namespace.run(f"ip link set {device} mtu {mtu}")
    node.run(f"ip address add 10.244.{number}.1/24 dev pod0")
    node.run(f"ip address add fd00:0:0:{number:x}::1/64 dev pod0 nodad")
    inside.run(f"ip address add 10.244.{number}.2/24 dev eth0")
    inside.run(f"ip address add fd00:0:0:{number:x}::2/64 dev eth0 nodad")
    inside.run(f"ip route add default via 10.244.{number}.1")
    inside.run(f"ip -6 route add default via fd00:0:0:{number:x}::1")
    return inside
