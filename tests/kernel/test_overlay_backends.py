# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Backends of overlay_network other than plain vxlan, changes between them, and the choice of the underlay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import packets
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import document, joined_nodes, lone_node, member, pod, snapshot
from tests.kernel.test_overlay_changes import index_of, kinds

MODULE = "overlay_network"
VXLAN: dict[str, Any] = {}
DIRECT: dict[str, Any] = {"direct_routing": True}
HOST_GW: dict[str, Any] = {"type": "host-gw"}
DELETE = {"state": "deleted"}


def args(backend: dict[str, Any], own: int, *peers: int, **more: Any) -> dict[str, Any]:
    return document(own, *peers, backend=backend, **more)


def without_macs(arguments: dict[str, Any]) -> dict[str, Any]:
    """As leases of backends without MAC addresses are handed on."""
    for entry in (arguments["node"], *arguments["peers"]):
        entry["mac"] = ""
    return arguments


def routes(node: Namespace, device: str = "eth0") -> list[str]:
    return [line.strip() for line in node.out(f"ip -4 route show dev {device}").splitlines() if "10.244." in line]


def fresh_state(netns: Namespaces, run_module: RunModule, arguments: dict[str, Any]) -> dict[str, Any]:
    node = lone_node(netns)
    run_module(MODULE, arguments, netns=node)
    return snapshot(node)


def test_host_gw_matrix(netns: Namespaces, run_module: RunModule) -> None:
    """Create, change and delete; each in check mode and for real, each of those again."""
    node = lone_node(netns)
    fresh = snapshot(node)
    for arguments in (without_macs(args(HOST_GW, 1, 2, 3)), without_macs(args(HOST_GW, 1, 3, 4)), DELETE):
        before = snapshot(node)
        checked = run_module(MODULE, arguments, netns=node, check=True)
        assert checked["changed"] and run_module(MODULE, arguments, netns=node, check=True) == checked
        assert snapshot(node) == before
        done = run_module(MODULE, arguments, netns=node)
        assert done["operations"] == checked["operations"] and done["after"] == checked["after"]
        after = snapshot(node)
        assert after != before
        for check in (True, False):
            assert not run_module(MODULE, arguments, netns=node, check=check)["changed"]
        assert snapshot(node) == after
    assert snapshot(node) == fresh


@pytest.mark.parametrize("by_object", [False, True], ids=["plain", "by object"])
def test_host_gw_is_flannels_routes_and_nothing_else(
    netns: Namespaces, run_module: RunModule, by_object: bool, tmp_path: Path
) -> None:
    node = lone_node(netns, mtu=9000)
    before = snapshot(node)
    env = tmp_path / "subnet.env"
    more = {"nexthop_objects": by_object, "subnet_env": {"path": str(env), "ipmasq": True}}
    result = run_module(MODULE, args(HOST_GW, 1, 2, **more), netns=node)
    assert (result["device"], result["mtu"]) == (None, 9000)
    number = "nhid 1073741952 " if by_object else ""
    assert routes(node) == [f"10.244.2.0/24 {number}via 192.0.2.2"]
    objects = ["id 1073741952 via 192.0.2.2 dev eth0 scope link proto boot"] if by_object else []
    assert [line.strip() for line in node.out("ip nexthop show").splitlines()] == objects
    route = next(route for route in node.json("ip -4 -d -j route show table all") if route["dst"] == "10.244.2.0/24")
    assert (route["protocol"], route["scope"], route["flags"]) == ("boot", "global", [])
    assert {key: value for key, value in snapshot(node).items() if key not in ("routes", "nexthops")} == {
        key: value for key, value in before.items() if key not in ("routes", "nexthops")
    }
    assert env.read_text() == (
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=9000\nFLANNEL_IPMASQ=true\n"
    )


def test_host_gw_leaves_routes_and_objects_of_others_on_the_underlay(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    run_module(MODULE, args(HOST_GW, 1, 2, 3), netns=node)
    foreign = (
        "ip route add 10.244.99.0/24 via 192.0.2.99 dev eth0",
        "ip route add 10.244.2.0/24 via 192.0.2.99 dev eth0 metric 7",
        "ip nexthop add id 1073750000 via 192.0.2.98 dev eth0",
        "ip route add 198.51.100.0/24 nhid 1073750000",
    )
    for command in foreign:
        node.run(command)
    assert not run_module(MODULE, args(HOST_GW, 1, 2, 3), netns=node)["changed"]
    # Somebody else has taken over the subnet of a peer that leaves.
    node.run("ip route replace 10.244.3.0/24 via 192.0.2.77 dev eth0")
    assert kinds(run_module(MODULE, args(HOST_GW, 1, 2), netns=node)) == ["- nexthop"]
    run_module(MODULE, DELETE, netns=node)
    assert sorted(routes(node)) == [
        "10.244.2.0/24 via 192.0.2.99 metric 7",
        "10.244.3.0/24 via 192.0.2.77",
        "10.244.99.0/24 via 192.0.2.99",
    ]
    assert "198.51.100.0/24 nhid 1073750000" in node.out("ip route show")


def test_host_gw_peer_that_moved_is_followed(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    run_module(MODULE, args(HOST_GW, 1, 2, 3), netns=node)
    moved = args(HOST_GW, 1, 3)
    moved["peers"].append({**member(2), "address": "192.0.2.77"})
    assert kinds(run_module(MODULE, moved, netns=node)) == ["~ nexthop", "~ route"]
    assert snapshot(node) == fresh_state(netns, run_module, moved)


def test_host_gw_refuses_peers_behind_a_gateway_and_addresses_elsewhere(
    netns: Namespaces, run_module: RunModule
) -> None:
    node = lone_node(netns)
    node.run("ip address add 198.51.100.1/24 dev eth1")
    node.run("ip route add default via 192.0.2.254")
    run_module(MODULE, args(HOST_GW, 1, 2), netns=node)
    before = snapshot(node)
    for values, message in (
        ({"address": "203.0.113.3"}, "peer n3: 203.0.113.3 is behind gateway 192.0.2.254; backend host-gw needs"),
        ({"address": "198.51.100.3"}, "peer n3: 198.51.100.3 is reached over eth1; backend host-gw needs"),
        ({"address": "203.0.113.3", "name": None}, "peer 10.244.3.0/24: 203.0.113.3 is behind gateway"),
    ):
        arguments = args(HOST_GW, 1, 2)
        arguments["peers"].append({**member(3), **values})
        for check in (True, False):
            assert run_module(MODULE, arguments, netns=node, check=check, fails=True)["msg"].startswith(message)
    refusal = run_module(MODULE, args(HOST_GW, 1, 2, interface="eth1"), netns=node, fails=True)["msg"]
    assert refusal.startswith("node.address: 192.0.2.1 is not on eth1, which carries the overlay")
    refusal = run_module(MODULE, args(HOST_GW, 1, 2, public_address="203.0.113.1"), netns=node, fails=True)["msg"]
    assert refusal.startswith("public_address: 203.0.113.1 is not 192.0.2.1, the node's address")
    node.run("ip route del default")
    arguments = args(HOST_GW, 1, 2)
    arguments["peers"].append({**member(3), "address": "203.0.113.3"})
    refusal = run_module(MODULE, arguments, netns=node, fails=True)["msg"]
    assert refusal.startswith("peer n3: 203.0.113.3 is not reached by any route of this node")
    node.run("ip route add default via 192.0.2.254")
    assert snapshot(node) == before


def test_options_of_vxlan_make_flannels_device(netns: Namespaces, run_module: RunModule) -> None:
    """Real flanneld makes this of {"VNI": 7, "Port": 4789, "MTU": 1400, "GBP": true, "Learning": true}."""
    node = lone_node(netns)
    backend = {"vni": 7, "port": 4789, "mtu": 1400, "gbp": True, "learning": True}
    assert run_module(MODULE, args(backend, 1, 2), netns=node)["mtu"] == 1350
    link = node.json("ip -d -j link show flannel.7")[0]
    data = link["linkinfo"]["info_data"]
    assert (link["mtu"], data["port"], data["learning"], data["gbp"]) == (1350, 4789, True, True)
    assert routes(node, "flannel.7") == ["10.244.2.0/24 nhid 1073741952 via 10.244.2.0 onlink"]


def test_learning_changes_in_place_and_group_policy_does_not(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    run_module(MODULE, args(VXLAN, 1, 2), netns=node)
    index = index_of(node)
    for learning in (True, False):
        arguments = args({"learning": learning, "mtu": 1400 if learning else 0}, 1, 2)
        assert kinds(run_module(MODULE, arguments, netns=node)) == ["~ vxlan"]
        assert index_of(node) == index
        assert snapshot(node) == fresh_state(netns, run_module, arguments)
    assert "- vxlan" in kinds(run_module(MODULE, args({"gbp": True}, 1, 2), netns=node))
    assert snapshot(node) == fresh_state(netns, run_module, args({"gbp": True}, 1, 2))


@pytest.mark.parametrize("by_object", [False, True], ids=["plain", "by object"])
def test_direct_routing_is_for_peers_on_the_same_link_only(
    netns: Namespaces, run_module: RunModule, by_object: bool
) -> None:
    node = lone_node(netns)
    node.run("ip route add default via 192.0.2.254")
    arguments = args(DIRECT, 1, 2, nexthop_objects=by_object)
    arguments["peers"].append({**member(3), "address": "198.51.100.3"})
    run_module(MODULE, arguments, netns=node)
    numbers = ("nhid 1073741952 ", "nhid 1073742016 ") if by_object else ("", "")
    assert routes(node) == [f"10.244.2.0/24 {numbers[0]}via 192.0.2.2"]
    assert routes(node, "flannel.1") == [f"10.244.3.0/24 {numbers[1]}via 10.244.3.0 onlink"]
    assert node.out("ip neigh show dev flannel.1").strip() == "10.244.3.0 lladdr 02:aa:bb:cc:dd:03 PERMANENT"
    assert node.out("bridge fdb show dev flannel.1").strip() == "02:aa:bb:cc:dd:03 dst 198.51.100.3 self permanent"
    assert not run_module(MODULE, arguments, netns=node)["changed"]
    # The peer comes to the same link: only the ways there are different.
    node.run("ip address add 198.51.100.1/24 dev eth1")
    assert [sign for sign in kinds(run_module(MODULE, arguments, netns=node)) if sign[0] != "~"] == [
        "- neighbor",
        "- fdb",
    ]
    assert routes(node, "eth1") == [f"10.244.3.0/24 {numbers[1]}via 198.51.100.3"]
    run_module(MODULE, DELETE, netns=node)
    assert node.out("ip nexthop show") == "" and routes(node) == routes(node, "eth1") == []


CHANGES = {
    "vxlan": VXLAN,
    "another vxlan": {"vni": 7, "gbp": True},
    "direct": DIRECT,
    "host-gw": HOST_GW,
}


@pytest.mark.parametrize("by_object", [False, True], ids=["plain", "by object"])
def test_every_change_of_the_backend_gives_what_a_fresh_node_gets(
    netns: Namespaces, run_module: RunModule, by_object: bool
) -> None:
    """In this order each follows each other one."""
    order = ["vxlan", "another vxlan", "direct", "host-gw", "vxlan", "direct", "another vxlan", "host-gw"]
    order += ["direct", "vxlan", "host-gw", "another vxlan", "vxlan"]
    assert len(set(zip(order, order[1:], strict=False))) == len(CHANGES) * (len(CHANGES) - 1)
    expected = {
        name: fresh_state(netns, run_module, args(backend, 1, 2, 3, nexthop_objects=by_object))
        for name, backend in CHANGES.items()
    }
    node = lone_node(netns)
    before = snapshot(node)
    for name in order:
        arguments = args(CHANGES[name], 1, 2, 3, nexthop_objects=by_object)
        assert run_module(MODULE, arguments, netns=node)["changed"]
        assert snapshot(node) == expected[name], name
        assert not run_module(MODULE, arguments, netns=node)["changed"]
    run_module(MODULE, DELETE, netns=node)
    assert snapshot(node) == before


def test_backend_and_peers_change_at_once(netns: Namespaces, run_module: RunModule) -> None:
    """What led to a peer that is gone is known from the document that was kept, also of the form of its routes."""
    node = lone_node(netns)
    before = snapshot(node)
    run_module(MODULE, args(HOST_GW, 1, 2, 3, 4), netns=node)
    run_module(MODULE, args(VXLAN, 1, 4, 5, nexthop_objects=False), netns=node)
    assert snapshot(node) == fresh_state(netns, run_module, args(VXLAN, 1, 4, 5, nexthop_objects=False))
    run_module(MODULE, args(DIRECT, 1, 2, 5), netns=node)
    run_module(MODULE, args(HOST_GW, 1, 3, nexthop_objects=False), netns=node)
    assert snapshot(node) == fresh_state(netns, run_module, args(HOST_GW, 1, 3, nexthop_objects=False))
    run_module(MODULE, DELETE, netns=node)
    assert snapshot(node) == before


def test_gathered_tells_of_the_backend_that_is_there(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    run_module(MODULE, args(HOST_GW, 1, 2), netns=node)
    found = run_module(MODULE, {"state": "gathered"}, netns=node)
    assert not found["changed"] and found["device"] is None
    peer = {"subnet": "10.244.2.0/24", "mac": None, "address": "192.0.2.2"}
    assert found["gathered"] == {"interface": "eth0", "backend": {"type": "host-gw"}, "peers": [peer]}
    run_module(MODULE, args(DIRECT, 1, 2), netns=node)
    found = run_module(MODULE, {"state": "gathered"}, netns=node)["gathered"]
    assert found["backend"]["direct_routing"] is True and found["peers"] == [peer]


def test_peers_of_another_backend_are_no_peers(netns: Namespaces, run_module: RunModule, state_dir: Path) -> None:
    node = lone_node(netns)
    arguments = args(VXLAN, 1, 2)
    arguments["peers"][0]["backend_type"] = "vxlan"
    arguments["peers"].append({"address": "192.0.2.3", "subnet": "10.244.3.0/24", "mac": "", "backend_type": "host-gw"})
    run_module(MODULE, arguments, netns=node)
    assert snapshot(node) == fresh_state(netns, run_module, args(VXLAN, 1, 2))
    saved = json.loads((state_dir / node.name / "overlay_network.json").read_text())
    assert saved["peers"] == [member(2)]


def two_interfaces(netns: Namespaces) -> Namespace:
    node = lone_node(netns)
    node.run("ip address add 198.51.100.1/24 dev eth1")
    node.run("ip route add default via 198.51.100.254")
    return node


@pytest.mark.parametrize(
    ("rules", "link"),
    [
        ({}, "eth0"),
        ({"interface": "eth1"}, "eth1"),
        ({"interface": "198.51.100.1"}, "eth1"),
        ({"interface_regex": ["^eth1$"]}, "eth1"),
        ({"interface_regex": ["^10[.]", r"^198\.51\."]}, "eth1"),
        ({"interface_can_reach": "203.0.113.9"}, "eth1"),
        ({"interface_can_reach": "192.0.2.9"}, "eth0"),
    ],
    ids=str,
)
def test_underlay_is_chosen_by_the_rules(
    netns: Namespaces, run_module: RunModule, rules: dict[str, Any], link: str
) -> None:
    node = two_interfaces(netns)
    run_module(MODULE, args(VXLAN, 1, 2, **rules), netns=node)
    data = node.json("ip -d -j link show flannel.1")[0]["linkinfo"]["info_data"]
    assert (data["link"], data["local"]) == (link, "192.0.2.1")
    assert not run_module(MODULE, args(VXLAN, 1, 2, **rules), netns=node)["changed"]


@pytest.mark.parametrize(
    ("rules", "link", "local"),
    [
        ({}, "eth1", "198.51.100.1"),
        ({"interface": "eth0"}, "eth0", "192.0.2.1"),
        ({"interface_can_reach": "192.0.2.9"}, "eth0", "192.0.2.1"),
    ],
    ids=str,
)
def test_node_behind_address_translation_sends_with_its_interfaces_address(
    netns: Namespaces, run_module: RunModule, rules: dict[str, Any], link: str, local: str
) -> None:
    node = two_interfaces(netns)
    public = {"node": {**member(1), "address": "100.64.0.1"}, "peers": [member(2)], **rules}
    assert run_module(MODULE, public, netns=node, fails=True)["msg"].startswith("node.address: 100.64.0.1 is on no")
    run_module(MODULE, {**public, "public_address": "100.64.0.1"}, netns=node)
    data = node.json("ip -d -j link show flannel.1")[0]["linkinfo"]["info_data"]
    assert (data["link"], data["local"]) == (link, local)


def test_ipip_is_refused_by_a_kernel_without_it(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    if node.run("ip link add probe type ipip local 192.0.2.1", check=False).returncode == 0:
        pytest.skip("this kernel has ipip; test_overlay_ipip shows what it makes of it")
    run_module(MODULE, args(VXLAN, 1, 2), netns=node)
    before = snapshot(node)
    for check in (True, False):
        refusal = run_module(MODULE, args({"type": "ipip"}, 1, 2), netns=node, check=check, fails=True)["msg"]
        assert refusal.startswith("backend.type: this node's kernel has no ipip (CONFIG_NET_IPIP, module ipip)")
    assert snapshot(node) == before


@pytest.fixture
def pods(netns: Namespaces) -> tuple[list[Namespace], list[Namespace]]:
    """Two nodes on one LAN, and a pod on each."""
    nodes = joined_nodes(netns, 2)
    return nodes, [pod(netns, node, number) for number, node in enumerate(nodes, 1)]


def bring(run_module: RunModule, nodes: list[Namespace], backend: dict[str, Any]) -> None:
    for number, node in enumerate(nodes, 1):
        run_module(MODULE, args(backend, number, 1, 2), netns=node)


@pytest.mark.parametrize("backend", [DIRECT, HOST_GW], ids=["direct", "host-gw"])
def test_pods_reach_each_other_at_the_underlays_mtu(
    pods: tuple[list[Namespace], list[Namespace]], run_module: RunModule, backend: dict[str, Any]
) -> None:
    nodes, inside = pods
    bring(run_module, nodes, backend)
    for namespace in inside:
        namespace.run("ip link set eth0 mtu 1500")
    for number, node in enumerate(nodes, 1):
        node.run("ip link set pod0 mtu 1500")
        with packets.server(inside[number - 1]):
            other = 3 - number
            assert packets.ask(inside[other - 1], f"10.244.{number}.2", size=1500) == f"10.244.{other}.2"


def test_backends_change_through_direct_routing_without_losing_a_packet(
    pods: tuple[list[Namespace], list[Namespace]], run_module: RunModule
) -> None:
    """Node after node, there and back: whoever has not changed yet is reached by both ways."""
    nodes, inside = pods
    bring(run_module, nodes, VXLAN)
    with packets.server(inside[1]):
        assert packets.ask(inside[0], "10.244.2.2") == "10.244.1.2"
        with packets.stream(inside[0], "10.244.2.2") as counts:
            for backend in (DIRECT, HOST_GW, DIRECT, VXLAN, DIRECT, VXLAN):
                bring(run_module, nodes, backend)
    sent, answered = counts
    assert sent == answered > 50
    assert routes(nodes[0]) == [] and len(routes(nodes[0], "flannel.1")) == 1


def test_backends_that_change_at_once_carry_pods_again(
    pods: tuple[list[Namespace], list[Namespace]], run_module: RunModule
) -> None:
    nodes, inside = pods
    with packets.server(inside[1]):
        for backend in (VXLAN, HOST_GW, VXLAN):
            bring(run_module, nodes, backend)
            assert packets.ask(inside[0], "10.244.2.2") == "10.244.1.2"
