# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The node that a table of services is made for, and how services are treated there."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any, Dict, FrozenSet, List, Mapping, Tuple

from .errors import SpecError
from .ip_version import FAMILIES, VERSIONS, IpVersion, version_of_network
from .ipvs import SCHEDULERS
from .parse import Address, Network, Section, parse_address, parse_network

# The keyword for the node's own address of each IP version, as in kube-proxy's configuration.
PRIMARY = "primary"
# kube-apiserver's --service-node-port-range.
NODE_PORTS = "30000-32767"
_LINK_LOCAL6 = ipaddress.IPv6Network("fe80::/10")


@dataclasses.dataclass(frozen=True)
class ServiceNode:
    """``addresses`` are those of all devices but the dummy; those that only this node can use itself (loopback, IPv6
    link-local) are not among them. ``node_port_addresses`` are those that have node ports. ``primary`` has the address
    that stands for the node where a load balancer's source ranges are compared with it.

    ``members`` are addresses of the cluster's nodes, which must be reached there. ``node_ports`` are the first and the
    last port that Services may take of nodes.

    ``cluster_networks`` and ``masquerade_all`` say whose traffic to cluster IPs is masqueraded: that of everybody who
    is outside these networks, or all.
    """

    name: str
    zone: str
    versions: Tuple[IpVersion, ...]
    addresses: Mapping[IpVersion, Tuple[str, ...]]
    node_port_addresses: Mapping[IpVersion, Tuple[str, ...]]
    primary: Mapping[IpVersion, str]
    members: FrozenSet[str]
    node_ports: Tuple[int, int]
    scheduler: str
    cluster_networks: Tuple[str, ...]
    masquerade_all: bool


def parse_node(data: Any, path: str = "node") -> ServiceNode:
    """Shape: ``{name, addresses: [ip], address, address6, zone, node_port_addresses: [cidr] or [primary], scheduler,
    cluster_networks: [cidr], masquerade_all, families: [ipv4, ipv6], members: [ip], node_ports: "30000-32767"}``; name
    and addresses are required. The first address of each IP version is the node's where address and address6 are not
    given."""
    section = Section(data, path)
    given = [parse_address(each, where) for where, each in section.entries("addresses").items()]
    addresses = {version: [each for each in given if each.version == version.number] for version in VERSIONS}
    usable = {version: [each for each in found if not _of_node_only(each)] for version, found in addresses.items()}
    primary = {version: _primary(section, version, usable[version]) for version in VERSIONS}
    node = ServiceNode(
        name=section.node_name("name"),
        zone=section.text("zone", ""),
        versions=_versions(section),
        addresses={version: _texts(usable[version]) for version in VERSIONS},
        node_port_addresses=_node_port_addresses(section, addresses, primary),
        primary=primary,
        members=frozenset(str(parse_address(each, where)) for where, each in section.entries("members", ()).items()),
        node_ports=section.ports("node_ports", NODE_PORTS),
        scheduler=section.text("scheduler", "rr", SCHEDULERS),
        cluster_networks=_networks(section, "cluster_networks"),
        masquerade_all=section.boolean("masquerade_all", False),
    )
    section.finish()
    return node


def _versions(section: Section) -> Tuple[IpVersion, ...]:
    names = section.entries("families", tuple(FAMILIES))
    for path, name in names.items():
        if not isinstance(name, str) or name not in FAMILIES:
            raise SpecError(path, f"must be one of {', '.join(FAMILIES)}, not {name!r}")
    if not names:
        raise SpecError(section.at("families"), "must name at least one")
    return tuple(version for name, version in FAMILIES.items() if name in names.values())


def _primary(section: Section, version: IpVersion, usable: List[Address]) -> str:
    """Empty when the node has no address of this version."""
    key = f"address{version.suffix}"
    address = section.address(key, None)
    if address is None:
        return str(usable[0]) if usable else ""
    if address.version != version.number:
        raise SpecError(section.at(key), f"must be an {version} address, not {address}")
    return str(address)


def _node_port_addresses(
    section: Section, addresses: Mapping[IpVersion, List[Address]], primary: Mapping[IpVersion, str]
) -> Dict[IpVersion, Tuple[str, ...]]:
    """As in kube-proxy, an IP version without a network of its own has node ports at all addresses."""
    given = section.list("node_port_addresses", ())
    if given == [PRIMARY]:
        networks: List[Network] = [ipaddress.ip_network(each) for each in primary.values() if each]
    else:
        entries = section.entries("node_port_addresses", ())
        networks = [parse_network(each, path) for path, each in entries.items()]
    return {version: _texts(_within(networks, version, found)) for version, found in addresses.items()}


def _within(networks: List[Network], version: IpVersion, addresses: List[Address]) -> List[Address]:
    own = [each for each in networks if version_of_network(each) is version]
    if not own or any(each.prefixlen == 0 for each in own):
        return [each for each in addresses if not _of_node_only(each)]
    return [each for each in addresses if not each.is_loopback and any(each in network for network in own)]


def _of_node_only(address: Address) -> bool:
    return address.is_loopback or address in _LINK_LOCAL6


def _networks(section: Section, key: str) -> Tuple[str, ...]:
    return tuple(str(parse_network(each, path)) for path, each in section.entries(key, ()).items())


def _texts(addresses: List[Address]) -> Tuple[str, ...]:
    return tuple(sorted({str(each) for each in addresses}))
