# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Targets of probes, and what counts as a failed pair."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.reachability import (
    Target,
    failures_of,
    parse_targets,
    result_of,
)

GOOD = {
    "reachable": True,
    "local_address": "10.244.1.2",
    "seen_sources": ["10.244.1.2"],
    "rtt_ms": 0.4,
    "path_mtu": 1450,
    "interface_mtu": 1450,
    "peer_mtu": 1450,
    "error": "",
}


def judged(kind: str = "pod-pod", expected_mtu: int | None = None, **answer: Any) -> dict[str, Any]:
    return result_of("cp1", Target("w1", "10.244.4.2", kind, 9931, expected_mtu), {**GOOD, **answer})


def test_good_pair() -> None:
    assert judged() == {
        "source": "cp1", "target": "w1", "kind": "pod-pod", "address": "10.244.4.2", "reachable": True, "rtt_ms": 0.4,
        "seen_source": "10.244.1.2", "nat": False, "path_mtu": 1450, "expected_mtu": 1450, "error": "", "ok": True,
    }  # fmt: skip


def test_nat_between_pods_is_a_failure() -> None:
    result = judged(seen_sources=["192.0.2.11"])
    assert result["nat"] and not result["ok"] and "192.0.2.11 instead of the pod's own" in result["error"]


@pytest.mark.parametrize("kind", ["pod-node", "node-pod"])
def test_nat_towards_and_from_nodes_is_only_told(kind: str) -> None:
    result = judged(kind, seen_sources=["192.0.2.11"])
    assert result["nat"] and result["ok"]


def test_nat_of_one_protocol_only_is_seen() -> None:
    result = judged(seen_sources=["10.244.1.2", "192.0.2.11"])
    assert result["nat"] and result["seen_source"] == "10.244.1.2, 192.0.2.11"


def test_small_path_mtu_is_a_failure() -> None:
    assert judged(path_mtu=1400)["error"] == "path MTU is 1400, below the 1450 that the sender relies on"
    assert judged(path_mtu=None)["error"] == "only small packets pass"


def test_expected_mtu_given_counts_before_that_of_the_interface() -> None:
    assert judged(expected_mtu=1400, path_mtu=1400)["ok"]
    assert not judged(expected_mtu=1500)["ok"]


def test_node_may_send_larger_packets_than_a_pod_takes() -> None:
    assert judged("node-pod", interface_mtu=1500, peer_mtu=1450)["expected_mtu"] == 1450
    assert judged("pod-node", interface_mtu=1450, peer_mtu=1500)["expected_mtu"] == 1450
    assert judged("pod-pod", interface_mtu=1500, peer_mtu=1450)["expected_mtu"] == 1500


def test_failures_name_the_pair_and_the_reason() -> None:
    lost = judged(reachable=False, error="TCP: no answer in time", seen_sources=[], path_mtu=None)
    assert failures_of([judged(), lost]) == ["pod-pod cp1 -> w1 (10.244.4.2): TCP: no answer in time"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ({"name": "w1", "address": "w1", "kind": "pod-pod"}, "targets[0].address"),
        ({"name": "w1", "address": "10.0.0.1", "kind": "pod"}, "targets[0].kind"),
        ({"name": "w1", "address": "10.0.0.1", "kind": "pod-pod", "port": 0}, "targets[0].port"),
        ({"name": "w1", "address": "10.0.0.1", "kind": "pod-pod", "expected_mtu": 20}, "targets[0].expected_mtu"),
    ],
)
def test_targets_refuse(target: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_targets({"netns": "pod", "targets": [target]})
    assert refused.value.path == path


def test_probe_from_a_pod_needs_a_pod() -> None:
    target = {"name": "w1", "address": "10.0.0.1", "kind": "pod-node"}
    with pytest.raises(SpecError, match="netns is required"):
        parse_targets({"netns": None, "targets": [target]})
    assert parse_targets({"netns": None, "targets": [{**target, "kind": "node-pod"}]})[0].port == 9931
