# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Services that chance would not find, and the addresses of cases."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A service and what belongs to it."""

    name: str
    objects: tuple[Object, ...]


@dataclasses.dataclass(frozen=True)
class Places:
    """Addresses and node ports of the case with a number from 1 to 255."""

    number: int

    def cluster(self, family: str) -> str:
        return f"10.96.{self.number}.1" if family == "IPv4" else f"fd00:10:96::{self.number:x}"

    def pod(self, family: str, index: int) -> str:
        return f"10.244.{self.number}.{index}" if family == "IPv4" else f"fd00:10:244:{self.number:x}::{index:x}"

    def external(self, wanted: str) -> str:
        """External address such as IPv4-1."""
        family, _, index = wanted.partition("-")
        return f"198.18.{self.number}.{index}" if family == "IPv4" else f"2001:db8:e:{self.number:x}::{index}"

    def ingress(self, wanted: str) -> str:
        """Address of a load balancer such as IPv4-1."""
        family, _, index = wanted.partition("-")
        return f"198.19.{self.number}.{index}" if family == "IPv4" else f"2001:db8:f:{self.number:x}::{index}"

    def node_port(self, index: int) -> int:
        """``index`` from 0 to 9."""
        return 30000 + 10 * self.number + index


Maker = Callable[[Places], tuple[Object, ...]]


def service(name: str, ports: list[Object], labels: Object | None = None, **spec: Any) -> Object:
    metadata: Object = {"name": name, "namespace": "default", **({"labels": labels} if labels else {})}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {**spec, "ports": ports}}


def endpoint_slice(
    owner: str, suffix: str, family: str, endpoints: list[Object], ports: list[Object], labels: Object | None = None
) -> Object:
    labels = {"kubernetes.io/service-name": owner, **(labels or {})}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{owner}-{suffix}", "namespace": "default", "labels": labels},
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    }


def _pods(at: Places, *nodes: str, family: str = "IPv4", **more: Any) -> list[Object]:
    """A ready endpoint on each node."""
    return [{"addresses": [at.pod(family, index)], "nodeName": node, **more} for index, node in enumerate(nodes, 1)]


def _simple(
    name: str, at: Places, endpoints: Iterable[Object] | None = None, labels: Object | None = None, **spec: Any
) -> tuple[Object, ...]:
    """TCP port 80 over IPv4, with an endpoint here and one elsewhere unless told."""
    given = _pods(at, "n1", "n2") if endpoints is None else list(endpoints)
    spec = {"clusterIP": at.cluster("IPv4"), **spec}
    ports = [{"port": 80, **({"nodePort": at.node_port(0)} if spec.get("type") == "NodePort" else {})}]
    return service(name, ports, labels, **spec), endpoint_slice(name, "a", "IPv4", given, [{"port": 8080}])


def _balanced(name: str, at: Places, ingress: list[Object], **spec: Any) -> tuple[Object, ...]:
    own, *slices = _simple(name, at, type="LoadBalancer", allocateLoadBalancerNodePorts=False, **spec)
    return {**own, "status": {"loadBalancer": {"ingress": ingress}}}, *slices


def _other_proxy(at: Places) -> tuple[Object, ...]:
    return _simple("other-proxy", at, labels={"service.kubernetes.io/service-proxy-name": "other"})


def _empty_proxy_label(at: Places) -> tuple[Object, ...]:
    return _simple("empty-proxy-label", at, labels={"service.kubernetes.io/service-proxy-name": ""})


def _headless_slice(at: Places) -> tuple[Object, ...]:
    """The slice is not for proxies, although its service is."""
    own, made = _simple("headless-slice", at)
    made["metadata"]["labels"]["service.kubernetes.io/headless"] = ""
    return own, made


def _reused_address(at: Places) -> tuple[Object, ...]:
    """The address of a pod that ends belongs to a new one already: the new one counts."""
    own, _ = _simple("reused-address", at)
    ended = {"ready": False, "serving": True, "terminating": True}
    old = [{"addresses": [at.pod("IPv4", 1)], "nodeName": "n2", "conditions": ended}]
    new = [{"addresses": [at.pod("IPv4", 1)], "nodeName": "n1", "conditions": {"ready": True}}]
    ports = [{"port": 8080}]
    return (
        own,
        endpoint_slice("reused-address", "a", "IPv4", old, ports),
        endpoint_slice("reused-address", "b", "IPv4", new, ports),
    )


def _several_addresses(at: Places) -> tuple[Object, ...]:
    """Of an endpoint's addresses the first one counts."""
    addresses = [at.pod("IPv4", 1), at.pod("IPv4", 2)]
    return _simple("several-addresses", at, [{"addresses": addresses, "nodeName": "n1"}])


def _names(at: Places) -> tuple[Object, ...]:
    """A slice of names is for no proxy."""
    own, _ = _simple("names", at)
    return own, endpoint_slice("names", "a", "FQDN", [{"addresses": ["pod.example"]}], [{"port": 8080}])


def _all_ports(at: Places) -> tuple[Object, ...]:
    """A slice without port number, which stands for all of them."""
    own, _ = _simple("all-ports", at)
    return own, endpoint_slice("all-ports", "a", "IPv4", _pods(at, "n1"), [{"name": "", "protocol": "TCP"}])


def _other_protocol(at: Places) -> tuple[Object, ...]:
    own, _ = _simple("other-protocol", at)
    ports = [{"port": 8080, "protocol": "UDP"}]
    return own, endpoint_slice("other-protocol", "a", "IPv4", _pods(at, "n1"), ports)


def _named_otherwise(at: Places) -> tuple[Object, ...]:
    own, _ = _simple("named-otherwise", at)
    ports = [{"name": "http", "port": 8080}]
    return own, endpoint_slice("named-otherwise", "a", "IPv4", _pods(at, "n1"), ports)


def _port_of_slices(at: Places) -> tuple[Object, ...]:
    """A named target port is another number in each slice."""
    own = service("port-of-slices", [{"port": 80, "targetPort": "http"}], clusterIP=at.cluster("IPv4"))
    first, second = _pods(at, "n1", "n2")
    return (
        own,
        endpoint_slice("port-of-slices", "a", "IPv4", [first], [{"port": 8080}]),
        endpoint_slice("port-of-slices", "b", "IPv4", [second], [{"port": 9090}]),
    )


def _external_is_node(at: Places) -> tuple[Object, ...]:
    """An address that the node has is not put on another device."""
    return _simple("external-is-node", at, externalIPs=["192.0.2.2", at.external("IPv4-1")])


def _ingress_is_node(at: Places) -> tuple[Object, ...]:
    own, *slices = _balanced("ingress-is-node", at, [{"ip": "203.0.113.2"}])
    own["spec"]["ports"][0]["port"] = 81
    return own, *slices


def _external_other_family(at: Places) -> tuple[Object, ...]:
    """External addresses of a family that the service does not have are nobody's."""
    return _simple("external-other-family", at, externalIPs=[at.external("IPv4-1"), at.external("IPv6-1")])


def _ingress_other_family(at: Places) -> tuple[Object, ...]:
    return _balanced("ingress-other-family", at, [{"ip": at.ingress("IPv4-1")}, {"ip": at.ingress("IPv6-1")}])


def _ingress_is_external(at: Places) -> tuple[Object, ...]:
    """The same address twice."""
    return _balanced("ingress-is-external", at, [{"ip": at.external("IPv4-1")}], externalIPs=[at.external("IPv4-1")])


def _any_source(at: Places) -> tuple[Object, ...]:
    """A range of all addresses among others is as good as no range."""
    ranges = ["10.0.0.0/8", "0.0.0.0/0"]
    return _balanced("any-source", at, [{"ip": at.ingress("IPv4-1")}], loadBalancerSourceRanges=ranges)


def _source_of_other_family(at: Places) -> tuple[Object, ...]:
    """No range of the family is as good as no range."""
    ranges = ["2001:db8::/32"]
    return _balanced("source-of-other-family", at, [{"ip": at.ingress("IPv4-1")}], loadBalancerSourceRanges=ranges)


def _dns(at: Places) -> tuple[Object, ...]:
    """One number for two protocols, node port included."""
    name, number = "dns", at.node_port(0)
    pairs = (("dns", "UDP"), ("dns-tcp", "TCP"))
    ports = [{"name": key, "port": 53, "protocol": protocol, "nodePort": number} for key, protocol in pairs]
    own = service(name, ports, type="NodePort", clusterIP=at.cluster("IPv4"))
    inner = [{"name": key, "port": 53, "protocol": protocol} for key, protocol in pairs]
    return own, endpoint_slice(name, "a", "IPv4", _pods(at, "n1", "n2"), inner)


def _prefers_node(at: Places) -> tuple[Object, ...]:
    hinted = [
        {**pod, "hints": {"forNodes": [{"name": pod["nodeName"]}], "forZones": [{"name": "zone-a"}]}}
        for pod in _pods(at, "n1", "n2")
    ]
    return _simple("prefers-node", at, hinted, trafficDistribution="PreferSameNode")


def _prefers_zone(at: Places) -> tuple[Object, ...]:
    zones = {"n1": "zone-a", "n2": "zone-b", "n3": "zone-a"}
    hinted = [{**pod, "hints": {"forZones": [{"name": zones[pod["nodeName"]]}]}} for pod in _pods(at, *zones)]
    return _simple("prefers-zone", at, hinted, trafficDistribution="PreferClose")


def _prefers_other_zone(at: Places) -> tuple[Object, ...]:
    """No endpoint is for this zone: all are."""
    hinted = _pods(at, "n1", "n2", hints={"forZones": [{"name": "zone-b"}]})
    return _simple("prefers-other-zone", at, hinted, trafficDistribution="PreferClose")


def _without_hint(at: Places) -> tuple[Object, ...]:
    """An endpoint that is not ready does not need one."""
    pods = _pods(at, "n1", "n2", "n3")
    hinted = [{**pod, "hints": {"forZones": [{"name": "zone-a"}]}} for pod in pods[:1]]
    hinted.append({**pods[1], "hints": {"forZones": [{"name": "zone-b"}]}})
    hinted.append({**pods[2], "conditions": {"ready": False}})
    return _simple("without-hint", at, hinted)


def _hints_and_local(at: Places) -> tuple[Object, ...]:
    """Hints do not count for policy Local, and do for the other one of the same service."""
    hinted = [
        {**pod, "hints": {"forZones": [{"name": zone}]}}
        for pod, zone in zip(_pods(at, "n1", "n2"), ("zone-b", "zone-a"), strict=True)
    ]
    return _simple("hints-and-local", at, hinted, type="NodePort", externalTrafficPolicy="Local")


def _local_terminating(at: Places) -> tuple[Object, ...]:
    """Local traffic goes to a pod that ends although others are ready elsewhere."""
    here, there = _pods(at, "n1", "n2")
    here["conditions"] = {"ready": False, "serving": True, "terminating": True}
    return _simple(
        "local-terminating",
        at,
        [here, there],
        type="NodePort",
        externalTrafficPolicy="Local",
        internalTrafficPolicy="Local",
    )


def _local_elsewhere(at: Places) -> tuple[Object, ...]:
    """Both policies Local, and no endpoint here."""
    spec = {"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}
    return _simple("local-elsewhere", at, _pods(at, "n2", "n3"), type="NodePort", **spec)


def _internal_local_elsewhere(at: Places) -> tuple[Object, ...]:
    """Nobody comes from outside either."""
    return _simple("internal-local-elsewhere", at, _pods(at, "n2", "n3"), internalTrafficPolicy="Local")


def _unready_published(at: Places) -> tuple[Object, ...]:
    """The setting is for who writes slices."""
    pods = _pods(at, "n1", conditions={"ready": False})
    return _simple("unready-published", at, pods, publishNotReadyAddresses=True)


def _dual_one_slice(at: Places) -> tuple[Object, ...]:
    """Endpoints of one family only."""
    addresses = [at.cluster("IPv4"), at.cluster("IPv6")]
    return _simple("dual-one-slice", at, clusterIPs=addresses, ipFamilyPolicy="RequireDualStack")


def _balanced6(name: str, at: Places, **spec: Any) -> tuple[Object, ...]:
    """A load balancer over IPv6."""
    pods = _pods(at, "n1", "n2", family="IPv6")
    own = service(
        name,
        [{"port": 80, "nodePort": at.node_port(0)}],
        type="LoadBalancer",
        clusterIP=at.cluster("IPv6"),
        ipFamilies=["IPv6"],
        **spec,
    )
    own["status"] = {"loadBalancer": {"ingress": [{"ip": at.ingress("IPv6-1")}]}}
    return own, endpoint_slice(name, "a", "IPv6", pods, [{"port": 8080}])


def _local_sources_ipv6(at: Places) -> tuple[Object, ...]:
    """The node's address is among the sources."""
    ranges = ["2001:db8::/64", "fd00::/8"]
    return _balanced6(
        "local-sources-ipv6",
        at,
        loadBalancerSourceRanges=ranges,
        externalTrafficPolicy="Local",
        healthCheckNodePort=at.node_port(9),
    )


def _sources_ipv6(at: Places) -> tuple[Object, ...]:
    """The node's address is not among the sources."""
    return _balanced6("sources-ipv6", at, loadBalancerSourceRanges=["2001:db8:9::/48"])


def _proxied_ingress(at: Places) -> tuple[Object, ...]:
    """A balancer that is a proxy connects to the node itself: its address is not one of the node's services."""
    ingress = [{"ip": at.ingress("IPv4-1"), "ipMode": "Proxy"}, {"ip": at.ingress("IPv4-2"), "ipMode": "VIP"}]
    return _balanced("proxied-ingress", at, ingress)


def _readiness(name: str, conditions: tuple[bool | None, ...]) -> Maker:
    """An endpoint in this state beside one that ends and still serves: which of them is taken tells how it counts."""

    def make(at: Places) -> tuple[Object, ...]:
        one, other = _pods(at, "n1", "n2")
        names = ("ready", "serving", "terminating")
        one["conditions"] = {key: value for key, value in zip(names, conditions, strict=True) if value is not None}
        other["conditions"] = {"ready": False, "serving": True, "terminating": True}
        return _simple(name, at, [one, other])

    return make


def _readinesses() -> dict[str, Maker]:
    words = {True: "yes", False: "no", None: "unknown"}
    every = itertools.product(words, repeat=3)
    named = {"-".join(("ready-serving-terminating", *(words[each] for each in state))): state for state in every}
    return {name: _readiness(name, state) for name, state in named.items()}


_MAKERS: tuple[Maker, ...] = (
    *(_other_proxy, _empty_proxy_label, _headless_slice, _reused_address, _several_addresses, _names, _all_ports),
    *(_other_protocol, _named_otherwise, _port_of_slices, _external_is_node, _ingress_is_node),
    *(_external_other_family, _ingress_other_family, _ingress_is_external, _any_source, _source_of_other_family),
    *(_dns, _prefers_node, _prefers_zone, _prefers_other_zone, _without_hint, _hints_and_local),
    *(_local_terminating, _local_elsewhere, _internal_local_elsewhere, _unready_published, _dual_one_slice),
    *(_local_sources_ipv6, _sources_ipv6, _proxied_ingress),
)
#: What makes a case, by its name.
CORNERS: dict[str, Maker] = {
    **{make.__name__.strip("_").replace("_", "-"): make for make in _MAKERS},
    **_readinesses(),
}
