# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Packets of both IP versions over the overlay: who sees what at which size, and what is lost during changes."""

from __future__ import annotations

import copy
import itertools
from contextlib import ExitStack
from typing import Any

import pytest

from tests.kernel import packets
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import (
    dual_document,
    dual_member,
    dual_pod,
    family_document,
    ipv6_member,
    joined_nodes,
    member,
    pod_address,
    without_detection,
)

MODULE = "overlay_network"
VXLAN: dict[str, Any] = {}
DIRECT: dict[str, Any] = {"direct_routing": True}
HOST_GW: dict[str, Any] = {"type": "host-gw"}
VERSIONS = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}
#: What packets of one IP version a device carries over an underlay of the same version with 1500 bytes.
LARGEST = {("vxlan", 4): 1450, ("vxlan", 6): 1430, ("host-gw", 4): 1500, ("host-gw", 6): 1500}


class Cluster:
    """Nodes on one LAN, and a pod on each. Nodes and their pods count from 1."""

    def __init__(self, netns: Namespaces, run_module: RunModule, count: int) -> None:
        self.run_module = run_module
        self.nodes = joined_nodes(netns, count)
        self.pods = [dual_pod(netns, node, number) for number, node in enumerate(self.nodes, 1)]

    @property
    def numbers(self) -> range:
        return range(1, len(self.nodes) + 1)

    def bring(self, family: str, **more: Any) -> None:
        for number in self.numbers:
            self.run(number, family_document(family, number, *self.numbers, **more))

    def run(self, number: int, args: dict[str, Any]) -> dict[str, Any]:
        return self.run_module(MODULE, args, netns=self.nodes[number - 1])

    def widen(self) -> None:
        """Pods and what leads to them carry what the underlay does."""
        for node, pod in zip(self.nodes, self.pods, strict=True):
            node.run("ip link set pod0 mtu 1500")
            pod.run("ip link set eth0 mtu 1500")

    def ask(self, here: int, there: int, version: int, size: int = 100) -> str | None:
        return packets.ask(self.pods[here - 1], pod_address(version, there), size)

    def silent(self, here: int, there: int, version: int, size: int = 100) -> bool:
        return packets.silent(self.pods[here - 1], pod_address(version, there), size)


@pytest.fixture
def two(netns: Namespaces, run_module: RunModule) -> Cluster:
    return Cluster(netns, run_module, 2)


@pytest.fixture
def three(netns: Namespaces, run_module: RunModule) -> Cluster:
    return Cluster(netns, run_module, 3)


@pytest.mark.parametrize(("family", "backend"), [("ipv6", "vxlan"), ("dual", "vxlan"), ("dual", "host-gw")])
def test_pods_see_each_others_addresses_at_the_full_mtu(two: Cluster, family: str, backend: str) -> None:
    two.bring(family, backend={"type": backend})
    two.widen()
    for here, there in ((1, 2), (2, 1)):
        with packets.server(two.pods[there - 1]):
            for version in VERSIONS[family]:
                own, largest = pod_address(version, here), LARGEST[backend, version]
                assert two.ask(here, there, version) == own
                assert two.ask(here, there, version, largest) == own
                if largest < 1500:
                    assert two.silent(here, there, version, largest + 1)
    for number in two.numbers:
        again = two.run(number, family_document(family, number, *two.numbers, backend={"type": backend}))
        assert (again["changed"], again["operations"]) == (False, [])
        expected = 1500 if backend == "host-gw" else 1430
        assert again["mtu"] == expected


def test_nodes_and_pods_reach_each_other_by_the_addresses_of_the_devices(two: Cluster) -> None:
    two.bring("dual")
    with packets.server(two.pods[1]):
        for version, own in ((4, "10.244.1.0"), (6, "fd00:10:244:1::")):
            assert packets.ask(two.nodes[0], pod_address(version, 2)) == own
    with packets.server(two.nodes[0]):
        for version, address in ((4, "10.244.1.0"), (6, "fd00:10:244:1::")):
            assert packets.ask(two.pods[1], address) == pod_address(version, 2)


def streams(cluster: Cluster, stack: ExitStack, versions: tuple[int, ...]) -> dict[int, list[int]]:
    """Packets from the pod on node 1 to the one on node 2, after the first answer."""
    stack.enter_context(packets.server(cluster.pods[1]))
    for version in versions:
        assert cluster.ask(1, 2, version) == pod_address(version, 1)
    return {
        version: stack.enter_context(packets.stream(cluster.pods[0], pod_address(version, 2))) for version in versions
    }


def nothing_lost(counts: dict[int, list[int]]) -> bool:
    return all(sent == answered > 20 for sent, answered in counts.values())


def test_ipv6_half_comes_and_goes_without_losing_a_packet_of_ipv4(two: Cluster) -> None:
    two.bring("ipv4")
    with ExitStack() as stack:
        counts = streams(two, stack, (4,))
        two.bring("dual")
        assert two.ask(1, 2, 6) == pod_address(6, 1)
        two.bring("ipv4")
        assert two.silent(1, 2, 6)
    assert nothing_lost(counts)


def test_ipv4_half_goes_without_losing_a_packet_of_ipv6(two: Cluster) -> None:
    two.bring("dual")
    with ExitStack() as stack:
        counts = streams(two, stack, (6,))
        two.bring("ipv6")
        assert two.silent(1, 2, 4)
        for node in two.nodes:
            assert [link["ifname"] for link in node.json("ip -j link show type vxlan")] == ["flannel-v6.1"]
            assert {line.split()[2] for line in node.out("ip -4 route show").splitlines()} == {"eth0", "pod0"}
        two.bring("dual")
        assert two.ask(1, 2, 4) == pod_address(4, 1)
    assert nothing_lost(counts)


CHANGES = {
    "added": lambda peers: peers.append(dual_member(4)),
    "added with one half": lambda peers: peers.append(ipv6_member(4)),
    "removed": lambda peers: peers.pop(),
    "without its IPv6 half": lambda peers: peers.append(member(int(peers.pop()["name"][1:]))),
    "another mac6": lambda peers: peers[1].update(mac6="02:aa:bb:cc:06:77"),
    "another address6": lambda peers: peers[1].update(address6="2001:db8::77"),
    "another subnet6": lambda peers: peers[1].update(subnet6="fd00:10:244:77::/64"),
}


def test_no_peer_loses_a_packet_when_another_changes(three: Cluster) -> None:
    three.bring("dual")
    with ExitStack() as stack:
        counts = streams(three, stack, (4, 6))
        for name, change in CHANGES.items():
            args = copy.deepcopy(dual_document(1, 2, 3))
            change(args["peers"])
            assert three.run(1, args)["changed"], name
            assert three.run(1, dual_document(1, 2, 3))["changed"], name
    assert nothing_lost(counts)


def test_peer_with_another_mac6_is_reached_again(two: Cluster) -> None:
    two.bring("dual")
    moved = {**dual_member(2), "mac6": "02:aa:bb:cc:06:77"}
    two.run(2, {**dual_document(2, 1), "node": moved})
    with packets.server(two.pods[1]):
        assert two.silent(1, 2, 6)
        assert two.ask(1, 2, 4) == pod_address(4, 1)
        two.run(1, {**dual_document(1), "peers": [moved]})
        assert two.ask(1, 2, 6) == pod_address(6, 1)


def test_backends_change_through_direct_routing_without_losing_a_packet(two: Cluster) -> None:
    """Node after node, there and back: whoever has not changed yet is reached by both ways."""
    two.bring("dual", backend=VXLAN)
    with ExitStack() as stack:
        counts = streams(two, stack, (4, 6))
        for backend in (DIRECT, HOST_GW, DIRECT, VXLAN):
            two.bring("dual", backend=backend)
    assert nothing_lost(counts)
    for node in two.nodes:
        assert "fd00:10:244" not in node.out("ip -6 route show dev eth0")
        assert len(node.out("ip -6 route show dev flannel-v6.1 root fd00:10:244::/48 proto boot").splitlines()) == 1


def test_peer_behind_a_router_goes_through_the_device_and_the_others_do_not(
    netns: Namespaces, run_module: RunModule
) -> None:
    """Node 3 is on a LAN of its own, with a router between; with host-gw it is refused."""
    cluster = Cluster(netns, run_module, 3)
    third, router = cluster.nodes[2], netns("router")
    without_detection(router)
    third.run("ip link delete eth0")
    netns.link(third, "eth0", router, "far")
    netns.link(cluster.nodes[0], "unused", router, "near")
    cluster.nodes[0].run("ip link delete unused")
    lan = netns.made[0]
    netns.link(router, "near", lan, "p9")
    lan.run("ip link set p9 master br0")
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        router.run(["sh", "-c", f"echo 1 > /proc/sys/net/{key}"])
    for address, device in (
        ("192.0.2.254/24", "near"),
        ("2001:db8::254/64", "near"),
        ("198.51.100.254/24", "far"),
        ("2001:db8:3::254/64", "far"),
    ):
        router.run(f"ip address add {address} dev {device}{' nodad' if ':' in address else ''}")
    third.run("ip address add 198.51.100.3/24 dev eth0")
    third.run("ip address add 2001:db8:3::3/64 dev eth0 nodad")
    for node, ways in (
        (third, ("198.51.100.254", "2001:db8:3::254")),
        *((node, ("192.0.2.254", "2001:db8::254")) for node in cluster.nodes[:2]),
    ):
        for gateway in ways:
            node.run(f"ip route add default via {gateway}")
    members = [dual_member(1), dual_member(2), {**dual_member(3), "address": "198.51.100.3"}]
    members[2]["address6"] = "2001:db8:3::3"
    for number, own in enumerate(members, 1):
        cluster.run(number, {**dual_document(1), "node": own, "peers": members, "backend": DIRECT})
    first = cluster.nodes[0]
    assert ipv6_ways(first, "eth0") == ["fd00:10:244:2::/64 via 2001:db8::2"]
    assert ipv6_ways(first, "flannel-v6.1") == ["fd00:10:244:3::/64 via fd00:10:244:3::"]
    assert first.out("ip -6 neigh show dev flannel-v6.1 nud permanent").split()[0] == "fd00:10:244:3::"
    for here, there in itertools.permutations((1, 2, 3), 2):
        with packets.server(cluster.pods[there - 1]):
            assert cluster.ask(here, there, 6, 1430) == pod_address(6, here)
    args: dict[str, Any] = {**dual_document(1), "peers": members[1:], "backend": HOST_GW}
    args["peers"][1] = {**members[2], "address": "192.0.2.3"}
    refusal = run_module(MODULE, args, netns=first, fails=True)["msg"]
    assert refusal.startswith("peer n3: 2001:db8:3::3 is behind gateway 2001:db8::254; backend host-gw needs")


def ipv6_ways(node: Namespace, device: str) -> list[str]:
    """Destination and gateway of the routes to pods over a device."""
    lines = node.out(f"ip -6 route show dev {device}").splitlines()
    return [" ".join(line.split()[:3]) for line in lines if line.startswith("fd00:10:244:") and " via " in line]
