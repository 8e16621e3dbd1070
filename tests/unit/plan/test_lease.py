# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The plan for leases: who keeps, who gets, what goes, and what is refused."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import Item, State, state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease import (
    ENDING,
    LEASED,
    PERMANENT,
    Lease,
    LeaseSpec,
    parse_lease_spec,
    vtep_mac,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease_codec import vxlan_data
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.lease import leases_of, owners, plan, plan_release
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import outcome_of

NODES = {"cp1": "192.0.2.11", "cp2": "192.0.2.12", "w1": "192.0.2.14"}
FOREIGN_MAC = "66:3b:ef:92:63:92"


def spec(node: str = "cp1", nodes: list[dict[str, Any]] | None = None, **changes: Any) -> LeaseSpec:
    declared = nodes if nodes is not None else [{"name": name, "address": address} for name, address in NODES.items()]
    backend = changes.pop("backend", {"type": "vxlan", "vni": 1, "port": 8472})
    config = {"network": "10.244.0.0/16", "subnet_len": 24, "backend": backend}
    for key in ("network", "subnet_len", "subnet_min", "subnet_max"):
        if key in changes:
            config[key] = changes.pop(key)
    return parse_lease_spec({"config": config, "cluster_name": "lab", "nodes": declared, "node": node, **changes})


def lease(third: int, name: str, **changes: Any) -> Lease:
    """As Fairlead writes it for a declared node."""
    mac = vtep_mac("lab", name)
    made = Lease(f"10.244.{third}.0/24", NODES.get(name, "192.0.2.99"), "vxlan", vxlan_data(1, mac))
    return dataclasses.replace(made, **changes)


def foreign(third: int, address: str = "192.0.2.50", **changes: Any) -> Lease:
    made = Lease(f"10.244.{third}.0/24", address, "vxlan", vxlan_data(1, FOREIGN_MAC))
    return dataclasses.replace(made, **changes)


def having(*items: Item) -> State:
    return state_of([spec().config, *items])


def subnets(have: State, wanted: LeaseSpec) -> dict[str, str]:
    after = outcome_of(have, plan(have, wanted))
    assert plan(after, wanted) == []
    return {name: lease.subnet for lease, name in owners(after, wanted.nodes).items()}


def test_empty_store_gives_subnets_in_declared_order_and_leaves_out_the_first() -> None:
    assert subnets({}, spec()) == {"cp1": "10.244.1.0/24", "cp2": "10.244.2.0/24", "w1": "10.244.3.0/24"}


def test_configuration_is_written_before_the_leases() -> None:
    kinds = [operation.item.kind for operation in plan({}, spec())]
    assert kinds == ["flannel_config", "lease", "lease", "lease"]


def test_every_node_computes_the_same_plan_on_an_empty_store() -> None:
    assert plan({}, spec("cp1")) == plan({}, spec("w1"))


def test_nothing_to_do_when_all_leases_are_there() -> None:
    assert plan(having(lease(7, "cp1"), lease(3, "cp2"), lease(200, "w1")), spec()) == []


def test_taken_subnets_are_passed_over() -> None:
    assert subnets(having(foreign(1), foreign(3)), spec()) == {
        "cp1": "10.244.2.0/24",
        "cp2": "10.244.4.0/24",
        "w1": "10.244.5.0/24",
    }


def test_foreign_lease_of_another_size_takes_all_that_it_covers() -> None:
    wide = dataclasses.replace(foreign(0), subnet="10.244.0.0/22")
    narrow = dataclasses.replace(foreign(5), subnet="10.244.5.128/25", address="192.0.2.51")
    assert list(subnets(having(wide, narrow), spec()).values()) == ["10.244.4.0/24", "10.244.6.0/24", "10.244.7.0/24"]


def test_foreign_leases_are_never_touched() -> None:
    others = [foreign(1), foreign(2, "192.0.2.51", life=PERMANENT), foreign(9, "", backend_type="", data="")]
    touched = {operation.item.key for operation in plan(having(*others), spec())}
    assert not touched & {other.key for other in others}


def test_lease_with_the_nodes_address_is_adopted_and_gets_its_mac() -> None:
    adopted = foreign(8, NODES["w1"])
    operations = plan(having(lease(1, "cp1"), lease(2, "cp2"), adopted), spec())
    assert [str(operation) for operation in operations] == [f"~ {lease(8, 'w1')} (was {adopted})"]


def test_node_that_moved_to_another_address_keeps_its_subnet() -> None:
    moved = lease(8, "w1", address="192.0.2.77")
    assert subnets(having(moved), spec())["w1"] == "10.244.8.0/24"


def test_two_nodes_that_swap_addresses_keep_their_subnets() -> None:
    swapped = having(lease(1, "cp1", address=NODES["cp2"]), lease(2, "cp2", address=NODES["cp1"]), lease(3, "w1"))
    assert subnets(swapped, spec()) == {"cp1": "10.244.1.0/24", "cp2": "10.244.2.0/24", "w1": "10.244.3.0/24"}


def test_second_lease_of_a_node_is_removed() -> None:
    have = having(lease(1, "cp1"), lease(2, "cp2"), lease(3, "w1"), lease(4, "w1"), foreign(5, NODES["w1"]))
    removed = [str(operation.item.key[1]) for operation in plan(have, spec())]
    assert removed == ["10.244.5.0/24", "10.244.4.0/24"]


def test_lease_outside_of_the_range_is_replaced() -> None:
    have = having(lease(1, "cp1"), lease(2, "cp2"), lease(3, "w1"))
    assert subnets(have, spec(subnet_min="10.244.2.0"))["cp1"] == "10.244.4.0/24"


def test_dual_stack_lease_of_a_declared_node_is_replaced() -> None:
    dual = lease(3, "w1", subnet6="fd00:0:0:3::/64", address6="2001:db8::1")
    after = outcome_of(having(dual), plan(having(dual), spec()))
    assert dual.key not in after
    assert [found.subnet6 for found in leases_of(after)] == ["", "", ""]


def test_pinned_subnet_is_given_and_kept_from_others() -> None:
    nodes = [{"name": name, "address": address} for name, address in NODES.items()]
    nodes[2]["subnet"] = "10.244.1.0/24"
    assert subnets({}, spec(nodes=nodes)) == {"w1": "10.244.1.0/24", "cp1": "10.244.2.0/24", "cp2": "10.244.3.0/24"}


def test_pinned_nodes_can_trade_places() -> None:
    nodes = [
        {"name": "cp1", "address": NODES["cp1"], "subnet": "10.244.2.0/24"},
        {"name": "cp2", "address": NODES["cp2"], "subnet": "10.244.1.0/24"},
    ]
    have = having(lease(1, "cp1"), lease(2, "cp2"))
    assert subnets(have, spec(nodes=nodes)) == {"cp1": "10.244.2.0/24", "cp2": "10.244.1.0/24"}


@pytest.mark.parametrize("holder", [foreign(1), lease(1, "cp2")])
def test_pinned_subnet_of_somebody_else_is_refused(holder: Lease) -> None:
    nodes = [{"name": name, "address": address} for name, address in NODES.items()]
    nodes[2]["subnet"] = "10.244.1.0/24"
    with pytest.raises(SpecError, match=r"nodes\[2\]\.subnet: 10\.244\.1\.0/24 is leased to") as caught:
        plan(having(holder), spec(nodes=nodes))
    assert caught.value.path == "nodes[2].subnet"


def test_full_range_names_the_node_that_gets_nothing() -> None:
    with pytest.raises(SpecError, match="no subnet is left for w1") as caught:
        plan({}, spec(subnet_max="10.244.2.0"))
    assert caught.value.path == "nodes[2]"


def test_changed_network_is_refused_while_leases_exist() -> None:
    with pytest.raises(SpecError, match=r"config\.network.*10\.244\.0\.0/16 with 1 leases"):
        plan(having(foreign(1)), spec(network="10.99.0.0/16"))
    assert [operation.action for operation in plan(having(), spec(network="10.99.0.0/16"))][0] == "replace"


def test_other_settings_are_updated_and_unknown_ones_kept() -> None:
    present = dataclasses.replace(spec().config, subnet_max="10.244.9.0", others='{"EnableNFTables":true}')
    operations = plan(state_of([present, lease(1, "cp1"), lease(2, "cp2"), lease(3, "w1")]), spec())
    assert [operation.item for operation in operations] == [dataclasses.replace(present, subnet_max="10.244.255.0")]


def test_only_the_own_lease_is_renewed() -> None:
    have = having(lease(1, "cp1", life=ENDING), lease(2, "cp2"), lease(3, "w1"))
    assert [operation.item for operation in plan(have, spec("cp1"))] == [lease(1, "cp1")]


def test_own_permanent_key_gets_a_lease_and_that_of_others_does_not() -> None:
    have = having(lease(1, "cp1", life=PERMANENT), lease(2, "cp2", life=PERMANENT), lease(3, "w1"))
    assert [operation.item for operation in plan(have, spec("cp1"))] == [lease(1, "cp1", life=LEASED)]


def test_permanent_leases_on_request() -> None:
    have = having(lease(1, "cp1"), lease(2, "cp2"))
    lives = {operation.item.identity: operation.item.to_dict()["life"] for operation in plan(have, spec("cp1", ttl=0))}
    assert lives == {("10.244.1.0/24", ""): PERMANENT, ("10.244.3.0/24", ""): PERMANENT}


def test_renewal_leaves_a_newer_configuration_alone() -> None:
    newer = dataclasses.replace(spec().config, subnet_max="10.244.9.0")
    own = dataclasses.replace(spec(nodes=[{"name": "cp1", "address": NODES["cp1"]}]), update_config=False)
    assert plan(state_of([newer, lease(1, "cp1")]), own) == []


def test_release_takes_only_the_leases_of_the_node() -> None:
    have = having(lease(1, "cp1"), lease(2, "cp2"), foreign(3), foreign(4, NODES["cp2"]))
    assert [operation.item.key[1] for operation in plan_release(have, spec("cp2"))] == [
        "10.244.4.0/24",
        "10.244.2.0/24",
    ]
    assert plan_release(having(foreign(3)), spec("cp2")) == []


@st.composite
def stores(draw: st.DrawFn) -> State:
    """Any mixture of leases: declared nodes' or foreign, at wrong addresses, of wrong sizes, doubled."""
    items: list[Item] = [spec().config] if draw(st.booleans()) else []
    for _number in range(draw(st.integers(0, 12))):
        length = draw(st.sampled_from([22, 24, 24, 24, 26]))
        base = draw(st.integers(0, 15)) << 8
        network = ipaddress.IPv4Network((int(ipaddress.IPv4Address("10.244.0.0")) + base, length), strict=False)
        name = draw(st.sampled_from([*NODES, "gone"]))
        mac = draw(st.sampled_from([vtep_mac("lab", name), FOREIGN_MAC]))
        address = draw(st.sampled_from([*NODES.values(), "192.0.2.50", ""]))
        life = draw(st.sampled_from([PERMANENT, LEASED]))
        items.append(Lease(str(network), address, "vxlan", vxlan_data(1, mac), life))
    return state_of(items)


@given(stores(), st.sampled_from(sorted(NODES)), st.sampled_from([0, 86400]))
def test_any_store_converges_in_one_plan(have: State, node: str, ttl: int) -> None:
    wanted = spec(node, ttl=ttl)
    operations = plan(have, wanted)
    after = outcome_of(have, operations)
    assert plan(after, wanted) == []
    assert sorted(owners(after, wanted.nodes).values()) == sorted(NODES)
    given = [operation.item for operation in operations if operation.action == "add"]
    for new in given:
        if isinstance(new, Lease):
            mine = ipaddress.IPv4Network(new.subnet)
            assert not any(mine.overlaps(ipaddress.IPv4Network(old.subnet)) for old in leases_of(have))
    undone = outcome_of(after, [operation.inverse() for operation in reversed(operations)])
    assert undone == have


@pytest.mark.parametrize("backend", ["host-gw", "ipip"])
def test_backend_without_mac_addresses_has_leases_without_data(backend: str) -> None:
    after = outcome_of({}, plan({}, spec(backend={"type": backend})))
    assert [(each.address, each.backend_type, each.data) for each in leases_of(after)] == [
        (address, backend, "") for address in NODES.values()
    ]


def test_nodes_keep_their_subnets_when_the_backend_changes_and_when_it_changes_back() -> None:
    state = having(lease(7, "cp1"), lease(3, "w1"), lease(5, "cp2"), foreign(9))
    before = dict(state)
    for backend in ({"type": "host-gw"}, {"type": "ipip"}, {"type": "vxlan", "vni": 1, "port": 8472}):
        wanted = spec(backend=backend)
        operations = plan(state, wanted)
        assert {operation.action for operation in operations} == {"replace"} and len(operations) == 4
        state = outcome_of(state, operations)
        assert plan(state, wanted) == []
        assert subnets(state, wanted) == {"cp1": "10.244.7.0/24", "cp2": "10.244.5.0/24", "w1": "10.244.3.0/24"}
    assert state == before
