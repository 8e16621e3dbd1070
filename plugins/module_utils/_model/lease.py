# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Subnet leases as declared: flannel's network configuration, the nodes that get a subnet, and both as objects in etcd.

Rules and defaults of the network configuration are those of flannel's etcd manager (pkg/subnet/config.go). How the
objects are written down in etcd is the business of ``lease_codec``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import json
from typing import Any, ClassVar, Dict, Hashable, Mapping, Optional, Tuple

from .backend import BACKENDS, VNI_LIMIT, VXLAN, refuse_foreign_options
from .errors import SpecError
from .item import BaseItem
from .parse import REQUIRED, Section, unique

# Life of a lease: a key without etcd lease; one with an etcd lease; the same with less than half of its time left.
PERMANENT, LEASED, ENDING = "permanent", "leased", "ending"
# One whose etcd lease other keys hang on too, so that it cannot be kept alive, or end, by itself.
SHARED = "shared"
# Limits of flannel's etcd manager for IPv4.
LONGEST_NETWORK, LONGEST_SUBNET = 28, 30
# The renewal timer runs hourly with up to ten minutes of delay: half of the time to live must be longer than that.
SHORTEST_TTL = 14400
DEFAULT_TTL = 86400
DEFAULT_PREFIX = "/coreos.com/network"
# How an option of the backend is called in flannel's configuration, in the order in which it is written.
BACKEND_KEYS = {
    "type": "Type",
    "vni": "VNI",
    "port": "Port",
    "mtu": "MTU",
    "gbp": "GBP",
    "learning": "Learning",
    "direct_routing": "DirectRouting",
}


def compact(data: Mapping[str, Any]) -> str:
    """JSON as Go's encoder writes it: no blanks, keys in the given order."""
    return json.dumps(data, separators=(",", ":"))


def vtep_mac(cluster: str, node: str) -> str:
    """The MAC address of a node's VXLAN device: the same on every run, unicast and locally administered.

    Taken from the names alone, so that each node knows those of all others without asking them.
    """
    octets = bytearray(hashlib.sha256(f"{cluster}/{node}".encode()).digest()[:6])
    octets[0] = (octets[0] | 0x02) & 0xFE
    return ":".join(f"{octet:02x}" for octet in octets)


@dataclasses.dataclass(frozen=True)
class FlannelConfig(BaseItem):
    """Flannel's network configuration. ``backend`` and ``others`` (keys we do not manage) are compact JSON."""

    kind: ClassVar[str] = "flannel_config"
    network: str
    subnet_len: int
    subnet_min: str
    subnet_max: str
    backend: str
    others: str = "{}"

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return ()

    @property
    def backend_type(self) -> str:
        return str(json.loads(self.backend).get("Type", "")).lower()

    def holds(self, subnet: str) -> bool:
        """Whether flannel would go on using a subnet: of the right length, aligned, between the first and the last."""
        network = ipaddress.IPv4Network(subnet)
        first, last = ipaddress.IPv4Address(self.subnet_min), ipaddress.IPv4Address(self.subnet_max)
        return network.prefixlen == self.subnet_len and first <= network.network_address <= last

    def __str__(self) -> str:
        return (
            f"flannel_config {self.network} subnets /{self.subnet_len} "
            f"{self.subnet_min} to {self.subnet_max} backend {self.backend}"
        )


@dataclasses.dataclass(frozen=True)
class Lease(BaseItem):
    """One subnet lease. ``data`` and ``data6`` are the backend's data as compact JSON with sorted keys, empty for none.

    ``subnet6``, ``address6`` and ``data6`` are only there in leases of dual-stack peers.
    """

    kind: ClassVar[str] = "lease"
    subnet: str
    address: str
    backend_type: str
    data: str
    life: str = LEASED
    subnet6: str = ""
    address6: str = ""
    data6: str = ""

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.subnet, self.subnet6)

    @property
    def mac(self) -> str:
        """The VTEP's MAC address; empty where the backend has none."""
        data = json.loads(self.data) if self.data else None
        return str(data.get("VtepMAC", "")).lower() if isinstance(data, dict) else ""

    def __str__(self) -> str:
        subnet = f"{self.subnet}&{self.subnet6}" if self.subnet6 else self.subnet
        return f"lease {subnet} of {self.address} {self.backend_type} {self.data or '-'} {self.life}"


@dataclasses.dataclass(frozen=True)
class Node:
    """A declared member of the overlay. ``subnet`` is set when it must have exactly that one."""

    name: str
    address: str
    mac: str
    subnet: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class LeaseSpec:
    """What the lease store shall hold. ``node`` is the name of the node whose lease is kept alive from here."""

    config: FlannelConfig
    nodes: Tuple[Node, ...]
    node: str
    ttl: int
    prefix: str
    update_config: bool = True

    @property
    def own(self) -> Node:
        return next(node for node in self.nodes if node.name == self.node)


def parse_lease_spec(document: Mapping[str, Any]) -> LeaseSpec:
    """Shape: ``{config, cluster_name, nodes, node, ttl?, prefix?}`` with the meaning of module ``overlay_lease``.

    Other keys (those of the access to etcd) are left to others. Raises SpecError naming the item.
    """
    section = Section(document)
    config = parse_config(section.section("config"))
    nodes = parse_nodes(section, config)
    node = section.node_name("node")
    if node not in {member.name for member in nodes}:
        raise SpecError("node", f"{node} is not among the names in nodes; declare it there too")
    ttl = section.integer("ttl", 0, 2**31, DEFAULT_TTL)
    if 0 < ttl < SHORTEST_TTL:
        raise SpecError("ttl", f"must be 0 (permanent) or at least {SHORTEST_TTL} seconds, for renewal is hourly")
    return LeaseSpec(config, nodes, node, ttl, parse_prefix(section))


def parse_prefix(section: Section) -> str:
    prefix: str = section.text("prefix", DEFAULT_PREFIX)
    if not prefix.startswith("/") or prefix.endswith("/"):
        raise SpecError(section.at("prefix"), f"must begin with '/' and not end with it, not {prefix!r}")
    return prefix


def parse_config(section: Section) -> FlannelConfig:
    """Shape: ``{network, subnet_len?, subnet_min?, subnet_max?, backend: {type, ...}}``."""
    network = ipv4_network(section, "network")
    if network.prefixlen > LONGEST_NETWORK:
        raise SpecError(section.at("network"), f"must be /{LONGEST_NETWORK} or shorter, not /{network.prefixlen}")
    default_len = default_subnet_len(network)
    length = section.integer("subnet_len", network.prefixlen + 2, LONGEST_SUBNET, default_len)
    first, last = default_range(network, length)
    config = FlannelConfig(
        network=str(network),
        subnet_len=length,
        subnet_min=_range_end(section, "subnet_min", network, length, first),
        subnet_max=_range_end(section, "subnet_max", network, length, last),
        backend=_parse_backend(section.section("backend")),
    )
    section.finish()
    if ipaddress.IPv4Address(config.subnet_min) > ipaddress.IPv4Address(config.subnet_max):
        raise SpecError(section.at("subnet_max"), f"{config.subnet_max} is below subnet_min {config.subnet_min}")
    return config


def default_subnet_len(network: ipaddress.IPv4Network) -> int:
    return 24 if network.prefixlen <= 22 else network.prefixlen + 2


def default_range(network: ipaddress.IPv4Network, length: int) -> Tuple[str, str]:
    """First and last subnet that flannel gives out by itself; the very first of the network is never used."""
    size = 2 ** (32 - length)
    return str(network.network_address + size), str(network.broadcast_address - (size - 1))


def ipv4_network(section: Section, key: str) -> ipaddress.IPv4Network:
    network = section.network(key)
    if not isinstance(network, ipaddress.IPv4Network):
        raise SpecError(section.at(key), f"must be an IPv4 network, not {network}")
    return network


def ipv4_address(section: Section, key: str, default: Any = REQUIRED) -> ipaddress.IPv4Address:
    address = section.address(key, default)
    if not isinstance(address, ipaddress.IPv4Address):
        raise SpecError(section.at(key), f"must be an IPv4 address, not {address}")
    return address


def _range_end(section: Section, key: str, network: ipaddress.IPv4Network, length: int, default: str) -> str:
    address = ipv4_address(section, key, ipaddress.IPv4Address(default))
    if address not in network:
        raise SpecError(section.at(key), f"{address} is not inside the network {network}")
    if int(address) % 2 ** (32 - length):
        raise SpecError(section.at(key), f"{address} is not the first address of a /{length} subnet")
    return str(address)


def _parse_backend(section: Section) -> str:
    kind = section.text("type", choices=BACKENDS)
    refuse_foreign_options(section, kind)
    backend: Dict[str, Any] = {"Type": kind}
    if kind == VXLAN:
        backend["VNI"] = section.integer("vni", 1, VNI_LIMIT)
        backend["Port"] = section.integer("port", 1, 65535)
    elif section.integer("mtu", 0, 65535, 0):
        # Flannel knows no such key of another backend.
        raise SpecError(section.at("mtu"), f"is no option of backend {kind} in etcd; it is each node's own affair")
    if section.integer("mtu", 576, 65535, 0):
        backend["MTU"] = section.integer("mtu", 576, 65535)
    for key in ("gbp", "learning", "direct_routing"):
        if section.get(key, None) is not None and (kind == VXLAN or section.boolean(key)):
            backend[BACKEND_KEYS[key]] = section.boolean(key)
    section.finish()
    return compact(backend)


def parse_nodes(section: Section, config: Optional[FlannelConfig] = None) -> Tuple[Node, ...]:
    """``nodes: [{name, address, mac?, subnet?}]`` and ``cluster_name``; with ``config`` checked against that too."""
    cluster = section.text("cluster_name")
    nodes = tuple(_parse_node(entry, cluster) for entry in section.sections("nodes"))
    for field in ("name", "address", "mac", "subnet"):
        values = {f"nodes[{index}].{field}": getattr(node, field) for index, node in enumerate(nodes)}
        unique({path: value for path, value in values.items() if value is not None}, field)
    for index, node in enumerate(nodes):
        if config is not None:
            _check_node(node, f"nodes[{index}]", config)
    return nodes


def _parse_node(section: Section, cluster: str) -> Node:
    name = section.node_name("name")
    mac = vtep_mac(cluster, name) if section.get("mac", None) in (None, "") else section.mac("mac")
    if int(mac[:2], 16) & 1:
        raise SpecError(section.at("mac"), f"{mac} is a multicast address; a device needs a unicast one")
    subnet = None if section.get("subnet", None) in (None, "") else str(ipv4_network(section, "subnet"))
    node = Node(name, str(ipv4_address(section, "address")), mac, subnet)
    section.finish()
    return node


def _check_node(node: Node, path: str, config: FlannelConfig) -> None:
    if ipaddress.IPv4Address(node.address) in ipaddress.IPv4Network(config.network):
        raise SpecError(f"{path}.address", f"{node.address} is inside the pod network {config.network}")
    if node.subnet is not None and not config.holds(node.subnet):
        allowed = f"a /{config.subnet_len} between {config.subnet_min} and {config.subnet_max}"
        raise SpecError(f"{path}.subnet", f"{node.subnet} is not {allowed}")
