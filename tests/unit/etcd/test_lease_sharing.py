# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Keys that begin on one common etcd lease: each node takes its own off it, and nobody ends or extends the rest."""

from __future__ import annotations

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_lease
from ansible_collections.fairlead.cluster.plugins.module_utils._etcd import leases as leases_module
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError
from tests.unit.etcd.fake_etcd import FakeEtcd
from tests.unit.etcd.lease_store import FOREIGN, PREFIX, document, etcd, key, subnets

__all__ = ["etcd"]


def attached(etcd: FakeEtcd) -> list[int]:
    return [etcd.entries[key(third)].lease for third in range(1, 6) if key(third) in etcd.entries]


def saved(node: str) -> dict[str, object]:
    return overlay_lease.remembered(document(node), overlay_lease.ensure(document(node), check=False))


def test_own_key_has_its_own_and_all_others_one_together(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(document("n2"), check=False)
    first, own, *rest = attached(etcd)
    assert own != first and set(rest) == {first}


@pytest.mark.parametrize("count", [5, 1000, 12000])
def test_number_of_requests_does_not_follow_that_of_nodes(etcd: FakeEtcd, count: int) -> None:
    names = [f"n{number}" for number in range(count)]
    many = document("n0", names, config={**document()["config"], "network": "10.0.0.0/8", "subnet_len": 24})
    many["nodes"] = [
        {"name": name, "address": f"192.{number // 250}.2.{number % 250 + 1}"} for number, name in enumerate(names)
    ]
    assert len(overlay_lease.ensure(many, check=False).leases) == count
    assert etcd.calls.count("lease/grant") == 2
    assert len(etcd.calls) <= 2 + 2 + (count + 1) / leases_module.BATCH + 2 * count / leases_module.PAGE + 3
    etcd.calls.clear()
    assert not overlay_lease.ensure(many, check=False).outcome.changed
    assert len(etcd.calls) == 2 + count // leases_module.PAGE


def test_each_node_takes_its_key_off_the_common_one_and_the_last_one_keeps_it(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(document("n1"), check=False)
    for name in ("n2", "n3", "n4"):
        (operation,) = overlay_lease.ensure(document(name), check=False).outcome.operations
        assert str(operation).endswith("shared)") and "leased (was" in str(operation)
    assert not overlay_lease.ensure(document("n5"), check=False).outcome.changed
    assert len(set(attached(etcd))) == 5
    assert etcd.calls.count("lease/revoke") == 0


def test_node_that_takes_its_own_is_not_in_the_way_of_others(etcd: FakeEtcd) -> None:
    """Thousands do so at once when a cluster starts: only a change of the same key sends one back to listing."""
    overlay_lease.ensure(document("n1"), check=False)
    etcd.before["kv/txn"] = lambda: etcd.put(key(9), FOREIGN)
    overlay_lease.ensure(document("n2"), check=False)
    assert etcd.calls.count("kv/txn") == 2


def test_own_key_that_changes_hands_meanwhile_is_not_written(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(document("n1"), check=False)
    etcd.before["kv/txn"] = lambda: etcd.put(key(2), FOREIGN)
    assert subnets(overlay_lease.ensure(document("n2"), check=False))["n2"] == "10.244.6.0/24"
    assert etcd.entries[key(2)].value == FOREIGN


def test_release_of_one_leaves_the_others_on_the_common_one(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(document("n1"), check=False)
    overlay_lease.release(document("n2"), check=False)
    assert sorted(name for name in etcd.entries if "subnets" in name) == [key(1), key(3), key(4), key(5)]
    for name in ("n3", "n4", "n5", "n1"):
        overlay_lease.release(document(name), check=False)
    assert list(etcd.entries) == [f"{PREFIX}/config"]
    assert etcd.leases == {}


def test_renewal_of_one_key_never_extends_or_ends_the_common_one(etcd: FakeEtcd) -> None:
    """A saved document and a shared etcd lease come together when somebody restored etcd from a snapshot."""
    remembered = saved("n3")
    common = etcd.entries[key(2)].lease
    etcd.put(key(3), etcd.entries[key(3)].value, common)
    etcd.leases = {lease: times for lease, times in etcd.leases.items() if lease == common}
    etcd.advance(80000)
    assert overlay_lease.renew(remembered).changed
    assert etcd.entries[key(3)].lease != common
    etcd.advance(6400)
    assert [name for name in etcd.entries if "subnets" in name] == [key(3)]


def test_key_that_came_to_an_etcd_lease_unseen_is_not_lost_with_it(etcd: FakeEtcd) -> None:
    """Moved off for another time to live; meanwhile somebody else's key was put on what is left behind."""
    overlay_lease.ensure(document("n1", ttl=20000), check=False)
    own = etcd.entries[key(1)].lease

    def intrude() -> None:
        etcd.before["lease/timetolive"] = lambda: etcd.put(key(9), FOREIGN, own)

    etcd.before["kv/txn"] = intrude
    overlay_lease.ensure(document("n1"), check=False)
    assert etcd.entries[key(9)].lease == own


def test_failure_in_a_later_transaction_revokes_the_common_one_with_the_last_key(etcd: FakeEtcd) -> None:
    names = [f"n{number}" for number in range(1, 251)]

    def refuse() -> None:
        raise ApplyError("kv/txn", "etcdserver: mvcc: database space exceeded")

    def third() -> None:
        etcd.before["kv/txn"] = refuse

    def second() -> None:
        etcd.before["kv/txn"] = third

    etcd.before["kv/txn"] = second
    with pytest.raises(ApplyError, match="space exceeded"):
        overlay_lease.ensure(document("n1", names), check=False)
    assert (etcd.entries, etcd.leases) == ({}, {})


def test_nodes_that_were_never_seen_run_out_together_and_others_stay(etcd: FakeEtcd) -> None:
    remembered = saved("n1"), saved("n2")
    for _hour in range(30):
        etcd.advance(3600)
        for one in remembered:
            overlay_lease.renew(one)
    assert sorted(name for name in etcd.entries if "subnets" in name) == [key(1), key(2)]
