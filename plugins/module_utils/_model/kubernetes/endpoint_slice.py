# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""An EndpointSlice of Kubernetes: some of the endpoints of a Service in one IP version, with the defaults and by the
rules of the API server (pkg/apis/discovery/{v1/defaults.go,validation/validation.go}) for what kube-proxy looks at.

The API server's limits on sizes (1000 endpoints, 8 hints) protect its store; they are not applied.
"""

from __future__ import annotations

from typing import Any, Dict, FrozenSet, NamedTuple, Optional, Tuple

from ..errors import SpecError
from ..ip_version import IPV4, IPV6, IpVersion, version_of
from ..parse import NODE_NAME, Section, unique
from .addresses import endpoint_address_of, plain_address
from .documents import KubernetesObject, dns_label
from .service import HIGHEST_PORT, PROTOCOLS

SERVICE_LABEL = "kubernetes.io/service-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
ADDRESS_TYPES = ("IPv4", "IPv6", "FQDN")
_VERSIONS = {"IPv4": IPV4, "IPv6": IPV6}
_ANYWHERE: FrozenSet[str] = frozenset()
_CONDITIONS = (("ready", True), ("serving", True), ("terminating", False))
_UNKNOWN: Dict[str, bool] = {}


class SlicePort(NamedTuple):
    """``port`` is 0 where the slice leaves it open, which kube-proxy takes no endpoints from."""

    path: str
    name: str
    protocol: str
    port: int


class Endpoint(NamedTuple):
    """``node`` is where it runs, empty when nobody said. ``zones`` and ``nodes`` are hints where traffic to it should
    come from, empty without hints."""

    address: str
    node: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zones: FrozenSet[str] = _ANYWHERE
    nodes: FrozenSet[str] = _ANYWHERE


class EndpointSlice(NamedTuple):
    path: str
    namespace: str
    name: str
    service: str
    version: IpVersion
    ports: Tuple[SlicePort, ...]
    endpoints: Tuple[Endpoint, ...]

    @property
    def title(self) -> str:
        return f"EndpointSlice {self.namespace}/{self.name}"

    @property
    def full_service(self) -> str:
        return f"{self.namespace}/{self.service}"


def slice_or_reason(one: KubernetesObject) -> Tuple[Optional[EndpointSlice], str]:
    """The slice, or why kube-proxy takes no endpoints from it."""
    kind = one.section.text("addressType", choices=ADDRESS_TYPES)
    if HEADLESS_LABEL in one.labels.data:
        return None, f"label {HEADLESS_LABEL}: of a headless service"
    service = one.labels.text(SERVICE_LABEL, "")
    if not service:
        return None, f"no label {SERVICE_LABEL} tells the service"
    if kind not in _VERSIONS:
        return None, "address type FQDN: traffic can be sent to addresses only"
    return _slice(one, service, _VERSIONS[kind]), ""


def _slice(one: KubernetesObject, service: str, version: IpVersion) -> EndpointSlice:
    ports = tuple(map(_port, one.section.sections("ports", ())))
    unique({f"{each.path}.name": repr(each.name) for each in ports}, "port name")
    found = one.section.entries("endpoints", ())
    endpoints = tuple(_usual(each, version) or _endpoint(Section(each, path), version) for path, each in found.items())
    return EndpointSlice(one.section.path, one.namespace, one.name, service, version, ports, endpoints)


def _port(section: Section) -> SlicePort:
    name = dns_label(section, "name")
    protocol = section.text("protocol", PROTOCOLS[0], PROTOCOLS)
    return SlicePort(section.path, name, protocol, section.integer("port", 1, HIGHEST_PORT, 0))


def _usual(entry: Any, version: IpVersion) -> Optional[Endpoint]:
    """An endpoint without hints in the form that the API server has, taken at one go; a cluster has a hundred thousand
    of them. None for any other, which is then read field by field."""
    if type(entry) is not dict or entry.get("hints") is not None:
        return None
    addresses, node, conditions = entry.get("addresses"), entry.get("nodeName", ""), entry.get("conditions", _UNKNOWN)
    if type(addresses) is not list or len(addresses) != 1 or type(node) is not str or type(conditions) is not dict:
        return None
    address = plain_address(addresses[0])
    known = tuple(conditions.get(name, default) for name, default in _CONDITIONS)
    if version_of(address) is not version or not address or not all(type(each) is bool for each in known):
        return None
    return Endpoint(address, node, *known) if not node or NODE_NAME.fullmatch(node) else None


def _endpoint(section: Section, version: IpVersion) -> Endpoint:
    conditions = section.section("conditions", {})
    hints = section.section("hints", {})
    return Endpoint(
        address=_address(section, version),
        node=_node_name(section, "nodeName"),
        **{name: conditions.boolean(name, default) for name, default in _CONDITIONS},
        zones=frozenset(each.text("name") for each in hints.sections("forZones", ())) or _ANYWHERE,
        nodes=frozenset(_node_name(each, "name") for each in hints.sections("forNodes", ())) or _ANYWHERE,
    )


def _address(section: Section, version: IpVersion) -> str:
    """The first of them. The others are said to be of the same endpoint, and nobody uses them."""
    found = [endpoint_address_of(version, each, path) for path, each in section.entries("addresses").items()]
    if not found:
        raise SpecError(section.at("addresses"), "must have at least one address")
    return found[0]


def _node_name(section: Section, key: str) -> str:
    value = section.text(key, "")
    if value and not NODE_NAME.fullmatch(value):
        raise SpecError(section.at(key), f"must be the name of a node, not {value!r}")
    return value
