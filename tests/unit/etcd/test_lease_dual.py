# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Leases of dual stack against an etcd in memory: how they come, move between keys, are renewed, and go."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_lease
from ansible_collections.fairlead.cluster.plugins.module_utils._etcd import leases as leases_module
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError, SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV6
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease import vtep_mac
from tests.unit.etcd.fake_etcd import FakeEtcd
from tests.unit.etcd.lease_store import FOREIGN, NAMES, PREFIX, document, etcd, key

__all__ = ["etcd"]

CONFIG: dict[str, Any] = {"network": "10.244.0.0/16", "backend": {"type": "vxlan", "vni": 1, "port": 8472}}
DUAL = {**CONFIG, "network6": "fd00:10:244::/48"}


def dual(node: str = "n1", names: list[str] = NAMES, **changes: Any) -> dict[str, Any]:
    made = document(node, names, **{"config": DUAL, **changes})
    made["nodes"] = [{**entry, "address6": f"2001:db8::{entry['name'][1:]}"} for entry in made["nodes"]]
    return made


def key6(third: int, third6: int | None = None) -> str:
    return f"{key(third)}&fd00:10:244:{third if third6 is None else third6:x}::-64"


def subnet_keys(etcd: FakeEtcd) -> list[str]:
    return [name for name in sorted(etcd.entries) if "/subnets/" in name]


def saved(node: str, made: dict[str, Any] | None = None) -> dict[str, Any]:
    wanted = made or dual(node)
    return overlay_lease.remembered(wanted, overlay_lease.ensure(wanted, check=False))


def value(number: int, name: str) -> str:
    macs = vtep_mac("lab", name), vtep_mac("lab", name, IPV6)
    return (
        f'{{"PublicIP":"192.0.2.{number}","PublicIPv6":"2001:db8::{number}","BackendType":"vxlan",'
        f'"BackendData":{{"VNI":1,"VtepMAC":"{macs[0]}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"{macs[1]}"}}}}'
    )


def test_first_call_serves_both_families_of_all_nodes(etcd: FakeEtcd) -> None:
    ensured = overlay_lease.ensure(dual("n2"), check=False)
    assert {name: etcd.entries[name].value for name in subnet_keys(etcd)} == {
        key6(number): value(number, f"n{number}") for number in range(1, 6)
    }
    assert ensured.leases[1] == {
        "name": "n2",
        "subnet": "10.244.2.0/24",
        "address": "192.0.2.2",
        "mac": vtep_mac("lab", "n2"),
        "subnet6": "fd00:10:244:2::/64",
        "address6": "2001:db8::2",
        "mac6": vtep_mac("lab", "n2", IPV6),
        "backend_type": "vxlan",
        "ttl": 86400,
    }
    assert (ensured.warnings, ensured.orphaned, ensured.conflicts) == ([], [], [])
    writes = etcd.revision
    assert not overlay_lease.ensure(dual("n2"), check=False).outcome.changed
    assert etcd.revision == writes


def test_backend_without_mac_addresses(etcd: FakeEtcd) -> None:
    made = dual("n1", config={**DUAL, "backend": {"type": "host-gw"}})
    assert overlay_lease.ensure(made, check=False).leases[0]["mac6"] == ""
    assert etcd.entries[key6(1)].value == (
        '{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"host-gw"}'
    )


def test_peers_of_one_family_come_without_the_other(etcd: FakeEtcd) -> None:
    etcd.put(key(9), FOREIGN)
    ensured = overlay_lease.ensure(dual("n1"), check=False)
    assert [set(lease) & {"subnet6", "address6", "mac6"} for lease in ensured.leases][-2:] == [
        {"subnet6", "address6", "mac6"},
        set(),
    ]
    # And where IPv6 is not declared, that of others is not handed on.
    overlay_lease.release(dual("n1"), check=False)
    assert not any("subnet6" in lease for lease in overlay_lease.ensure(document("n1"), check=False).leases)


def test_cluster_goes_to_dual_stack_and_back(etcd: FakeEtcd) -> None:
    for name in NAMES:
        overlay_lease.ensure(document(name), check=False)
    before = {name: (entry.value, entry.lease) for name, entry in etcd.entries.items()}
    etcd.told.clear()
    overlay_lease.ensure(dual("n3"), check=False)
    assert subnet_keys(etcd) == [key6(number) for number in range(1, 6)]
    # Each key hangs on what its predecessor hung on, and that goes on to be of this key alone.
    assert [etcd.entries[key6(number)].lease for number in range(1, 6)] == [
        before[key(number)][1] for number in range(1, 6)
    ]
    (told,) = etcd.told
    for number in range(1, 6):
        assert told.index(("request_delete_range", key(number))) < told.index(("request_put", key6(number)))
    for name in NAMES:
        assert not overlay_lease.ensure(dual(name), check=False).outcome.changed
    overlay_lease.ensure(document("n4"), check=False)
    assert {name: (entry.value, entry.lease) for name, entry in etcd.entries.items()} == before
    assert etcd.calls.count("lease/revoke") == 0


def test_lease_that_moves_with_little_time_left_gets_a_fresh_one_if_it_is_the_own(etcd: FakeEtcd) -> None:
    for name in ("n1", "n2"):
        overlay_lease.ensure(document(name), check=False)
    old = etcd.entries[key(1)].lease
    etcd.advance(80000)
    ensured = overlay_lease.ensure(dual("n1"), check=False)
    assert ensured.leases[0]["ttl"] == 86400
    assert old not in etcd.leases
    # Of a node that may be gone the time is not extended by others.
    etcd.advance(6500)
    assert [name for name in subnet_keys(etcd)] == [key6(1)]


@pytest.mark.parametrize(("first", "then"), [(document, dual), (dual, document)], ids=["to-dual", "back"])
def test_move_of_permanent_leases(etcd: FakeEtcd, first: Any, then: Any) -> None:
    overlay_lease.ensure(first("n1", ttl=0), check=False)
    overlay_lease.ensure(then("n1", ttl=0), check=False)
    assert {entry.lease for entry in etcd.entries.values()} == {0} and etcd.leases == {}
    assert subnet_keys(etcd) == [(key6 if then is dual else key)(number) for number in range(1, 6)]
    overlay_lease.ensure(first("n1"), check=False)
    assert [bool(etcd.entries[name].lease) for name in subnet_keys(etcd)] == [True, False, False, False, False]


@pytest.mark.parametrize("count", [5, 1000])
def test_number_of_requests_does_not_follow_that_of_nodes(etcd: FakeEtcd, count: int) -> None:
    networks = {"network": "10.0.0.0/8", "subnet_len": 24, "network6": "fd00::/8"}
    names = [f"n{number}" for number in range(count)]
    made = document("n0", names, config={**CONFIG, **networks})
    made["nodes"] = [
        {"name": name, "address": f"192.{number // 250}.2.{number % 250 + 1}", "address6": f"2001:db8::{number + 1:x}"}
        for number, name in enumerate(names)
    ]
    plain = {**made, "config": {**CONFIG, "network": "10.0.0.0/8", "subnet_len": 24}}
    writes = -(-(count + 1) // leases_module.BATCH)
    for wanted, most in ((made, writes + 7), (plain, 2 * writes + 20), (made, 2 * writes + 20)):
        etcd.calls.clear()
        assert len(overlay_lease.ensure(wanted, check=False).leases) == count
        assert len(etcd.calls) <= most
        etcd.calls.clear()
        assert not overlay_lease.ensure(wanted, check=False).outcome.changed
        assert len(etcd.calls) == 2


def test_no_transaction_leaves_a_node_without_its_lease(etcd: FakeEtcd) -> None:
    names = [f"n{number}" for number in range(1, 251)]
    overlay_lease.ensure(document("n1", names), check=False)
    etcd.told.clear()
    overlay_lease.ensure(dual("n1", names), check=False)
    assert len(etcd.told) == 6
    for told in etcd.told:
        gone = {name for what, name in told if what == "request_delete_range"}
        come = {name.partition("&")[0] for what, name in told if what == "request_put" and "/subnets/" in name}
        assert gone == come


def test_race_of_two_nodes_to_dual_stack_is_shared_work(etcd: FakeEtcd) -> None:
    for name in NAMES:
        overlay_lease.ensure(document(name), check=False)
    etcd.before["kv/txn"] = lambda: overlay_lease.ensure(dual("n2"), check=False) and None
    overlay_lease.ensure(dual("n1"), check=False)
    assert subnet_keys(etcd) == [key6(number) for number in range(1, 6)]
    assert len({etcd.entries[key6(number)].lease for number in range(1, 6)}) == 5


def test_race_in_the_middle_of_many_transactions_writes_nothing_twice(etcd: FakeEtcd) -> None:
    """What another node has moved meanwhile is left on the etcd lease that it is on."""
    names = [f"n{number}" for number in range(1, 251)]
    for name in ("n1", "n2", "n200"):
        overlay_lease.ensure(document(name, names), check=False)
    held = {number: etcd.entries[key(number)].lease for number in (1, 2, 200)}
    etcd.told.clear()

    def second_transaction() -> None:
        etcd.before["kv/txn"] = lambda: overlay_lease.ensure(dual("n2", names), check=False) and None

    etcd.before["kv/txn"] = second_transaction
    overlay_lease.ensure(dual("n1", names), check=False)
    assert subnet_keys(etcd) == sorted(key6(number) for number in range(1, 251))
    assert {number: etcd.entries[key6(number)].lease for number in held} == held
    written = [name for told in etcd.told for what, name in told if what == "request_put"]
    assert len(written) == len(set(written)) == 251


def test_foreign_lease_that_takes_the_ipv6_subnet_in_between_is_planned_around(etcd: FakeEtcd) -> None:
    data = {"VNI": 1, "VtepMAC": "66:3b:ef:92:63:94"}
    taken = json.dumps({**json.loads(FOREIGN), "PublicIPv6": "2001:db8::99", "BackendV6Data": data})
    etcd.before["kv/txn"] = lambda: etcd.put(key6(9, 2), taken)
    ensured = overlay_lease.ensure(dual("n1"), check=False)
    assert [(lease["name"], lease["subnet6"]) for lease in ensured.leases] == [
        ("n1", "fd00:10:244:1::/64"),
        ("n2", "fd00:10:244:3::/64"),
        ("n3", "fd00:10:244:4::/64"),
        ("n4", "fd00:10:244:5::/64"),
        ("n5", "fd00:10:244:6::/64"),
        (None, "fd00:10:244:2::/64"),
    ]


@pytest.mark.parametrize("lost", ["lose_answer_of", "silent_after"])
def test_move_whose_answer_was_lost_is_recognised_as_done(etcd: FakeEtcd, lost: str) -> None:
    for name in NAMES:
        overlay_lease.ensure(document(name), check=False)
    setattr(etcd, lost, "kv/txn")
    ensured = overlay_lease.ensure(dual("n1"), check=False)
    assert [lease["subnet6"] for lease in ensured.leases] == [f"fd00:10:244:{number}::/64" for number in range(1, 6)]
    assert etcd.calls.count("lease/revoke") == 0
    assert subnet_keys(etcd) == [key6(number) for number in range(1, 6)]


def test_old_key_that_runs_out_meanwhile_makes_a_new_plan(etcd: FakeEtcd) -> None:
    for name in ("n1", "n2"):
        overlay_lease.ensure(document(name), check=False)
    etcd.before["kv/txn"] = lambda: etcd._drop(etcd.entries[key(2)].lease)
    overlay_lease.ensure(dual("n1"), check=False)
    assert subnet_keys(etcd) == [key6(number) for number in range(1, 6)]


def test_failure_in_a_later_transaction_takes_the_moves_back(etcd: FakeEtcd) -> None:
    names = [f"n{number}" for number in range(1, 251)]
    for name in names[:3]:
        overlay_lease.ensure(document(name, names), check=False)
    before = {name: (entry.value, entry.lease) for name, entry in etcd.entries.items()}

    def refuse() -> None:
        raise ApplyError("kv/txn", "etcdserver: mvcc: database space exceeded")

    def second_transaction() -> None:
        etcd.before["kv/txn"] = refuse

    etcd.before["kv/txn"] = second_transaction
    with pytest.raises(ApplyError, match="space exceeded"):
        overlay_lease.ensure(dual("n1", names), check=False)
    assert {name: (entry.value, entry.lease) for name, entry in etcd.entries.items()} == before


def test_check_mode_predicts_the_move_and_writes_nothing(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(document("n1"), check=False)
    writes = etcd.revision
    predicted = overlay_lease.ensure(dual("n1"), check=True)
    assert etcd.revision == writes
    real = overlay_lease.ensure(dual("n1"), check=False)
    assert predicted.outcome.operations == real.outcome.operations
    assert [lease["subnet6"] for lease in predicted.leases] == [lease["subnet6"] for lease in real.leases]


def test_release_takes_the_key_and_its_etcd_lease(etcd: FakeEtcd) -> None:
    for name in ("n1", "n2"):
        overlay_lease.ensure(dual(name), check=False)
    lease = etcd.entries[key6(2)].lease
    # By either form of the declaration: a node may leave before it hears of dual stack.
    assert overlay_lease.release(document("n2"), check=False).changed
    assert key6(2) not in etcd.entries and lease not in etcd.leases
    assert overlay_lease.release(dual("n1"), check=False).changed
    assert subnet_keys(etcd) == [key6(3), key6(4), key6(5)]


def test_renewal_keeps_the_lease_alive_for_weeks_and_asks_for_its_key_alone(etcd: FakeEtcd) -> None:
    remembered = saved("n3")
    assert remembered["nodes"][2]["subnet6"] == "fd00:10:244:3::/64"
    assert "subnet6" not in remembered["nodes"][1]
    for _hour in range(24 * 15):
        etcd.advance(3600)
        etcd.calls.clear()
        overlay_lease.renew(remembered)
        assert len(etcd.calls) <= 5
    assert subnet_keys(etcd) == [key6(3)]


def test_renewal_takes_the_same_subnets_again_after_they_ran_out(etcd: FakeEtcd) -> None:
    remembered = saved("n3")
    etcd.advance(90000)
    assert overlay_lease.renew(remembered).changed
    assert subnet_keys(etcd) == [key6(3)] and etcd.entries[key6(3)].value == value(3, "n3")


@pytest.mark.parametrize("held", [key(3), key6(9, 3)])
def test_renewal_never_takes_a_subnet_from_somebody_else(etcd: FakeEtcd, held: str) -> None:
    remembered = saved("n3")
    etcd.advance(90000)
    etcd.put(held, FOREIGN)
    with pytest.raises(overlay_lease.LostLeaseError, match=r"is leased to 192\.0\.2\.99\. Run"):
        overlay_lease.renew(remembered)
    assert subnet_keys(etcd) == [held]


@pytest.mark.parametrize(("first", "then", "name"), [(document, dual, key6(3)), (dual, document, key(3))])
def test_renewal_of_a_node_that_does_not_know_yet_leaves_the_form_alone(
    etcd: FakeEtcd, first: Any, then: Any, name: str
) -> None:
    """Another node's run has moved all leases. Until its own run this node keeps up what it finds."""
    remembered = saved("n3", first("n3"))
    overlay_lease.ensure(then("n1"), check=False)
    for _hour in range(24 * 3):
        etcd.advance(3600)
        overlay_lease.renew(remembered)
    assert subnet_keys(etcd) == [name]
    # Its lease ran out all the same, in a power cut: it takes as much as the configuration has place for.
    etcd.advance(90000)
    overlay_lease.renew(remembered)
    assert subnet_keys(etcd) == [key(3)]


def test_other_ipv6_network_is_refused_and_nothing_changes(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(dual("n1"), check=False)
    writes = etcd.revision
    with pytest.raises(SpecError, match=r"config\.network6: is fd00:99::/48, but"):
        overlay_lease.ensure(dual("n1", config={**DUAL, "network6": "fd00:99::/48"}), check=False)
    assert etcd.revision == writes


def test_configuration_of_flannels_form_is_written_and_taken_back(etcd: FakeEtcd) -> None:
    etcd.put(f"{PREFIX}/config", '{"Network":"10.244.0.0/16","EnableNFTables":true,"EnableIPv4":true}')
    overlay_lease.ensure(dual("n1"), check=False)
    written = json.loads(etcd.entries[f"{PREFIX}/config"].value)
    assert (written["EnableIPv6"], written["IPv6Network"], written["EnableNFTables"]) == (
        True,
        "fd00:10:244::/48",
        True,
    )
    overlay_lease.ensure(document("n1"), check=False)
    assert not any("IPv6" in name for name in json.loads(etcd.entries[f"{PREFIX}/config"].value))


def test_gathered_lists_both_families_of_everybody(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(dual("n1"), check=False)
    etcd.put(key(9), FOREIGN)
    listed = overlay_lease.gather({"endpoints": ["https://192.0.2.11:2379"]}).leases
    assert [lease.get("subnet6") for lease in listed] == [
        *(f"fd00:10:244:{number}::/64" for number in range(1, 6)),
        None,
    ]
    named = overlay_lease.gather({key: value for key, value in dual().items() if key != "config"}).leases
    assert [lease["name"] for lease in named] == [*NAMES, None]


def test_choice_in_a_network_of_billions_of_subnets_takes_no_time(etcd: FakeEtcd) -> None:
    """A lease that covers half of it, too."""
    data = {"VNI": 1, "VtepMAC": "66:3b:ef:92:63:94"}
    wide = json.dumps({**json.loads(FOREIGN), "PublicIPv6": "2001:db8::99", "BackendV6Data": data})
    etcd.put(f"{key(9)}&fd00::-33", wide)
    began = time.process_time()
    ensured = overlay_lease.ensure(dual("n1", config={**DUAL, "network6": "fd00::/32"}), check=False)
    # Enumerating two billion subnets takes half an hour.
    assert time.process_time() - began < 20
    assert ensured.leases[0]["subnet6"] == "fd00:0:8000::/64"
