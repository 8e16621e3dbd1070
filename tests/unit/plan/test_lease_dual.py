# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The plan for leases of dual stack: which subnets each half gets, and how a lease gets its IPv6 half and loses it."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, IPV6
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import Item, State, state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease import (
    ENDING,
    LEASED,
    PERMANENT,
    Half,
    Lease,
    LeaseSpec,
    Pool,
    lease_of,
    parse_lease_spec,
    vtep_mac,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease_codec import vxlan_data
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.lease import (
    claim,
    free_subnets,
    leases_of,
    owners,
    plan,
    plan_keep,
    plan_release,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.lease_moves import in_batches, in_groups
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import Operation, outcome_of

NODES = {"cp1": 11, "cp2": 12, "w1": 14}
FOREIGN_MACS = ("66:3b:ef:92:63:92", "66:3b:ef:92:63:93")
DUAL = {"network6": "fd00::/48"}


def spec(
    node: str = "cp1", *, dual: bool = True, pins: dict[str, dict[str, str]] | None = None, **more: Any
) -> LeaseSpec:
    nodes = [
        {"name": name, "address": f"192.0.2.{last}", "address6": f"2001:db8::{last}", **(pins or {}).get(name, {})}
        for name, last in NODES.items()
    ]
    config = {
        "network": "10.244.0.0/16",
        "backend": {"type": "vxlan", "vni": 1, "port": 8472},
        **(DUAL if dual else {}),
    }
    config |= more.pop("config", {})
    return parse_lease_spec({"config": config, "cluster_name": "lab", "nodes": nodes, "node": node, **more})


def lease(third: int, name: str, third6: int | None = None, **changes: Any) -> Lease:
    """As Fairlead writes it for a declared node; with an IPv6 half where ``third6`` is given."""
    last = NODES.get(name, 99)
    halves = [Half(IPV4, f"10.244.{third}.0/24", f"192.0.2.{last}", vxlan_data(1, vtep_mac("lab", name)))]
    if third6 is not None:
        data = vxlan_data(1, vtep_mac("lab", name, IPV6))
        halves.append(Half(IPV6, f"fd00:0:0:{third6:x}::/64", f"2001:db8::{last}", data))
    return dataclasses.replace(lease_of(halves, "vxlan", LEASED), **changes)


def foreign(third: int, third6: int | None = None, **changes: Any) -> Lease:
    data, data6 = (vxlan_data(1, mac) for mac in FOREIGN_MACS)
    half6 = {"address6": "2001:db8::50", "data6": data6} if third6 is not None else {}
    return dataclasses.replace(lease(third, "x", third6), **{"address": "192.0.2.50", "data": data, **half6, **changes})


def having(*items: Item) -> State:
    return state_of([spec().config, *items])


def subnets(have: State, wanted: LeaseSpec) -> dict[str, tuple[str, str]]:
    after = outcome_of(have, plan(have, wanted))
    assert plan(after, wanted) == []
    return {name: (lease.subnet, lease.subnet6) for lease, name in owners(after, wanted.nodes).items()}


def both(third: int, third6: int) -> tuple[str, str]:
    return f"10.244.{third}.0/24", f"fd00:0:0:{third6:x}::/64"


def test_empty_store_gives_subnets_of_both_families_in_declared_order() -> None:
    assert subnets({}, spec()) == {"cp1": both(1, 1), "cp2": both(2, 2), "w1": both(3, 3)}
    first = next(item for item in outcome_of({}, plan({}, spec())).values() if item.key == ("lease", *both(1, 1)))
    assert first == lease(1, "cp1", 1)


def test_halves_are_chosen_apart_from_each_other() -> None:
    have = having(foreign(1, 2), foreign(2, address="192.0.2.51", data=vxlan_data(1, "02:00:00:00:00:51")))
    assert subnets(have, spec()) == {"cp1": both(3, 1), "cp2": both(4, 3), "w1": both(5, 4)}


def test_foreign_subnet_of_another_size_takes_all_that_it_covers() -> None:
    wide = foreign(100, 1, subnet6="fd00::/62")
    narrow = foreign(101, 1, subnet6="fd00:0:0:5:8000::/65", address="192.0.2.51", address6="2001:db8::51")
    narrow = dataclasses.replace(narrow, data="", data6="")
    found = subnets(having(wide, narrow), spec())
    assert [subnet6 for _subnet, subnet6 in found.values()] == [both(0, index)[1] for index in (4, 6, 7)]


def test_leases_get_their_other_half_and_keep_their_subnets() -> None:
    have = state_of([spec(dual=False).config, lease(7, "cp1"), lease(3, "cp2"), lease(200, "w1"), foreign(1)])
    operations = plan(have, spec())
    assert [(operation.action, operation.item.key[1:]) for operation in operations] == [
        ("replace", ()),
        ("delete", ("10.244.200.0/24", "")),
        ("add", both(200, 3)),
        ("delete", ("10.244.3.0/24", "")),
        ("add", both(3, 2)),
        ("delete", ("10.244.7.0/24", "")),
        ("add", both(7, 1)),
    ]
    after = outcome_of(have, operations)
    assert plan(after, spec()) == []
    assert foreign(1).key in after
    # And back.
    back = plan(after, spec(dual=False))
    assert [operation.action for operation in back] == ["replace", *["delete", "add"] * 3]
    assert outcome_of(after, back) == have


def test_lease_that_moves_keeps_its_kind_of_life_and_the_own_one_is_renewed() -> None:
    have = having(lease(1, "cp1", life=ENDING), lease(2, "cp2", life=PERMANENT), lease(3, "w1"))
    lives = {
        item.key[1]: item.to_dict()["life"]
        for item in outcome_of(have, plan(have, spec())).values()
        if isinstance(item, Lease)
    }
    assert lives == {"10.244.1.0/24": LEASED, "10.244.2.0/24": PERMANENT, "10.244.3.0/24": LEASED}


def test_one_node_without_an_ipv6_subnet_that_is_allowed_gets_another_one() -> None:
    have = having(lease(1, "cp1", 0x1001), lease(2, "cp2", 2), lease(3, "w1", 3))
    wanted = spec(config={"subnet6_max": "fd00:0:0:1000::"})
    assert subnets(have, wanted) == {"cp1": both(1, 1), "cp2": both(2, 2), "w1": both(3, 3)}


def test_node_is_known_by_either_device_and_either_address() -> None:
    strange = {"data": vxlan_data(1, "66:00:00:00:00:01"), "address": "192.0.2.77"}
    moved = lease(8, "w1", 9, **strange)
    assert subnets(having(moved), spec())["w1"] == both(8, 9)
    by_address6 = dataclasses.replace(moved, data6=vxlan_data(1, "66:00:00:00:00:02"))
    assert subnets(having(by_address6), spec())["w1"] == both(8, 9)


def test_lease_of_flanneld_with_the_nodes_address_is_adopted_in_place() -> None:
    adopted = foreign(8, 9, address="192.0.2.14", address6="2001:db8::14")
    (operation,) = plan(having(lease(1, "cp1", 1), lease(2, "cp2", 2), adopted), spec())
    assert operation == Operation("replace", lease(8, "w1", 9), adopted)


def test_two_leases_of_a_node_become_one_with_a_half_of_each() -> None:
    have = having(lease(1, "cp1", 1), lease(2, "cp2", 2), lease(3, "w1"), lease(4, "w1", 4))
    operations = plan(have, spec())
    assert [(operation.action, operation.item.key[1:]) for operation in operations] == [
        ("delete", both(4, 4)),
        ("delete", ("10.244.3.0/24", "")),
        ("add", both(3, 4)),
    ]


def test_subnet_that_two_nodes_hold_stays_with_the_first_declared_one() -> None:
    have = having(lease(5, "cp2"), lease(5, "cp1", 5), lease(6, "w1", 6))
    assert subnets(have, spec()) == {"cp1": both(5, 5), "cp2": both(1, 1), "w1": both(6, 6)}


@pytest.mark.parametrize("dual", [True, False])
def test_lease_does_not_move_to_the_place_of_somebody_elses(dual: bool) -> None:
    """That both have one IPv4 subnet is a conflict that is reported; under the same key nobody wins."""
    mine, theirs = (lease(5, "cp1", 5), foreign(5)) if not dual else (lease(5, "cp1"), foreign(5, 9))
    have = having(mine, theirs, lease(2, "cp2", 2), lease(3, "w1", 3))
    after = outcome_of(have, plan(have, spec(dual=dual)))
    assert after[theirs.key] == theirs
    assert subnets(have, spec(dual=dual))["cp1"] == (both(1, 1) if dual else ("10.244.1.0/24", ""))


def test_pinned_subnets_are_given_and_kept_from_others() -> None:
    pins = {"w1": {"subnet6": "fd00:0:0:1::/64"}, "cp2": {"subnet": "10.244.9.0/24", "subnet6": "fd00:0:0:9::/64"}}
    assert subnets({}, spec(pins=pins)) == {"cp2": both(9, 9), "w1": both(2, 1), "cp1": both(1, 2)}


def test_pinned_nodes_can_trade_their_ipv6_subnets() -> None:
    pins = {"cp1": {"subnet6": "fd00:0:0:2::/64"}, "cp2": {"subnet6": "fd00:0:0:1::/64"}}
    have = having(lease(1, "cp1", 1), lease(2, "cp2", 2), lease(3, "w1", 3))
    assert subnets(have, spec(pins=pins)) == {"cp1": both(1, 2), "cp2": both(2, 1), "w1": both(3, 3)}
    (group,) = in_groups(plan(have, spec(pins=pins)))
    assert [operation.action for operation in group] == ["delete", "delete", "add", "add"]


@pytest.mark.parametrize(("holder", "whose"), [(foreign(1, 1), "192.0.2.50"), (lease(1, "cp2", 1), "node cp2")])
def test_pinned_ipv6_subnet_of_somebody_else_is_refused(holder: Lease, whose: str) -> None:
    wanted = spec(pins={"w1": {"subnet6": "fd00:0:0:1::/64"}})
    with pytest.raises(SpecError, match=f"fd00:0:0:1::/64 is leased to {whose}") as caught:
        plan(having(holder), wanted)
    assert caught.value.path == "nodes[2].subnet6"


def test_full_ipv6_range_names_the_node_and_the_options() -> None:
    with pytest.raises(SpecError, match="no subnet is left for w1.*subnet6_min and subnet6_max") as caught:
        plan({}, spec(config={"subnet6_max": "fd00:0:0:2::"}))
    assert caught.value.path == "nodes[2]"


def test_other_ipv6_network_is_refused_while_leases_have_subnets_of_it() -> None:
    other = spec(config={"network6": "fd01::/48"})
    with pytest.raises(
        SpecError, match=r"config\.network6: is fd01::/48.*fd00::/48 with 1 leases.*run without network6"
    ):
        plan(having(lease(1, "cp1", 1), foreign(2)), other)
    assert plan(having(lease(1, "cp1")), other)[0].action == "replace"


def test_release_takes_leases_of_both_forms() -> None:
    have = having(lease(1, "cp1", 1), lease(2, "cp2", 2), lease(3, "cp2"), foreign(4, 4))
    released = {operation.item.key[1:] for operation in plan_release(have, spec("cp2"))}
    assert released == {both(2, 2), ("10.244.3.0/24", "")}


PINS = {"cp1": {"subnet": "10.244.1.0/24", "subnet6": "fd00:0:0:1::/64"}}


@pytest.mark.parametrize("dual", [True, False])
@pytest.mark.parametrize("held", [lease(1, "cp1", 1), lease(1, "cp1")], ids=["dual", "IPv4"])
def test_renewal_leaves_the_form_of_a_lease_alone(held: Lease, dual: bool) -> None:
    """Another node has taken the cluster to dual stack, or back; this one keeps what it has until its next full run."""
    own = spec(dual=dual, pins=PINS)
    assert plan_keep(state_of([held]), own) == []
    ending = dataclasses.replace(held, life=ENDING)
    assert plan_keep(state_of([ending]), own) == [Operation("replace", held, ending)]


@pytest.mark.parametrize(
    "changes",
    [
        {"subnet": "10.244.2.0/24"},
        {"subnet6": "fd00:0:0:2::/64"},
        {"address6": "2001:db8::9"},
        {"data6": vxlan_data(1, "02:00:00:00:00:01")},
        {"data6": ""},
        {"backend_type": "host-gw"},
    ],
)
def test_lease_that_says_something_else_is_not_just_renewed(changes: dict[str, str]) -> None:
    assert plan_keep(state_of([lease(1, "cp1", 1, **changes)]), spec(pins=PINS)) is None


def test_renewal_takes_no_ipv6_subnet_where_the_configuration_has_none() -> None:
    own = dataclasses.replace(spec(pins=PINS), update_config=False)
    own = dataclasses.replace(own, nodes=own.nodes[:1])
    assert plan(state_of([spec(dual=False).config]), own) == [Operation("add", lease(1, "cp1"))]
    assert plan(state_of([spec().config]), own) == [Operation("add", lease(1, "cp1", 1))]


def pool6(network: str, length: int) -> Pool:
    declared = {"network": "10.244.0.0/16", "network6": network, "subnet6_len": length, "backend": {"type": "host-gw"}}
    return parse_lease_spec(
        {"config": declared, "cluster_name": "lab", "nodes": [], "node": "n"} | NOBODY
    ).config.pools[1]


NOBODY = {"nodes": [{"name": "n", "address": "192.0.2.1", "address6": "2001:db8::1"}]}


def test_choice_among_billions_of_subnets_looks_at_the_used_ones_only() -> None:
    """Enumerating a half of fd00::/8 would never end."""
    pool = pool6("fd00::/8", 64)
    free = free_subnets(pool, ["fd00::/9", *(f"fd80:0:0:{index:x}::/64" for index in range(2000))])
    began = time.process_time()
    assert next(free) == "fd80:0:0:7d0::/64"
    # Enumerating takes ages of the universe: any bound will do.
    assert time.process_time() - began < 5
    assert list(itertools.islice(free_subnets(pool, ["fd00::/8"]), 1)) == []


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(120, 128)), max_size=12), st.sampled_from([122, 124, 126]))
def test_free_subnets_are_those_that_overlap_nothing(used: list[tuple[int, int]], length: int) -> None:
    pool = pool6("fd00::/120", length)
    networks = [
        ipaddress.IPv6Network((int(ipaddress.IPv6Address("fd00::")) + at, bits), strict=False) for at, bits in used
    ]
    everything = ipaddress.IPv6Network("fd00::/120").subnets(new_prefix=length)
    first, *others = everything
    free = [str(subnet) for subnet in others if not any(subnet.overlaps(network) for network in networks)]
    assert list(free_subnets(pool, map(str, networks))) == free and str(first) not in free


@st.composite
def stores(draw: st.DrawFn) -> State:
    """Any mixture of leases with one half or two: declared nodes' or foreign, of wrong sizes, doubled, overlapping."""
    items: list[Item] = [spec(dual=draw(st.booleans())).config] if draw(st.booleans()) else []
    for _number in range(draw(st.integers(0, 10))):
        halves = []
        for version, base, lengths in (
            (IPV4, ipaddress.ip_address("10.244.0.0"), (22, 24, 24, 24, 26)),
            (IPV6, ipaddress.ip_address("fd00::"), (62, 64, 64, 64, 66)),
        ):
            length = draw(st.sampled_from(lengths))
            number = int(base) + (draw(st.integers(0, 9)) << (version.bits - lengths[1]))
            network = ipaddress.ip_network((number, length), strict=False)
            name = draw(st.sampled_from([*NODES, "gone"]))
            mac = draw(st.sampled_from([vtep_mac("lab", name, version), *FOREIGN_MACS]))
            prefix = "192.0.2." if version is IPV4 else "2001:db8::"
            address = draw(st.sampled_from([*(f"{prefix}{last}" for last in NODES.values()), f"{prefix}50", ""]))
            halves.append(Half(version, str(network), address, vxlan_data(1, mac)))
        items.append(lease_of(halves[: draw(st.integers(1, 2))], "vxlan", draw(st.sampled_from([PERMANENT, LEASED]))))
    return state_of(items)


@settings(max_examples=1000)
@given(stores(), st.sampled_from(sorted(NODES)), st.sampled_from([0, 86400]), st.booleans())
def test_any_store_converges_in_one_plan(have: State, node: str, ttl: int, dual: bool) -> None:
    wanted = spec(node, dual=dual, ttl=ttl)
    operations = plan(have, wanted)
    after = outcome_of(have, operations)
    assert plan(after, wanted) == []
    named = {name: lease for lease, name in owners(after, wanted.nodes).items()}
    assert sorted(owners(after, wanted.nodes).values()) == sorted(NODES)
    claimed = claim(leases_of(have), wanted.nodes)
    for name, mine in named.items():
        assert [half.version for half in mine.halves] == [pool.version for pool in wanted.config.pools]
        for half in mine.halves:
            before = [held.half(half.version) for held in claimed[name]]
            if half.subnet not in [held.subnet for held in before if held]:
                refuse_overlap(half, [lease for lease in leases_of(have)])
            refuse_overlap(half, [other for their, other in named.items() if their != name])
    undone = outcome_of(after, [operation.inverse() for operation in reversed(operations)])
    assert undone == have


def refuse_overlap(half: Half, others: list[Lease]) -> None:
    mine = ipaddress.ip_network(half.subnet)
    theirs = [ipaddress.ip_network(found.subnet) for other in others if (found := other.half(half.version))]
    assert not any(mine.overlaps(network) for network in theirs)


HANDED_ON = state_of(
    [
        Lease("10.244.6.0/24", "192.0.2.14", "vxlan", '{"VNI":1,"VtepMAC":"66:3b:ef:92:63:92"}', PERMANENT),
        Lease("10.244.0.0/22", "192.0.2.11", "vxlan", '{"VNI":1,"VtepMAC":"16:39:b1:ae:9f:89"}', PERMANENT),
        Lease(
            *("10.244.6.0/24", "192.0.2.12", "vxlan", '{"VNI":1,"VtepMAC":"16:39:b1:ae:9f:89"}', PERMANENT),
            *("fd00::/62", "2001:db8::11", '{"VNI":1,"VtepMAC":"8e:a4:f2:09:30:8d"}'),
        ),
    ]
)


@settings(max_examples=1000)
@given(stores(), st.booleans(), st.integers(1, 8))
@example(HANDED_ON, False, 1)
def test_nobody_sees_a_node_without_its_lease_or_an_overlap_that_comes_of_the_order(
    have: State, dual: bool, size: int
) -> None:
    wanted = spec(dual=dual)
    operations = plan(have, wanted)
    assert [operation for group in in_groups(operations) for operation in group] == operations
    largest = max((len(group) for group in in_groups(operations)), default=0)
    batches = list(in_batches(operations, max(size, largest)))
    assert [operation for batch in batches for operation in batch] == operations
    assert all(len(batch) <= max(size, largest) for batch in batches)
    state, held = have, {name for name, leases in claim(leases_of(have), wanted.nodes).items() if leases}
    for batch in batches:
        check_order(batch)
        state = outcome_of(state, batch)
        now = claim(leases_of(state), wanted.nodes)
        assert all(now[name] for name in held)
        held |= {name for name, leases in now.items() if leases}


def check_order(batch: list[Operation]) -> None:
    """What flanneld is told of in this order leaves it with the new lease."""
    written: list[Lease] = []
    for operation in batch:
        if not isinstance(operation.item, Lease):
            continue
        if operation.action == "delete":
            for half in operation.item.halves:
                refuse_overlap(half, written)
        else:
            written.append(operation.item)


@given(st.lists(st.integers(1, 5), max_size=20), st.integers(1, 6))
def test_batches_split_a_group_only_when_it_is_too_large(sizes: list[int], size: int) -> None:
    """A group of n: the deletion of n-1 narrow leases and one wide one that takes their place."""
    operations = []
    for index, count in enumerate(sizes):
        wide = dataclasses.replace(lease(0, "x"), subnet=f"10.{index}.0.0/16", address="", data="")
        narrow = [dataclasses.replace(wide, subnet=f"10.{index}.{third}.0/24") for third in range(count - 1)]
        operations += [Operation("add", wide), *(Operation("delete", each) for each in narrow)]
    batches = list(in_batches(operations, size))
    assert sum(map(len, batches)) == len(operations) and all(0 < len(batch) <= size for batch in batches)
    for group in in_groups(operations):
        parts = [batch for batch in batches if any(operation in batch for operation in group)]
        assert len(parts) == max(1, -(-len(group) // size)) or len(group) > size
