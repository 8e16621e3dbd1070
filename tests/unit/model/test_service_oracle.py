# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Our model says of services what real kube-proxy made of them in the kernel: virtual services with their real servers,
addresses of the dummy device, members of sets. `make test-upstream` shows that the captures are still true."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests import kube_proxy_captures as captures

CAPTURES = captures.stored()
NAMED = [(name, case["name"]) for name, capture in CAPTURES.items() for case in capture["cases"]]
PARTS = ("ipvs", "addresses", "ipsets")


@pytest.mark.parametrize(("variant", "name"), NAMED)
def test_case(variant: str, name: str) -> None:
    capture = CAPTURES[variant]
    case = next(each for each in capture["cases"] if each["name"] == name)
    node = captures.node_of(capture["node"], capture["options"])
    assert captures.expected(case["objects"], node) == {part: case[part] for part in PARTS}


@pytest.mark.parametrize("variant", CAPTURES)
def test_all_at_once(variant: str) -> None:
    """No case takes anything from another one."""
    capture = CAPTURES[variant]
    node = captures.node_of(capture["node"], capture["options"])
    objects = [made for case in capture["cases"] for made in case["objects"]]
    assert captures.expected(objects, node) == {part: _joined(capture, part) for part in PARTS}
    assert captures.not_from_node(objects, node) == captures.refused(capture)


@pytest.mark.parametrize("variant", CAPTURES)
def test_sets_have_kube_proxys_names_and_types(variant: str) -> None:
    capture = CAPTURES[variant]
    own = {
        captures.kube_proxy_name(name, version): form.type
        for name, form in captures.FORMS.items()
        if form.kube_proxy
        for version in captures.VERSIONS
    }
    assert own == {name: entry["type"] for name, entry in capture["sets"].items()}


def _joined(capture: dict[str, Any], part: str) -> Any:
    if part != "ipsets":
        return sorted(line for case in capture["cases"] for line in case[part])
    members: dict[str, list[str]] = {}
    for case in capture["cases"]:
        for name, entries in case[part].items():
            members.setdefault(name, []).extend(entries)
    return {name: sorted(entries) for name, entries in members.items()}


def test_service_of_the_api_server() -> None:
    """All that is nobody's is Service kubernetes."""
    for capture in CAPTURES.values():
        assert capture["rest"]["addresses"] == ["10.96.0.1/32"]
        assert [line.split()[:3] for line in capture["rest"]["ipvs"]] == [["-A", "-t", "10.96.0.1:443"]]
        assert capture["rest"]["ipsets"] == {"KUBE-CLUSTER-IP": ["10.96.0.1,tcp:443"], "KUBE-IPVS-IPS": ["10.96.0.1"]}


def test_enough_is_captured() -> None:
    """Every kind, policy, family, protocol, affinity and readiness has its cases."""
    cases = CAPTURES["plain"]["cases"]
    objects = [made for case in cases for made in case["objects"]]
    specs = [made["spec"] for made in objects if made["kind"] == "Service"]
    slices = [made for made in objects if made["kind"] == "EndpointSlice"]
    conditions = [each.get("conditions", {}) for made in slices for each in made["endpoints"]]
    assert len(cases) >= 60
    for field, values in {
        "type": {None, "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"},
        "internalTrafficPolicy": {None, "Cluster", "Local"},
        "externalTrafficPolicy": {None, "Cluster", "Local"},
        "sessionAffinity": {None, "ClientIP"},
    }.items():
        assert {spec.get(field) for spec in specs} == values, field
    assert {tuple(spec.get("ipFamilies", ())) for spec in specs} >= {
        ("IPv4",),
        ("IPv6",),
        ("IPv4", "IPv6"),
        ("IPv6", "IPv4"),
    }
    assert {port.get("protocol", "TCP") for spec in specs for port in spec["ports"]} == {"TCP", "UDP", "SCTP"}
    assert {len(spec["ports"]) for spec in specs} >= {1, 2, 3}
    states = {tuple(each.get(name) for name in ("ready", "serving", "terminating")) for each in conditions}
    assert states == set(itertools.product((None, True, False), repeat=3))
    assert any(spec.get("clusterIP") == "None" for spec in specs)
    assert set(_joined(CAPTURES["plain"], "ipsets")) == set(CAPTURES["plain"]["sets"]), "all sets have members"
