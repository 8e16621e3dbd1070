# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What one node needs for the services of a cluster: virtual services with their real servers, the addresses of the
dummy device, and the sets by which packets are masqueraded or refused. Exactly what kube-proxy 1.36 makes in mode ipvs
(pkg/proxy/ipvs/proxier.go syncProxyRules); where it is not, docs/reference/services.md says why.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Tuple

from .errors import SpecError
from .health_check import HealthCheck
from .ip_version import VERSIONS, IpVersion, collapsed, version_of
from .ipvs import FLAGS, RealServer, VirtualService, service_name
from .kubernetes.documents import Skipped
from .kubernetes.endpoints import Backend, Choice, Endpoints
from .kubernetes.manifests import Manifests, read_manifests
from .kubernetes.service import Service, ServicePort
from .service_node import ServiceNode
from .service_sets import (
    CLUSTER_IP,
    EXTERNAL_IP,
    EXTERNAL_IP_LOCAL,
    HAIRPIN,
    HEALTH_CHECK_PORT,
    LOAD_BALANCER,
    LOAD_BALANCER_LOCAL,
    LOAD_BALANCER_NOT_FROM_NODE,
    LOAD_BALANCER_OWN_SOURCE,
    LOAD_BALANCER_RESTRICTED,
    LOAD_BALANCER_SOURCES,
    NODE_PORTS,
    NODE_PORTS_LOCAL,
    VIRTUAL_ADDRESS,
    Entry,
    SetBuilder,
    SetEntries,
)


@dataclasses.dataclass(frozen=True)
class ServiceTable:
    """``addresses`` are those that belong on the dummy device, IPv4 before IPv6. ``sets`` are by names and forms of
    ``service_sets``."""

    services: Tuple[VirtualService, ...]
    servers: Tuple[RealServer, ...]
    addresses: Tuple[str, ...]
    sets: SetEntries
    health_checks: Tuple[HealthCheck, ...]
    skipped: Tuple[Skipped, ...]


def service_table(documents: Mapping[str, Any], node: ServiceNode) -> ServiceTable:
    """``documents`` maps the path that errors are to name to each document, see ``read_manifests``."""
    return table_of(read_manifests(documents), node)


def table_of(manifests: Manifests, node: ServiceNode) -> ServiceTable:
    builder = _Builder(node, Endpoints(manifests.slices, node.name, node.zone))
    for version in node.versions:
        for service in manifests.services:
            builder.add(service, version)
    return builder.table((*manifests.skipped, *_not_served(manifests, node)))


def _not_served(manifests: Manifests, node: ServiceNode) -> Iterator[Skipped]:
    for service in manifests.services:
        for version in VERSIONS:
            if version not in node.versions and service.cluster_ip(version):
                reason = f"its {version} half: this node has no services of {version}"
                yield Skipped(f"Service {service.full_name}", reason)


class _Port(NamedTuple):
    """A port of a service in one IP version, with what is the same for all its addresses."""

    service: Service
    version: IpVersion
    port: ServicePort
    protocol: str
    choice: Choice

    def entry(self, address: str, *source: str) -> Entry:
        return (address, self.protocol, self.port.port, *source)

    def servers(self, local: bool) -> List[Backend]:
        """With a policy that keeps traffic on a node without endpoints, it goes to others all the same."""
        return (self.choice.local if local else []) or self.choice.cluster


class _Builder:
    """Collects everything for all services, in the order in which kube-proxy writes what belongs to one of them: where
    two addresses of a port are the same, the later kind decides."""

    def __init__(self, node: ServiceNode, endpoints: Endpoints) -> None:
        self._node = node
        self._endpoints = endpoints
        self._sets = SetBuilder()
        self._virtual: Dict[str, Tuple[VirtualService, List[Backend]]] = {}
        self._owners: Dict[str, ServicePort] = {}
        self._addresses: Dict[IpVersion, Dict[str, None]] = {version: {} for version in node.versions}
        self._elsewhere = {version: node.members.union(found) for version, found in node.addresses.items()}
        self._checks: List[HealthCheck] = []

    def add(self, service: Service, version: IpVersion) -> None:
        cluster_ip = service.cluster_ip(version)
        if not cluster_ip:
            return
        self._check(service, cluster_ip)
        for port in service.ports:
            one = self._port(service, version, port)
            self._add_cluster_ip(one, cluster_ip)
            self._add_external_ips(one)
            self._add_load_balancer(one)
            self._add_node_port(one)
        if service.health_check_port:
            ready = self._endpoints.ready_here(service.full_name, version)
            self._checks.append(HealthCheck(service.full_name, version, service.health_check_port, ready))

    def table(self, skipped: Tuple[Skipped, ...]) -> ServiceTable:
        services = tuple(service for service, _backends in self._virtual.values())
        servers = tuple(
            RealServer(service.service, backend.name)
            for service, backends in self._virtual.values()
            for backend in backends
        )
        addresses = tuple(address for found in self._addresses.values() for address in sorted(found))
        for version, found in self._addresses.items():
            self._sets.add(VIRTUAL_ADDRESS, version, *((address,) for address in found))
        return ServiceTable(services, servers, addresses, self._sets.sets(), tuple(self._checks), skipped)

    def _check(self, service: Service, cluster_ip: str) -> None:
        """Refuse what would take from nodes what is not a service's: no API server was there to do so."""
        title = f"(of Service {service.full_name})"
        if cluster_ip in self._node.members:
            path = next(path for path, each in service.cluster_ips.items() if each == cluster_ip)
            raise SpecError(path, f"{cluster_ip} is the address of a node {title}")
        low, high = self._node.node_ports
        ports = {f"{each.path}.nodePort": each.node_port for each in service.ports}
        for path, port in {**ports, f"{service.path}.spec.healthCheckNodePort": service.health_check_port}.items():
            if port and not low <= port <= high:
                raise SpecError(path, f"must be a node port of {low} to {high}, not {port} {title}")

    def _port(self, service: Service, version: IpVersion, port: ServicePort) -> _Port:
        backends = self._endpoints.of(service.full_name, version, port.target)
        outside = self._of(service.external_ips + service.ingress, version)
        accessible = bool(port.node_port or outside)
        anywhere = accessible or not service.internal_local
        staying = service.internal_local or (service.external_local and accessible)
        choice = self._endpoints.choose(backends, anywhere, staying)
        protocol = port.protocol.lower()
        for each in backends:
            if each.local:
                address = each.endpoint.address
                self._sets.add(HAIRPIN, version, (address, protocol, each.port, address))
        return _Port(service, version, port, protocol, choice)

    def _add_cluster_ip(self, one: _Port, address: str) -> None:
        self._sets.add(CLUSTER_IP, one.version, one.entry(address))
        self._serve_virtual(one, address, one.service.internal_local)

    def _add_external_ips(self, one: _Port) -> None:
        for address in self._of(one.service.external_ips, one.version):
            name = EXTERNAL_IP_LOCAL if one.service.external_local else EXTERNAL_IP
            self._sets.add(name, one.version, one.entry(address))
            self._serve_virtual(one, address, one.service.external_local)

    def _add_load_balancer(self, one: _Port) -> None:
        for address in self._of(one.service.ingress, one.version):
            entry = one.entry(address)
            self._sets.add(LOAD_BALANCER, one.version, entry)
            if one.service.external_local:
                self._sets.add(LOAD_BALANCER_LOCAL, one.version, entry)
            self._restrict(one, address, entry)
            self._serve_virtual(one, address, one.service.external_local)

    def _restrict(self, one: _Port, address: str, entry: Entry) -> None:
        ranges = self._of(one.service.source_ranges, one.version)
        networks = collapsed(map(ipaddress.ip_network, ranges))
        # What has everything is as good as none.
        if not networks or networks[0].prefixlen == 0:
            return
        version, primary = one.version, self._node.primary[one.version]
        self._sets.add(LOAD_BALANCER_RESTRICTED, version, entry)
        self._sets.add(LOAD_BALANCER_SOURCES, version, *(one.entry(address, each) for each in ranges))
        if primary and any(ipaddress.ip_address(primary) in each for each in networks):
            self._sets.add(LOAD_BALANCER_OWN_SOURCE, version, one.entry(address, address))
        else:
            self._sets.add(LOAD_BALANCER_NOT_FROM_NODE, version, entry)

    def _add_node_port(self, one: _Port) -> None:
        version, number = one.version, one.port.node_port
        addresses = self._node.node_port_addresses[version]
        if number and not addresses:
            # Nor is there anybody who could ask for the health of it.
            return
        if number:
            entries = [(each, one.protocol, number) if one.protocol == "sctp" else (number,) for each in addresses]
            self._sets.add(NODE_PORTS[one.protocol], version, *entries)
            if one.service.external_local:
                self._sets.add(NODE_PORTS_LOCAL[one.protocol], version, *entries)
            for address in addresses:
                self._serve(one, address, number, one.service.external_local)
        if one.service.health_check_port:
            self._sets.add(HEALTH_CHECK_PORT, version, (one.service.health_check_port,))

    def _serve_virtual(self, one: _Port, address: str, local: bool) -> None:
        """An address that a device of the node, or another node, has must not be on the dummy as well: everything else
        that listens there could not be reached any more."""
        if address not in self._elsewhere[one.version]:
            self._addresses[one.version][address] = None
        self._serve(one, address, one.port.port, local)

    def _serve(self, one: _Port, address: str, number: int, local: bool) -> None:
        name = service_name(one.protocol, address, number)
        owner = self._owners.setdefault(name, one.port)
        if owner is not one.port:
            problem = f"{name} is also what {owner.path} is reached by on node {self._node.name}; only one can have it"
            raise SpecError(one.port.path, f"{problem} (of Service {one.service.full_name})")
        seconds = one.service.affinity
        flags = FLAGS["port"] if self._node.scheduler == "mh" else 0
        netmask = one.version.bits if seconds else 0
        service = VirtualService(name, self._node.scheduler, flags, seconds, netmask)
        self._virtual[name] = (service, one.servers(local))

    @staticmethod
    def _of(values: Tuple[str, ...], version: IpVersion) -> Tuple[str, ...]:
        return tuple(each for each in values if version_of(each) is version)
