# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Changes that overlay_network converges: properties of the device, peers that move, and what others left on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import document, lone_node, member, snapshot

MODULE = "overlay_network"


def index_of(node: Namespace, device: str = "flannel.1") -> int:
    return int(node.json(f"ip -j link show {device}")[0]["ifindex"])


def kinds(result: dict[str, Any]) -> list[str]:
    """Sign and kind of each operation on the kernel."""
    words = [operation.split() for operation in result["operations"]]
    return [f"{sign} {kind}" for sign, kind, *_ in words if kind != "file"]


def fresh_state(netns: Namespaces, run_module: RunModule, args: dict[str, Any], prepare: str = "") -> dict[str, Any]:
    """What the same declaration makes of a node that has never seen another."""
    node = lone_node(netns)
    if prepare:
        node.run(prepare)
    run_module(MODULE, args, netns=node)
    return snapshot(node)


def test_overlay_mtu_changes_in_place(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    run_module(MODULE, document(1, 2), netns=node)
    index = index_of(node)
    result = run_module(MODULE, document(1, 2, backend={"mtu": 1400}), netns=node)
    assert kinds(result) == ["~ vxlan"] and result["mtu"] == 1350
    assert node.json("ip -j link show flannel.1")[0]["mtu"] == 1350
    assert index_of(node) == index


def test_overlay_mtu_follows_the_interface(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    run_module(MODULE, document(1, 2), netns=node)
    node.run("ip link set eth0p mtu 9000")
    node.run("ip link set eth0 mtu 9000")
    assert kinds(run_module(MODULE, document(1, 2), netns=node)) == ["~ vxlan"]
    assert node.json("ip -j link show flannel.1")[0]["mtu"] == 8950


def test_overlay_mtu_too_small_for_ipv6_is_good_for_ipv4(netns: Namespaces, run_module: RunModule) -> None:
    """The kernel takes IPv6 off a device with less than 1280 bytes, and its sysctls with it."""
    node = lone_node(netns)
    small = document(1, 2, backend={"mtu": 1300})
    assert run_module(MODULE, small, netns=node)["mtu"] == 1250
    first = snapshot(node)
    assert not run_module(MODULE, small, netns=node)["changed"]
    for args, mtu in ((document(1, 2), 1450), (small, 1250)):
        assert kinds(run_module(MODULE, args, netns=node)) == ["~ vxlan"]
        assert node.json("ip -j link show flannel.1")[0]["mtu"] == mtu
    assert snapshot(node) == first


@pytest.mark.parametrize(
    ("change", "prepare"),
    [
        ({"backend": {"port": 4789}}, ""),
        ({"interface": "eth1"}, ""),
        ({"node": {**member(1), "mac": "02:aa:bb:cc:dd:99"}}, ""),
        ({"node": {**member(1), "address": "192.0.2.101"}}, "ip address add 192.0.2.101/24 dev eth0"),
    ],
    ids=["port", "interface", "mac", "local address"],
)
def test_overlay_device_is_made_anew(
    netns: Namespaces, run_module: RunModule, change: dict[str, Any], prepare: str
) -> None:
    node = lone_node(netns)
    if prepare:
        node.run(prepare)
    run_module(MODULE, document(1, 2, 3), netns=node)
    index = index_of(node)
    result = run_module(MODULE, {**document(1, 2, 3), **change}, netns=node)
    assert "- vxlan" in kinds(result) and "+ vxlan" in kinds(result) and index_of(node) != index
    assert snapshot(node) == fresh_state(netns, run_module, {**document(1, 2, 3), **change}, prepare)
    assert not run_module(MODULE, {**document(1, 2, 3), **change}, netns=node)["changed"]


def test_overlay_vni_change_removes_the_device_of_before(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    run_module(MODULE, document(1, 2, 3), netns=node)
    other = document(1, 2, 3, backend={"vni": 42})
    result = run_module(MODULE, other, netns=node)
    assert result["device"] == "flannel.42"
    assert snapshot(node) == fresh_state(netns, run_module, other)
    assert not run_module(MODULE, other, netns=node)["changed"]


def test_overlay_device_of_others_with_the_old_vni_stays(netns: Namespaces, run_module: RunModule) -> None:
    """Only what this node remembers to have made goes: a flannel.1 of somebody else is none of our business."""
    node = lone_node(netns)
    node.run("ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0 local 192.0.2.1 nolearning")
    before = node.json("ip -d -j link show flannel.1")
    run_module(MODULE, document(1, 2, backend={"vni": 42}), netns=node)
    run_module(MODULE, {"state": "deleted", "backend": {"vni": 42}}, netns=node)
    assert node.json("ip -d -j link show flannel.1") == before


@pytest.mark.parametrize("check", [True, False])
def test_overlay_removal_leaves_what_was_not_made_from_here(
    netns: Namespaces, run_module: RunModule, tmp_path: Path, check: bool
) -> None:
    """A running flanneld has a device and a file of just these names."""
    node = lone_node(netns)
    node.run("ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0 local 192.0.2.1 nolearning")
    env = tmp_path / "subnet.env"
    env.write_text("FLANNEL_NETWORK=10.244.0.0/16\n")
    before = snapshot(node)
    result = run_module(MODULE, {"state": "deleted", "subnet_env": {"path": str(env)}}, netns=node, check=check)
    assert snapshot(node) == before and env.exists()
    assert (result["changed"], result["operations"]) == (False, [])
    assert "nothing saved on this node tells of flannel.1" in str(result["warnings"][0])


def test_overlay_removal_takes_what_the_saved_document_names_only(
    netns: Namespaces, run_module: RunModule, tmp_path: Path
) -> None:
    node = lone_node(netns)
    node.run("ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0 local 192.0.2.1 nolearning")
    before = snapshot(node)
    saved, declared = tmp_path / "saved.env", tmp_path / "declared.env"
    declared.write_text("")
    run_module(MODULE, document(1, 2, backend={"vni": 42}, subnet_env={"path": str(saved)}), netns=node)
    assert saved.exists()
    result = run_module(MODULE, {"state": "deleted", "subnet_env": {"path": str(declared)}}, netns=node)
    assert snapshot(node) == before and not saved.exists() and declared.exists()
    assert "flannel.1" in str(result["warnings"][0])


def test_overlay_takes_over_the_device_of_a_real_flanneld(netns: Namespaces, run_module: RunModule) -> None:
    """What flanneld left is what is wanted; only that `bridge` makes no entry of flanneld's state, so it changes, and
    that the route goes through an object."""
    node = lone_node(netns)
    for command in (
        "ip link add flannel.1 address 02:aa:bb:cc:dd:01 mtu 1450 txqlen 0 type vxlan id 1 local 192.0.2.1 dev eth0"
        " dstport 8472 nolearning",
        "ip address add 10.244.1.0/32 dev flannel.1",
        "ip link set flannel.1 up",
        "ip neigh add 10.244.2.0 lladdr 02:aa:bb:cc:dd:02 dev flannel.1 nud permanent",
        "ip route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink proto boot",
        "bridge fdb add 02:aa:bb:cc:dd:02 dst 192.0.2.2 dev flannel.1 self permanent",
    ):
        node.run(command)
    node.run(["sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/flannel.1/accept_ra"])
    index = index_of(node)
    assert kinds(run_module(MODULE, document(1, 2), netns=node)) == ["~ fdb", "+ nexthop", "~ route"]
    assert index_of(node) == index
    assert not run_module(MODULE, document(1, 2), netns=node)["changed"]


def test_overlay_device_that_was_down_comes_up(netns: Namespaces, run_module: RunModule) -> None:
    """Routes and neighbors fell with it."""
    node = lone_node(netns)
    run_module(MODULE, document(1, 2), netns=node)
    before = snapshot(node)
    node.run("ip link set flannel.1 down")
    assert kinds(run_module(MODULE, document(1, 2), netns=node))[0] == "+ link"
    assert snapshot(node) == before


def test_overlay_peer_that_moved_is_followed(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    run_module(MODULE, document(1, 2, 3), netns=node)
    for change, expected in (
        ({"address": "192.0.2.77"}, ["~ fdb"]),
        ({"mac": "02:aa:bb:cc:dd:77"}, ["+ fdb", "~ neighbor", "- fdb"]),
        ({"subnet": "10.244.77.0/24"}, ["+ neighbor", "+ nexthop", "+ route", "- route", "- nexthop", "- neighbor"]),
    ):
        args = document(1, 3)
        args["peers"].append({**member(2), **change})
        assert kinds(run_module(MODULE, args, netns=node)) == expected
        assert snapshot(node) == fresh_state(netns, run_module, args)
        run_module(MODULE, document(1, 2, 3), netns=node)


FOREIGN = (
    "ip nexthop add id 77 via 10.244.98.0 dev flannel.1 onlink proto static",
    "ip route add 10.244.98.0/24 nhid 77",
    "ip address add 10.244.200.7/32 dev flannel.1",
    "ip route add 10.244.99.0/24 via 10.244.99.0 dev flannel.1 onlink",
    "ip route add 198.51.100.0/24 dev flannel.1 metric 7 mtu 1300",
    "ip route add 203.0.113.0/24 dev flannel.1 table 100",
    "ip neigh add 10.244.99.0 lladdr 02:aa:bb:cc:dd:63 dev flannel.1 nud permanent",
    "bridge fdb append 02:aa:bb:cc:dd:63 dst 192.0.2.99 dev flannel.1 self permanent",
    "bridge fdb append 00:00:00:00:00:00 dst 192.0.2.98 dev flannel.1 self permanent",
    "bridge fdb append 00:00:00:00:00:00 dst 192.0.2.99 dev flannel.1 self permanent",
    "bridge fdb append 02:aa:bb:cc:dd:64 dst 192.0.2.99 port 4789 dev flannel.1 self permanent",
)


def test_overlay_foreign_entries_on_our_device_are_collected(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    run_module(MODULE, document(1, 2), netns=node)
    before = snapshot(node)
    for command in FOREIGN:
        node.run(command)
    assert snapshot(node) != before
    checked = run_module(MODULE, document(1, 2), netns=node, check=True)
    assert len(checked["operations"]) == len(FOREIGN)
    assert run_module(MODULE, document(1, 2), netns=node)["operations"] == checked["operations"]
    assert snapshot(node) == before


def test_overlay_leaves_alone_what_is_not_its_own(netns: Namespaces, run_module: RunModule) -> None:
    """Other devices with all on them; and on ours an address outside of the pod network, the kernel's own entries."""
    node = lone_node(netns)
    node.run("ip link add vx7 type vxlan id 7 dstport 8472 dev eth0 local 192.0.2.1")
    node.run("ip link set vx7 up")
    for command in FOREIGN:
        node.run(command.replace("flannel.1", "vx7"))
    node.run("ip address add 10.200.0.1/16 dev eth1")
    others = snapshot(node)
    run_module(MODULE, document(1, 2), netns=node)
    node.run("ip address add 172.16.0.1/24 dev flannel.1")
    node.run("ip neigh add 172.16.0.9 lladdr 02:00:00:00:00:09 dev flannel.1 nud reachable")
    node.run("bridge fdb add 02:00:00:00:00:09 dst 192.0.2.9 dev flannel.1 self dynamic")
    assert not run_module(MODULE, document(1, 2), netns=node)["changed"]
    run_module(MODULE, document(1, 2, backend={"port": 4789}), netns=node)
    assert "172.16.0.1/24" in node.out("ip -4 address show dev flannel.1")
    run_module(MODULE, {"state": "deleted"}, netns=node)
    assert snapshot(node) == others


def test_overlay_route_of_another_device_to_a_peer_is_replaced(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    node.run("ip route add 10.244.2.0/24 via 192.0.2.2 dev eth0")
    node.run("ip route add 10.244.2.0/24 via 192.0.2.2 dev eth0 metric 50")
    result = run_module(MODULE, document(1, 2), netns=node)
    assert "~ route" in kinds(result)
    assert [route["dev"] for route in node.json("ip -j route show 10.244.2.0/24")] == ["flannel.1", "eth0"]
