# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A run over both IP versions that fails at any of its operations leaves the kernel as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import dual_document, dual_member, family_document, lone_node
from tests.kernel.test_overlay_dual_changes import FOREIGN6
from tests.kernel.test_overlay_undo import check_every_position, converge

__all__ = ["converge"]
HOST_GW = {"type": "host-gw"}
DIRECT = {"direct_routing": True}
Converge = Callable[..., int]


def settled(netns: Namespaces, converge: Converge, *extra: str, family: str = "dual", **more: Any) -> Namespace:
    node = lone_node(netns)
    converge(node, family_document(family, 1, 2, 3, **more), 100, None)
    for command in extra:
        node.run(command)
    return node


@pytest.mark.parametrize(("family", "count"), [("ipv6", 9), ("dual", 20)])
def test_undo_of_a_first_run(netns: Namespaces, converge: Converge, family: str, count: int) -> None:
    assert check_every_position(lone_node(netns), converge, family_document(family, 1, 2, 3), None) == count


def test_undo_of_changed_peers_and_collected_entries(netns: Namespaces, converge: Converge) -> None:
    node = settled(netns, converge, *FOREIGN6)
    args = dual_document(1, 4, backend={"mtu": 1400})
    args["peers"] += [
        {**dual_member(2), "mac6": "02:aa:bb:cc:06:77"},
        {**dual_member(3), "address6": "2001:db8::77", "subnet6": "fd00:10:244:33::/64"},
    ]
    assert check_every_position(node, converge, args, None) == 17 + len(FOREIGN6)


@pytest.mark.parametrize(
    ("more", "count"),
    [({"backend": {"vni": 42}}, 34), ({"backend": HOST_GW}, 20)],
    ids=["another vni", "host-gw"],
)
def test_undo_of_another_backend_and_of_the_way_back(
    netns: Namespaces, converge: Converge, more: dict[str, Any], count: int
) -> None:
    node = settled(netns, converge)
    vxlan, other = dual_document(1, 2, 3), dual_document(1, 2, 3, **more)
    assert check_every_position(node, converge, other, vxlan) == count
    assert check_every_position(node, converge, vxlan, other) == count


def test_undo_of_a_device_made_anew_with_what_others_put_on_it(netns: Namespaces, converge: Converge) -> None:
    node = settled(netns, converge, *FOREIGN6, "ip address add 2001:db8:9::1/64 dev flannel-v6.1 nodad")
    moved = dual_document(1, 2, 3, backend={"port": 4789})
    assert check_every_position(node, converge, moved, None) > 40


@pytest.mark.parametrize("gone", ["ipv4", "ipv6"])
def test_undo_of_a_half_that_goes_and_comes(netns: Namespaces, converge: Converge, gone: str) -> None:
    node = settled(netns, converge)
    dual = dual_document(1, 2, 3)
    single = family_document({"ipv4": "ipv6", "ipv6": "ipv4"}[gone], 1, 2, 3)
    count = {"ipv4": 11, "ipv6": 9}[gone]
    assert check_every_position(node, converge, single, dual) == count
    assert check_every_position(node, converge, dual, single) == count


def test_undo_of_replacing_a_device_of_others(netns: Namespaces, converge: Converge) -> None:
    """A device with properties that ours never have comes back with them."""
    node = lone_node(netns)
    node.run(
        "ip link add flannel-v6.1 address 02:00:00:00:00:56 mtu 1400 txqlen 500 type vxlan id 1 group ff05::100"
        " dev eth1 local 2001:db8::1 dstport 8472 srcport 40000 50000 learning ttl 5 udp6zerocsumtx"
        " udp6zerocsumrx ageing 77"
    )
    node.run("ip link set flannel-v6.1 up")
    for address in ("2001:db8:9::1", "2001:db8:9::2", "fd00:10:244:9::9"):
        node.run(f"ip address add {address}/64 dev flannel-v6.1 nodad")
    assert check_every_position(node, converge, family_document("ipv6", 1, 2), None) > 10
    assert "group" not in node.out("ip -d link show flannel-v6.1").replace("group default", "")


def test_undo_of_direct_routing(netns: Namespaces, converge: Converge) -> None:
    node = settled(netns, converge)
    direct = dual_document(1, 2, 3, backend=DIRECT)
    assert check_every_position(node, converge, direct, dual_document(1, 2, 3)) == 14
    assert check_every_position(node, converge, {"state": "deleted"}, direct) == 12


def test_undo_of_a_deletion(netns: Namespaces, converge: Converge) -> None:
    node = settled(netns, converge, *FOREIGN6)
    assert check_every_position(node, converge, {"state": "deleted"}, dual_document(1, 2, 3)) == 20 + len(FOREIGN6)


def test_undo_on_a_device_that_was_down(netns: Namespaces, converge: Converge) -> None:
    """The kernel takes IPv6 addresses of a device along when it goes down."""
    addresses = ("fd00:10:244:1::/128", "2001:db8:9::1/64")
    put = [f"ip address add {address} dev flannel-v6.1 nodad" for address in addresses]
    node = settled(netns, converge, "ip link set flannel-v6.1 down", *put, family="ipv6")
    assert check_every_position(node, converge, family_document("ipv6", 1, 2, 3), None) == 5


REPLACED = {
    "by gateway": ["via 2001:db8::2 dev eth0 src 2001:db8::1 mtu 1300"],
    "without gateway": ["dev eth1 proto static"],
    "unreachable": None,
    "several ways": ["nexthop via 2001:db8::3 weight 2 nexthop via 2001:db8::4"],
    "by object": ["nhid 5"],
    "several routes": ["via 2001:db8::2 dev eth0", "dev eth1", "dev eth0"],
    "several routes, the wider first": ["dev eth1", "dev eth0", "via 2001:db8::2 dev eth0"],
}


@pytest.mark.parametrize("case", REPLACED)
def test_undo_of_a_replaced_foreign_route(netns: Namespaces, converge: Converge, case: str) -> None:
    node = lone_node(netns)
    node.run("ip nexthop add id 5 via 2001:db8::5 dev eth0")
    for way in REPLACED[case] or ["unreachable"]:
        kind, rest = ("unreachable", "") if way == "unreachable" else ("unicast", way)
        node.run(f"ip -6 route append {kind} fd00:10:244:2::/64 {rest}")
    extra = len(REPLACED[case] or [1]) - 1
    assert check_every_position(node, converge, family_document("ipv6", 1, 2), None) == 6 + extra
    routes = node.json("ip -6 -j route show fd00:10:244:2::/64")
    assert [route["dev"] for route in routes] == ["flannel-v6.1"]
