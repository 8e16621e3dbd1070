# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Who probes whom, and the report of a verification, from what hosts registered."""

from __future__ import annotations

from typing import Any

from ansible_collections.fairlead.cluster.plugins.filter.verification import (
    probe_targets,
    verification,
    verification_summary,
)

PAIR = {
    "source": "cp1", "target": "w1", "kind": "pod-pod", "address": "10.244.2.2", "ok": True, "reachable": True,
    "rtt_ms": 0.5, "seen_source": "10.244.1.2", "nat": False, "path_mtu": 1450, "expected_mtu": 1450, "error": "",
}  # fmt: skip
LEADER = {"name": "cp1", "leader": True, "healthy": True, "version": "3.4.23"}
FOLLOWER = {"name": "cp2", "leader": False, "healthy": True, "version": "3.4.23"}


def host(number: int, **registered: Any) -> dict[str, Any]:
    return {
        "ansible_host": f"192.0.2.{number}",
        "verify_attachment": {"addresses": [f"10.244.{number}.2/24"]},
        "verify_drift": {"rc": 0, "stdout_lines": ["no drift"]},
        **registered,
    }


def report(hostvars: dict[str, Any], etcd: list[str] | None = None) -> dict[str, Any]:
    return verification(list(hostvars), hostvars, etcd or [])


def healthy() -> dict[str, Any]:
    return host(1, verify_probes={"results": [PAIR]}, verify_members={"members": [LEADER, FOLLOWER]})


def test_every_ordered_pair_is_probed() -> None:
    hostvars = {"a": host(1), "b": host(2)}
    found = [(target["kind"], target["name"], target["address"]) for target in probe_targets("ab", hostvars, "a")]
    assert sorted(found) == [
        ("node-pod", "a", "10.244.1.2"),
        ("node-pod", "b", "10.244.2.2"),
        ("pod-node", "a", "192.0.2.1"),
        ("pod-node", "b", "192.0.2.2"),
        ("pod-pod", "b", "10.244.2.2"),
    ]


def dual(number: int, **registered: Any) -> dict[str, Any]:
    addresses = [f"10.244.{number}.2/24", f"fd00:10:244:{number}::2/64"]
    return {
        **host(number), "cluster_pod_cidr6": "fd00:10:244::/56", "cluster_node_address6": f"2001:db8::{number}",
        "verify_attachment": {"addresses": addresses}, **registered,
    }  # fmt: skip


def test_every_pair_of_a_dual_cluster_is_probed_by_both_families() -> None:
    hostvars = {"a": dual(1), "b": dual(2)}
    found = [(target["kind"], target["name"], target["address"]) for target in probe_targets("ab", hostvars, "a")]
    assert sorted(found) == [
        ("node-pod", "a", "10.244.1.2"),
        ("node-pod", "a", "fd00:10:244:1::2"),
        ("node-pod", "b", "10.244.2.2"),
        ("node-pod", "b", "fd00:10:244:2::2"),
        ("pod-node", "a", "192.0.2.1"),
        ("pod-node", "a", "2001:db8::1"),
        ("pod-node", "b", "192.0.2.2"),
        ("pod-node", "b", "2001:db8::2"),
        ("pod-pod", "b", "10.244.2.2"),
        ("pod-pod", "b", "fd00:10:244:2::2"),
    ]


def test_declared_ipv6_address_is_nothing_to_a_cluster_without_ipv6() -> None:
    hostvars = {"a": {**dual(1), "cluster_pod_cidr6": ""}, "b": host(2)}
    for name in hostvars:
        hostvars[name]["verify_attachment"] = host(1)["verify_attachment"]
    assert not [target for target in probe_targets("ab", hostvars, "a") if ":" in target["address"]]
    assert set(report(hostvars)["nodes"][0]) == {"name", "address", "subnet", "pod", "problems"}


def test_dual_node_is_reported_with_both_families() -> None:
    found = report({"a": dual(1)})
    assert found["nodes"] == [
        {"name": "a", "address": "192.0.2.1", "address6": "2001:db8::1", "subnet": "10.244.1.0/24",
         "subnet6": "fd00:10:244:1::/64", "pod": "10.244.1.2", "pod6": "fd00:10:244:1::2", "problems": []}
    ]  # fmt: skip


def test_pod_without_its_ipv6_address_is_a_problem() -> None:
    found = report({"a": dual(1, verify_attachment=host(1)["verify_attachment"])})
    assert "a: its pod has no IPv6 address; run site.yml, then attach pods anew" in found["problems"]


def test_hosts_without_a_pod_are_not_probed() -> None:
    hostvars = {"a": host(1), "b": {"ansible_host": "192.0.2.2"}, "c": host(3, verify_attachment={"failed": True})}
    assert {target["name"] for target in probe_targets("abc", hostvars, "a")} == {"a"}


def test_nothing_wrong_is_no_problem() -> None:
    found = report({"cp1": healthy()}, ["cp1"])
    assert found["problems"] == []
    assert found["nodes"] == [
        {"name": "cp1", "address": "192.0.2.1", "subnet": "10.244.1.0/24", "pod": "10.244.1.2", "problems": []}
    ]
    assert found["etcd"] == [LEADER, FOLLOWER] and found["results"] == [PAIR]


def test_host_that_did_not_answer_is_named_and_the_others_are_reported() -> None:
    found = report({"cp1": healthy(), "w1": {"ansible_host": "192.0.2.4"}}, ["cp1"])
    assert found["problems"] == ["w1: did not answer, so nothing is known about it"]
    assert found["nodes"][1]["pod"] is None and found["results"] == [PAIR]
    lost_on_the_way = report({"cp1": healthy(), "w1": host(4, verify_drift={"unreachable": True})}, ["cp1"])
    assert lost_on_the_way["problems"] == found["problems"]


def test_drift_is_a_problem_line_by_line() -> None:
    drifted = host(1, verify_drift={"rc": 1, "stdout_lines": ["overlay_network: + link flannel.1"]})
    assert "cp1: drift: overlay_network: + link flannel.1" in report({"cp1": drifted})["problems"]
    missing = host(1, verify_drift={"rc": 2, "msg": "No such file"})
    assert "cp1: drift could not be looked for: No such file" in report({"cp1": missing})["problems"]


def test_node_that_could_not_be_probed_says_why() -> None:
    assert "cp1: Attach: no network" in report({"cp1": host(1, verify_problem="Attach: no network")})["problems"]


def test_failed_pair_is_a_problem() -> None:
    failed = {**PAIR, "ok": False, "error": "TCP: no answer in time"}
    found = report({"cp1": {**healthy(), "verify_probes": {"results": [PAIR, failed]}}}, ["cp1"])
    assert found["problems"] == ["pod-pod cp1 -> w1 (10.244.2.2): TCP: no answer in time"]


def test_etcd_needs_healthy_members_and_one_leader() -> None:
    sick = host(1, verify_members={"members": [{**LEADER, "healthy": False}, {**FOLLOWER, "leader": True}]})
    assert report({"cp1": sick}, ["cp1"])["problems"] == [
        "etcd: member cp1 is not healthy",
        "etcd: one leader is needed, seen: cp1, cp2",
    ]


def test_silent_etcd_is_a_problem_with_its_reason() -> None:
    silent = host(1, verify_members={"failed": True, "msg": "connection refused"})
    assert report({"cp1": silent}, ["cp1"])["problems"] == [
        "etcd: no member told about the cluster: connection refused"
    ]


def test_members_are_taken_from_whoever_answers() -> None:
    hostvars = {"cp0": host(9, verify_members={"failed": True, "msg": "down"}), "cp1": healthy()}
    assert report(hostvars, ["cp0", "cp1"])["etcd"] == [LEADER, FOLLOWER]


def test_summary_counts_pairs_and_names_the_leader() -> None:
    lines = verification_summary(report({"cp1": healthy()}, ["cp1"]))
    assert lines == [
        "pod-pod: 1 of 1 pairs good, slowest 0.50 ms, path MTU 1450",
        "pod-node: 0 of 0 pairs good",
        "node-pod: 0 of 0 pairs good",
        "etcd: 2 of 2 members healthy, leader cp1",
    ]


def test_summary_of_a_dual_cluster_counts_each_family() -> None:
    failed = {**PAIR, "address": "fd00:10:244:2::2", "ok": False, "error": "TCP: no answer in time"}
    node = dual(1, verify_probes={"results": [PAIR, {**failed, "ok": True, "path_mtu": 1430}, failed]})
    assert verification_summary(report({"a": node}))[:3] == [
        "pod-pod IPv4: 1 of 1 pairs good, slowest 0.50 ms, path MTU 1450",
        "pod-pod IPv6: 1 of 2 pairs good, slowest 0.50 ms, path MTU 1430",
        "pod-node IPv4: 0 of 0 pairs good",
    ]
