# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The IPv6 half of an overlay: what drifted is repaired, what others left is collected, what is none of ours stays."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import dual_document, dual_member, family_document, lone_node, snapshot
from tests.kernel.test_overlay_changes import index_of, kinds

MODULE = "overlay_network"
DEVICE = "flannel-v6.1"
HOST_GW = {"type": "host-gw"}
FOREIGN6 = (
    f"ip -6 nexthop add id 78 via fd00:10:244:98:: dev {DEVICE} onlink proto static",
    "ip route add fd00:10:244:98::/64 nhid 78",
    f"ip address add fd00:10:244:200::7/128 dev {DEVICE} nodad",
    f"ip address add fd00:10:244:2::9/64 dev {DEVICE} nodad",
    f"ip route add fd00:10:244:99::/64 via fd00:10:244:99:: dev {DEVICE} onlink",
    f"ip route add 2001:db8:7::/64 dev {DEVICE} metric 7 mtu 1300",
    f"ip route add 2001:db8:8::/64 dev {DEVICE} table 100",
    f"ip neigh add fd00:10:244:99:: lladdr 02:aa:bb:cc:06:63 dev {DEVICE} nud permanent",
    f"bridge fdb append 02:aa:bb:cc:06:63 dst 2001:db8::99 dev {DEVICE} self permanent",
    f"bridge fdb append 00:00:00:00:00:00 dst 2001:db8::98 dev {DEVICE} self permanent",
    f"bridge fdb append 00:00:00:00:00:00 dst 2001:db8::99 dev {DEVICE} self permanent",
    f"bridge fdb append 02:aa:bb:cc:06:64 dst 2001:db8::99 port 4789 dev {DEVICE} self permanent",
)


@pytest.fixture
def node(netns: Namespaces, run_module: RunModule) -> Namespace:
    """A node of a dual-stack overlay with two peers."""
    made = lone_node(netns)
    run_module(MODULE, dual_document(1, 2, 3), netns=made)
    return made


def ways(node: Namespace, destination: str) -> list[str]:
    return [line.strip() for line in node.out(f"ip -6 route show {destination}").splitlines()]


def test_matrix(netns: Namespaces, run_module: RunModule) -> None:
    """Create, change and delete; each in check mode and for real, and again."""
    node = lone_node(netns)
    fresh = snapshot(node)
    for args in (family_document("ipv6", 1, 2, 3), dual_document(1, 3, 4), {"state": "deleted"}):
        before = snapshot(node)
        checked = run_module(MODULE, args, netns=node, check=True)
        assert checked["changed"] and snapshot(node) == before
        done = run_module(MODULE, args, netns=node)
        assert done["operations"] == checked["operations"] and done["after"] == checked["after"]
        after = snapshot(node)
        assert after != before
        assert not run_module(MODULE, args, netns=node)["changed"] and snapshot(node) == after
    assert snapshot(node) == fresh


DRIFT = {
    "neighbor": (f"ip neigh del fd00:10:244:2:: dev {DEVICE}", ["+ neighbor"]),
    "fdb": (f"bridge fdb del 02:aa:bb:cc:06:02 dev {DEVICE}", ["+ fdb"]),
    "fdb elsewhere": (f"bridge fdb replace 02:aa:bb:cc:06:02 dst 2001:db8::9 dev {DEVICE} self permanent", ["~ fdb"]),
    "route": ("ip route del fd00:10:244:2::/64", ["+ route"]),
    "address": (f"ip address del fd00:10:244:1::/128 dev {DEVICE}", ["+ address"]),
    "mtu": (f"ip link set {DEVICE} mtu 1300", ["~ vxlan"]),
    "mtu without IPv6": (
        f"ip link set {DEVICE} mtu 1200",
        ["~ vxlan", "+ address", *["+ neighbor"] * 2, *["+ route"] * 2],
    ),
    "accept_ra": (f"sysctl -q -w net/ipv6/conf/{DEVICE}/accept_ra=1", ["~ vxlan"]),
    "link": (f"ip link set {DEVICE} down", ["+ address", "+ link", *["+ neighbor"] * 2, *["+ route"] * 2]),
    "device": (
        f"ip link del {DEVICE}",
        ["+ vxlan", "+ address", "+ link", *["+ neighbor"] * 2, *["+ fdb"] * 2, *["+ route"] * 2],
    ),
    "IPv6 of the device": (
        f"sysctl -q -w net/ipv6/conf/{DEVICE}/disable_ipv6=1 net/ipv6/conf/{DEVICE}/disable_ipv6=0",
        ["+ address", *["+ neighbor"] * 2, *["+ route"] * 2],
    ),
}


def test_drift_is_repaired(node: Namespace, run_module: RunModule) -> None:
    before = snapshot(node)
    for case, (command, expected) in DRIFT.items():
        node.run(command)
        assert snapshot(node) != before, case
        repaired = [kind for kind in kinds(run_module(MODULE, dual_document(1, 2, 3), netns=node))]
        assert repaired == expected, case
        assert snapshot(node) == before, case


@pytest.mark.parametrize("backend", [{}, HOST_GW], ids=["vxlan", "host-gw"])
def test_underlay_that_was_down_takes_no_part_of_the_overlay_along_for_good(
    netns: Namespaces, run_module: RunModule, backend: dict[str, Any]
) -> None:
    """The kernel forgets IPv6 addresses and routes of an interface that goes down. Who gave the address does again."""
    node, args = lone_node(netns), dual_document(1, 2, 3, backend=backend)
    run_module(MODULE, args, netns=node)
    before = snapshot(node)
    node.run("ip link set eth0 down")
    node.run("ip link set eth0 up")
    refusal = run_module(MODULE, args, netns=node, fails=True)["msg"]
    assert refusal.startswith("node.address6: 2001:db8::1 is on no interface of this node; there are none")
    node.run("ip address add 2001:db8::1/64 dev eth0 nodad")
    run_module(MODULE, args, netns=node)
    assert snapshot(node) == before
    assert not run_module(MODULE, args, netns=node)["changed"]


def test_foreign_entries_on_our_device_are_collected(node: Namespace, run_module: RunModule) -> None:
    before = snapshot(node)
    for command in FOREIGN6:
        node.run(command)
    checked = run_module(MODULE, dual_document(1, 2, 3), netns=node, check=True)
    assert len(checked["operations"]) == len(FOREIGN6)
    assert run_module(MODULE, dual_document(1, 2, 3), netns=node)["operations"] == checked["operations"]
    assert snapshot(node) == before


def test_what_is_not_ours_stays(netns: Namespaces, run_module: RunModule) -> None:
    """Another device with all on it; on ours an address outside of the pod network and the kernel's own."""
    node = lone_node(netns)
    node.run("ip link add vx7 type vxlan id 7 dstport 8472 dev eth0 local 2001:db8::1")
    node.run("ip link set vx7 up")
    for command in FOREIGN6:
        node.run(command.replace(DEVICE, "vx7").replace(":2::9/64", ":88::9/64"))
    others = snapshot(node)
    run_module(MODULE, dual_document(1, 2), netns=node)
    node.run(f"ip address add 2001:db8:9::1/64 dev {DEVICE} nodad")
    node.run(f"ip neigh add 2001:db8:9::9 lladdr 02:00:00:00:00:09 dev {DEVICE} nud reachable")
    assert not run_module(MODULE, dual_document(1, 2), netns=node)["changed"]
    assert " fe80::" in node.out(f"ip -6 address show dev {DEVICE} scope link")
    run_module(MODULE, dual_document(1, 2, backend={"port": 4789}), netns=node)
    assert "2001:db8:9::1/64" in node.out(f"ip -6 address show dev {DEVICE}")
    run_module(MODULE, {"state": "deleted"}, netns=node)
    assert snapshot(node) == others


OURS = "fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel-v6.1 metric 1024 onlink pref medium"


FOREIGN_WAYS = (
    ["via 2001:db8::2"],
    ["dev eth1"],
    ["nexthop via 2001:db8::2 nexthop via 2001:db8::3"],
    ["via fd00:10:244:2::1 dev flannel-v6.1 onlink"],
    ["dev eth1", "via 2001:db8::2"],
    ["via 2001:db8::2", "dev eth1", "dev eth0"],
    ["dev flannel-v6.1", "dev eth0"],
    ["via 2001:db8::2", "via 2001:db8::3", "dev eth1"],
)


@pytest.mark.parametrize("ours", [True, False], ids=["beside ours", "instead of ours"])
def test_routes_of_others_to_a_peer_are_replaced_by_one(node: Namespace, run_module: RunModule, ours: bool) -> None:
    """The kernel keeps several routes of one destination and metric, and uses all; and it replaces only one of them."""
    for foreign in FOREIGN_WAYS:
        if ours and foreign == ["dev eth1", "via 2001:db8::2"]:
            continue
        if not ours:
            node.run("ip route del fd00:10:244:2::/64")
        for way in foreign:
            node.run(f"ip -6 route append fd00:10:244:2::/64 {way}")
        assert run_module(MODULE, dual_document(1, 2, 3), netns=node)["changed"]
        assert ways(node, "fd00:10:244:2::/64") == [OURS], foreign
    assert not run_module(MODULE, dual_document(1, 2, 3), netns=node)["changed"]


def test_route_of_others_that_the_kernel_kept_to_itself_is_noticed(node: Namespace, run_module: RunModule) -> None:
    """It tells nothing of one between two ways of another route until these are gone."""
    for way in ("via 2001:db8::2", "dev eth1", "via 2001:db8::3"):
        node.run(f"ip -6 route append fd00:10:244:2::/64 {way}")
    before = snapshot(node)
    refusal = run_module(MODULE, dual_document(1, 2, 3), netns=node, fails=True)
    assert refusal["error_type"] == "VerifyError"
    assert "still wants: - route fd00:10:244:2::/64 dev eth1 metric 1024 duplicate 1" in refusal["msg"]
    assert snapshot(node) == before
    node.run("ip -6 route del fd00:10:244:2::/64 via :: dev eth1")
    run_module(MODULE, dual_document(1, 2, 3), netns=node)
    assert ways(node, "fd00:10:244:2::/64") == [OURS]


def test_second_ipv4_route_to_a_peer_is_removed(node: Namespace, run_module: RunModule) -> None:
    before = snapshot(node)
    node.run("ip route append 10.244.2.0/24 via 192.0.2.9 dev eth0")
    node.run("ip route append unreachable 10.244.2.0/24")
    assert kinds(run_module(MODULE, dual_document(1, 2, 3), netns=node)) == ["- route", "- route"]
    assert snapshot(node) == before


@pytest.mark.parametrize("kind", ["unreachable", "blackhole", "prohibit"])
def test_routes_to_nowhere_are_replaced(netns: Namespaces, run_module: RunModule, kind: str) -> None:
    """As kube-controller-manager and flanneld's --ip-blackhole-route leave them for subnets of nodes."""
    node = lone_node(netns)
    node.run(f"ip -6 route add {kind} fd00:10:244:2::/64")
    node.run(f"ip -6 route add {kind} fd00:10:244::/48")
    run_module(MODULE, dual_document(1, 2), netns=node)
    assert ways(node, "fd00:10:244:2::/64") == [OURS]
    assert ways(node, "fd00:10:244::/48") == [f"{kind} fd00:10:244::/48 dev lo metric 1024 pref medium"]
    assert not run_module(MODULE, dual_document(1, 2), netns=node)["changed"]


@pytest.mark.parametrize(
    "foreign", ["fd00:10:244:2::/64 via 2001:db8::9 metric 2048", "fd00:10:244::/48 dev eth1", "::/1 via 2001:db8::9"]
)
def test_routes_of_others_with_another_metric_or_a_wider_destination_stay(
    netns: Namespaces, run_module: RunModule, foreign: str
) -> None:
    """While they are there, the kernel refuses a route on the link in their destination unless it is helped."""
    node = lone_node(netns)
    node.run(f"ip -6 route add {foreign}")
    before = snapshot(node)
    run_module(MODULE, dual_document(1, 2, 3), netns=node)
    assert OURS in ways(node, "fd00:10:244:2::/64")
    assert len(node.out("ip -6 route show dev flannel-v6.1 metric 1024").splitlines()) == 2
    assert not run_module(MODULE, dual_document(1, 2, 3), netns=node)["changed"]
    run_module(MODULE, {"state": "deleted"}, netns=node)
    assert snapshot(node) == before


@pytest.mark.parametrize("check", [True, False])
def test_peer_whose_subnet_is_connected_is_refused(netns: Namespaces, run_module: RunModule, check: bool) -> None:
    node = lone_node(netns)
    node.run("ip address add fd00:10:244:2::1/64 dev eth1 nodad")
    before = snapshot(node)
    refusal = run_module(MODULE, dual_document(1, 2), netns=node, check=check, fails=True)["msg"]
    assert "fd00:10:244:2::/64 is connected to eth1 of this node, so a peer cannot have it" in refusal
    assert snapshot(node) == before
    assert run_module(MODULE, dual_document(1, 3), netns=node, check=check)["changed"]


def test_host_gw_leaves_routes_of_others_on_the_underlay(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    run_module(MODULE, dual_document(1, 2, 3, backend=HOST_GW), netns=node)
    for way in ("99::/64 via 2001:db8::99", "2::/64 via 2001:db8::99 metric 7"):
        node.run(f"ip -6 route add fd00:10:244:{way} dev eth0")
    assert not run_module(MODULE, dual_document(1, 2, 3, backend=HOST_GW), netns=node)["changed"]
    # Somebody else has taken over the subnet of a peer that leaves.
    node.run("ip -6 route replace fd00:10:244:3::/64 via 2001:db8::77 dev eth0")
    assert kinds(run_module(MODULE, {**dual_document(1, 2, backend=HOST_GW)}, netns=node)) == ["- route", "- nexthop"]
    run_module(MODULE, {"state": "deleted"}, netns=node)
    left = [line.split(" metric 1024")[0].strip() for line in node.out("ip -6 route show dev eth0").splitlines()]
    assert [line.removesuffix(" pref medium") for line in left if line.startswith("fd00:")] == [
        "fd00:10:244:2::/64 via 2001:db8::99 metric 7",
        "fd00:10:244:3::/64 via 2001:db8::77",
        "fd00:10:244:99::/64 via 2001:db8::99",
    ]


@pytest.mark.parametrize(
    ("change", "prepare"),
    [
        ({"backend": {"port": 4789}}, ""),
        ({"interface": "eth1"}, ""),
        ({"node": {**dual_member(1), "mac6": "02:aa:bb:cc:06:99"}}, ""),
        ({"node": {**dual_member(1), "address6": "2001:db8::101"}}, "ip address add 2001:db8::101/64 dev eth0 nodad"),
    ],
    ids=["port", "interface", "mac6", "local address"],
)
def test_device_is_made_anew(netns: Namespaces, run_module: RunModule, change: dict[str, Any], prepare: str) -> None:
    node, fresh = lone_node(netns), lone_node(netns)
    for each in (node, fresh) if prepare else ():
        each.run(prepare)
    run_module(MODULE, dual_document(1, 2, 3), netns=node)
    index = index_of(node, DEVICE)
    assert "+ vxlan" in kinds(run_module(MODULE, {**dual_document(1, 2, 3), **change}, netns=node))
    assert index_of(node, DEVICE) != index
    run_module(MODULE, {**dual_document(1, 2, 3), **change}, netns=fresh)
    assert snapshot(node) == snapshot(fresh)


def test_mtu_follows_the_declared_one_and_ends_where_ipv6_does(node: Namespace, run_module: RunModule) -> None:
    indexes = [index_of(node, device) for device in ("flannel.1", DEVICE)]
    assert [node.json(f"ip -j link show {device}")[0]["mtu"] for device in ("flannel.1", DEVICE)] == [1450, 1430]
    result = run_module(MODULE, dual_document(1, 2, 3, backend={"mtu": 1400}), netns=node)
    assert kinds(result) == ["~ vxlan", "~ vxlan"] and result["mtu"] == 1330
    assert [node.json(f"ip -j link show {device}")[0]["mtu"] for device in ("flannel.1", DEVICE)] == [1350, 1330]
    assert [index_of(node, device) for device in ("flannel.1", DEVICE)] == indexes
    before = snapshot(node)
    refusal = run_module(MODULE, dual_document(1, 2, 3, backend={"mtu": 1349}), netns=node, fails=True)["msg"]
    assert refusal.startswith("backend.mtu: leaves 1279 bytes for packets of pods, and IPv6 needs 1280")
    assert snapshot(node) == before
    assert run_module(MODULE, dual_document(1, 2, 3, backend={"mtu": 1350}), netns=node)["mtu"] == 1280


@pytest.mark.parametrize("key", ["all", "default"])
def test_node_without_ipv6_is_refused(netns: Namespaces, run_module: RunModule, key: str) -> None:
    node = lone_node(netns)
    run_module(MODULE, family_document("ipv4", 1, 2), netns=node)
    node.run(f"sysctl -q -w net.ipv6.conf.{key}.disable_ipv6=1")
    before = snapshot(node)
    for check in (True, False):
        refusal = run_module(MODULE, dual_document(1, 2), netns=node, check=check, fails=True)
        assert refusal["error_type"] == "PrerequisiteError"
        assert refusal["msg"].startswith("network6: IPv6 is disabled on this node; set net.ipv6.conf.")
        assert f"net.ipv6.conf.{key}.disable_ipv6 to 0" in refusal["msg"]
    assert snapshot(node) == before
    assert not run_module(MODULE, family_document("ipv4", 1, 2), netns=node)["changed"]


def test_device_of_others_with_the_same_vni_is_in_the_way_in_its_own_ip_version_only(
    netns: Namespaces, run_module: RunModule
) -> None:
    node = lone_node(netns)
    node.run("ip link add vx0 up type vxlan id 1 dstport 8472 dev eth0 local 2001:db8::1")
    run_module(MODULE, family_document("ipv4", 1, 2), netns=node)
    before = snapshot(node)
    refusal = run_module(MODULE, dual_document(1, 2), netns=node, fails=True)["msg"]
    assert refusal.startswith("VXLAN device vx0 uses VNI 1 on port 8472 already, and only one device can")
    assert snapshot(node) == before
    node.run("ip link del vx0")
    run_module(MODULE, family_document("ipv6", 1, 2), netns=node)
    node.run("ip link add vx0 up type vxlan id 1 dstport 8472 dev eth0 local 192.0.2.1")
    assert not run_module(MODULE, family_document("ipv6", 1, 2), netns=node)["changed"]
    assert run_module(MODULE, dual_document(1, 2), netns=node, fails=True)["msg"].startswith("VXLAN device vx0 uses")
