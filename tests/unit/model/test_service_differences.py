# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Where our model deliberately is not like kube-proxy. Each row of DIFFERENCES is one of docs/reference/services.md, by
its first words; the captures of kube-proxy have no case of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_nat import nat_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_node import parse_node
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_sets import HEALTH_CHECK_PORT
from tests.manifests import NODE, balanced, endpoint, endpoint_slice, node_port, servers, service, table

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "services.md"


def two_services_at_one_address() -> None:
    """kube-proxy programs both in the order of a Go map."""
    other = service("b", clusterIP="10.96.0.11", externalIPs=["198.51.100.1"])
    with pytest.raises(SpecError, match=r"tcp 198\.51\.100\.1:80 is also what services\[0\]\.spec\.ports\[0\]"):
        table(service("a", externalIPs=["198.51.100.1"]), other)


def an_endpoint_in_two_slices() -> None:
    """kube-proxy reads slices in the order of a Go map."""
    ready = endpoint_slice(endpoint("10.244.1.5"), suffix="a")
    unready = endpoint_slice(endpoint("10.244.1.5", conditions={"ready": False}), suffix="b")
    assert servers(table(service(), ready, unready)) == servers(table(service(), unready, ready)) == []
    unready["metadata"]["name"], ready["metadata"]["name"] = "web-a", "web-b"
    assert servers(table(service(), ready, unready)) == ["10.244.1.5:8080"]


def no_node_ports_on_the_dummy() -> None:
    """kube-proxy asks for the addresses of all devices when networks are chosen, and finds its own there."""
    networks = ["192.0.2.0/24", "198.51.100.0/24"]
    found = table(node_port(externalIPs=["198.51.100.1"]), node_port_addresses=networks)
    assert "198.51.100.1" in found.addresses
    assert [each.service for each in found.services if each.service.endswith(":30080")] == ["tcp 192.0.2.2:30080"]


def no_node_port_for_a_load_balancer() -> None:
    """The API server chooses one for kube-proxy."""
    found = table(balanced("198.51.100.1"))
    assert {each.service for each in found.services} == {"tcp 10.96.0.10:80", "tcp 198.51.100.1:80"}


def health_checks_are_not_let_in() -> None:
    """kube-proxy has a rule with set KUBE-HEALTH-CHECK-NODE-PORT."""
    local = balanced("198.51.100.1", externalTrafficPolicy="Local", healthCheckNodePort=30090)
    found = table(local)
    assert found.sets[HEALTH_CHECK_PORT][IPV4] == ((30090,),)
    assert "30090" not in str(nat_of(found, parse_node(NODE), IPV4))


def health_checks_everywhere() -> None:
    """kube-proxy listens at addresses that have node ports; ours are ports without addresses."""
    local = balanced("198.51.100.1", externalTrafficPolicy="Local", healthCheckNodePort=30090)
    chosen = table(local, node_port_addresses=["192.0.2.0/24"]).health_checks
    assert chosen == table(local).health_checks == (("default/web", IPV4, 30090, 0),)


def an_address_of_another_node() -> None:
    """kube-proxy takes it as its own."""
    found = table(service(externalIPs=["192.0.2.3"]), members=["192.0.2.3"])
    assert (found.addresses, len(found.services)) == (("10.96.0.10",), 2)


def a_cluster_ip_that_is_there() -> None:
    """kube-proxy asks for other devices' addresses with external IPs and load balancers only."""
    found = table(service(clusterIP="192.0.2.2"))
    assert (found.addresses, len(found.services)) == ((), 1)


def load_balancers_nobody_can_reach() -> None:
    for address in ("127.0.0.1", "224.0.0.1", "0.0.0.0", "::1", "ff02::1"):
        with pytest.raises(SpecError, match=r"ingress\[0\]\.ip: must not be unspecified, loopback, multicast"):
            table(balanced(address))


def slices_of_any_size() -> None:
    """The API server takes 1000 endpoints, and 8 hints for each."""
    many = [endpoint(f"10.244.{index // 250}.{index % 250 + 1}") for index in range(1001)]
    assert len(table(service(), endpoint_slice(*many)).servers) == 1001
    zones = [f"zone-{letter}" for letter in "abcdefghi"]
    assert len(table(service(), endpoint_slice(endpoint("10.244.1.5", zones=zones))).servers) == 1


DIFFERENCES: dict[str, Callable[[], None]] = {
    "two services that want one address and port": two_services_at_one_address,
    "an endpoint that is in several slices": an_endpoint_in_two_slices,
    "node ports are never at addresses of the dummy device": no_node_ports_on_the_dummy,
    "a node port of type `LoadBalancer` may be left out": no_node_port_for_a_load_balancer,
    "no rule lets packets to health check ports in": health_checks_are_not_let_in,
    "health check ports are at all addresses of the node": health_checks_everywhere,
    "an address that another node has": an_address_of_another_node,
    "a cluster IP that another device of the node has": a_cluster_ip_that_is_there,
    "addresses of load balancers must not be": load_balancers_nobody_can_reach,
    "limits of the API server on the size of slices": slices_of_any_size,
}


@pytest.mark.parametrize("words", DIFFERENCES)
def test_difference(words: str) -> None:
    DIFFERENCES[words]()


def test_all_differences_are_on_the_page_and_no_other_ones() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Differences from kube-proxy")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!here|---)(.+?) \|", section, re.MULTILINE)
    assert len(rows) == len(DIFFERENCES)
    assert all(row.startswith(words) for row, words in zip(rows, DIFFERENCES, strict=True))
