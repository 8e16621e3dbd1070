# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Services with their EndpointSlices, of every kind, for a node: drawn by hypothesis with a fixed seed.

Needs neither Go nor a kernel. Each case has addresses and node ports of its own, so that all cases can be in one
cluster. Objects are as people write them: what the API server would fill in is mostly left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import hypothesis
from hypothesis import strategies as st

from tests.upstream.service_corners import CORNERS, Case, Object, Places, endpoint_slice, service

__all__ = ["NODE", "SERVICE_RANGES", "Case", "Object", "cases", "drawn_cases"]

SEED = 5
#: Cases of each kind that are drawn.
COUNTS = {"ClusterIP": 16, "NodePort": 16, "LoadBalancer": 26, "Headless": 2, "ExternalName": 1}
SERVICE_RANGES = ("10.96.0.0/12", "fd00:10:96::/108")
#: The node whose kernel is asked for. ``interfaces`` has all of its addresses but those of loopback.
NODE: dict[str, Any] = {
    "name": "n1",
    "addresses": ["192.0.2.2", "2001:db8::2"],
    "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"],
    "labels": {"kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "zone-a"},
    "interfaces": {
        "eth0": ["192.0.2.2/24", "2001:db8::2/64"],
        "cni0": ["10.244.1.1/24", "fd00:10:244:1::1/64", "203.0.113.2/32"],
    },
}
FAMILIES = (("IPv4",), ("IPv4",), ("IPv6",), ("IPv4", "IPv6"), ("IPv6", "IPv4"))
PROTOCOLS = ("TCP", "UDP", "SCTP")
# What may be absent.
_CONDITION = st.sampled_from((None, True, False))
_POLICY = st.sampled_from((None, "Cluster", "Local"))
_SOURCE_RANGES = ("10.0.0.0/8", "192.0.2.0/24", " 198.51.100.0/25 ", "2001:db8::/32", "fd00::/8", "0.0.0.0/0")


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """``conditions`` are ready, serving, terminating; ``node`` None stands for an absent name."""

    family: str
    slice: int
    node: str | None
    conditions: tuple[bool | None, bool | None, bool | None]
    zones: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Draft:
    """A case without its number, which gives the addresses."""

    kind: str
    families: tuple[str, ...]
    protocols: tuple[str, ...]
    internal: str | None
    external: str | None
    affinity: int | None
    external_ips: tuple[str, ...]
    ingress: tuple[tuple[str, str | None], ...]
    source_ranges: tuple[str, ...]
    node_ports: bool
    one_port_missing: bool
    endpoints: tuple[Endpoint, ...]

    @property
    def accessible(self) -> bool:
        """Whether traffic comes from outside, so that a policy for it may be given."""
        return self.kind in ("NodePort", "LoadBalancer") or bool(self.external_ips)


@st.composite
def endpoints(draw: st.DrawFn, families: tuple[str, ...]) -> tuple[Endpoint, ...]:
    """Up to five a family, in up to two slices. Hints are heeded only where all ready endpoints have them."""
    hints = draw(st.sampled_from(("none", "none", "zones", "nodes", "some")))
    # Among random conditions few services would have ready endpoints only, or terminating ones only.
    mood = draw(st.sampled_from(("any", "any", "ready", "terminating", "unready")))
    conditions = {
        "any": st.tuples(_CONDITION, _CONDITION, _CONDITION),
        "ready": st.sampled_from(((None, None, None), (True, True, False))),
        "terminating": st.sampled_from(((False, True, True), (False, False, True), (False, None, True))),
        "unready": st.sampled_from(((False, False, False), (False, True, False), (False, None, None))),
    }[mood]
    zones = st.sampled_from((("zone-a",), ("zone-b",), ("zone-a", "zone-b")))
    nodes = st.sampled_from((("n1",), ("n2",), ("n1", "n2")))
    nothing = st.just(())
    one = st.builds(
        Endpoint,
        st.sampled_from(families),
        st.integers(0, 1),
        st.sampled_from(("n1", "n2", "n3", None)),
        conditions,
        {"zones": zones, "some": st.one_of(nothing, zones)}.get(hints, nothing),
        {"nodes": nodes, "some": st.one_of(nothing, nodes)}.get(hints, nothing),
    )
    return tuple(draw(st.lists(one, max_size=5)))


@st.composite
def drafts(draw: st.DrawFn, kind: str) -> Draft:
    families = draw(st.sampled_from(FAMILIES))
    served = kind in ("ClusterIP", "NodePort", "LoadBalancer")
    some = st.booleans().flatmap
    external = st.lists(st.sampled_from(("IPv4-1", "IPv4-2", "IPv6-1")), min_size=1, max_size=2, unique=True)
    ingress = st.tuples(
        st.sampled_from(("IPv4-1", "IPv4-2", "IPv6-1", "name")), st.sampled_from((None, None, "VIP", "Proxy"))
    )
    ranges = st.lists(st.sampled_from(_SOURCE_RANGES), min_size=1, max_size=2, unique=True)
    empty: st.SearchStrategy[list[Any]] = st.just([])
    return Draft(
        kind,
        families,
        tuple(draw(st.lists(st.sampled_from(PROTOCOLS), min_size=1, max_size=3))),
        draw(_POLICY) if kind != "ExternalName" else None,
        draw(_POLICY),
        draw(st.sampled_from((None, None, 0, 1, 600, 86400))) if served else None,
        tuple(draw(some(lambda wanted: external if wanted else empty))) if served else (),
        tuple(draw(st.lists(ingress, min_size=1, max_size=3, unique_by=lambda entry: entry[0]))),
        tuple(draw(some(lambda wanted: ranges if wanted else empty))),
        kind == "NodePort" or draw(st.booleans()),
        draw(st.sampled_from((False, False, False, True))),
        draw(endpoints(families)),
    )


def built(number: int, draft: Draft) -> Case:
    """The case with this number, from 1 to 255."""
    at = Places(number)
    name = f"drawn-{number:03d}-{draft.kind.lower()}"
    made = service(name, _ports(at, draft), **_spec(at, draft))
    if draft.kind == "LoadBalancer":
        made["status"] = {"loadBalancer": {"ingress": [_ingress(at, *entry) for entry in draft.ingress]}}
    return Case(name, (made, *_slices(at, name, draft)))


def _spec(at: Places, draft: Draft) -> Object:
    spec: Object = {}
    if draft.kind == "ExternalName":
        return {"type": "ExternalName", "externalName": "service.example"}
    if len(draft.families) == 2:
        spec["ipFamilyPolicy"] = "RequireDualStack"
    spec["ipFamilies"] = list(draft.families)
    if draft.kind == "Headless":
        spec["clusterIP"] = "None"
    else:
        spec["type"] = draft.kind
        spec["clusterIP"] = at.cluster(draft.families[0])
        spec["clusterIPs"] = [at.cluster(family) for family in draft.families]
    if draft.internal:
        spec["internalTrafficPolicy"] = draft.internal
    if draft.external and draft.accessible:
        spec["externalTrafficPolicy"] = draft.external
    if draft.external_ips:
        spec["externalIPs"] = [at.external(wanted) for wanted in draft.external_ips]
    return spec | _affinity(draft) | (_balancer(at, draft) if draft.kind == "LoadBalancer" else {})


def _affinity(draft: Draft) -> Object:
    if draft.affinity is None:
        return {}
    # Without a time-out it is the API server that sets 10800.
    timeout = {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": draft.affinity}}} if draft.affinity else {}
    return {"sessionAffinity": "ClientIP", **timeout}


def _balancer(at: Places, draft: Draft) -> Object:
    spec: Object = {}
    if draft.source_ranges:
        spec["loadBalancerSourceRanges"] = list(draft.source_ranges)
    if not draft.node_ports:
        spec["allocateLoadBalancerNodePorts"] = False
    if draft.external == "Local":
        spec["healthCheckNodePort"] = at.node_port(9)
    return spec


def _ingress(at: Places, wanted: str, mode: str | None) -> Object:
    if wanted == "name":
        return {"hostname": "balancer.example"}
    return {"ip": at.ingress(wanted), **({"ipMode": mode} if mode else {})}


def _ports(at: Places, draft: Draft) -> list[Object]:
    """Of a TCP and a UDP port that follow each other the numbers are the same, as for DNS."""
    ports: list[Object] = []
    for index, protocol in enumerate(draft.protocols):
        same = index > 0 and draft.protocols[index - 1] != protocol and len(draft.protocols) == 2
        number = 0 if same else index
        port: Object = {"port": 80 + number, "targetPort": 8080 + number}
        if len(draft.protocols) > 1:
            port["name"] = f"p{index}"
        if protocol != "TCP" or index:
            port["protocol"] = protocol
        if draft.kind == "NodePort" or (draft.kind == "LoadBalancer" and draft.node_ports):
            port["nodePort"] = at.node_port(number)
        ports.append(port)
    return ports


def _slices(at: Places, name: str, draft: Draft) -> list[Object]:
    """Without endpoints there is a slice or none, as the number is even or odd."""
    groups: dict[tuple[str, int], list[Object]] = {}
    if not draft.endpoints and at.number % 2 == 0:
        groups[draft.families[0], 0] = []
    for index, endpoint in enumerate(draft.endpoints, 1):
        entry = _endpoint(at.pod(endpoint.family, index), endpoint)
        groups.setdefault((endpoint.family, endpoint.slice), []).append(entry)
    ports = _slice_ports(draft)
    return [
        endpoint_slice(name, f"{family.lower()}-{number}", family, entries, ports)
        for (family, number), entries in groups.items()
    ]


def _slice_ports(draft: Draft) -> list[Object]:
    ports: list[Object] = []
    for index, protocol in enumerate(draft.protocols):
        port: Object = {"port": 8080 + index}
        if len(draft.protocols) > 1:
            port["name"] = f"p{index}"
        if protocol != "TCP" or index:
            port["protocol"] = protocol
        ports.append(port)
    return ports[1:] if draft.one_port_missing else ports


def _endpoint(address: str, endpoint: Endpoint) -> Object:
    names = ("ready", "serving", "terminating")
    conditions = {name: value for name, value in zip(names, endpoint.conditions, strict=True) if value is not None}
    hints: Object = {}
    if endpoint.zones:
        hints["forZones"] = [{"name": zone} for zone in endpoint.zones]
    if endpoint.nodes:
        hints["forNodes"] = [{"name": node} for node in endpoint.nodes]
    return {
        "addresses": [address],
        **({"conditions": conditions} if conditions else {}),
        **({"nodeName": endpoint.node} if endpoint.node else {}),
        **({"hints": hints} if hints else {}),
    }


def drawn(kind: str, count: int, seed: int = SEED) -> list[Draft]:
    """The same ones at any time with the same version of hypothesis."""
    found: list[Draft] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
        deadline=None,
    )
    @hypothesis.given(drafts(kind))
    def collect(draft: Draft) -> None:
        found.append(draft)

    collect()
    return found[:count]


def cases() -> list[Case]:
    """All: those thought out, then those drawn."""
    thought_out = [Case(name, make(Places(number))) for number, (name, make) in enumerate(CORNERS.items(), 1)]
    return thought_out + drawn_cases(COUNTS, SEED, len(thought_out) + 1)


def drawn_cases(counts: Mapping[str, int], seed: int, first: int = 1) -> list[Case]:
    """So many of each kind; their numbers begin with ``first``."""
    wanted = [draft for kind, count in counts.items() for draft in drawn(kind, count, seed)]
    return [built(number, draft) for number, draft in enumerate(wanted, first)]
