# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Subnet leases as declared: flannel's network configuration, the nodes that get a subnet, and both as objects in etcd.

Rules and defaults of the network configuration are those of flannel's etcd manager (pkg/subnet/config.go). How the
objects are written down in etcd is the business of ``lease_codec``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import ipaddress
import json
from typing import Any, ClassVar, Dict, Hashable, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from .backend import IPIP
from .errors import SpecError
from .ip_version import IPV4, IPV6, VERSIONS, IpVersion, version_of_network
from .item import BaseItem
from .lease_backend import parse_lease_backend, without_psk
from .parse import Address, Network, Section, unique
from .wireguard import parse_public_key

# Life of a lease: a key without etcd lease; one with an etcd lease; the same with less than half of its time left.
PERMANENT, LEASED, ENDING = "permanent", "leased", "ending"
# One whose etcd lease other keys hang on too, so that it cannot be kept alive, or end, by itself.
SHARED = "shared"
# Length of a subnet where the network has room for four of them; how much longer than the network one is at least.
_USUAL_SUBNET = {IPV4: 24, IPV6: 64}
_SUBNET_EXTRA = 2
# Where no pods can be: what the IETF has reserved (with loopback in it), link-local, multicast (RFC 4291).
_NO_POD_NETWORKS = tuple(map(ipaddress.IPv6Network, ("::/8", "fe80::/10", "ff00::/8")))
# The renewal timer runs hourly with up to ten minutes of delay: half of the time to live must be longer than that.
SHORTEST_TTL = 14400
DEFAULT_TTL = 86400
DEFAULT_PREFIX = "/coreos.com/network"


def vtep_mac(cluster: str, node: str, version: IpVersion = IPV4) -> str:
    """The MAC address of a node's VXLAN device for an IP version: the same on every run, unicast, locally administered.

    Taken from the names alone, so that each node knows those of all others without asking them.
    """
    # No node's name has a slash in it.
    words = [cluster, node, *([str(version)] if version is not IPV4 else [])]
    octets = bytearray(hashlib.sha256("/".join(words).encode()).digest()[:6])
    octets[0] = (octets[0] | 0x02) & 0xFE
    return ":".join(f"{octet:02x}" for octet in octets)


class Pool(NamedTuple):
    """The subnets of one IP version that flannel gives out: ``subnet_len`` long, from the first to the last."""

    version: IpVersion
    network: str
    subnet_len: int
    subnet_min: str
    subnet_max: str

    def holds(self, subnet: str) -> bool:
        """Whether flannel would go on using a subnet: of the right length, aligned, between the first and the last."""
        network = ipaddress.ip_network(subnet)
        if network.version != self.version.number or network.prefixlen != self.subnet_len:
            return False
        return self.first <= int(network.network_address) <= self.last

    @property
    def first(self) -> int:
        """The first subnet's first address as a number."""
        return _number(self.subnet_min)

    @property
    def last(self) -> int:
        """The last subnet's first address as a number."""
        return _number(self.subnet_max)

    @property
    def fields(self) -> Dict[str, Any]:
        """As declared, and as ``FlannelConfig`` has them."""
        return dict(zip(pool_keys(self.version), self[1:]))

    def __str__(self) -> str:
        return f"a /{self.subnet_len} from {self.subnet_min} to {self.subnet_max}"


# Thousands of subnets are compared with the few ends of pools.
@functools.lru_cache(maxsize=64)
def _number(address: str) -> int:
    return int(ipaddress.ip_address(address))


@functools.lru_cache(maxsize=64)
def _pod_network(text: str) -> Network:
    return ipaddress.ip_network(text)


def pool_keys(version: IpVersion) -> Tuple[str, str, str, str]:
    """What network, subnet_len, subnet_min and subnet_max are called for an IP version."""
    subnet = f"subnet{version.suffix}"
    return f"network{version.suffix}", f"{subnet}_len", f"{subnet}_min", f"{subnet}_max"


@dataclasses.dataclass(frozen=True)
class FlannelConfig(BaseItem):
    """Flannel's network configuration. ``backend`` and ``others`` (keys we do not manage) are compact JSON.

    ``network6`` and what follows from it are empty without IPv6. ``ipv4`` is what flannel has as its default.
    """

    kind: ClassVar[str] = "flannel_config"
    network: str
    subnet_len: int
    subnet_min: str
    subnet_max: str
    backend: str
    others: str = "{}"
    network6: str = ""
    subnet6_len: int = 0
    subnet6_min: str = ""
    subnet6_max: str = ""
    ipv4: bool = True

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return ()

    @property
    def backend_type(self) -> str:
        return str(json.loads(self.backend).get("Type", "")).lower()

    @property
    def pools(self) -> Tuple[Pool, ...]:
        """That of IPv4, and that of IPv6 where there is one."""
        pool = Pool(IPV4, self.network, self.subnet_len, self.subnet_min, self.subnet_max)
        pool6 = Pool(IPV6, self.network6, self.subnet6_len, self.subnet6_min, self.subnet6_max)
        return (pool, pool6) if self.network6 else (pool,)

    def __str__(self) -> str:
        pools = " and ".join(
            f"{pool.network} subnets /{pool.subnet_len} {pool.subnet_min} to {pool.subnet_max}" for pool in self.pools
        )
        return f"flannel_config {pools} backend {without_psk(self.backend)}"

    def to_dict(self) -> Dict[str, Any]:
        return {**super().to_dict(), "backend": without_psk(self.backend)}


class Half(NamedTuple):
    """What a lease says for one IP version. ``data`` is as in ``Lease``."""

    version: IpVersion
    subnet: str
    address: str
    data: str

    @property
    def mac(self) -> str:
        """The VTEP's MAC address; empty where the backend has none."""
        return str(self._fields_of_data().get("VtepMAC", "")).lower()

    @property
    def public_key(self) -> str:
        """WireGuard's; empty where the backend has none."""
        return str(self._fields_of_data().get("PublicKey", ""))

    @property
    def listen_port(self) -> int:
        """WireGuard's; 0 where the lease does not tell."""
        port = self._fields_of_data().get("Port")
        return port if isinstance(port, int) and not isinstance(port, bool) else 0

    @property
    def marks(self) -> Tuple[str, ...]:
        """By what a node is known that has moved to another address."""
        return tuple(mark for mark in (self.mac, self.public_key) if mark)

    def _fields_of_data(self) -> Dict[str, Any]:
        data = json.loads(self.data) if self.data else None
        return data if isinstance(data, dict) else {}


@dataclasses.dataclass(frozen=True)
class Lease(BaseItem):
    """One subnet lease. ``data`` and ``data6`` are the backend's data as compact JSON with sorted keys, empty for none.

    Without a ``subnet6`` there is no IPv6 half, whatever ``address6`` and ``data6`` say.
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
    def halves(self) -> Tuple[Half, ...]:
        """That of IPv4, and that of IPv6 where there is one."""
        half = Half(IPV4, self.subnet, self.address, self.data)
        return (half, Half(IPV6, self.subnet6, self.address6, self.data6)) if self.subnet6 else (half,)

    def half(self, version: IpVersion) -> Optional[Half]:
        return next((half for half in self.halves if half.version is version), None)

    def __str__(self) -> str:
        subnets, addresses, data = (
            "&".join(getattr(half, field) or "-" for half in self.halves) for field in ("subnet", "address", "data")
        )
        return f"lease {subnets} of {addresses} {self.backend_type} {data} {self.life}"


def lease_of(halves: Iterable[Half], backend_type: str, life: str) -> Lease:
    """The lease with these halves, one of them for IPv4."""
    fields = {f"{field}{half.version.suffix}": getattr(half, field) for half in halves for field in Half._fields[1:]}
    return Lease(backend_type=backend_type, life=life, **fields)


class NodeHalf(NamedTuple):
    """A declared node in one IP version. ``subnet`` is set when it must have exactly that one."""

    version: IpVersion
    address: str
    mac: str
    subnet: Optional[str]
    public_key: str = ""


# Declared for each IP version apart.
_HALF_FIELDS = ("address", "mac", "subnet")


@dataclasses.dataclass(frozen=True)
class Node:
    """A declared member of the overlay. ``address6`` is empty without an IPv6 half. ``public_key`` is WireGuard's, one
    for both halves, and empty where it is not known."""

    name: str
    address: str
    mac: str
    subnet: Optional[str] = None
    address6: str = ""
    mac6: str = ""
    subnet6: Optional[str] = None
    public_key: str = ""

    @property
    def halves(self) -> Tuple[NodeHalf, ...]:
        half = NodeHalf(IPV4, self.address, self.mac, self.subnet, self.public_key)
        half6 = NodeHalf(IPV6, self.address6, self.mac6, self.subnet6, self.public_key)
        return (half, half6) if self.address6 else (half,)

    def half(self, version: IpVersion) -> Optional[NodeHalf]:
        return next((half for half in self.halves if half.version is version), None)


@dataclasses.dataclass(frozen=True)
class LeaseSpec:
    """What the lease store shall hold. ``node`` is the name of the node whose lease is kept alive from here.
    ``waiting`` are nodes that get no lease yet; the subnets that they must have are not given to others."""

    config: FlannelConfig
    nodes: Tuple[Node, ...]
    node: str
    ttl: int
    prefix: str
    update_config: bool = True
    waiting: Tuple[Node, ...] = ()

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
    """Shape: ``{network, subnet_len?, subnet_min?, subnet_max?, backend: {type, ...}}``, the same for IPv6 with
    ``network6``, ``subnet6_len`` and so on."""
    _refuse_half_declared(section)
    versions = [version for version in VERSIONS if version is IPV4 or section.get("network6", None) is not None]
    pools = [_parse_pool(section, version) for version in versions]
    backend = parse_lease_backend(section.section("backend"), len(pools) > 1)
    section.finish()
    fields = {key: value for pool in pools for key, value in pool.fields.items()}
    config = FlannelConfig(backend=backend, **fields)
    if config.network6 and config.backend_type == IPIP:
        raise SpecError(section.at("network6"), "backend ipip carries IPv4 only; take another one, or leave it out")
    return config


def _refuse_half_declared(section: Section) -> None:
    # Marks the keys as known, too.
    given = [key for key in pool_keys(IPV6) if section.get(key, None) is not None]
    if "network6" in given and section.get("network", None) is None:
        raise SpecError(
            section.at("network"),
            "is required: flannel's leases in etcd always have an IPv4 half. "
            "For an overlay of IPv6 alone give the peers to overlay_network directly, without leases",
        )
    if given and "network6" not in given:
        raise SpecError(section.at(given[0]), "is of no use without network6; declare that too, or leave this out")


def _is_given(section: Section, key: str) -> bool:
    return section.get(key, None) not in (None, "")


def _parse_pool(section: Section, version: IpVersion) -> Pool:
    network_key, len_key, min_key, max_key = pool_keys(version)
    network = _network(section, network_key, version)
    if network.prefixlen > version.network_limit:
        raise SpecError(
            section.at(network_key), f"must be /{version.network_limit} or shorter, not /{network.prefixlen}"
        )
    if version is IPV6 and any(network.overlaps(reserved) for reserved in _NO_POD_NETWORKS):
        raise SpecError(section.at(network_key), f"must be a network that pods can be in, not {network}")
    shortest = network.prefixlen + _SUBNET_EXTRA
    length = section.integer(len_key, shortest, version.subnet_limit, default_subnet_len(network))
    first, last = default_range(network, length)
    pool = Pool(
        version,
        str(network),
        length,
        _range_end(section, min_key, network, length, first),
        _range_end(section, max_key, network, length, last),
    )
    if pool.first > pool.last:
        raise SpecError(section.at(max_key), f"{pool.subnet_max} is below {min_key} {pool.subnet_min}")
    return pool


def default_subnet_len(network: Network) -> int:
    usual = _USUAL_SUBNET[version_of_network(network)]
    return usual if network.prefixlen + _SUBNET_EXTRA <= usual else network.prefixlen + _SUBNET_EXTRA


def default_range(network: Network, length: int) -> Tuple[str, str]:
    """First and last subnet that flannel gives out by itself; the very first of the network is never used."""
    size = 1 << (network.max_prefixlen - length)
    return str(network.network_address + size), str(network.broadcast_address - (size - 1))


def _network(section: Section, key: str, version: IpVersion) -> Network:
    network = section.network(key)
    if network.version != version.number:
        raise SpecError(section.at(key), f"must be an {version} network, not {network}")
    return network


def _address(section: Section, key: str, version: IpVersion) -> Address:
    address = section.address(key)
    if address.version != version.number:
        raise SpecError(section.at(key), f"must be an {version} address, not {address}")
    return address


def _range_end(section: Section, key: str, network: Network, length: int, default: str) -> str:
    if section.get(key, None) is None:
        return default
    address = _address(section, key, version_of_network(network))
    if address not in network:
        raise SpecError(section.at(key), f"{address} is not inside the network {network}")
    if int(address) % (1 << (network.max_prefixlen - length)):
        raise SpecError(section.at(key), f"{address} is not the first address of a /{length} subnet")
    return str(address)


def parse_nodes(section: Section, config: Optional[FlannelConfig] = None) -> Tuple[Node, ...]:
    """``nodes: [{name, address, mac?, subnet?, address6?, mac6?, subnet6?}]`` and ``cluster_name``; with ``config``
    checked against that too."""
    cluster = section.text("cluster_name")
    pools = {pool.version: pool for pool in config.pools} if config is not None else {}
    nodes = tuple(_parse_node(entry, cluster, pools) for entry in section.sections("nodes"))
    # No two devices of a cluster have the same MAC address, whichever IP version they are for.
    for what in (("name",), ("address",), ("address6",), ("mac", "mac6"), ("subnet",), ("subnet6",), ("public_key",)):
        values = {f"nodes[{index}].{key}": getattr(node, key) for index, node in enumerate(nodes) for key in what}
        unique({path: value for path, value in values.items() if value}, what[0])
    return nodes


def _parse_node(section: Section, cluster: str, pools: Mapping[IpVersion, Pool]) -> Node:
    """Without ``pools`` a node has what is said of it; with them, what they are for: a variable of the host may outlive
    the cluster's IPv6."""
    name = section.node_name("name")
    fields: Dict[str, Any] = {}
    for version in VERSIONS:
        if version is IPV4 or version in pools or _has_half(section, version):
            half = _parse_half(section, version, vtep_mac(cluster, name, version), name)
            _check_half(half, section, pools.get(version))
            if version in pools or not pools:
                fields.update({f"{field}{version.suffix}": getattr(half, field) for field in _HALF_FIELDS})
    if _is_given(section, "public_key"):
        fields["public_key"] = parse_public_key(section.get("public_key"), section.at("public_key"))
    section.finish()
    return Node(name, **fields)


def _has_half(section: Section, version: IpVersion) -> bool:
    keys: List[str] = [f"{field}{version.suffix}" for field in _HALF_FIELDS]
    # Asking for each marks it as known.
    return any([_is_given(section, key) for key in keys])


def _parse_half(section: Section, version: IpVersion, default_mac: str, name: str) -> NodeHalf:
    address_key, mac_key, subnet_key = (f"{field}{version.suffix}" for field in _HALF_FIELDS)
    if version is IPV6 and not _is_given(section, address_key):
        raise SpecError(
            section.at(address_key),
            f"is required for node {name}: where config.network6 is declared, every node has both IP versions",
        )
    address = _address(section, address_key, version)
    mac = section.mac(mac_key) if _is_given(section, mac_key) else default_mac
    subnet = str(_network(section, subnet_key, version)) if _is_given(section, subnet_key) else None
    return NodeHalf(version, str(address), mac, subnet)


def _check_half(half: NodeHalf, section: Section, pool: Optional[Pool]) -> None:
    address_key, mac_key, subnet_key = (f"{field}{half.version.suffix}" for field in _HALF_FIELDS)
    address = ipaddress.ip_address(half.address)
    if not half.version.is_host(address):
        raise SpecError(section.at(address_key), f"must be the address of a node on the underlay, not {address}")
    if int(half.mac[:2], 16) & 1:
        raise SpecError(section.at(mac_key), f"{half.mac} is a multicast address; a device needs a unicast one")
    if pool is None:
        return
    if address in _pod_network(pool.network):
        raise SpecError(section.at(address_key), f"{address} is inside the pod network {pool.network}")
    if half.subnet is not None and not pool.holds(half.subnet):
        raise SpecError(section.at(subnet_key), f"{half.subnet} is not {pool}")
