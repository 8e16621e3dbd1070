# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Many objects at once: nexthop objects, unacknowledged messages, and what becomes of a refusal among them."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._engine import converge
from ansible_collections.fairlead.cluster.plugins.module_utils._model.datapath import Route
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay import (
    Underlay,
    parse_overlay,
    wanted_items,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink.overlay import OverlayAdapter
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import ADD, Operation
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.overlay import Wanted, plan_overlay
from tests.kernel import packets
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespaces
from tests.kernel.overlay_nodes import (
    document,
    dual_document,
    dual_member,
    joined_nodes,
    lone_node,
    member,
    pod,
    snapshot,
)
from tests.kernel.test_overlay_undo import inside

MODULE = "overlay_network"
# More than one chunk of messages (about 30 kB, 48 to 76 bytes a message).
MANY = 1500


def dual_many(count: int) -> dict[str, Any]:
    """The same with subnets of fd00::/40 and nodes in 2001:db8:9::/64 beside."""
    args = many(count)
    for number, peer in enumerate(args["peers"], 1):
        mac6 = f"02:00:00:06:{number >> 8:02x}:{number & 255:02x}"
        peer.update(address6=f"2001:db8:9::{number:x}", subnet6=f"fd00:0:{number:x}::/64", mac6=mac6)
    node = {**dual_member(1), **args["node"], "subnet6": "fd00:0:ffff::/64"}
    return {**args, "network6": "fd00::/24", "node": node}


def many(count: int) -> dict[str, Any]:
    """Node 1 with ``count`` peers, whose subnets are /24 of 10.0.0.0/8 and whose nodes are in 172.16.0.0/12."""
    peers = [
        {
            "address": f"172.16.{number >> 8}.{number & 255}",
            "subnet": f"10.{64 + (number >> 8)}.{number & 255}.0/24",
            "mac": f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}",
        }
        for number in range(1, count + 1)
    ]
    return {"network": "10.0.0.0/8", "node": {**member(1), "subnet": "10.1.1.0/24"}, "peers": peers}


def counts6(node: Any) -> tuple[int, int, int]:
    commands = (
        "ip -6 neigh show dev flannel-v6.1 nud permanent",
        "bridge fdb show dev flannel-v6.1",
        "ip -6 route show dev flannel-v6.1 root fd00::/24 proto boot",
    )
    return tuple(len(node.out(command).splitlines()) for command in commands)  # type: ignore[return-value]


def counts(node: Any) -> tuple[int, int, int, int]:
    commands = (
        "ip neigh show dev flannel.1 nud permanent",
        "bridge fdb show dev flannel.1",
        "ip nexthop show",
        "ip route show dev flannel.1",
    )
    return tuple(len(node.out(command).splitlines()) for command in commands)  # type: ignore[return-value]


def test_many_peers_come_change_and_go(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    before = snapshot(node)
    result = run_module(MODULE, many(MANY), netns=node)
    # The device, its address, up, and the document kept for the next boot, beside the first peers' objects.
    assert len(result["operations"]) == 4 * 100 + 4
    left_out = dict.fromkeys(("fdb", "neighbor", "nexthop", "route"), MANY - 100)
    assert result["left_out"] == {"operations": left_out, "after": left_out}
    assert counts(node) == (MANY, MANY, MANY, MANY)
    route = "10.69.219.0/24 nhid 1074886336 via 10.69.219.0 dev flannel.1 onlink"
    assert route in [line.strip() for line in node.out("ip route show").splitlines()]
    assert not run_module(MODULE, many(MANY), netns=node)["changed"]
    assert len(run_module(MODULE, many(MANY - 1), netns=node)["operations"]) == 4 + 1
    assert counts(node) == (MANY - 1,) * 4
    run_module(MODULE, {"state": "deleted"}, netns=node)
    assert snapshot(node) == before


def test_many_peers_of_both_ip_versions_come_change_and_go(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    before = snapshot(node)
    args = dual_many(MANY)
    both = 2 * MANY - 100
    left_out = {"fdb": both, "neighbor": both, "nexthop": MANY - 100, "route": both}
    assert run_module(MODULE, args, netns=node)["left_out"]["operations"] == left_out
    assert (counts(node), counts6(node)) == ((MANY,) * 4, (MANY,) * 3)
    assert not run_module(MODULE, args, netns=node)["changed"]
    args["peers"][700]["address6"] = "2001:db8:9::ffff"
    moved = "~ fdb 02:00:00:06:02:bd dst 2001:db8:9::ffff dev flannel-v6.1 self (was fdb "
    operations = [each for each in run_module(MODULE, args, netns=node)["operations"] if "file" not in each]
    assert len(operations) == 1 and operations[0].startswith(moved)
    assert "dst 2001:db8:9::ffff" in node.out("bridge fdb show dev flannel-v6.1")
    run_module(MODULE, {"state": "deleted"}, netns=node)
    assert snapshot(node) == before


def test_objects_of_ipv6_are_found_by_asking_for_them_alone(netns: Namespaces) -> None:
    """As a run with few changes verifies them."""
    node = lone_node(netns)
    with inside(node):
        underlays = [Underlay("eth0", 1500)] * 2
        want = state_of(wanted_items(parse_overlay(dual_document(1, 2, 3)), underlays, 0, True))
        adapter = OverlayAdapter(["flannel.1", "flannel-v6.1"], [], True)
        converge(adapter, lambda have: plan_overlay(have, Wanted(want)))
        bulk = [item for item in want.values() if item.kind in ("neighbor", "fdb", "route", "nexthop")]
        asked = [Operation(ADD, item) for item in bulk]
        assert len(asked) == 7 * 2
        assert adapter.read_again(asked) == {item.key: item for item in bulk}
        for command in (
            "ip neigh del fd00:10:244:2:: dev flannel-v6.1",
            "bridge fdb del 02:aa:bb:cc:06:02 dev flannel-v6.1",
            "ip route del fd00:10:244:2::/64",
        ):
            node.run(command)
        # What packets take instead is not the route that was asked for.
        node.run("ip route add fd00:10:244::/48 via 2001:db8::9")
        found = adapter.read_again(asked)
    assert found is not None
    assert {key for key, item in found.items() if item is None} == {
        ("neighbor", "flannel-v6.1", "fd00:10:244:2::"),
        ("fdb", "flannel-v6.1", "02:aa:bb:cc:06:02"),
        ("route", 254, "fd00:10:244:2::/64", 0, 1024),
    }


def test_diff_of_many_peers_is_grouped_and_bounded(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    diff = run_module(MODULE, many(MANY), netns=node, check=True, diff=True)["diff"]
    lines = diff["after"].splitlines()
    assert diff["before"] == "" and len(lines) < 250
    assert "... and 1450 more of kind route" in lines
    kinds = [line.split()[0] for line in lines if not line.startswith("...")]
    assert kinds == sorted(kinds) and kinds.count("neighbor") == 50
    run_module(MODULE, many(MANY), netns=node)
    changed = many(MANY)
    changed["peers"][0]["address"] = "172.31.255.254"
    diff = run_module(MODULE, changed, netns=node, check=True, diff=True)["diff"]
    assert [line for line in diff["before"].splitlines() if line.startswith("fdb")] == [
        "fdb 02:00:00:00:00:01 dst 172.16.0.1 dev flannel.1 self"
    ]
    assert [line for line in diff["after"].splitlines() if line.startswith("fdb")] == [
        "fdb 02:00:00:00:00:01 dst 172.31.255.254 dev flannel.1 self"
    ]


@pytest.mark.parametrize("first", [False, True], ids=["to objects and back", "from objects and back"])
def test_routes_are_converted_without_losing_a_packet(netns: Namespaces, run_module: RunModule, first: bool) -> None:
    nodes = joined_nodes(netns, 2)
    for number, node in enumerate(nodes, 1):
        run_module(MODULE, document(number, 1, 2, nexthop_objects=first), netns=node)
    pods = [pod(netns, node, number) for number, node in enumerate(nodes, 1)]
    plain = "10.244.2.0/24 via 10.244.2.0 onlink"
    by_object = "10.244.2.0/24 nhid 1073741952 via 10.244.2.0 onlink"
    with packets.server(pods[1]):
        assert packets.ask(pods[0], "10.244.2.2") == "10.244.1.2"
        with packets.stream(pods[0], "10.244.2.2") as sent_and_answered:
            for form in (not first, first, not first):
                assert run_module(MODULE, document(1, 2, nexthop_objects=form), netns=nodes[0])["changed"]
                route = nodes[0].out("ip route show dev flannel.1").strip()
                assert route == (by_object if form else plain)
                assert len(nodes[0].out("ip nexthop show").splitlines()) == int(form)
    sent, answered = sent_and_answered
    assert sent == answered > 20


def test_many_routes_are_converted_both_ways(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    for form in (False, True, False):
        run_module(MODULE, {**many(MANY), "nexthop_objects": form}, netns=node)
        assert counts(node) == (MANY, MANY, MANY if form else 0, MANY)
        assert not run_module(MODULE, {**many(MANY), "nexthop_objects": form}, netns=node)["changed"]


def test_identifier_in_use_by_others_is_refused_and_nothing_is_changed(
    netns: Namespaces, run_module: RunModule
) -> None:
    node = lone_node(netns)
    node.run("ip nexthop add id 1073741952 via 192.0.2.77 dev eth0")
    before = snapshot(node)
    message = run_module(MODULE, document(1, 2), netns=node, fails=True)["msg"]
    assert "nexthop id 1073741952 via 10.244.2.0 dev flannel.1 onlink: the identifier is in use" in message
    assert "via 192.0.2.77 dev eth0" in message
    assert snapshot(node) == before
    run_module(MODULE, document(1, 2, nexthop_objects=False), netns=node)
    assert "id 1073741952 via 192.0.2.77 dev eth0 scope link" in node.out("ip nexthop show")


def test_objects_of_others_stay(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    node.run("ip nexthop add id 1 via 192.0.2.77 dev eth0")
    node.run("ip nexthop add id 2 blackhole")
    node.run("ip nexthop add id 3 group 1")
    node.run("ip route add 198.51.100.0/24 nhid 1")
    before = snapshot(node)
    run_module(MODULE, document(1, 2), netns=node)
    run_module(MODULE, {"state": "deleted"}, netns=node)
    assert snapshot(node) == before


REFUSED = Route("198.51.100.0/24", "203.0.113.9", "flannel.1", onlink=False)
# A gateway that others send to another device, which a route to it alone does not change.
REFUSED6 = Route("2001:db8:5::/64", "2001:db8:6::1", "flannel-v6.1", metric=1024)


@pytest.mark.parametrize(
    ("position", "refused", "reason"),
    [
        *((position, REFUSED, "invalid gateway") for position in (0, 1, 700, 2345, 4 * MANY)),
        *((position, REFUSED6, "device mismatch") for position in (0, 5000, 7 * MANY)),
    ],
)
def test_refusal_among_many_names_its_object_and_leaves_nothing(
    netns: Namespaces, position: int, refused: Route, reason: str
) -> None:
    """What was sent along with the refused message happened all the same, and is taken back too."""
    node = lone_node(netns)
    node.run("ip route add 2001:db8:6::1/128 via 2001:db8::9 metric 1")
    overlay = parse_overlay(dual_many(MANY) if refused is REFUSED6 else many(MANY))
    with inside(node):
        want = state_of(wanted_items(overlay, [Underlay("eth0", 1500)] * 2, 0, True))
        adapter = OverlayAdapter([family.device for family in overlay.families], [], True)
        planned = plan_overlay({}, Wanted(want))
        made = 3 * len(overlay.families)
        converge(adapter, lambda have: [] if have else planned[:made])
        bulk, before = planned[made:], snapshot(node)
        with pytest.raises(ApplyError) as error:
            converge(adapter, lambda _have: [*bulk[:position], Operation(ADD, refused), *bulk[position:]])
    assert str(error.value).startswith(f"{refused}: cannot add: ")
    assert reason in str(error.value)
    assert snapshot(node) == before
