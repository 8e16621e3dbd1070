# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Leases against an etcd in memory: races, lost answers, renewal, and that no etcd lease is left behind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_lease
from ansible_collections.fairlead.cluster.plugins.module_utils._etcd.gateway import RefusedError, UndeterminedError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError, SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay import parse_overlay
from tests.unit.etcd.fake_etcd import FakeEtcd, Unreachable
from tests.unit.etcd.lease_store import FOREIGN, NAMES, PREFIX, document, etcd, key, subnets

__all__ = ["etcd"]


def test_first_call_serves_all_nodes_and_the_second_finds_nothing_to_do(etcd: FakeEtcd) -> None:
    first = overlay_lease.ensure(document("n1"), check=False)
    assert subnets(first) == {name: f"10.244.{name[1:]}.0/24" for name in NAMES}
    assert [lease["ttl"] for lease in first.leases] == [86400, None, None, None, None]
    assert sorted(etcd.entries) == sorted([f"{PREFIX}/config", *map(key, range(1, 6))])
    for name in NAMES:
        # Of each node's own: the key moves to an etcd lease of its own.
        overlay_lease.ensure(document(name), check=False)
    writes = etcd.revision
    for name in NAMES:
        assert not overlay_lease.ensure(document(name), check=False).outcome.changed
    assert etcd.revision == writes


def test_check_mode_predicts_the_same_and_writes_nothing(etcd: FakeEtcd) -> None:
    predicted = overlay_lease.ensure(document(), check=True)
    assert (etcd.revision, etcd.leases) == (1, {})
    real = overlay_lease.ensure(document(), check=False)
    assert predicted.outcome.operations == real.outcome.operations
    assert subnets(predicted) == subnets(real)


def test_many_nodes_go_in_several_transactions(etcd: FakeEtcd) -> None:
    names = [f"n{number}" for number in range(1, 251)]
    overlay_lease.ensure(document("n1", names), check=False)
    assert len(etcd.entries) == 251
    assert etcd.calls.count("kv/txn") == 3


def test_race_with_the_same_plan_is_shared_work(etcd: FakeEtcd) -> None:
    def other() -> None:
        overlay_lease.ensure(document("n2"), check=False)

    etcd.before["kv/txn"] = other
    ensured = overlay_lease.ensure(document("n1"), check=False)
    assert subnets(ensured) == {name: f"10.244.{name[1:]}.0/24" for name in NAMES}


def test_race_in_the_middle_of_many_transactions_undoes_nothing(etcd: FakeEtcd) -> None:
    names = [f"n{number}" for number in range(1, 251)]
    deleted: list[str] = []
    etcd_delete = etcd.delete
    etcd.delete = lambda key: (deleted.append(key), etcd_delete(key))[1]  # type: ignore[method-assign,func-returns-value]

    def second_transaction() -> None:
        etcd.before["kv/txn"] = lambda: overlay_lease.ensure(document("n2", names), check=False) and None

    etcd.before["kv/txn"] = second_transaction
    ensured = overlay_lease.ensure(document("n1", names), check=False)
    assert len(ensured.leases) == 250
    assert deleted == []


def test_foreign_lease_that_comes_in_between_is_planned_around(etcd: FakeEtcd) -> None:
    etcd.before["kv/txn"] = lambda: etcd.put(key(2), FOREIGN)
    ensured = overlay_lease.ensure(document("n1"), check=False)
    assert subnets(ensured) == {
        None: "10.244.2.0/24",
        "n1": "10.244.1.0/24",
        "n2": "10.244.3.0/24",
        "n3": "10.244.4.0/24",
        "n4": "10.244.5.0/24",
        "n5": "10.244.6.0/24",
    }


def test_write_that_concerns_nobody_here_does_not_change_the_plan(etcd: FakeEtcd) -> None:
    etcd.before["kv/txn"] = lambda: etcd.put(f"{PREFIX}/else", "x")
    assert subnets(overlay_lease.ensure(document(), check=False))["n5"] == "10.244.5.0/24"
    assert etcd.calls.count("lease/revoke") == 0


def test_lost_answer_is_recognised_as_done(etcd: FakeEtcd) -> None:
    etcd.lose_answer_of = "kv/txn"
    ensured = overlay_lease.ensure(document(), check=False)
    assert len(ensured.leases) == 5
    assert etcd.calls.count("lease/grant") == 2
    assert etcd.calls.count("lease/revoke") == 0


def test_key_that_was_moved_without_an_answer_keeps_its_new_etcd_lease(etcd: FakeEtcd) -> None:
    """The transaction happened, and no endpoint said so: the new etcd lease carries the node's only key."""
    overlay_lease.ensure(document("n1", ttl=20000), check=False)
    etcd.silent_after = "kv/txn"
    assert overlay_lease.ensure(document("n1"), check=False).leases[0]["ttl"] == 86400
    assert etcd.leases[etcd.entries[key(1)].lease][0] == 86400
    # The old etcd lease carries nothing any more, and runs out by itself.
    etcd.advance(20000)
    assert [name for name in etcd.entries if "subnets" in name] == [key(1)]


def test_etcd_leases_of_a_write_that_may_still_happen_are_not_revoked(etcd: FakeEtcd) -> None:
    def never_answered() -> None:
        raise UndeterminedError("etcd refused kv/txn: database space exceeded, after a first answer was lost")

    etcd.before["kv/txn"] = never_answered
    with pytest.raises(UndeterminedError):
        overlay_lease.ensure(document("n1"), check=False)
    assert "lease/revoke" not in etcd.calls
    assert len(etcd.leases) == 2
    etcd.advance(86400)


def test_write_that_nobody_answered_is_looked_up_before_anything_is_decided(etcd: FakeEtcd) -> None:
    etcd.silent_after = "kv/txn"
    ensured = overlay_lease.ensure(document("n1"), check=False)
    assert subnets(ensured) == {name: f"10.244.{name[1:]}.0/24" for name in NAMES}
    assert etcd.calls.count("kv/txn") == 1
    assert "lease/revoke" not in etcd.calls


def test_write_that_cannot_be_looked_up_keeps_its_etcd_leases(etcd: FakeEtcd) -> None:
    def refuse() -> None:
        raise RefusedError("/v3/kv/range", 7, "permission denied")

    etcd.before["kv/txn"] = lambda: etcd.before.update({"kv/range": refuse})
    etcd.silent_after = "kv/txn"
    with pytest.raises(UndeterminedError, match="no answer in time"):
        overlay_lease.ensure(document("n1"), check=False)
    assert "lease/revoke" not in etcd.calls
    assert len([name for name in etcd.entries if "subnets" in name]) == 5


def test_key_of_a_lost_answer_stays_when_others_write_right_after(etcd: FakeEtcd) -> None:
    """The plan is out of date then, but what it wrote is there and must not go with its etcd lease."""
    etcd.lose_answer_of = "kv/txn"
    etcd.before["kv/range"] = lambda: etcd.before.update({"kv/range": lambda: etcd.put(key(9), FOREIGN)})
    assert subnets(overlay_lease.ensure(document("n1"), check=False))["n5"] == "10.244.5.0/24"
    assert etcd.calls.count("lease/revoke") == 0
    assert etcd.calls.count("lease/grant") == 2


def test_store_that_never_rests_is_an_error_and_leaves_nothing(etcd: FakeEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(10000))

    def disturb() -> None:
        etcd.put(f"{PREFIX}/else{next(numbers)}", "x")
        etcd.before["kv/txn"] = disturb

    etcd.before["kv/txn"] = disturb
    with pytest.raises(ApplyError, match=f"others wrote below {PREFIX}"):
        overlay_lease.ensure(document(), check=False)
    assert not any("subnets" in name for name in etcd.entries)


def test_own_lease_is_extended_after_half_of_its_time_without_a_write(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(document("n1"), check=False)
    etcd.advance(43199)
    assert not overlay_lease.ensure(document("n1"), check=False).outcome.changed
    etcd.advance(2)
    writes = etcd.revision
    renewed = overlay_lease.ensure(document("n1"), check=False)
    assert [str(operation) for operation in renewed.outcome.operations][0].startswith("~ lease 10.244.1.0/24")
    assert renewed.leases[0]["ttl"] == 86400
    assert etcd.revision == writes


def test_own_lease_of_another_length_is_replaced(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(document("n1", ttl=20000), check=False)
    ensured = overlay_lease.ensure(document("n1"), check=False)
    assert ensured.leases[0]["ttl"] == 86400
    assert [etcd.leases[entry.lease][0] for name, entry in sorted(etcd.entries.items()) if "subnets" in name] == [
        86400,
        20000,
        20000,
        20000,
        20000,
    ]


def test_permanent_leases_hang_on_nothing(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(document("n1", ttl=0), check=False)
    assert {entry.lease for entry in etcd.entries.values()} == {0}
    overlay_lease.ensure(document("n1"), check=False)
    assert [bool(etcd.entries[key(third)].lease) for third in (1, 2)] == [True, False]


def test_changed_address_keeps_subnet_and_etcd_lease(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(document("n1"), check=False)
    before = etcd.entries[key(2)].lease
    moved = document("n1")
    moved["nodes"][1]["address"] = "192.0.2.77"
    overlay_lease.ensure(moved, check=False)
    assert json.loads(etcd.entries[key(2)].value)["PublicIP"] == "192.0.2.77"
    assert etcd.entries[key(2)].lease == before


def test_release_takes_the_key_and_its_etcd_lease(etcd: FakeEtcd) -> None:
    for name in ("n1", "n2"):
        overlay_lease.ensure(document(name), check=False)
    lease = etcd.entries[key(2)].lease
    assert overlay_lease.release(document("n2"), check=False).changed
    assert key(2) not in etcd.entries
    assert lease not in etcd.leases
    assert not overlay_lease.release(document("n2"), check=False).changed


def test_failure_in_a_later_transaction_takes_back_the_earlier_ones(etcd: FakeEtcd) -> None:
    names = [f"n{number}" for number in range(1, 251)]

    def refuse() -> None:
        raise ApplyError("kv/txn", "etcdserver: mvcc: database space exceeded")

    def second_transaction() -> None:
        etcd.before["kv/txn"] = refuse

    etcd.before["kv/txn"] = second_transaction
    with pytest.raises(ApplyError, match="space exceeded"):
        overlay_lease.ensure(document("n1", names), check=False)
    assert (etcd.entries, etcd.leases) == ({}, {})


def saved(node: str) -> dict[str, Any]:
    return overlay_lease.remembered(document(node), overlay_lease.ensure(document(node), check=False))


def test_renewal_keeps_the_lease_alive_for_weeks(etcd: FakeEtcd) -> None:
    remembered = saved("n3")
    for _hour in range(24 * 15):
        etcd.advance(3600)
        overlay_lease.renew(remembered)
    assert [name for name in etcd.entries if "subnets" in name] == [key(3)]
    assert etcd.calls.count("lease/grant") == 2


def test_renewal_takes_the_same_subnet_again_after_it_ran_out(etcd: FakeEtcd) -> None:
    remembered = saved("n3")
    etcd.advance(90000)
    assert overlay_lease.renew(remembered).changed
    assert [name for name in etcd.entries if "subnets" in name] == [key(3)]


def test_renewal_never_takes_a_subnet_from_somebody_else(etcd: FakeEtcd) -> None:
    remembered = saved("n3")
    etcd.advance(90000)
    etcd.put(key(3), FOREIGN)
    with pytest.raises(overlay_lease.LostLeaseError, match=r"10\.244\.3\.0/24 is leased to 192\.0\.2\.99\. Run"):
        overlay_lease.renew(remembered)
    assert etcd.entries[key(3)].value == FOREIGN


def test_renewal_leaves_leases_of_others_and_the_configuration_alone(etcd: FakeEtcd) -> None:
    remembered = saved("n3")
    etcd.put(f"{PREFIX}/config", '{"Network":"10.244.0.0/16","SubnetMax":"10.244.9.0","Backend":{"Type":"vxlan"}}')
    etcd.put(key(2), FOREIGN, etcd.entries[key(2)].lease)
    writes = etcd.revision
    assert not overlay_lease.renew(remembered).changed
    assert etcd.revision == writes


def test_check_mode_without_etcd_predicts_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay_lease, "Gateway", lambda access: Unreachable())
    ensured = overlay_lease.ensure(document("n2"), check=True)
    assert subnets(ensured)["n2"] == "10.244.2.0/24"
    assert "Connection refused" in ensured.warnings[0]
    with pytest.raises(overlay_lease.UnreachableError):
        overlay_lease.ensure(document("n2"), check=False)


def test_missing_tls_files_are_no_obstacle_to_check_mode_only() -> None:
    missing = document("n2", ca_file="/nonexistent/ca.crt")
    assert overlay_lease.ensure(missing, check=True).warnings
    with pytest.raises(overlay_lease.PrerequisiteError, match=r"/nonexistent/ca\.crt"):
        overlay_lease.ensure(missing, check=False)


def foreign(address: str, mac: str | None, kind: str = "vxlan") -> str:
    data = {"VNI": 1, **({"VtepMAC": mac} if mac is not None else {})}
    return json.dumps({"PublicIP": address, "PublicIPv6": None, "BackendType": kind, "BackendData": data})


UNUSABLE = {
    "without a MAC address": (key(20), foreign("192.0.2.60", None), "mac: must be a MAC address"),
    "MAC address of a group": (key(20), foreign("192.0.2.60", "01:00:5e:00:00:01"), "mac: must be the address of one"),
    "without an address": (key(20), foreign("", "02:00:00:00:00:60"), "no PublicIP, which flannel cannot read"),
    "address in the pod network": (
        key(20),
        foreign("10.244.3.3", "02:00:00:00:00:60"),
        "address: 10.244.3.3 is inside",
    ),
    "subnet outside": (
        f"{PREFIX}/subnets/10.245.1.0-24",
        foreign("192.0.2.60", "02:00:00:00:00:60"),
        "is not what the network configuration allows, a /24 from 10.244.1.0 to",
    ),
    "second of an address": (key(20), foreign("192.0.2.99", "02:00:00:00:00:60"), "have the same PublicIP 192.0.2.99;"),
    "second of a MAC address": (
        key(20),
        foreign("192.0.2.60", "66:3b:ef:92:63:92"),
        "have the same MAC address 66:3b:ef:92:63:92;",
    ),
    "overlapping subnet": (
        f"{PREFIX}/subnets/10.244.9.128-25",
        foreign("192.0.2.60", "02:00:00:00:00:60"),
        "overlap;",
    ),
    "subnet around that of a declared node": (
        f"{PREFIX}/subnets/10.244.0.0-20",
        foreign("192.0.2.60", "02:00:00:00:00:60"),
        "overlap;",
    ),
}


@pytest.mark.parametrize(("name", "value", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_lease_of_somebody_else_is_left_out_with_a_warning(
    etcd: FakeEtcd, name: str, value: str, reason: str
) -> None:
    overlay_lease.ensure(document(), check=False)
    etcd.put(key(9), FOREIGN)
    etcd.put(name, value)
    ensured = overlay_lease.ensure(document(), check=False)
    assert list(subnets(ensured).values()) == [f"10.244.{third}.0/24" for third in (1, 2, 3, 4, 5, 9)]
    warning = next(warning for warning in ensured.warnings if reason in warning)
    assert name in warning.split("left out of the overlay")[1 if ";" in reason else 0]
    assert etcd.entries[name].value == value
    own, *peers = ensured.leases
    overlay = parse_overlay({"network": "10.244.0.0/16", "node": own, "peers": peers})
    assert len(overlay.families[0].peers) == 5


def test_leases_of_flanneld_nodes_come_without_warnings(etcd: FakeEtcd) -> None:
    etcd.put(key(9), FOREIGN)
    etcd.put(key(8), foreign("192.0.2.98", "02:00:00:00:00:62"))
    etcd.put(key(7), foreign("192.0.2.97", None, kind="udp"))
    ensured = overlay_lease.ensure(document(), check=False)
    assert ensured.warnings == []
    assert [lease["address"] for lease in ensured.leases[5:]] == ["192.0.2.98", "192.0.2.99"]


def test_gathered_lists_everything_with_its_time(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(document("n1"), check=False)
    etcd.put(key(9), FOREIGN)
    etcd.advance(100)
    listed = overlay_lease.gather({"endpoints": ["https://192.0.2.11:2379"]}).leases
    assert [(lease["subnet"], lease["ttl"]) for lease in listed] == [
        *[(f"10.244.{third}.0/24", 86300) for third in range(1, 6)],
        ("10.244.9.0/24", 0),
    ]


@pytest.mark.parametrize(
    "endpoints",
    [
        [],
        ["192.0.2.11:2379"],
        ["ftp://192.0.2.11"],
        ["https://h/path"],
        [7],
        ["https://[fd00::1:2379"],
        ["https://192.0.2.11:70000"],
    ],
)
def test_broken_endpoints_are_refused(endpoints: list[Any]) -> None:
    with pytest.raises(SpecError, match="endpoints"):
        overlay_lease.ensure(document(endpoints=endpoints), check=True)
