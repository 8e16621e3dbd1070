# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The choice of the interface that carries the IPv6 half of an overlay, and of the address that packets leave with."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import dual_document, dual_member, family_document, lone_node, snapshot

MODULE = "overlay_network"
PUBLIC, PUBLIC6 = "100.64.0.1", "2001:db8:ffff::1"
TRANSLATED = {
    "node": {**dual_member(1), "address": PUBLIC, "address6": PUBLIC6},
    "public_address": PUBLIC,
    "public_address6": PUBLIC6,
}


@pytest.fixture
def node(netns: Namespaces) -> Namespace:
    """eth0 with the node's addresses, and eth1 with others and the default routes."""
    made = lone_node(netns)
    made.run("ip address add 198.51.100.1/24 dev eth1")
    made.run("ip address add 2001:db8:1::1/64 dev eth1 nodad")
    made.run("ip route add default via 198.51.100.254")
    made.run("ip -6 route add default via 2001:db8:1::fe")
    return made


def carriers(node: Namespace) -> list[tuple[str, str]]:
    """Interface and outer source address of each device."""
    found = {link["ifname"]: link["linkinfo"]["info_data"] for link in node.json("ip -d -j link show type vxlan")}
    data, data6 = found["flannel.1"], found["flannel-v6.1"]
    return [(data["link"], data["local"]), (data6["link"], data6["local6"])]


def test_underlay_is_chosen_by_the_rules_of_either_ip_version(node: Namespace, run_module: RunModule) -> None:
    for rules, link in (
        ({"interface": "eth1"}, "eth1"),
        ({}, "eth0"),
        ({"interface": "198.51.100.1"}, "eth1"),
        ({"interface": "2001:db8::1"}, "eth0"),
        ({"interface": "2001:DB8:1:0::1"}, "eth1"),
        ({"interface_regex": ["^2001:db8::"]}, "eth0"),
        ({"interface_regex": ["^nothing", "^2001:db8:1:"]}, "eth1"),
        ({"interface_can_reach": "2001:db8::9"}, "eth0"),
        ({"interface_can_reach": "203.0.113.9"}, "eth1"),
        ({"interface_regex": [r"^192\.0\.2\."]}, "eth0"),
        ({"interface_can_reach": "2001:db8:77::9"}, "eth1"),
    ):
        assert run_module(MODULE, dual_document(1, 2, **rules), netns=node)["changed"]
        assert carriers(node) == [(link, "192.0.2.1"), (link, "2001:db8::1")], rules
    refusal = run_module(MODULE, dual_document(1, 2, interface="2001:db8::99"), netns=node, fails=True)["msg"]
    assert refusal.startswith("interface: this node has no 2001:db8::99 to carry the overlay; it has ")


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, [("eth1", "198.51.100.1"), ("eth1", "2001:db8:1::1")]),
        ({"interface": "eth0"}, [("eth0", "192.0.2.1"), ("eth0", "2001:db8::1")]),
        ({"interface_can_reach": "2001:db8::9"}, [("eth0", "192.0.2.1"), ("eth0", "2001:db8::1")]),
        ({"interface": "2001:db8::101"}, [("eth0", "192.0.2.1"), ("eth0", "2001:db8::101")]),
        ({"interface_regex": ["::101$"]}, [("eth0", "192.0.2.1"), ("eth0", "2001:db8::101")]),
    ],
    ids=str,
)
def test_translated_addresses_leave_the_choice_to_the_rules_or_the_default_routes(
    node: Namespace, run_module: RunModule, rules: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    node.run("ip address del 2001:db8::1/64 dev eth0")
    for address in ("2001:db8::101", "2001:db8::1"):
        node.run(f"ip address add {address}/64 dev eth0 nodad")
    args = {**dual_document(1, 2), **TRANSLATED, **rules}
    without = {key: value for key, value in args.items() if key != "public_address6"}
    refusal = run_module(MODULE, without, netns=node, fails=True)["msg"]
    assert refusal.startswith(f"node.address6: {PUBLIC6} is on no interface of this node; there are 2001:db8::1 (eth0)")
    assert refusal.endswith("declare that one as public_address6")
    run_module(MODULE, args, netns=node)
    assert carriers(node) == expected


def test_default_routes_with_several_ways_and_to_nowhere(node: Namespace, run_module: RunModule) -> None:
    args = {**dual_document(1, 2), **TRANSLATED}
    before = snapshot(node)
    node.run("ip -6 route add unreachable default metric 1")
    run_module(MODULE, args, netns=node)
    assert carriers(node)[1] == ("eth1", "2001:db8:1::1")
    run_module(MODULE, {"state": "deleted"}, netns=node)
    node.run("ip -6 route del unreachable default metric 1")
    assert snapshot(node) == before
    for version, ways in ((4, ("198.51.100.253", "198.51.100.254")), (6, ("2001:db8:1::fd", "2001:db8:1::fe"))):
        node.run(f"ip -{version} route replace default nexthop via {ways[0]} nexthop via {ways[1]}")
    run_module(MODULE, args, netns=node)
    assert carriers(node) == [("eth1", "198.51.100.1"), ("eth1", "2001:db8:1::1")]
    run_module(MODULE, {"state": "deleted"}, netns=node)
    node.run("ip -6 route del default")
    refusal = run_module(MODULE, args, netns=node, fails=True)["msg"]
    assert refusal.startswith("interface: this node has no default route to tell which one carries the overlay")


def test_addresses_that_last_and_are_for_everybody_come_first(netns: Namespaces, run_module: RunModule) -> None:
    """Each of these is preferred to those before it. The kernel tells the latest one first."""
    node = lone_node(netns)
    node.run("ip -6 route add default via fe80::1 dev eth1")
    args = {**family_document("ipv6", 1, 2), "public_address6": PUBLIC6}
    args["node"]["address6"] = PUBLIC6
    assert "fe80::" in node.out("ip -6 address show dev eth1")
    for deprecated in ("", "ip address add 2001:db8:1::d/64 dev eth1 nodad preferred_lft 0"):
        node.run(deprecated or "true")
        refusal = run_module(MODULE, args, netns=node, fails=True)["msg"]
        assert refusal.startswith("interface: eth1 has no IPv6 address to carry the overlay")
    node.run("sysctl -q -w net.ipv6.conf.eth1.use_tempaddr=2 net.ipv6.conf.eth1.accept_dad=0")
    lifetimes = "valid_lft 100000 preferred_lft 90000"
    node.run(f"ip address add 2001:db8:1::e/64 dev eth1 nodad {lifetimes} mngtmpaddr")
    assert " temporary " in node.out("ip -6 address show dev eth1")
    for address in ("2001:db8:1::e", "2001:db8:1::f"):
        if address not in node.out("ip -6 address show dev eth1"):
            node.run(f"ip address add {address}/64 dev eth1 nodad")
        run_module(MODULE, args, netns=node)
        data = node.json("ip -d -j link show flannel-v6.1")[0]["linkinfo"]["info_data"]
        assert (data["link"], data["local6"]) == ("eth1", address)
