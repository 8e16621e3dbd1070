# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What packets to services need beside their virtual servers: which of them are masqueraded, which are refused.

A packet that comes to a service keeps its source address unless the answer would not find the way back through this
node: a pod that reaches itself through a service, a client outside of the pod network that is sent on to a pod
elsewhere, and the node itself, which takes the service's own address as its source.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Dict, FrozenSet, List, Tuple, Union

from .ip_version import IpVersion, collapsed
from .ipvs import PROTOCOLS, service_parts
from .parse import Network
from .service_node import ServiceNode
from .service_sets import (
    CLUSTER_IP,
    EXTERNAL_IP,
    HAIRPIN,
    LOAD_BALANCER,
    LOAD_BALANCER_LOCAL,
    LOAD_BALANCER_OWN_SOURCE,
    LOAD_BALANCER_RESTRICTED,
    LOAD_BALANCER_SOURCES,
    NODE_PORTS,
    NODE_PORTS_LOCAL,
    VIRTUAL_ADDRESS,
    entry_text,
)
from .service_table import ServiceTable

# A bit of the packet mark that neither portmap (0x2000), kube-proxy (0x4000, 0x8000), kube-router (0x10000, 0x20000)
# nor Calico (0xffff0000) takes.
MARK = 0x1000
#: An entry is written as ipset(8) does: "10.96.0.10,udp:53".
Entries = FrozenSet[str]


@dataclasses.dataclass(frozen=True)
class ServiceNat:
    """For one IP version. Sets of ``address,protocol:port``, of services unless said otherwise.

    ``hairpins``: pods of this node behind services, each ``address,protocol:port,address``.
    ``cluster``: masqueraded for clients that are not in ``pods``, or with ``masquerade_all`` for all.
    ``outside``: masqueraded for all clients. Services that keep the client's address are in neither.
    ``known``: all on ``addresses``, which are those that only services have; anything else there is refused.
    ``guarded``: only clients of ``allowed`` come in, each ``address,protocol:port,network``.
    """

    version: IpVersion
    pods: Tuple[Network, ...] = ()
    hairpins: Entries = frozenset()
    cluster: Entries = frozenset()
    outside: Entries = frozenset()
    addresses: Entries = frozenset()
    known: Entries = frozenset()
    guarded: Entries = frozenset()
    allowed: Entries = frozenset()
    masquerade_all: bool = False


@dataclasses.dataclass(frozen=True)
class SetKind:
    """``type`` is ipset's; ``directions`` tell which part of a packet is compared with which part of an entry."""

    type: str
    directions: str


# By the name of the field above.
SETS = {
    "hairpins": SetKind("hash:ip,port,ip", "dst,dst,src"),
    "cluster": SetKind("hash:ip,port", "dst,dst"),
    "outside": SetKind("hash:ip,port", "dst,dst"),
    "addresses": SetKind("hash:ip", "dst"),
    "known": SetKind("hash:ip,port", "dst,dst"),
    "guarded": SetKind("hash:ip,port", "dst,dst"),
    "allowed": SetKind("hash:ip,port,net", "dst,dst,src"),
}


def entry_of(protocol: str, address: str, port: int) -> str:
    assert protocol in PROTOCOLS
    return f"{address},{protocol}:{port}"


def nat_of(table: ServiceTable, node: ServiceNode, version: IpVersion) -> ServiceNat:
    """Of one IP version, for the services of a node."""

    def entries(*names: str) -> Entries:
        return frozenset(entry_text(entry) for name in names for entry in table.sets[name][version])

    virtual = entries(VIRTUAL_ADDRESS)
    networks = tuple(ipaddress.ip_network(each) for each in node.cluster_networks)
    places = [(parts.address, parts) for parts in (service_parts(each.service) for each in table.services)]
    return ServiceNat(
        version,
        tuple(each for each in networks if each.version == version.number),
        hairpins=entries(HAIRPIN),
        cluster=entries(CLUSTER_IP),
        outside=(entries(EXTERNAL_IP, LOAD_BALANCER) - entries(LOAD_BALANCER_LOCAL))
        | _node_ports(table, node, version),
        addresses=virtual,
        known=frozenset(entry_of(each.protocol, address, each.port) for address, each in places if address in virtual),
        guarded=entries(LOAD_BALANCER_RESTRICTED),
        allowed=_allowed(table, version),
        masquerade_all=node.masquerade_all,
    )


def _node_ports(table: ServiceTable, node: ServiceNode, version: IpVersion) -> Entries:
    """Those at which clients are masqueraded."""
    found = set()
    for protocol, name in NODE_PORTS.items():
        local = frozenset(table.sets[NODE_PORTS_LOCAL[protocol]][version])
        # The port is the last part of an entry, whether or not the address is in it.
        ports = {int(entry[-1]) for entry in table.sets[name][version] if entry not in local}
        found |= {entry_of(protocol, each, port) for each in node.node_port_addresses[version] for port in ports}
    return frozenset(found)


def _allowed(table: ServiceTable, version: IpVersion) -> Entries:
    """No network is within another one, which nftables would refuse; one of one address is written as the address, as
    both filters do."""
    networks: Dict[Tuple[Union[str, int], ...], List[Network]] = {}
    for name in (LOAD_BALANCER_SOURCES, LOAD_BALANCER_OWN_SOURCE):
        for *place, source in table.sets[name][version]:
            networks.setdefault(tuple(place), []).append(ipaddress.ip_network(source))
    return frozenset(
        entry_text((*place, str(network[0]) if network.num_addresses == 1 else str(network)))
        for place, found in networks.items()
        for network in collapsed(found)
    )
