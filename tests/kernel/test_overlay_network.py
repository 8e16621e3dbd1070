# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Module overlay_network on one node: create, change, delete, each checked, done and repeated; and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired.overlay_network import predict
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespaces
from tests.kernel.overlay_nodes import document, lone_node, member, snapshot
from tests.kernel.test_overlay_undo import inside

MODULE = "overlay_network"
CREATE, CHANGE, DELETE = document(1, 2, 3), document(1, 3, 4), {"state": "deleted"}


def test_overlay_matrix(netns: Namespaces, run_module: RunModule) -> None:
    """Create, change and delete; each in check mode and for real, each of those again; then delete what is absent."""
    node = lone_node(netns)
    fresh = snapshot(node)
    for args in (CREATE, CHANGE, DELETE):
        before = snapshot(node)
        checked = run_module(MODULE, args, netns=node, check=True)
        again = run_module(MODULE, args, netns=node, check=True)
        assert checked["changed"] and again == checked
        assert snapshot(node) == before
        done = run_module(MODULE, args, netns=node)
        assert done["changed"] and done["operations"] == checked["operations"] and done["after"] == checked["after"]
        after = snapshot(node)
        assert after != before
        for check in (True, False):
            repeated = run_module(MODULE, args, netns=node, check=check)
            assert not repeated["changed"] and repeated["operations"] == []
            assert repeated["before"] == repeated["after"] == done["after"]
        assert snapshot(node) == after
    assert snapshot(node) == fresh
    absent = run_module(MODULE, DELETE, netns=node)
    assert not absent["changed"]


@pytest.mark.parametrize("by_object", [False, True], ids=["plain", "by object"])
def test_overlay_kernel_state_is_that_of_flannel(netns: Namespaces, run_module: RunModule, by_object: bool) -> None:
    node = lone_node(netns)
    result = run_module(MODULE, document(1, 2, nexthop_objects=by_object), netns=node)
    assert (result["device"], result["mtu"]) == ("flannel.1", 1450)
    link = node.out("ip -d link show flannel.1")
    assert "<BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue" in link and "qlen" not in link
    assert "link/ether 02:aa:bb:cc:dd:01 " in link
    assert "vxlan id 1 local 192.0.2.1 dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto " in link
    assert " udpcsum noudp6zerocsumtx noudp6zerocsumrx " in link
    assert "inet 10.244.1.0/32 scope global flannel.1\n" in node.out("ip -4 address show dev flannel.1")
    routes = node.out("ip route show dev flannel.1").splitlines()
    number = "nhid 1073741952 " if by_object else ""
    assert [route.strip() for route in routes] == [f"10.244.2.0/24 {number}via 10.244.2.0 onlink"]
    objects = ["id 1073741952 via 10.244.2.0 dev flannel.1 scope link proto boot onlink"] if by_object else []
    assert [line.strip() for line in node.out("ip nexthop show").splitlines()] == objects
    assert node.out("ip neigh show dev flannel.1").strip() == "10.244.2.0 lladdr 02:aa:bb:cc:dd:02 PERMANENT"
    assert node.out("bridge fdb show dev flannel.1").strip() == "02:aa:bb:cc:dd:02 dst 192.0.2.2 self permanent"
    assert node.out("cat /proc/sys/net/ipv6/conf/flannel.1/accept_ra").strip() == "0"


def test_overlay_states_of_entries_are_exactly_those_of_flannel(netns: Namespaces, run_module: RunModule) -> None:
    """`bridge` shows an entry of state 0xc0, its own default, as it shows 0x80: the module tells them apart."""
    node = lone_node(netns)
    run_module(MODULE, document(1, 2), netns=node)
    node.run("bridge fdb replace 02:aa:bb:cc:dd:02 dst 192.0.2.2 dev flannel.1 self")
    result = run_module(MODULE, document(1, 2), netns=node)
    assert result["operations"] == [
        "~ fdb 02:aa:bb:cc:dd:02 dst 192.0.2.2 dev flannel.1 self "
        "(was fdb 02:aa:bb:cc:dd:02 dst 192.0.2.2 dev flannel.1 self state 0xc0)"
    ]


def test_overlay_diff_has_a_line_for_each_object(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    run_module(MODULE, document(1, 2), netns=node)
    diff = run_module(MODULE, document(1, 3), netns=node, check=True, diff=True)["diff"]
    gone = set(diff["before"].splitlines()) - set(diff["after"].splitlines())
    assert {line for line in gone if "file" not in line} == {
        "neighbor 10.244.2.0 lladdr 02:aa:bb:cc:dd:02 dev flannel.1",
        "fdb 02:aa:bb:cc:dd:02 dst 192.0.2.2 dev flannel.1 self",
        "nexthop id 1073741952 via 10.244.2.0 dev flannel.1 onlink",
        "route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink nexthop_id 1073741952",
    }


def test_overlay_gathered_tells_what_is_there_and_changes_nothing(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    assert run_module(MODULE, {"state": "gathered"}, netns=node)["gathered"] == {}
    run_module(MODULE, document(1, 2), netns=node)
    before = snapshot(node)
    found = run_module(MODULE, {"state": "gathered"}, netns=node)
    assert snapshot(node) == before and not found["changed"]
    peer = {key: value for key, value in member(2).items() if key != "name"}
    assert found["gathered"]["peers"] == [peer]
    assert found["gathered"]["backend"] == {"type": "vxlan", "vni": 1, "port": 8472, "mtu": 1500}
    assert found["gathered"]["interface"] == "eth0"


def test_overlay_predicted_without_the_runtime_is_what_happens(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns, mtu=9000)
    with inside(node):
        predicted = [str(operation) for operation in predict(document(1, 2)).operations]
    happened = run_module(MODULE, document(1, 2), netns=node)["operations"]
    assert predicted == [operation for operation in happened if not operation.startswith("+ file")]


def test_overlay_is_remembered_for_the_boot_and_forgotten(
    netns: Namespaces, run_module: RunModule, state_dir: Path
) -> None:
    node = lone_node(netns)
    leases = document(1, 2)
    leases["peers"][0].update(backend_type="vxlan", ttl=100)
    run_module(MODULE, leases, netns=node)
    saved = state_dir / node.name / "overlay_network.json"
    assert json.loads(saved.read_text())["peers"] == [member(2)]
    assert saved.stat().st_mode & 0o777 == 0o600
    leases["peers"][0].update(ttl=99)
    assert not run_module(MODULE, leases, netns=node)["changed"]
    run_module(MODULE, DELETE, netns=node)
    assert not saved.exists()


def test_overlay_subnet_env_stands_and_falls_with_the_datapath(
    netns: Namespaces, run_module: RunModule, tmp_path: Path
) -> None:
    node = lone_node(netns, mtu=9000)
    env = tmp_path / "run" / "subnet.env"
    args = document(1, 2, subnet_env={"path": str(env), "ipmasq": True})
    run_module(MODULE, args, netns=node, check=True)
    assert not env.exists()
    run_module(MODULE, args, netns=node)
    assert env.read_text() == (
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=8950\nFLANNEL_IPMASQ=true\n"
    )
    moved = env.with_name("moved.env")
    run_module(MODULE, {**args, "subnet_env": {"path": str(moved), "ipmasq": False}}, netns=node)
    assert not env.exists() and "FLANNEL_IPMASQ=false\n" in moved.read_text()
    run_module(MODULE, DELETE, netns=node)
    assert not moved.exists()


def test_overlay_without_a_place_for_subnet_env_changes_nothing(
    netns: Namespaces, run_module: RunModule, tmp_path: Path
) -> None:
    node = lone_node(netns)
    before = snapshot(node)
    (tmp_path / "file").write_text("")
    args = document(1, 2, subnet_env={"path": str(tmp_path / "file" / "subnet.env")})
    assert "subnet.env" in run_module(MODULE, args, netns=node, fails=True)["msg"]
    assert snapshot(node) == before


Change = Callable[[dict[str, Any]], Any]
REFUSED: dict[str, tuple[Change, str]] = {
    "peers with one subnet": (lambda d: d["peers"][1].update(subnet="10.244.2.0/24"), "peers[1].subnet: subnet 10.244"),
    "peers that overlap": (
        lambda d: d["peers"][1].update(subnet="10.244.2.128/25"),
        "peers[1].subnet: 10.244.2.128/25",
    ),
    "peers with one MAC": (lambda d: d["peers"][0].update(mac=member(3)["mac"]), "peers[1].mac: MAC address"),
    "peers with one address": (
        lambda d: d["peers"][0].update(address="192.0.2.3"),
        "peers[1].address: address 192.0.2.3",
    ),
    "subnet outside": (lambda d: d["node"].update(subnet="10.245.1.0/24"), "node.subnet: 10.245.1.0/24 is not inside"),
    "address elsewhere": (
        lambda d: d["node"].update(address="192.0.2.99"),
        "node.address: 192.0.2.99 is on no interface of this node; there are 192.0.2.1 (eth0)",
    ),
    "no such interface": (
        lambda d: d.update(interface="eth9"),
        "interface: this node has no eth9 to carry the overlay",
    ),
    "mtu above the underlay": (
        lambda d: d.update(backend={"mtu": 9000}),
        "backend.mtu: 9000 is more than 1500, the MTU",
    ),
    "vni out of range": (lambda d: d.update(backend={"vni": 0}), "backend.vni: must be 1 to 9999999, not 0"),
    "node without a name": (lambda d: d["node"].pop("name"), "node.name: is required"),
}


def test_overlay_bad_inputs_leave_the_kernel_untouched(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    for existing in (None, document(1, 2, 3)):
        if existing is not None:
            run_module(MODULE, existing, netns=node)
        before = snapshot(node)
        for case, (change, message) in REFUSED.items():
            args = copy.deepcopy(document(1, 2, 3))
            change(args)
            found = run_module(MODULE, args, netns=node, fails=True)["msg"]
            assert found.startswith(message), case
        assert snapshot(node) == before


def test_overlay_is_refused_where_another_kind_of_link_has_its_name(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    node.run("ip link add flannel.1 type bridge")
    before = snapshot(node)
    refusal = run_module(MODULE, CREATE, netns=node, fails=True)["msg"]
    assert refusal.startswith("interface flannel.1 is there already and is bridge, not vxlan")
    assert not run_module(MODULE, DELETE, netns=node)["changed"]
    assert snapshot(node) == before


def test_overlay_is_refused_where_another_device_has_its_vni(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    node.run("ip link add vx0 type vxlan id 1 dstport 8472 dev eth0 local 192.0.2.1")
    before = snapshot(node)
    refusal = run_module(MODULE, CREATE, netns=node, fails=True)["msg"]
    assert refusal.startswith("VXLAN device vx0 uses VNI 1 on port 8472 already")
    assert snapshot(node) == before


def test_overlay_is_refused_where_another_device_on_its_port_has_another_group_policy(
    netns: Namespaces, run_module: RunModule
) -> None:
    node = lone_node(netns)
    node.run("ip link add vx0 type vxlan id 2 dstport 8472 dev eth0 local 192.0.2.1 gbp")
    run_module(MODULE, CREATE, netns=node)
    run_module(MODULE, DELETE, netns=node)
    node.run("ip link set vx0 up")
    before = snapshot(node)
    refusal = run_module(MODULE, CREATE, netns=node, fails=True)["msg"]
    assert refusal.startswith(
        "VXLAN device vx0 uses port 8472 with group policy, and devices on one port have to agree"
    )
    assert snapshot(node) == before


@pytest.mark.parametrize("check", [True, False])
def test_overlay_is_refused_where_a_peer_subnet_is_connected(
    netns: Namespaces, run_module: RunModule, check: bool
) -> None:
    node = lone_node(netns)
    node.run("ip address add 10.244.2.1/24 dev eth1")
    before = snapshot(node)
    refusal = run_module(MODULE, CREATE, netns=node, check=check, fails=True)["msg"]
    assert "10.244.2.0/24 is connected to eth1 of this node" in refusal
    assert snapshot(node) == before
