# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the IPv6 half of leases of others: told, left as it is, and never in the way of the IPv4 half."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_lease
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay import parse_overlay
from tests.unit.etcd.fake_etcd import FakeEtcd
from tests.unit.etcd.lease_store import PREFIX, etcd, key
from tests.unit.etcd.test_lease_dual import DUAL, dual, key6

__all__ = ["etcd"]


def at(subnets: str) -> str:
    return f"{PREFIX}/subnets/{subnets}"


def value(host: int, **changes: Any) -> str:
    macs = (f"02:00:00:00:04:{host:02x}", f"02:00:00:00:06:{host:02x}")
    written = {
        "PublicIP": f"192.0.2.{host}",
        "PublicIPv6": f"2001:db8::{host}",
        "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": macs[0]},
        "BackendV6Data": {"VNI": 1, "VtepMAC": macs[1]},
    }
    return json.dumps({name: entry for name, entry in {**written, **changes}.items() if entry is not None})


MAC = {"VNI": 1, "VtepMAC": "02:00:00:00:06:50"}
ALLOWED = "is not what the network configuration allows, a /64 from fd00:10:244:1:: to fd00:10:244:ffff::"
# Entries, keys in the conflict, what is said, and how many leases are handed on whole and with one half.
CONFLICTS: dict[str, tuple[dict[str, str], list[str], str, int, int]] = {
    "one IPv6 address": (
        {key6(20): value(80), key6(30): value(81, PublicIPv6="2001:db8::80")},
        [key6(20), key6(30)],
        "have the same PublicIPv6 2001:db8::80",
        6,
        1,
    ),
    "one IPv6 address in another form": (
        {key6(20): value(80), key6(30): value(81, PublicIPv6="2001:DB8:0::0080")},
        [key6(20), key6(30)],
        "have the same PublicIPv6 2001:db8::80",
        6,
        1,
    ),
    "one MAC address": (
        {key6(20): value(80), key6(30): value(81, BackendV6Data=MAC)},
        [key6(20), key6(30)],
        "have the same IPv6 device's MAC address 02:00:00:00:06:50",
        6,
        1,
    ),
    "overlap of a declared node's": (
        {f"{key(20)}&fd00:10:244:2:8000::-65": value(80)},
        [key6(2), f"{key(20)}&fd00:10:244:2:8000::-65"],
        "overlap",
        5,
        1,
    ),
    "nested overlap": (
        {f"{key(20)}&fd00:10:244:20::-60": value(80), key6(21, 0x21): value(81), key6(22, 0x22): value(82)},
        [f"{key(20)}&fd00:10:244:20::-60", key6(21, 0x21), key6(22, 0x22)],
        "overlap",
        6,
        2,
    ),
    "outside": ({f"{key(20)}&fd00:99::-64": value(80)}, [f"{key(20)}&fd00:99::-64"], ALLOWED, 5, 1),
    "before the first": ({f"{key(20)}&fd00:10:244::-64": value(80)}, [f"{key(20)}&fd00:10:244::-64"], ALLOWED, 6, 0),
    "another length": (
        {f"{key(20)}&fd00:10:244:20::-65": value(80)},
        [f"{key(20)}&fd00:10:244:20::-65"],
        ALLOWED,
        6,
        0,
    ),
    "no IPv6 half": (
        {key(20): value(80, PublicIPv6=None, BackendV6Data=None)},
        [key(20)],
        "has no IPv6 subnet, and the network configuration has some",
        5,
        1,
    ),
    "no address": (
        {key6(20): value(80, PublicIPv6=None)},
        [key6(20)],
        "has a value with no PublicIPv6, which flannel cannot read",
        5,
        1,
    ),
    "an IPv4 address": (
        {key6(20): value(80, PublicIPv6="192.0.2.80")},
        [key6(20)],
        "has a value with PublicIPv6 '192.0.2.80', which flannel cannot read",
        5,
        1,
    ),
    "broken IPv4 half": (
        {key6(20): value(80, PublicIP="host")},
        [key6(20)],
        "has a value with PublicIP 'host', which flannel cannot read",
        5,
        0,
    ),
}


@pytest.mark.parametrize(("entries", "keys", "problem", "whole", "halved"), CONFLICTS.values(), ids=CONFLICTS)
def test_conflict_is_named_with_its_keys_and_left_as_it_is(
    etcd: FakeEtcd, entries: dict[str, str], keys: list[str], problem: str, whole: int, halved: int
) -> None:
    overlay_lease.ensure(dual(), check=False)
    for name, text in entries.items():
        etcd.put(name, text)
    revision = etcd.revision
    ensured = overlay_lease.ensure(dual(), check=False)
    (found,) = [conflict for conflict in ensured.conflicts if conflict["problem"] == problem]
    assert found["keys"] == keys
    (warning,) = [warning for warning in ensured.warnings if problem in warning]
    assert all(name in warning for name in keys) and warning.endswith(found["advice"])
    assert overlay_lease.gather(dual()).conflicts == ensured.conflicts
    assert etcd.revision == revision
    halves = ["subnet6" in lease for lease in ensured.leases]
    assert (halves.count(True), halves.count(False)) == (whole, halved)
    # Whatever is handed on is what module overlay_network takes.
    own, *peers = ensured.leases
    networks = {key: DUAL[key] for key in ("network", "network6")}
    assert parse_overlay({**networks, "node": own, "peers": peers})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"BackendV6Data": None}, "mac6: must be a MAC address"),
        ({"BackendV6Data": {"VNI": 1, "VtepMAC": "01:00:5e:00:00:01"}}, "mac6: must be the address of one"),
        ({"PublicIPv6": "fe80::1"}, "address6: must be the address of a node"),
        ({"PublicIPv6": "fd00:10:244:9::1"}, "address6: fd00:10:244:9::1 is inside"),
    ],
    ids=["no-mac", "group-mac", "link-local", "pod-network"],
)
def test_broken_ipv6_half_is_left_out_with_a_warning(etcd: FakeEtcd, changes: dict[str, Any], reason: str) -> None:
    overlay_lease.ensure(dual(), check=False)
    etcd.put(key6(20), value(80, **changes))
    ensured = overlay_lease.ensure(dual(), check=False)
    assert set(ensured.leases[-1]) == {"name", "subnet", "address", "mac", "backend_type", "ttl"}
    (warning,) = [warning for warning in ensured.warnings if reason in warning]
    assert warning.startswith(f"etcd key {key6(20)} is of no declared node and with its IPv6 left out of the overlay")


def test_ipv6_half_where_none_is_configured_is_told(etcd: FakeEtcd) -> None:
    single = {**dual(), "config": {key: value for key, value in DUAL.items() if key != "network6"}}
    overlay_lease.ensure(single, check=False)
    etcd.put(key6(20), value(80))
    ensured = overlay_lease.ensure(single, check=False)
    assert [conflict["problem"] for conflict in ensured.conflicts] == [
        "has an IPv6 subnet, and the network configuration none"
    ]
    assert "subnet6" not in ensured.leases[-1] and len(ensured.leases) == 6


def test_orphans_are_told_with_both_subnets(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(dual("n5"), check=False)
    etcd.advance(100)
    ensured = overlay_lease.ensure(dual(names=["n1", "n2", "n3", "n4"]), check=False)
    assert ensured.orphaned == [{"key": key6(5), "address": "192.0.2.5", "ttl": 86300}]
    assert (ensured.warnings, ensured.conflicts) == ([], [])
