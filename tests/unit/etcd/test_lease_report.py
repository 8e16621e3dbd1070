# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Orphaned and conflicting leases: each is named with its key and what to do, and none is changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_lease
from tests.unit.etcd.fake_etcd import FakeEtcd
from tests.unit.etcd.lease_store import FOREIGN, PREFIX, document, etcd, key

__all__ = ["etcd"]


def at(subnet: str) -> str:
    return f"{PREFIX}/subnets/{subnet}"


def value(host: int, **changes: Any) -> str:
    data = {"VNI": 1, "VtepMAC": f"02:00:00:00:00:{host:02x}"}
    return json.dumps(
        {"PublicIP": f"192.0.2.{host}", "PublicIPv6": None, "BackendType": "vxlan", "BackendData": data, **changes}
    )


TWO = {"VNI": 1, "VtepMAC": "02:00:00:00:00:50"}
CONFLICTS: dict[str, tuple[dict[str, str], list[str], str]] = {
    "one address": (
        {key(20): value(80), key(30): value(81, PublicIP="192.0.2.80")},
        [key(20), key(30)],
        "have the same PublicIP 192.0.2.80",
    ),
    "one MAC address": (
        {key(20): value(80), key(30): value(81, BackendData=TWO)},
        [key(20), key(30)],
        "have the same MAC address 02:00:00:00:00:50",
    ),
    "one MAC address in another form": (
        {key(20): value(172), key(30): value(81, BackendData={"VNI": 1, "VtepMAC": "02:00:00:00:00:AC"})},
        [key(20), key(30)],
        "have the same MAC address 02:00:00:00:00:ac",
    ),
    "one IPv6 address": (
        {key(20): value(80, PublicIPv6="fd00::1"), key(30): value(81, PublicIPv6="fd00::1")},
        [key(20), key(30)],
        "have the same PublicIPv6 fd00::1",
    ),
    "overlap of a declared node's": (
        {at("10.244.2.128-25"): value(80)},
        [key(2), at("10.244.2.128-25")],
        "overlap",
    ),
    "nested overlap": (
        {at("10.244.32.0-19"): value(80), key(40): value(81), at("10.244.40.0-25"): value(82), key(64): value(83)},
        [at("10.244.32.0-19"), key(40), at("10.244.40.0-25")],
        "overlap",
    ),
    "IPv6 overlap": (
        {at("10.244.20.0-24&fd00:1::-63"): value(80), at("10.244.30.0-24&fd00:1:0:1::-64"): value(81)},
        [at("10.244.20.0-24&fd00:1::-63"), at("10.244.30.0-24&fd00:1:0:1::-64")],
        "overlap",
    ),
    "outside": (
        {at("10.99.1.0-24"): value(80)},
        [at("10.99.1.0-24")],
        "is not what the network configuration allows, a /24 from 10.244.1.0 to 10.244.255.0",
    ),
    "before the first": (
        {key(0): value(80)},
        [key(0)],
        "is not what the network configuration allows, a /24 from 10.244.1.0 to 10.244.255.0",
    ),
    "another length": (
        {at("10.244.20.0-25"): value(80)},
        [at("10.244.20.0-25")],
        "is not what the network configuration allows, a /24 from 10.244.1.0 to 10.244.255.0",
    ),
    "no JSON": ({key(20): "no json"}, [key(20)], "has a value with no PublicIP, which flannel cannot read"),
    "no mapping": ({key(20): "[1]"}, [key(20)], "has a value with no PublicIP, which flannel cannot read"),
    "empty": ({key(20): ""}, [key(20)], "has a value with no PublicIP, which flannel cannot read"),
    "no address": (
        {key(20): value(80, PublicIP="host")},
        [key(20)],
        "has a value with PublicIP 'host', which flannel cannot read",
    ),
    "no subnet": (
        {at("10.244.20.7-24"): value(80)},
        [at("10.244.20.7-24")],
        "is not in flannel's form of a subnet, like 10.244.1.0-24, without host bits",
    ),
}


@pytest.mark.parametrize(("entries", "keys", "problem"), CONFLICTS.values(), ids=CONFLICTS)
def test_conflict_is_named_with_its_keys_and_left_as_it_is(
    etcd: FakeEtcd, entries: dict[str, str], keys: list[str], problem: str
) -> None:
    overlay_lease.ensure(document(), check=False)
    for name, text in entries.items():
        etcd.put(name, text)
    revision = etcd.revision
    ensured = overlay_lease.ensure(document(), check=False)
    (found,) = [conflict for conflict in ensured.conflicts if conflict["problem"] == problem]
    assert found["keys"] == keys
    (warning,) = [warning for warning in ensured.warnings if problem in warning]
    assert all(name in warning for name in keys) and warning.endswith(found["advice"])
    assert overlay_lease.gather(document()).conflicts == ensured.conflicts
    assert etcd.revision == revision


def test_store_without_strangers_has_nothing_to_report(etcd: FakeEtcd) -> None:
    ensured = overlay_lease.ensure(document(), check=False)
    assert (ensured.orphaned, ensured.conflicts, ensured.warnings) == ([], [], [])


def test_orphans_are_told_with_their_time_and_without_a_warning(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(document(), check=False)
    overlay_lease.ensure(document("n5"), check=False)
    etcd.put(key(9), FOREIGN)
    etcd.advance(100)
    ensured = overlay_lease.ensure(document(names=["n1", "n2", "n3", "n4"]), check=False)
    assert ensured.orphaned == [
        {"key": key(5), "address": "192.0.2.5", "ttl": 86300},
        {"key": key(9), "address": "192.0.2.99", "ttl": 0},
    ]
    assert ensured.warnings == []
    assert key(5) in etcd.entries


def test_many_orphans_cost_a_bounded_number_of_questions(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(document(), check=False)
    for third in range(10, 110):
        etcd.leases[third] = (86400, 86400)
        etcd.put(key(third), value(third), third)
    asked = etcd.calls.count("lease/timetolive")
    ensured = overlay_lease.ensure(document(), check=False)
    assert etcd.calls.count("lease/timetolive") - asked == 1 + overlay_lease.ASKED
    assert [orphan["ttl"] for orphan in ensured.orphaned] == [86400] * overlay_lease.ASKED + [None] * 80


def test_many_conflicts_are_all_in_the_result_and_a_few_are_warnings(etcd: FakeEtcd) -> None:
    for third in range(10, 110):
        etcd.put(key(third), value(80))
        etcd.put(at(f"10.99.{third}.0-24"), value(third))
    ensured = overlay_lease.ensure(document(), check=False)
    assert len(ensured.conflicts) == 100 + 1 + 1
    same = next(conflict for conflict in ensured.conflicts if "PublicIP" in conflict["problem"])
    assert len(same["keys"]) == 101
    assert len(ensured.warnings) == overlay_lease.WARNINGS + 1
    assert "more problems of leases" in ensured.warnings[-1]
    assert all(len(warning) < 1500 for warning in ensured.warnings)
