# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Plans of the datapath against a model of the kernel that objects to every wrong order."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.datapath import (
    PROTOCOL_KERNEL,
    PROTOCOL_RA,
    DeviceAddress,
    ForwardingEntry,
    IpipDevice,
    LinkUp,
    Neighbor,
    Nexthop,
    Route,
    VxlanDevice,
    device_of,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import PrerequisiteError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import Item, State, state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay import (
    Overlay,
    Underlay,
    direct_keys,
    parse_overlay,
    wanted_items,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import ADD, DELETE, Operation
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.overlay import Wanted, plan_overlay

EXAMPLES = 1000
NETWORK = ipaddress.ip_network("10.244.0.0/16")
SUBNETS = [f"10.244.{third}.0/24" for third in range(1, 7)]
MACS = [f"02:00:00:00:00:0{digit}" for digit in range(1, 7)]
NODES = [f"192.0.2.{last}" for last in range(1, 7)]
SUBNETS6 = [f"fd00:10:244:{third}::/64" for third in range(1, 7)]
NODES6 = [f"2001:db8::{last}" for last in range(1, 7)]
DEVICES = ("flannel.1", "flannel.2", "flannel.ipip", "flannel-v6.1", "flannel-v6.2")


class Kernel:
    """What the kernel holds to: things hang on devices that exist; with a device, its link or its last address go the
    things that depend on them, silently. A plan must never rely on that, because it could not be undone."""

    def __init__(self, state: State) -> None:
        self.state = dict(state)

    def carry_out(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            self._check(operation)
            if operation.action == DELETE:
                del self.state[operation.item.key]
            else:
                self.state[operation.item.key] = operation.item

    def _on(self, device: str, *kinds: type[Item]) -> list[Item]:
        return [item for item in self.state.values() if isinstance(item, kinds) and device_of(item) == device]

    def _check(self, operation: Operation) -> None:
        item, device = operation.item, device_of(operation.item)
        present = self.state.get(item.key)
        assert (present is None) == (operation.action == ADD), f"{operation}: there is {present}"
        assert operation.action == ADD or present == (operation.previous or item), f"{operation}: there is {present}"
        if isinstance(item, (VxlanDevice, IpipDevice)):
            others = [each for each in self.state.values() if isinstance(each, VxlanDevice) and each.key != item.key]
            for other in others if isinstance(item, VxlanDevice) and operation.action != DELETE else []:
                shares = (other.port, ":" in other.local) == (item.port, ":" in item.local)
                assert not shares or other.gbp == item.gbp, f"{operation}: {other} is in the way"
            hanging = self._on(device, LinkUp, DeviceAddress, Neighbor, ForwardingEntry, Nexthop, Route)
            assert operation.action != DELETE or not hanging, f"{operation} takes {hanging} along"
        elif device in DEVICES:
            assert self._on(device, VxlanDevice, IpipDevice), f"{operation}: no such device"
            self._check_dependents(operation)
        if isinstance(item, Nexthop) and operation.action == DELETE:
            through = [each for each in self.state.values() if getattr(each, "nexthop_id", 0) == item.id]
            assert not through, f"{operation} takes {through} along"
        if isinstance(item, Route) and item.nexthop_id:
            assert ("nexthop", item.nexthop_id) in self.state, f"{operation}: no such object"

    def _check_dependents(self, operation: Operation) -> None:
        item, device = operation.item, device_of(operation.item)
        up = bool(self._on(device, LinkUp))
        if isinstance(item, (Route, Nexthop, Neighbor)):
            assert up, f"{operation}: the link is down"
        if operation.action == DELETE and isinstance(item, LinkUp):
            assert not self._on(device, Route, Nexthop, Neighbor), f"{operation} takes routes or neighbors along"
        last = [item] == self._on(device, DeviceAddress)
        if operation.action == DELETE and last:
            assert not self._on(device, Route), f"{operation} takes routes along"


def foreign_route(destination: str, gateway: str, device: str, metric: int) -> Route:
    return Route(destination, gateway, device, onlink=False, protocol=4, metric=metric)


@st.composite
def on_device(draw: st.DrawFn, name: str) -> list[Item]:
    """A device in any condition, and anything on it."""
    if name == "flannel.ipip":
        local, mtu = draw(st.sampled_from(NODES[:2])), draw(st.sampled_from([1480, 1400]))
        return [IpipDevice(name, local, mtu, draw(st.sampled_from([(), (("ttl", 9),)]))), *draw(on_link(name))]
    addresses = NODES6 if "-v6" in name else NODES
    device = VxlanDevice(
        name=name,
        vni=int(name[-1]),
        link=draw(st.sampled_from(["eth0", "eth1"])),
        local=draw(st.sampled_from(addresses[:2])),
        port=draw(st.sampled_from([8472, 4789])),
        mac=draw(st.sampled_from(MACS[:2])),
        mtu=draw(st.sampled_from([1450, 1400])),
        learning=draw(st.booleans()),
        accept_ra=draw(st.sampled_from([0, 1])),
    )
    entries = draw(st.dictionaries(st.sampled_from(MACS), st.sampled_from(addresses)))
    forwarded = [ForwardingEntry(name, mac, to, draw(st.sampled_from([0x80, 0xC0]))) for mac, to in entries.items()]
    return [device, *forwarded, *draw(on_link(name))]


@st.composite
def on_link(draw: st.DrawFn, name: str) -> list[Item]:
    subnets, held = SUBNETS, ["10.244.1.0/32", "10.244.9.9/32", OTHER_ADDRESS]
    if "-v6" in name:
        subnets, held = SUBNETS6, ["fd00:10:244:1::/128", "fd00:10:244:9::9/128", OTHER_ADDRESS6]
    addresses = draw(st.sets(st.sampled_from(held)))
    items: list[Item] = [DeviceAddress(name, address) for address in sorted(addresses)]
    if draw(st.booleans()):
        neighbors = draw(st.dictionaries(st.sampled_from(subnets), st.sampled_from(MACS)))
        items += [LinkUp(name), *(Neighbor(name, subnet.split("/")[0], mac) for subnet, mac in neighbors.items())]
        routes = draw(st.dictionaries(st.sampled_from(subnets), st.sampled_from(subnets))) if addresses else {}
        metric = 1024 if "-v6" in name else 0
        items += [
            Route(to, via.split("/")[0], name, protocol=draw(st.sampled_from([3, 4])), metric=metric)
            for to, via in routes.items()
        ]
    return items


# Outside of the pod networks.
OTHER_ADDRESS, OTHER_ADDRESS6 = "172.16.0.1/24", "2001:db8:1::1/64"
BACKENDS: list[dict[str, Any]] = [
    {"vni": 1},
    {"vni": 2},
    {"vni": 2, "gbp": True},
    {"vni": 1, "direct_routing": True},
    {"type": "host-gw"},
    {"type": "ipip"},
    {"type": "ipip", "direct_routing": True},
]


@st.composite
def overlays(draw: st.DrawFn) -> Overlay:
    """A declaration of a node with up to five peers, of one IP version or both; peers keep neither subnet, address nor
    MAC between examples, and in a dual one may have one half only."""
    backend = draw(st.sampled_from(BACKENDS))
    halves = ["", "6"] if backend.get("type") != "ipip" else [""]
    declared = draw(st.sampled_from([[half] for half in halves] + [halves]))
    members: list[dict[str, Any]] = [{"name": f"n{index}"} for index in range(draw(st.integers(0, 5)))]
    own: dict[str, Any] = {"name": "own"}
    for half in declared:
        pools = {"subnet": SUBNETS6 if half else SUBNETS, "mac": MACS, "address": NODES6 if half else NODES}
        own |= {f"{field}{half}": values[0] for field, values in pools.items()}
        shuffled = {field: draw(st.permutations(values[1:])) for field, values in pools.items()}
        for index, member in enumerate(members):
            if half == declared[0] or draw(st.booleans()):
                member |= {f"{field}{half}": values[index] for field, values in shuffled.items()}
    networks = {f"network{half}": "fd00:10:244::/48" if half else "10.244.0.0/16" for half in declared}
    return parse_overlay({**networks, "backend": backend, "node": own, "peers": members})


@st.composite
def made(draw: st.DrawFn, overlay: Overlay) -> State:
    """What an overlay asks for where any of its peers may be on the same link."""
    direct = draw(st.sets(st.sampled_from([*NODES, *NODES6]))) if overlay.backend.direct_routing else set()
    underlay = Underlay("eth0", 1500, direct=dict.fromkeys(direct, "eth0"))
    return state_of(wanted_items(overlay, [underlay] * len(overlay.families), 0, draw(st.booleans())))


@st.composite
def situations(draw: st.DrawFn) -> tuple[State, Wanted]:
    """What an earlier overlay made and others took some of away, or devices in any condition; and routes of others to
    subnets of peers."""
    overlay, earlier = draw(overlays()), draw(overlays())
    want, keys = draw(made(overlay)), direct_keys(earlier)
    have: State = {}
    if draw(st.booleans()):
        have = draw(made(earlier))
        gone = draw(st.sets(st.sampled_from([(), *(key for key in have if key[0] == "route")])))
        have = {key: item for key, item in have.items() if key not in gone}
    else:
        keys = {}
        for name in DEVICES:
            have.update(state_of(draw(st.one_of(st.just([]), on_device(name)))))
    elsewhere = draw(st.sets(st.sampled_from([*SUBNETS, *SUBNETS6])))
    foreign = [foreign_route(to, "192.0.2.254", "eth0", 1024 if ":" in to else 0) for to in sorted(elsewhere)]
    have.update(state_of(route for route in foreign if route.key in {**want, **keys}))
    gateways = frozenset(peer.address for family in overlay.families for peer in family.peers)
    return have, Wanted(draw(st.sampled_from([want, want, want, {}])), overlay.networks, keys, gateways)


@settings(max_examples=EXAMPLES, deadline=None)
@given(situations(), st.integers(0, 1000))
def test_plan_gives_want_once_and_can_be_undone_anywhere(situation: tuple[State, Wanted], position: int) -> None:
    have, wanted = situation
    operations = plan_overlay(have, wanted)
    kernel = Kernel(have)
    kernel.carry_out(operations)
    foreign = {key: item for key, item in have.items() if getattr(item, "gateway", "") == "192.0.2.254"}
    assert kernel.state == {**foreign, **kept_addresses(have, wanted), **wanted.items}
    assert plan_overlay(kernel.state, wanted) == []
    done = operations[: position % (len(operations) + 1)]
    kernel = Kernel(have)
    kernel.carry_out(done)
    kernel.carry_out(operation.inverse() for operation in reversed(done))
    assert kernel.state == have


def kept_addresses(have: State, wanted: Wanted) -> State:
    """The addresses outside of the pod networks, where they are on a device that is wanted."""
    devices = [item.name for item in wanted.items.values() if isinstance(item, (VxlanDevice, IpipDevice))]
    addresses = (DeviceAddress(device, address) for device in devices for address in (OTHER_ADDRESS, OTHER_ADDRESS6))
    return state_of(address for address in addresses if address.key in have)


def state_for(*peers: tuple[str, str, str], **device: Any) -> tuple[State, Wanted]:
    """The settled state of a node with peers (subnet, MAC, address), and the same as wanted."""
    members = [{"name": f"p{mac[-1]}", "address": to, "subnet": subnet, "mac": mac} for subnet, mac, to in peers]
    own = {"name": "own", "address": NODES[0], "subnet": SUBNETS[0], "mac": MACS[0]}
    items = wanted_items(parse_overlay({"node": own, "peers": members}), [Underlay("eth0", 1500)], 0, False)
    state = state_of(dataclasses.replace(item, **device) if isinstance(item, VxlanDevice) else item for item in items)
    return state, Wanted(state, (NETWORK,))


PEER = (SUBNETS[1], MACS[1], NODES[1])
OTHER = (SUBNETS[2], MACS[2], NODES[2])


def shown(operations: list[Operation]) -> list[str]:
    return [f"{operation.action} {operation.item.kind}" for operation in operations]


def test_added_peer_touches_nothing_else_and_its_route_comes_last() -> None:
    operations = plan_overlay(state_for(PEER)[0], state_for(PEER, OTHER)[1])
    assert shown(operations) == ["add neighbor", "add fdb", "add route"]


def test_removed_peer_loses_its_route_first() -> None:
    operations = plan_overlay(state_for(PEER, OTHER)[0], state_for(PEER)[1])
    assert shown(operations) == ["delete route", "delete neighbor", "delete fdb"]


def test_peer_with_another_mac_is_forwarded_before_its_neighbor_moves() -> None:
    operations = plan_overlay(state_for(PEER)[0], state_for((PEER[0], MACS[3], PEER[2]))[1])
    assert shown(operations) == ["add fdb", "replace neighbor", "delete fdb"]


def test_peer_with_another_address_changes_in_place() -> None:
    operations = plan_overlay(state_for(PEER)[0], state_for((PEER[0], PEER[1], NODES[4]))[1])
    assert shown(operations) == ["replace fdb"]


@pytest.mark.parametrize("difference", [{"mtu": 1400}, {"learning": True}, {"accept_ra": 1}], ids=str)
def test_what_the_kernel_can_change_changes_in_place(difference: dict[str, Any]) -> None:
    assert shown(plan_overlay(state_for(PEER, **difference)[0], state_for(PEER)[1])) == ["replace vxlan"]


@pytest.mark.parametrize(
    "difference",
    [{"vni": 7}, {"link": "eth1"}, {"local": NODES[3]}, {"port": 4789}, {"mac": MACS[4]}]
    + [{"gbp": True}, {"options": (("l2miss", 1),)}, {"options": (("group", "239.1.1.1"),)}],
    ids=lambda difference: next(iter(difference)),
)
def test_incompatible_device_is_made_anew_object_by_object(difference: dict[str, Any]) -> None:
    operations = shown(plan_overlay(state_for(PEER, **difference)[0], state_for(PEER)[1]))
    down = ["delete route", "delete neighbor", "delete fdb", "delete link_up", "delete address", "delete vxlan"]
    assert operations == down + ["add vxlan", "add address", "add link_up", "add neighbor", "add fdb", "add route"]


def test_what_flannel_leaves_alone_does_not_cost_a_device() -> None:
    have = state_for(PEER, defaults=(("udp_csum", 0), ("txqlen", 1000)))[0]
    assert plan_overlay(have, state_for(PEER)[1]) == []


def test_connected_network_in_the_place_of_a_peer_is_refused() -> None:
    connected = Route(PEER[0], "", "cni0", onlink=False, protocol=2, scope=253)
    have = {**state_for()[0], connected.key: connected}
    with pytest.raises(PrerequisiteError, match=r"10\.244\.2\.0/24 is connected to cni0"):
        plan_overlay(have, state_for(PEER)[1])


def ipv6_state() -> tuple[Route, State]:
    """The route to a peer, and all that is wanted."""
    node = {"name": "a", "address6": NODES6[0], "subnet6": SUBNETS6[0], "mac6": MACS[0]}
    peer = {"name": "b", "address6": NODES6[1], "subnet6": SUBNETS6[1], "mac6": MACS[1]}
    overlay = parse_overlay({"network6": "fd00:10:244::/48", "node": node, "peers": [peer]})
    items = state_of(wanted_items(overlay, [Underlay("eth0", 1500)], 0, True))
    return next(item for item in items.values() if isinstance(item, Route)), items


@pytest.mark.parametrize("protocol", [PROTOCOL_KERNEL, PROTOCOL_RA])
def test_connected_ipv6_network_beside_the_route_to_a_peer_is_refused(protocol: int) -> None:
    route, items = ipv6_state()
    wanted = Wanted(items)
    connected = Route(route.destination, "", "cni0", onlink=False, protocol=protocol, metric=256)
    assert connected.key in wanted.keys
    with pytest.raises(PrerequisiteError, match=r"fd00:10:244:2::/64 is connected to cni0"):
        plan_overlay({**items, connected.key: connected}, wanted)
    for harmless in (
        connected._replace(device="flannel-v6.1"),
        connected._replace(destination="fd00:10:244:9::/64"),
        connected._replace(gateway="fe80::1"),
    ):
        found = plan_overlay({**items, harmless.key: harmless}, wanted)
        assert [each for each in found if each.item.device == "cni0"] == []


def test_routes_beside_that_to_a_peer_go_before_it_is_replaced() -> None:
    route, items = ipv6_state()
    first = Route(route.destination, "", "eth1", onlink=False, metric=1024)
    others = [
        first._replace(gateway=f"2001:db8::{number}", device="eth0", options=(("duplicate", number),))
        for number in (1, 2)
    ]
    have = {**items, route.key: first, **{each.key: each for each in others}}
    assert len({route.key, *(each.key for each in others)}) == 3
    assert [(each.action, each.item) for each in plan_overlay(have, Wanted(items))] == [
        (DELETE, others[1]),
        (DELETE, others[0]),
        ("replace", route),
    ]


def overlay_of(**backend: Any) -> Overlay:
    members = [{"name": "p2", "address": NODES[1], "subnet": SUBNETS[1], "mac": MACS[1]}]
    own = {"name": "own", "address": NODES[0], "subnet": SUBNETS[0], "mac": MACS[0]}
    return parse_overlay({"backend": backend, "node": own, "peers": members})


def state_of_backend(with_nexthops: bool = True, **backend: Any) -> State:
    underlay = Underlay("eth0", 1500, direct={NODES[1]: "eth0"} if backend.get("direct_routing") else {})
    return state_of(wanted_items(overlay_of(**backend), [underlay], 0, with_nexthops))


def change(before: dict[str, Any], after: dict[str, Any], with_nexthops: bool = True) -> list[str]:
    earlier = direct_keys(overlay_of(**before))
    have, want = (state_of_backend(with_nexthops, **backend) for backend in (before, after))
    return shown(plan_overlay(have, Wanted(want, (NETWORK,), earlier, frozenset([NODES[1]]))))


VXLAN, DIRECT, HOST_GW, IPIP = {}, {"direct_routing": True}, {"type": "host-gw"}, {"type": "ipip"}


def test_direct_routing_comes_in_one_step_before_the_old_way_goes() -> None:
    assert change(VXLAN, DIRECT) == ["replace nexthop", "replace route", "delete neighbor", "delete fdb"]
    assert change(VXLAN, DIRECT, False) == ["replace route", "delete neighbor", "delete fdb"]


def test_direct_routing_goes_when_the_other_way_is_there() -> None:
    assert change(DIRECT, VXLAN) == ["add neighbor", "add fdb", "replace nexthop", "replace route"]


@pytest.mark.parametrize(("backend", "kind"), [(VXLAN, "vxlan"), (IPIP, "ipip")], ids=["vxlan", "ipip"])
def test_device_goes_after_the_routes_have_left_it(backend: dict[str, Any], kind: str) -> None:
    entries = ["delete neighbor", "delete fdb"] if kind == "vxlan" else []
    rest = [*entries, "delete link_up", "delete address", f"delete {kind}"]
    assert change(backend, HOST_GW) == ["replace nexthop", "replace route", *rest]


@pytest.mark.parametrize(("backend", "kind"), [(VXLAN, "vxlan"), (IPIP, "ipip")], ids=["vxlan", "ipip"])
def test_device_comes_before_the_routes_go_over_it(backend: dict[str, Any], kind: str) -> None:
    entries = ["add neighbor", "add fdb"] if kind == "vxlan" else []
    first = [f"add {kind}", "add address", "add link_up", *entries]
    assert change(HOST_GW, backend) == [*first, "replace nexthop", "replace route"]


def test_other_device_is_there_before_the_old_one_goes() -> None:
    operations = change(VXLAN, IPIP)
    assert operations.index("add link_up") < operations.index("replace route") < operations.index("delete vxlan")


def test_route_and_object_of_a_peer_that_left_go_unless_others_changed_them() -> None:
    earlier, have = direct_keys(overlay_of(**HOST_GW)), state_of_backend(**HOST_GW)
    assert shown(plan_overlay(have, Wanted({}, (NETWORK,), earlier))) == ["delete route", "delete nexthop"]
    changed = foreign_route(SUBNETS[1], "192.0.2.254", "eth0", 0)
    assert shown(plan_overlay({**have, changed.key: changed}, Wanted({}, (NETWORK,), earlier))) == ["delete nexthop"]
    assert plan_overlay(have, Wanted({}, (NETWORK,))) == []


def test_object_of_others_under_one_of_our_identifiers_is_refused() -> None:
    want = state_of_backend(**HOST_GW)
    number = next(item.id for item in want.values() if isinstance(item, Nexthop))
    for other in (Nexthop(number, "192.0.2.77", "eth0", False), Nexthop(number, NODES[1], "eth0", False, 186)):
        with pytest.raises(PrerequisiteError, match="the identifier is in use on this node by nexthop id"):
            plan_overlay({other.key: other}, Wanted(want, (NETWORK,), {}, frozenset([NODES[1]])))
