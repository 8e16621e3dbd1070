# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A Service of Kubernetes: its addresses, its ports and its policies, with the defaults and by the rules of the API
server (pkg/apis/core/{v1/defaults.go,validation/validation.go}), for what kube-proxy looks at.

Nobody is there to choose addresses and ports: a Service has its cluster IP, and its node ports where it needs them.
"""

from __future__ import annotations

import dataclasses
from typing import Dict, List, NamedTuple, Optional, Tuple

from ..errors import SpecError
from ..ip_version import IpVersion, version_of
from ..parse import Section, unique
from .addresses import endpoint_address, service_address, source_range
from .documents import KubernetesObject, dns_label

PROTOCOLS = ("TCP", "UDP", "SCTP")
CLUSTER_IP, NODE_PORT, LOAD_BALANCER, EXTERNAL_NAME = "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"
TYPES = (CLUSTER_IP, NODE_PORT, LOAD_BALANCER, EXTERNAL_NAME)
CLUSTER, LOCAL = "Cluster", "Local"
POLICIES = (CLUSTER, LOCAL)
NONE = "None"
FAMILIES = {"IPv4": 4, "IPv6": 6}
FAMILY_POLICIES = ("SingleStack", "PreferDualStack", "RequireDualStack")
VIP, PROXY = "VIP", "Proxy"
HIGHEST_PORT = 65535
# Three hours and a day: k8s.io/api/core/v1 DefaultClientIPServiceAffinitySeconds, MaxClientIPServiceAffinitySeconds.
AFFINITY_TIMEOUT, LONGEST_AFFINITY = 10800, 86400
# Who has this label is served by somebody else than kube-proxy, whatever its value.
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"


class ServicePort(NamedTuple):
    """``node_port`` is 0 when nodes have no port for it."""

    path: str
    name: str
    protocol: str
    port: int
    node_port: int

    @property
    def target(self) -> Tuple[str, str]:
        """What ports of EndpointSlices must be alike in to belong to this one."""
        return self.name, self.protocol


@dataclasses.dataclass(frozen=True)
class Service:
    """``cluster_ips`` maps the path to the address. ``affinity`` is for how many seconds a client keeps its endpoint, 0
    for no affinity. ``ingress`` are the addresses of a load balancer that leaves the destination address of packets as
    it is (ipMode VIP). ``source_ranges`` is empty when everybody may come."""

    path: str
    namespace: str
    name: str
    cluster_ips: Dict[str, str]
    ports: Tuple[ServicePort, ...]
    external_ips: Tuple[str, ...] = ()
    ingress: Tuple[str, ...] = ()
    source_ranges: Tuple[str, ...] = ()
    affinity: int = 0
    internal_local: bool = False
    external_local: bool = False
    health_check_port: int = 0

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    def cluster_ip(self, version: IpVersion) -> str:
        return next((each for each in self.cluster_ips.values() if version_of(each) is version), "")


def service_or_reason(one: KubernetesObject) -> Tuple[Optional[Service], str]:
    """The service, or why kube-proxy programs nothing for it."""
    spec = one.section.section("spec")
    kind = spec.text("type", CLUSTER_IP, TYPES)
    if PROXY_NAME_LABEL in one.labels.data:
        return None, f"label {PROXY_NAME_LABEL} leaves it to another proxy"
    if kind == EXTERNAL_NAME:
        return None, "type ExternalName: it is only a name in DNS"
    if _is_headless(spec):
        if kind != CLUSTER_IP:
            raise SpecError(spec.at("clusterIP"), f"must not be None with type {kind}")
        return None, "headless: clients find its endpoints by DNS"
    return _service(one, spec, kind), ""


def _service(one: KubernetesObject, spec: Section, kind: str) -> Service:
    cluster_ips = _cluster_ips(spec)
    external_ips = tuple(endpoint_address(each, path) for path, each in spec.entries("externalIPs", ()).items())
    external_local = _external_local(spec, kind != CLUSTER_IP or bool(external_ips))
    return Service(
        path=one.section.path,
        namespace=one.namespace,
        name=one.name,
        cluster_ips=cluster_ips,
        ports=_ports(spec, kind),
        external_ips=external_ips,
        ingress=_ingress(one.section, kind),
        source_ranges=_source_ranges(spec, kind),
        affinity=_affinity(spec),
        internal_local=spec.text("internalTrafficPolicy", CLUSTER, POLICIES) == LOCAL,
        external_local=external_local,
        health_check_port=_health_check_port(spec, kind == LOAD_BALANCER and external_local),
    )


def _is_headless(spec: Section) -> bool:
    addresses = spec.list("clusterIPs", ())
    if NONE in addresses and len(addresses) > 1:
        raise SpecError(spec.at("clusterIPs"), "None must be the only value")
    return spec.text("clusterIP", addresses[0] if addresses else "") == NONE


def _cluster_ips(spec: Section) -> Dict[str, str]:
    given = spec.entries("clusterIPs", ())
    first = spec.text("clusterIP", "")
    if not first and not given:
        problem = "is required: no API server is there to choose one; take a free one of the service network, or None"
        raise SpecError(spec.at("clusterIP"), problem)
    found = {path: service_address(each, path) for path, each in (given or {spec.at("clusterIP"): first}).items()}
    addresses = list(found.values())
    if first and service_address(first, spec.at("clusterIP")) != addresses[0]:
        raise SpecError(spec.at("clusterIPs[0]"), f"must be the same as clusterIP, {first}")
    if len({version_of(each) for each in addresses}) != len(addresses):
        raise SpecError(spec.at("clusterIPs"), "must not have two addresses of one IP version")
    _check_families(spec, addresses)
    return found


def _check_families(spec: Section, addresses: List[str]) -> None:
    families = spec.entries("ipFamilies", ())
    for (path, family), position in zip(families.items(), range(len(families))):
        if not isinstance(family, str) or family not in FAMILIES:
            raise SpecError(path, f"must be one of {', '.join(FAMILIES)}, not {family!r}")
        if position < len(addresses) and version_of(addresses[position]).number != FAMILIES[family]:
            raise SpecError(path, f"cluster IP {addresses[position]} is no {family} address")
    unique(families, "family")
    if spec.text("ipFamilyPolicy", "", FAMILY_POLICIES) == "RequireDualStack" and len(addresses) != 2:
        problem = "must have an IPv4 and an IPv6 address with ipFamilyPolicy RequireDualStack"
        raise SpecError(spec.at("clusterIPs"), problem)


def _ports(spec: Section, kind: str) -> Tuple[ServicePort, ...]:
    sections = spec.sections("ports", ())
    if not sections:
        raise SpecError(spec.at("ports"), "is required: a service without a port serves nothing")
    ports = tuple(_port(section, kind, len(sections) > 1) for section in sections)
    unique({f"{each.path}.name": repr(each.name) for each in ports}, "port name")
    unique({f"{each.path}.port": f"{each.port}/{each.protocol}" for each in ports}, "port")
    given = {f"{each.path}.nodePort": f"{each.node_port}/{each.protocol}" for each in ports if each.node_port}
    unique(given, "node port")
    return ports


def _port(section: Section, kind: str, named: bool) -> ServicePort:
    name = dns_label(section, "name")
    if named and not name:
        raise SpecError(section.at("name"), "is required when a service has several ports")
    number = section.integer("port", 1, HIGHEST_PORT)
    node_port = section.integer("nodePort", 1, HIGHEST_PORT, 0)
    if node_port and kind == CLUSTER_IP:
        raise SpecError(section.at("nodePort"), "must not be set with type ClusterIP")
    if not node_port and kind == NODE_PORT:
        raise SpecError(section.at("nodePort"), "is required with type NodePort: no API server is there to choose one")
    return ServicePort(section.path, name, section.text("protocol", "TCP", PROTOCOLS), number, node_port)


def _external_local(spec: Section, accessible: bool) -> bool:
    policy = spec.text("externalTrafficPolicy", "", POLICIES)
    if policy and not accessible:
        problem = "may only be set with type NodePort or LoadBalancer, or with externalIPs"
        raise SpecError(spec.at("externalTrafficPolicy"), problem)
    return policy == LOCAL


def _health_check_port(spec: Section, needed: bool) -> int:
    port = spec.integer("healthCheckNodePort", 1, HIGHEST_PORT, 0)
    if port and not needed:
        problem = "may only be set with type LoadBalancer and externalTrafficPolicy Local"
        raise SpecError(spec.at("healthCheckNodePort"), problem)
    return port


def _affinity(spec: Section) -> int:
    if spec.text("sessionAffinity", NONE, (NONE, "ClientIP")) == NONE:
        return 0
    client = spec.section("sessionAffinityConfig", {}).section("clientIP", {})
    return client.integer("timeoutSeconds", 1, LONGEST_AFFINITY, AFFINITY_TIMEOUT)


def _source_ranges(spec: Section, kind: str) -> Tuple[str, ...]:
    ranges = tuple(source_range(each, path) for path, each in spec.entries("loadBalancerSourceRanges", ()).items())
    if ranges and kind != LOAD_BALANCER:
        raise SpecError(spec.at("loadBalancerSourceRanges"), "may only be set with type LoadBalancer")
    return ranges


def _ingress(section: Section, kind: str) -> Tuple[str, ...]:
    points = section.section("status", {}).section("loadBalancer", {}).sections("ingress", ())
    if points and kind != LOAD_BALANCER:
        raise SpecError(points[0].path, "may only be there with type LoadBalancer")
    return tuple(filter(None, map(_ingress_address, points)))


def _ingress_address(point: Section) -> str:
    """Empty for a load balancer that packets come from with the address of a node or an endpoint as destination."""
    value = point.text("ip", "")
    mode = point.text("ipMode", VIP if value else "", (VIP, PROXY))
    if mode and not value:
        raise SpecError(point.at("ipMode"), "may only be set together with ip")
    return service_address(value, point.at("ip")) if mode == VIP else ""
