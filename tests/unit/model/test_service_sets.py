# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Sets by which packets of services are masqueraded or refused: what is in each, for every kind of service."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, IPV6, IpVersion
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_sets import (
    FORMS,
    Entry,
    SetBuilder,
    entry_text,
    kube_proxy_name,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_table import ServiceTable
from tests.manifests import (
    DRAINING,
    UNREADY,
    Object,
    balanced,
    endpoint,
    endpoint_slice,
    node_port,
    service,
    table,
)

LOCAL = {"externalTrafficPolicy": "Local"}


def filled(found: ServiceTable, version: IpVersion = IPV4) -> dict[str, list[str]]:
    """The sets with something in them, but those that every service is in."""
    texts = {name: [entry_text(each) for each in entries[version]] for name, entries in found.sets.items()}
    return {name: each for name, each in texts.items() if each and name not in ("cluster_ip", "virtual_address")}


def test_every_set_is_there_for_both_versions() -> None:
    found = table()
    assert set(found.sets) == set(FORMS)
    assert all(entries == {IPV4: (), IPV6: ()} for entries in found.sets.values())


def test_cluster_ips() -> None:
    sets = table(service(clusterIPs=["10.96.0.10", "fd00:96::a"])).sets
    assert sets["cluster_ip"] == {IPV4: (("10.96.0.10", "tcp", 80),), IPV6: (("fd00:96::a", "tcp", 80),)}
    assert sets["virtual_address"] == {IPV4: (("10.96.0.10",),), IPV6: (("fd00:96::a",),)}


def test_all_endpoints_of_the_node_may_reach_themselves_whatever_their_condition() -> None:
    made = endpoint_slice(
        endpoint("10.244.1.5", "n1"),
        endpoint("10.244.1.6", "n1", UNREADY),
        endpoint("10.244.1.7", "n1", DRAINING),
        endpoint("10.244.2.5", "n2"),
        endpoint("10.244.2.6"),
    )
    addresses = ("10.244.1.5", "10.244.1.6", "10.244.1.7")
    assert filled(table(service(), made)) == {"hairpin": [f"{each},tcp:8080,{each}" for each in addresses]}


@pytest.mark.parametrize(("policy", "name"), [({}, "external_ip"), (LOCAL, "external_ip_local")])
def test_external_addresses(policy: Any, name: str) -> None:
    found = table(service(externalIPs=["198.51.100.1", "192.0.2.2"], **policy))
    assert filled(found) == {name: ["192.0.2.2,tcp:80", "198.51.100.1,tcp:80"]}
    assert [entry_text(each) for each in found.sets["virtual_address"][IPV4]] == ["10.96.0.10", "198.51.100.1"]


def test_load_balancers() -> None:
    assert filled(table(balanced("198.51.100.1"))) == {"load_balancer": ["198.51.100.1,tcp:80"]}
    local = filled(table(balanced("198.51.100.1", **LOCAL)))
    assert local == {name: ["198.51.100.1,tcp:80"] for name in ("load_balancer", "load_balancer_local")}


@pytest.mark.parametrize(
    ("ranges", "sources", "last"),
    [
        (["10.0.0.0/8"], ["10.0.0.0/8"], ("load_balancer_not_from_node", "198.51.100.1,tcp:80")),
        (
            ["192.0.2.0/24", "10.0.0.0/8"],
            ["10.0.0.0/8", "192.0.2.0/24"],
            ("load_balancer_own_source", "198.51.100.1,tcp:80,198.51.100.1"),
        ),
        # The node is at 192.0.2.2 for this purpose, wherever else it is.
        (["10.244.0.0/16"], ["10.244.0.0/16"], ("load_balancer_not_from_node", "198.51.100.1,tcp:80")),
    ],
)
def test_source_ranges(ranges: list[str], sources: list[str], last: tuple[str, str]) -> None:
    address = "198.51.100.1,tcp:80"
    assert filled(table(balanced("198.51.100.1", loadBalancerSourceRanges=ranges))) == {
        "load_balancer": [address],
        "load_balancer_restricted": [address],
        "load_balancer_sources": [f"{address},{source}" for source in sources],
        last[0]: [last[1]],
    }


@pytest.mark.parametrize("ranges", [["10.0.0.0/8", "0.0.0.0/0"], ["2001:db8::/32"], ["0.0.0.0/0"]])
def test_source_ranges_that_exclude_nobody(ranges: list[str]) -> None:
    found = table(balanced("198.51.100.1", loadBalancerSourceRanges=ranges))
    assert filled(found) == {"load_balancer": ["198.51.100.1,tcp:80"]}


def test_the_address_that_stands_for_the_node_can_be_chosen() -> None:
    own = balanced("198.51.100.1", loadBalancerSourceRanges=["10.244.0.0/16"])
    assert "load_balancer_own_source" in filled(table(own, address="10.244.1.1"))


@pytest.mark.parametrize(
    ("protocol", "name", "entries"),
    [
        ("TCP", "node_port{}_tcp", ["30080"]),
        ("UDP", "node_port{}_udp", ["30080"]),
        ("SCTP", "node_port{}_sctp", ["10.244.1.1,sctp:30080", "192.0.2.2,sctp:30080"]),
    ],
)
def test_node_ports(protocol: str, name: str, entries: list[str]) -> None:
    assert filled(table(node_port(protocol=protocol))) == {name.format(""): entries}
    local = filled(table(node_port(protocol=protocol, **LOCAL)))
    assert local == {name.format(""): entries, name.format("_local"): entries}


def test_node_ports_are_in_the_sets_of_both_versions() -> None:
    found = table(node_port(clusterIPs=["10.96.0.10", "fd00:96::a"]))
    assert found.sets["node_port_tcp"] == {IPV4: ((30080,),), IPV6: ((30080,),)}


def test_health_checks() -> None:
    own = balanced(healthCheckNodePort=30090, **LOCAL)
    assert filled(table(own)) == {"health_check_port": ["30090"]}


def test_without_an_address_for_node_ports_there_is_none_to_check_health_at_either() -> None:
    own = balanced(healthCheckNodePort=30090, ports=[{"port": 80, "nodePort": 30080}], **LOCAL)
    assert filled(table(own, node_port_addresses=["203.0.113.0/24"])) == {}


@pytest.mark.parametrize("made", [service(), balanced("198.51.100.1", **LOCAL), node_port(**LOCAL)])
def test_sets_do_not_depend_on_endpoints(made: Object) -> None:
    bare, served = filled(table(made)), filled(table(made, endpoint_slice(endpoint("10.244.1.5", "n1"))))
    assert served.pop("hairpin") == ["10.244.1.5,tcp:8080,10.244.1.5"]
    assert bare == served


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (("10.96.0.10", "udp", 53), "10.96.0.10,udp:53"),
        (("fd00::1", "tcp", 80, "fd00::/64"), "fd00::1,tcp:80,fd00::/64"),
        ((30080,), "30080"),
        (("10.96.0.10",), "10.96.0.10"),
    ],
)
def test_entries_are_written_as_ipset_does(entry: Entry, text: str) -> None:
    assert entry_text(entry) == text


def test_entries_are_there_once_and_in_order() -> None:
    builder = SetBuilder()
    builder.add("node_port_tcp", IPV4, (30081,), (30080,))
    builder.add("node_port_tcp", IPV4, (30080,))
    assert builder.sets()["node_port_tcp"] == {IPV4: ((30080,), (30081,)), IPV6: ()}


def test_names_of_kube_proxy() -> None:
    assert kube_proxy_name("hairpin", IPV4) == "KUBE-LOOP-BACK"
    assert kube_proxy_name("hairpin", IPV6) == "KUBE-6-LOOP-BACK"
    # 32 and 33 characters are too many for an ipset.
    assert kube_proxy_name("load_balancer_sources", IPV6) == "KUBE-6-LOAD-BALANCER-SOURCE-CID"
    assert kube_proxy_name("node_port_local_sctp", IPV6) == "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS"
    assert kube_proxy_name("load_balancer_not_from_node", IPV4) == ""
    names = [kube_proxy_name(name, version) for name in FORMS for version in (IPV4, IPV6)]
    assert len(set(names)) == len(names) - 1 == 35
