# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes of an overlay for tests: namespaces on one bridge, documents for them, and their state seen from outside."""

from __future__ import annotations

import json
from typing import Any

from tests.kernel.namespaces import Namespace, Namespaces
from tests.waiting import wait_until

# Differs between two devices that are otherwise the same.
_VOLATILE = ("ifindex", "link_index")


def member(number: int) -> dict[str, str]:
    """Node ``number`` of every overlay here: 192.0.2.N, 10.244.N.0/24, a MAC address that ends in N."""
    return {
        "name": f"n{number}",
        "address": f"192.0.2.{number}",
        "subnet": f"10.244.{number}.0/24",
        "mac": f"02:aa:bb:cc:dd:{number:02x}",
    }


def dual_member(number: int) -> dict[str, str]:
    """The same node with 2001:db8::N, fd00:10:244:N::/64 (N in hexadecimal), and another MAC address that ends in N."""
    return {
        **member(number),
        "address6": f"2001:db8::{number:x}",
        "subnet6": f"fd00:10:244:{number:x}::/64",
        "mac6": f"02:aa:bb:cc:06:{number:02x}",
    }


def dual_document(own: int, *peers: int, **more: Any) -> dict[str, Any]:
    """The same for both IP versions."""
    members = {"node": dual_member(own), "peers": [dual_member(peer) for peer in peers]}
    return {"network": "10.244.0.0/16", "network6": "fd00:10:244::/48", **members, **more}


def family_document(family: str, own: int, *peers: int, **more: Any) -> dict[str, Any]:
    """The same for "ipv4", "ipv6" alone, or "dual"."""
    if family == "ipv6":
        members = {"node": ipv6_member(own), "peers": [ipv6_member(peer) for peer in peers]}
        return {"network6": "fd00:10:244::/48", **members, **more}
    return {"ipv4": document, "dual": dual_document}[family](own, *peers, **more)


def ipv6_member(number: int) -> dict[str, str]:
    """The IPv6 half of a node."""
    return {key: value for key, value in dual_member(number).items() if key == "name" or key.endswith("6")}


def document(own: int, *peers: int, **more: Any) -> dict[str, Any]:
    """Parameters of overlay_network for node ``own``."""
    return {"node": member(own), "peers": [member(peer) for peer in peers], **more}


def lone_node(netns: Namespaces, number: int = 1, mtu: int = 1500) -> Namespace:
    """A node whose underlay eth0 leads nowhere; eth1 is a second interface without an address."""
    node = netns(f"n{number}")
    for index, name in enumerate(("eth0", "eth1")):
        # Fixed addresses, so that two such nodes can be compared.
        own, far = f"02:00:00:00:{index:02x}:01", f"02:00:00:00:{index:02x}:02"
        node.run(f"ip link add {name} address {own} mtu {mtu} type veth peer name {name}p address {far} mtu {mtu}")
        node.run(f"ip link set {name}p up")
        node.run(f"ip link set {name} up")
    node.run(f"ip address add 192.0.2.{number}/24 dev eth0")
    node.run(f"ip address add 2001:db8::{number:x}/64 dev eth0 nodad")
    wait_until_up(node, 4)
    return node


def wait_until_up(node: Namespace, count: int) -> None:
    """The kernel tells that a cable is plugged in some time after it is."""

    def up() -> int:
        return sum(link["operstate"] == "UP" for link in node.json("ip -j link show"))

    wait_until(lambda: up() >= count, f"{count} links are up", every=0.02)


def joined_nodes(netns: Namespaces, count: int) -> list[Namespace]:
    """Nodes 1 to ``count``, each with eth0 on one LAN."""
    lan = netns("lan")
    lan.run("ip link add br0 type bridge")
    lan.run("ip link set br0 up")
    nodes = []
    for number in range(1, count + 1):
        node = netns(f"n{number}")
        without_detection(node)
        netns.link(node, "eth0", lan, f"p{number}")
        lan.run(f"ip link set p{number} master br0")
        node.run(f"ip address add 192.0.2.{number}/24 dev eth0")
        node.run(f"ip address add 2001:db8::{number:x}/64 dev eth0 nodad")
        node.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        node.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"])
        nodes.append(node)
    return nodes


def without_detection(node: Namespace) -> None:
    """Interfaces that come later do not look for duplicates of their link-local addresses, without which the kernel
    asks for no neighbor of IPv6."""
    node.run(
        ["sh", "-c", "echo 0 | tee /proc/sys/net/ipv6/conf/all/accept_dad /proc/sys/net/ipv6/conf/default/accept_dad"]
    )


def pod(netns: Namespaces, node: Namespace, number: int) -> Namespace:
    """A pod 10.244.N.2 of node N, with the node's address 10.244.N.1 as its gateway."""
    inside = netns(f"pod{number}")
    without_detection(inside)
    netns.link(node, "pod0", inside, "eth0")
    node.run(f"ip address add 10.244.{number}.1/24 dev pod0")
    inside.run("ip link set eth0 mtu 1450")
    inside.run(f"ip address add 10.244.{number}.2/24 dev eth0")
    inside.run(f"ip route add default via 10.244.{number}.1")
    return inside


def dual_pod(netns: Namespaces, node: Namespace, number: int) -> Namespace:
    """The same with fd00:10:244:N::2 and fd00:10:244:N::1 beside."""
    inside = pod(netns, node, number)
    node.run(f"ip address add {pod_address(6, number, 1)}/64 dev pod0 nodad")
    inside.run(f"ip address add {pod_address(6, number)}/64 dev eth0 nodad")
    inside.run(f"ip route add default via {pod_address(6, number, 1)}")
    return inside


def pod_address(version: int, number: int, host: int = 2) -> str:
    """Of the pod on node N."""
    return f"10.244.{number}.{host}" if version == 4 else f"fd00:10:244:{number:x}::{host}"


def snapshot(node: Namespace) -> dict[str, Any]:
    """Everything a run could change in the kernel, as the system's own tools tell it."""
    devices = [link["ifname"] for link in node.json("ip -j link show type vxlan")]
    return {
        "links": [_settled(link) for link in node.json("ip -d -j link show")],
        "addresses": [_settled(link) for link in node.json("ip -4 -j address show")],
        "routes": node.json("ip -4 -d -j route show table all"),
        "nexthops": node.json("ip -j nexthop show"),
        "neighbors": _sorted(node.json("ip -4 -j neigh show nud permanent")),
        "addresses6": [_settled(link) for link in node.json("ip -6 -j address show scope global")],
        "routes6": [route for route in node.json("ip -6 -d -j route show table all") if not _automatic(route["dst"])],
        "neighbors6": _sorted(node.json("ip -6 -j neigh show nud permanent")),
        "fdb": {name: _sorted(node.json(f"bridge -j fdb show dev {name}")) for name in devices},
        "accept_ra": {name: _accept_ra(node, name) for name in devices},
    }


def _accept_ra(node: Namespace, device: str) -> str:
    """Nothing for a device on which the kernel has no IPv6."""
    return node.run(f"cat /proc/sys/net/ipv6/conf/{device}/accept_ra", check=False).stdout


def _automatic(destination: str) -> bool:
    """What the kernel adds to every interface, in its own time."""
    return destination.startswith(("fe80:", "ff00:"))


def _settled(link: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in link.items() if key not in _VOLATILE}


def _sorted(entries: list[Any]) -> list[Any]:
    return sorted(entries, key=lambda entry: json.dumps(entry, sort_keys=True))
