# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Service and EndpointSlice objects: what is read from them, what is skipped, and what is refused by its path."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, IPV6
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kubernetes.endpoint_slice import Endpoint
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kubernetes.manifests import (
    Manifests,
    of_list,
    read_manifests,
)
from tests.manifests import DRAINING, balanced, endpoint, endpoint_slice, node_port, service


def read(*documents: Any) -> Manifests:
    return read_manifests(of_list(documents))


def refused(*documents: Any) -> str:
    with pytest.raises(SpecError) as caught:
        read(*documents)
    return str(caught.value)


def test_defaults_are_those_of_the_api_server() -> None:
    (found,) = read(service()).services
    assert (found.full_name, found.affinity, found.internal_local, found.external_local) == (
        "default/web",
        0,
        False,
        False,
    )
    assert found.ports[0][1:] == ("", "TCP", 80, 0)
    (endpoints,) = read(service(), endpoint_slice(endpoint("10.244.1.5"))).slices
    assert endpoints.ports[0][1:] == ("", "TCP", 8080)
    assert endpoints.endpoints == (Endpoint("10.244.1.5", "", True, True, False),)


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        (None, 10800),
        ({}, 10800),
        ({"clientIP": None}, 10800),
        ({"clientIP": {"timeoutSeconds": 1}}, 1),
        ({"clientIP": {"timeoutSeconds": 86400}}, 86400),
    ],
)
def test_affinity_lasts_three_hours_unless_told(config: Any, seconds: int) -> None:
    (found,) = read(service(sessionAffinity="ClientIP", sessionAffinityConfig=config)).services
    assert found.affinity == seconds


def test_a_time_out_without_affinity_says_nothing() -> None:
    config = {"clientIP": {"timeoutSeconds": 5}}
    assert read(service(sessionAffinity="None", sessionAffinityConfig=config)).services[0].affinity == 0


@pytest.mark.parametrize(
    "addresses",
    [
        {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00:96::a"]},
        {"clusterIP": None, "clusterIPs": ["fd00:96:0::A", "10.96.0.10"]},
        {"clusterIPs": ["10.96.0.10", "fd00:96::a"], "ipFamilies": ["IPv4", "IPv6"]},
    ],
)
def test_cluster_ips_of_both_versions(addresses: Any) -> None:
    (found,) = read(service(**addresses)).services
    assert (found.cluster_ip(IPV4), found.cluster_ip(IPV6)) == ("10.96.0.10", "fd00:96::a")


def test_only_the_cluster_ip_is_one_of_one_version() -> None:
    (found,) = read(service(clusterIP="fd00:96::a", ipFamilies=["IPv6"], ipFamilyPolicy="PreferDualStack")).services
    assert (found.cluster_ip(IPV4), found.cluster_ip(IPV6)) == ("", "fd00:96::a")


def test_load_balancers_that_change_the_destination_are_left_out() -> None:
    points = [
        {"ip": "198.51.100.1"},
        {"ip": "198.51.100.2", "ipMode": "VIP"},
        {"ip": "198.51.100.3", "ipMode": "Proxy"},
        {"hostname": "lb.example"},
        {"ip": ""},
        {"ip": "169.254.7.7"},
    ]
    (found,) = read(service(type="LoadBalancer", status={"loadBalancer": {"ingress": points}})).services
    assert found.ingress == ("198.51.100.1", "198.51.100.2", "169.254.7.7")


def test_source_ranges_may_have_spaces_around_them() -> None:
    (found,) = read(balanced("198.51.100.1", loadBalancerSourceRanges=[" 10.0.0.0/8 ", "2001:DB8::/32"])).services
    assert found.source_ranges == ("10.0.0.0/8", "2001:db8::/32")


def test_fields_that_say_nothing_about_traffic_are_not_looked_at() -> None:
    spec = {
        "selector": {"app": "web"},
        "trafficDistribution": "PreferClose",
        "colour": "red",
        "externalName": "x.example",
    }
    assert len(read(service(**spec)).services) == 1
    odd = endpoint("10.244.1.5") | {
        "targetRef": {"kind": "Pod"},
        "zone": "zone-a",
        "deprecatedTopology": {},
        "hostname": "a",
    }
    assert len(read(service(), endpoint_slice(odd)).slices[0].endpoints) == 1


def test_empty_documents_say_nothing() -> None:
    assert read(None, service(), None).services[0].path == "services[1]"


def test_lists_are_taken_apart() -> None:
    bare = {key: value for key, value in service("inner").items() if key not in ("kind", "apiVersion")}
    bare["spec"]["clusterIP"] = "10.96.0.11"
    found = read(
        {"apiVersion": "v1", "kind": "List", "items": [service(), {"kind": "ServiceList", "items": [bare]}]},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "items": [endpoint_slice()]},
    )
    assert [each.path for each in found.services] == ["services[0].items[1].items[0]", "services[0].items[0]"]
    assert [each.path for each in found.slices] == ["services[1].items[0]"]
    assert read({"kind": "List", "items": []}, {"kind": "ServiceList", "items": None}) == Manifests((), (), ())


def test_names_give_the_order() -> None:
    objects = [service("b"), service("a", clusterIP="10.96.0.11"), endpoint_slice(of="b"), endpoint_slice(of="a")]
    one, other = read(*objects), read(*reversed(objects))
    assert [each.name for each in one.services] == [each.name for each in other.services] == ["a", "b"]
    assert [each.name for each in one.slices] == [each.name for each in other.slices] == ["a-a", "b-a"]


def _other(kind: str, version: str = "v1") -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": "ns"}}


@pytest.mark.parametrize(
    ("document", "skipped", "reason"),
    [
        (_other("Pod"), "Pod ns/x", "neither a Service nor an EndpointSlice"),
        (_other("PodList"), "PodList ns/x", "neither"),
        ({"kind": "ConfigMap"}, "ConfigMap services[0]", "neither"),
        ({"kind": "ConfigMap", "metadata": 7}, "ConfigMap services[0]", "neither"),
        (_other("Service", "serving.knative.dev/v1"), "Service ns/x", "of serving.knative.dev/v1"),
        (_other("Endpoints"), "Endpoints ns/x", "from EndpointSlices only"),
        (service(clusterIP="None"), "Service default/web", "headless"),
        (service(clusterIP=None, clusterIPs=["None"]), "Service default/web", "headless"),
        (service(type="ExternalName", externalName="x.example", clusterIP=None), "Service default/web", "ExternalName"),
        (
            service(labels={"service.kubernetes.io/service-proxy-name": ""}, clusterIP="x"),
            "Service default/web",
            "another proxy",
        ),
        (
            endpoint_slice(labels={"service.kubernetes.io/headless": ""}),
            "EndpointSlice default/web-a",
            "label service.kubernetes.io/headless",
        ),
        (
            endpoint_slice(labels={"kubernetes.io/service-name": ""}),
            "EndpointSlice default/web-a",
            "no label kubernetes.io/service-name",
        ),
        (
            endpoint_slice({"addresses": ["web.example"]}, addressType="FQDN"),
            "EndpointSlice default/web-a",
            "FQDN",
        ),
        (endpoint_slice(), "EndpointSlice default/web-a", "there is no Service default/web"),
    ],
)
def test_what_is_skipped_has_a_reason(document: Any, skipped: str, reason: str) -> None:
    found = read(document)
    assert (found.services, [each.object for each in found.skipped]) == ((), [skipped])
    assert reason in found.skipped[0].reason


@pytest.mark.parametrize(
    ("made", "skipped", "reason"),
    [
        (
            endpoint_slice(addressType="IPv6", endpoints=[]),
            "EndpointSlice default/web-a",
            "Service default/web has no IPv6 address",
        ),
        (
            endpoint_slice(ports=[{"name": "http", "port": 8080}]),
            "port 'http' of EndpointSlice default/web-a",
            "Service default/web has no TCP port of this name but '' (TCP)",
        ),
        (
            endpoint_slice(ports=[{"port": 8080, "protocol": "UDP"}]),
            "port '' of EndpointSlice default/web-a",
            "Service default/web has no UDP port of this name but '' (TCP)",
        ),
        (endpoint_slice(ports=[{"port": None}]), "port '' of EndpointSlice default/web-a", "it has no number"),
    ],
)
def test_endpoints_that_nobody_asks_for_are_told(made: Any, skipped: str, reason: str) -> None:
    found = read(service(), made)
    assert found.skipped == ((skipped, reason),)


def test_slices_of_a_headless_service_are_not_told_apart() -> None:
    assert len(read(service(clusterIP="None"), endpoint_slice(endpoint("10.244.1.5"))).skipped) == 1


TWO = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("x", "services[0]: must be a mapping"),
        ({"apiVersion": "v1"}, "services[0].kind: is required"),
        ({"kind": "List", "items": {}}, "services[0].items: must be a list"),
        ({"kind": "List", "items": [7]}, "services[0].items[0]: must be a mapping"),
        (_other("EndpointSlice", "discovery.k8s.io/v1beta1"), "services[0].apiVersion: must be discovery.k8s.io/v1"),
        (_other("Service", "v2"), "services[0].apiVersion: must be v1"),
        ({"kind": "Service"}, "services[0].metadata: is required"),
        ({"kind": "Service", "metadata": {"generateName": "x-"}}, "services[0].metadata.name: is required"),
        (service("Web"), "services[0].metadata.name: must be a lower-case RFC 1123 label"),
        (service() | {"spec": None}, "services[0].spec: is required (of Service default/web)"),
        (service(clusterIP=None), "services[0].spec.clusterIP: is required: no API server"),
        (service(clusterIP=""), "services[0].spec.clusterIP: is required: no API server"),
        (service(clusterIP="10.96.0"), "services[0].spec.clusterIP: must be an IP address, not '10.96.0'"),
        (service(clusterIP="010.96.0.1"), "services[0].spec.clusterIP: must be an IP address"),
        (service(clusterIP="127.0.0.1"), "services[0].spec.clusterIP: must not be unspecified, loopback"),
        (service(clusterIPs=["10.96.0.11"]), "services[0].spec.clusterIPs[0]: must be the same as clusterIP"),
        (
            service(clusterIPs=["10.96.0.10", "10.96.0.11"]),
            "services[0].spec.clusterIPs: must not have two addresses of one IP version",
        ),
        (service(clusterIPs=["None", "10.96.0.10"]), "services[0].spec.clusterIPs: None must be the only value"),
        (service(type="NodePort", clusterIP="None"), "services[0].spec.clusterIP: must not be None with type NodePort"),
        (service(ipFamilies=["IPv6"]), "services[0].spec.ipFamilies[0]: cluster IP 10.96.0.10 is no IPv6 address"),
        (service(ipFamilies=["IPv4", "IPv4"]), "services[0].spec.ipFamilies[1]: family IPv4 is also that of"),
        (service(ipFamilies=["ipv4"]), "services[0].spec.ipFamilies[0]: must be one of IPv4, IPv6"),
        (service(ipFamilyPolicy="RequireDualStack"), "services[0].spec.clusterIPs: must have an IPv4 and an IPv6"),
        (service(type="clusterIP"), "services[0].spec.type: must be one of ClusterIP"),
        (service(ports=[]), "services[0].spec.ports: is required"),
        (service(ports=[{"port": 0}]), "services[0].spec.ports[0].port: must be 1 to 65535, not 0"),
        (service(ports=[{"port": "80"}]), "services[0].spec.ports[0].port: must be a whole number"),
        (service(ports=[{}]), "services[0].spec.ports[0].port: is required"),
        (service(ports=[{"port": 80, "protocol": "tcp"}]), "services[0].spec.ports[0].protocol: must be one of TCP"),
        (service(ports=[{"port": 80, "name": "Http"}]), "services[0].spec.ports[0].name: must be a lower-case"),
        (service(ports=[TWO[0], {"port": 81}]), "services[0].spec.ports[1].name: is required when a service has"),
        (service(ports=[TWO[0], {"port": 81, "name": "a"}]), "services[0].spec.ports[1].name: port name 'a' is also"),
        (service(ports=[TWO[0], {"port": 80, "name": "b"}]), "services[0].spec.ports[1].port: port 80/TCP is also"),
        (service(ports=[{"port": 80, "nodePort": 30080}]), "services[0].spec.ports[0].nodePort: must not be set with"),
        (service(type="NodePort"), "services[0].spec.ports[0].nodePort: is required with type NodePort"),
        (node_port(65536), "services[0].spec.ports[0].nodePort: must be 1 to 65535, not 65536"),
        (
            service(type="NodePort", ports=[{**each, "nodePort": 30080} for each in TWO]),
            "services[0].spec.ports[1].nodePort: node port 30080/TCP is also that of services[0].spec.ports[0]",
        ),
        (service(externalIPs=["198.51.100.1", "x"]), "services[0].spec.externalIPs[1]: must be an IP address"),
        (service(externalIPs=["169.254.1.1"]), "services[0].spec.externalIPs[0]: must not be link-local"),
        (service(externalIPs=["fe80::1"]), "services[0].spec.externalIPs[0]: must not be link-local"),
        (service(externalIPs=["::ffff:198.51.100.1"]), "services[0].spec.externalIPs[0]: must not be an IPv4 address"),
        (
            service(externalIPs=["224.0.0.5"]),
            "services[0].spec.externalIPs[0]: must not be unspecified, loopback, multi",
        ),
        (service(externalTrafficPolicy="Local"), "services[0].spec.externalTrafficPolicy: may only be set with"),
        (
            node_port(externalTrafficPolicy="local"),
            "services[0].spec.externalTrafficPolicy: must be one of Cluster, Local",
        ),
        (
            service(internalTrafficPolicy="local"),
            "services[0].spec.internalTrafficPolicy: must be one of Cluster, Local",
        ),
        (service(sessionAffinity="clientIP"), "services[0].spec.sessionAffinity: must be one of None, ClientIP"),
        *(
            (
                service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": seconds}}),
                "services[0].spec.sessionAffinityConfig.clientIP.timeoutSeconds: must be 1 to 86400",
            )
            for seconds in (0, 86401)
        ),
        (node_port(healthCheckNodePort=30081), "services[0].spec.healthCheckNodePort: may only be set with type Load"),
        (balanced(healthCheckNodePort=30081), "services[0].spec.healthCheckNodePort: may only be set with type Load"),
        (node_port(loadBalancerSourceRanges=["10.0.0.0/8"]), "services[0].spec.loadBalancerSourceRanges: may only be"),
        (
            balanced(loadBalancerSourceRanges=["10.0.0.1/8"]),
            "services[0].spec.loadBalancerSourceRanges[0]: 10.0.0.1/8 has",
        ),
        (
            balanced(loadBalancerSourceRanges=["10.0.0.0"]),
            "services[0].spec.loadBalancerSourceRanges[0]: must be a netw",
        ),
        (balanced("198.51.100.300"), "services[0].status.loadBalancer.ingress[0].ip: must be an IP address"),
        (
            balanced("198.51.100.3") | {"spec": node_port()["spec"]},
            "services[0].status.loadBalancer.ingress[0]: may only be there with type LoadBalancer",
        ),
        (
            service(type="LoadBalancer", status={"loadBalancer": {"ingress": [{"hostname": "x", "ipMode": "VIP"}]}}),
            "services[0].status.loadBalancer.ingress[0].ipMode: may only be set together with ip",
        ),
        (
            service(type="LoadBalancer", status={"loadBalancer": {"ingress": [{"ip": "198.51.100.3", "ipMode": "x"}]}}),
            "services[0].status.loadBalancer.ingress[0].ipMode: must be one of VIP, Proxy",
        ),
        (endpoint_slice(addressType="ipv4"), "services[0].addressType: must be one of IPv4, IPv6, FQDN"),
        (endpoint_slice(addressType=None), "services[0].addressType: is required (of EndpointSlice default/web-a)"),
        (endpoint_slice(ports=[{"port": 70000}]), "services[0].ports[0].port: must be 1 to 65535"),
        (endpoint_slice(ports=[{"port": 1}, {"port": 2}]), "services[0].ports[1].name: port name '' is also that of"),
        (endpoint_slice({"addresses": []}), "services[0].endpoints[0].addresses: must have at least one address"),
        (endpoint_slice({}), "services[0].endpoints[0].addresses: is required"),
        (endpoint_slice(7), "services[0].endpoints[0]: must be a mapping"),  # type: ignore[arg-type]
        (endpoint_slice(endpoint("fd00::1")), "services[0].endpoints[0].addresses[0]: must be an IPv4 address"),
        (
            endpoint_slice(endpoint("10.244.1.5"), addressType="IPv6"),
            "services[0].endpoints[0].addresses[0]: must be an IPv6 address, not '10.244.1.5'",
        ),
        (endpoint_slice(endpoint("169.254.0.1")), "services[0].endpoints[0].addresses[0]: must not be link-local"),
        (endpoint_slice(endpoint("10.244.1.5", "N1")), "services[0].endpoints[0].nodeName: must be the name of a node"),
        (
            endpoint_slice(endpoint("10.244.1.5", conditions={"ready": "yes"})),
            "services[0].endpoints[0].conditions.ready: must be true or false",
        ),
        (
            endpoint_slice(endpoint("10.244.1.5") | {"hints": {"forZones": ["zone-a"]}}),
            "services[0].endpoints[0].hints.forZones[0]: must be a mapping",
        ),
        (
            endpoint_slice(endpoint("10.244.1.5", nodes=["N1"])),
            "services[0].endpoints[0].hints.forNodes[0].name: must be the name of a node",
        ),
    ],
)
def test_mistakes_are_named_by_their_path(document: Any, message: str) -> None:
    assert refused(document).startswith(message)


def test_conditions_may_be_unknown() -> None:
    unknown = {"ready": None, "serving": None, "terminating": None}
    made = endpoint_slice(
        endpoint("10.244.1.5", conditions=unknown),
        endpoint("10.244.1.6", conditions={}),
        endpoint("10.244.1.7", conditions=DRAINING),
    )
    one, two, three = read(service(), made).slices[0].endpoints
    assert one[2:5] == two[2:5] == (True, True, False)
    assert three[2:5] == (False, True, True)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ((service(), service()), "services[1]: Service default/web is also declared by services[0]"),
        (
            (endpoint_slice(), endpoint_slice()),
            "services[1]: EndpointSlice default/web-a is also declared by services[0]",
        ),
        (
            (service("a"), service("b")),
            "services[1].spec.clusterIP: cluster IP 10.96.0.10 is also that of services[0].spec.clusterIP",
        ),
        (
            (node_port(), service("b", clusterIP="10.96.0.11") | {"metadata": {"name": "b", "namespace": "ns"}}),
            "",
        ),
        (
            (
                service("a", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]),
                service(
                    "b",
                    clusterIP="10.96.0.11",
                    type="NodePort",
                    ports=[{"port": 1, "nodePort": 30080, "protocol": "UDP"}],
                ),
            ),
            "services[1].spec.ports[0].nodePort: node port 30080 is also that of services[0].spec.ports[0].nodePort",
        ),
        (
            (
                service("a", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]),
                service(
                    "b",
                    clusterIP="10.96.0.11",
                    type="LoadBalancer",
                    externalTrafficPolicy="Local",
                    healthCheckNodePort=30080,
                ),
            ),
            "services[1].spec.healthCheckNodePort: node port 30080 is also that of services[0].spec.ports[0].nodePort",
        ),
        (
            (
                service(
                    type="LoadBalancer",
                    externalTrafficPolicy="Local",
                    healthCheckNodePort=30080,
                    ports=[{"port": 80, "nodePort": 30080}],
                ),
            ),
            "services[0].spec.healthCheckNodePort: node port 30080 is also that of services[0].spec.ports[0].nodePort",
        ),
    ],
)
def test_what_there_is_only_once(documents: Any, message: str) -> None:
    if message:
        assert refused(*documents).startswith(message)
    else:
        assert len(read(*documents).services) == 2


def test_one_number_for_two_protocols_of_a_service() -> None:
    ports = [{"name": name, "port": 53, "nodePort": 30053, "protocol": name.upper()} for name in ("udp", "tcp", "sctp")]
    (found,) = read(service(type="NodePort", ports=ports)).services
    assert [port.node_port for port in found.ports] == [30053, 30053, 30053]


def test_names_of_one_kind_may_be_those_of_another_kind_or_namespace() -> None:
    elsewhere = service(clusterIP="10.96.0.11")
    elsewhere["metadata"]["namespace"] = "other"
    same = endpoint_slice()
    same["metadata"]["name"] = "web"
    found = read(service(), elsewhere, same)
    assert [each.full_name for each in found.services] == ["default/web", "other/web"]
    assert [each.name for each in found.slices] == ["web"]
