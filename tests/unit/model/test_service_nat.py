# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Which packets to services are masqueraded, let in or refused, for each kind of service and policy; and what a
declaration of services must look like."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.cluster_service import (
    addresses_of,
    parse_cluster_services,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, IPV6, IpVersion
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kubernetes.manifests import of_list
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_nat import SETS, ServiceNat, nat_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_node import parse_node
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_table import service_table
from tests.manifests import NODE, Object, balanced, endpoint, endpoint_slice, node_port, service

LOCAL = {"externalTrafficPolicy": "Local"}
HERE, THERE = endpoint("10.244.1.5", "n1"), endpoint("10.244.2.5", "n2")
ENDPOINTS = endpoint_slice(HERE, THERE)
#: What each of these services has in any case.
HAIRPIN, CLUSTER_IP = "10.244.1.5,tcp:8080,10.244.1.5", "10.96.0.10,tcp:80"
OWN = ("10.244.1.1", "192.0.2.2")


def nat(*objects: Object, version: IpVersion = IPV4, **node: Any) -> ServiceNat:
    described = parse_node({**NODE, **node})
    return nat_of(service_table(of_list(objects), described), described, version)


def sets(*objects: Object, **node: Any) -> dict[str, set[str]]:
    """Without those that are empty."""
    found = nat(*objects, **node)
    return {name: set(getattr(found, name)) for name in SETS if getattr(found, name)}


def test_nothing() -> None:
    assert sets() == {}


CASES: dict[str, tuple[Object, dict[str, set[str]]]] = {
    "cluster IP": (service(), {}),
    "UDP": (
        service(ports=[{"port": 53, "protocol": "UDP"}]),
        {
            "hairpins": set(),
            "cluster": {"10.96.0.10,udp:53"},
            "known": {"10.96.0.10,udp:53"},
        },
    ),
    "external IP": (
        service(externalIPs=["198.51.100.1"]),
        {
            "outside": {"198.51.100.1,tcp:80"},
            "addresses": {"198.51.100.1"},
            "known": {"198.51.100.1,tcp:80"},
        },
    ),
    "external IP of the node": (service(externalIPs=["192.0.2.2"]), {"outside": {"192.0.2.2,tcp:80"}}),
    "external IP, policy Local": (
        service(type="LoadBalancer", externalIPs=["198.51.100.1"], **LOCAL),
        {"addresses": {"198.51.100.1"}, "known": {"198.51.100.1,tcp:80"}},
    ),
    "balancer": (
        balanced("203.0.113.1"),
        {
            "outside": {"203.0.113.1,tcp:80"},
            "addresses": {"203.0.113.1"},
            "known": {"203.0.113.1,tcp:80"},
        },
    ),
    "balancer, policy Local": (
        balanced("203.0.113.1", **LOCAL),
        {"addresses": {"203.0.113.1"}, "known": {"203.0.113.1,tcp:80"}},
    ),
    "node port": (node_port(), {"outside": {f"{each},tcp:30080" for each in OWN}}),
    "node port, SCTP": (
        node_port(protocol="SCTP"),
        {
            "hairpins": set(),
            "outside": {f"{each},sctp:30080" for each in OWN},
            "cluster": {"10.96.0.10,sctp:80"},
            "known": {"10.96.0.10,sctp:80"},
        },
    ),
    "node port, policy Local": (node_port(**LOCAL), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_entries_of_each_kind(case: str) -> None:
    """``hairpins``, ``cluster`` and ``known`` of another protocol come instead of the usual ones."""
    made, expected = CASES[case]
    protocol = made["spec"]["ports"][0].get("protocol", "TCP")
    ends = endpoint_slice(HERE, THERE, ports=[{"port": 8080, "protocol": protocol}])
    usual = {
        "hairpins": {HAIRPIN.replace("tcp", protocol.lower())},
        "cluster": {CLUSTER_IP},
        "addresses": {"10.96.0.10"},
        "known": {CLUSTER_IP},
    }
    if protocol != "TCP":
        usual.update({"cluster": set(), "known": set()})
    merged = {name: usual.get(name, set()) | expected.get(name, set()) for name in SETS}
    assert sets(made, ends) == {name: entries for name, entries in merged.items() if entries}


def test_node_ports_are_masqueraded_where_they_are() -> None:
    assert sets(node_port(), ENDPOINTS, node_port_addresses=["192.0.2.0/24"])["outside"] == {"192.0.2.2,tcp:30080"}


def test_only_endpoints_of_the_node_meet_themselves() -> None:
    assert sets(service(), endpoint_slice(THERE)).get("hairpins") is None


def test_source_ranges() -> None:
    """An address is written without a length, and no range is within another one: the node's own address comes in where
    a range has it."""
    ranges = ["198.18.0.1/32", "198.19.0.0/16", "198.19.7.0/24", "198.18.2.0/25", "198.18.2.128/25"]
    found = sets(balanced("203.0.113.1", loadBalancerSourceRanges=ranges), ENDPOINTS)
    assert found["guarded"] == {"203.0.113.1,tcp:80"}
    assert found["allowed"] == {
        f"203.0.113.1,tcp:80,{each}" for each in ("198.18.0.1", "198.19.0.0/16", "198.18.2.0/24")
    }
    found = sets(balanced("203.0.113.1", loadBalancerSourceRanges=["192.0.2.0/24"]), ENDPOINTS)
    assert found["allowed"] == {"203.0.113.1,tcp:80,192.0.2.0/24", "203.0.113.1,tcp:80,203.0.113.1"}
    # ipset takes no network that has everything, which two together are too.
    for everybody in (["0.0.0.0/0", "192.0.2.0/24"], ["128.0.0.0/1", "0.0.0.0/1"]):
        found = sets(balanced("203.0.113.1", loadBalancerSourceRanges=everybody), ENDPOINTS)
        assert "guarded" not in found and "allowed" not in found


def test_each_ip_version_has_its_own() -> None:
    dual = {
        "clusterIPs": ["10.96.0.10", "fd00:96::10"],
        "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "RequireDualStack",
    }
    ends = endpoint_slice(endpoint("fd00:244::5", "n1"), addressType="IPv6", suffix="b")
    networks = ["10.244.0.0/16", "fd00:244::/48"]
    found = nat(service(**dual), ENDPOINTS, ends, version=IPV6, cluster_networks=networks)
    assert [str(each) for each in found.pods] == ["fd00:244::/48"]
    assert (found.hairpins, found.cluster) == ({"fd00:244::5,tcp:8080,fd00:244::5"}, {"fd00:96::10,tcp:80"})
    assert nat(service(**dual), masquerade_all=True).masquerade_all


def declared(**changes: Any) -> dict[str, Any]:
    return {"objects": [service()], "node": {"name": "n1"}, "backend": "auto", "drain_seconds": 30, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objects": "all"}, "objects: "),
        ({"objects": [service(), service("other")]}, "objects[0].spec.clusterIP: "),
        ({"objects": [7]}, "objects[0]: "),
        ({"objects": [service(ports=[{"port": 70000}])]}, "objects[0].spec.ports[0].port"),
        (
            {"objects": [node_port(), {**node_port(clusterIP="10.96.0.11"), "metadata": {"name": "b"}}]},
            "objects[0].spec.ports[0].nodePort: ",
        ),
        ({"objects": [balanced("x")]}, "objects[0].status.loadBalancer.ingress[0].ip"),
        (
            {"objects": [balanced("203.0.113.1", loadBalancerSourceRanges=["x"])]},
            "objects[0].spec.loadBalancerSourceRanges[0]",
        ),
        ({"node": {}}, "node.name: "),
        ({"node": {"name": "n1", "color": "red"}}, "node.color: "),
        ({"node": {"name": "n1", "scheduler": "wild"}}, "node.scheduler: "),
        ({"node": {"name": "n1", "families": ["ipx"]}}, "node.families[0]: "),
        ({"node": {"name": "n1", "families": []}}, "node.families: "),
        ({"node": {"name": "n1", "address": "fd00::1"}}, "node.address: "),
        ({"node": {"name": "n1", "address6": "192.0.2.1"}}, "node.address6: "),
        ({"node": {"name": "n1", "node_port_addresses": ["192.0.2.1/99"]}}, "node.node_port_addresses[0]: "),
        ({"node": {"name": "n1", "cluster_networks": ["10.244.0.0/16", "pods"]}}, "node.cluster_networks[1]: "),
        ({"node": {"name": "n1", "masquerade_all": "maybe"}}, "node.masquerade_all: "),
        ({"backend": "ebpf"}, "backend: "),
        ({"drain_seconds": -1}, "drain_seconds: "),
        ({"drain_seconds": 3601}, "drain_seconds: "),
        ({"drain_seconds": "soon"}, "drain_seconds: "),
        ({"colour": "red"}, "colour: "),
    ],
)
def test_wrong_declarations_are_told_by_their_place(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_cluster_services(declared(**changes), ["192.0.2.2"])
    assert str(error.value).startswith(said), error.value


def test_only_ip_versions_with_services_have_rules() -> None:
    found = parse_cluster_services(declared(objects=[service(), ENDPOINTS]), ["192.0.2.2", "2001:db8::2"])
    assert [each.version for each in found.nat] == [IPV4]
    assert parse_cluster_services(declared(objects=[]), ["192.0.2.2"]).nat == ()


def test_what_is_remembered() -> None:
    assert addresses_of({"addresses": ["10.96.0.10"]}) == ["10.96.0.10"] and addresses_of({}) == []
    for wrong in ("tcp", [7]):
        with pytest.raises(SpecError, match="^addresses: "):
            addresses_of({"addresses": wrong})


@pytest.mark.parametrize("node", [{}, {"address": "192.0.2.2"}, {"address6": "2001:db8::2"}])
def test_addresses_that_make_a_difference_lead_to_the_same(node: dict[str, Any]) -> None:
    """What others have to do with services is remembered; an interface that comes with the first pod has not."""
    own = ["10.244.1.1", "10.9.9.9", "192.0.2.2", "2001:db8::2", "fe80::1"]
    other = {**balanced("10.9.9.9", clusterIP="10.96.0.11"), "metadata": {"name": "b"}}
    objects = [service(), other, ENDPOINTS]
    args = declared(objects=objects, node={"name": "n1", **node})
    found = parse_cluster_services(args, own)
    assert parse_cluster_services(args, found.addresses) == found
    assert set(found.addresses) == {"10.9.9.9", "2001:db8::2", "192.0.2.2" if node.get("address") else "10.244.1.1"}
    ports = parse_cluster_services(declared(objects=[node_port()]), own)
    assert ports.addresses == ("10.244.1.1", "10.9.9.9", "192.0.2.2", "2001:db8::2")
