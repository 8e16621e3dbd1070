# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A declared flannel overlay as one node sees it, and the kernel objects it asks for on that node.

Limits and forms are flannel's: device ``flannel.<vni>``, device MTU 50 below the underlay's, subnets at least two bits
longer than the network.
"""

from __future__ import annotations

import bisect
import dataclasses
import ipaddress
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from .datapath import DeviceAddress, ForwardingEntry, LinkUp, Neighbor, Route, VxlanDevice
from .errors import SpecError
from .files import File
from .item import Item
from .lease import VNI_LIMIT
from .parse import Address, Network, Section, unique

# Outer Ethernet, IPv4, UDP and VXLAN headers, as flannel counts them.
ENCAPSULATION = 50
# Longest pod network, longest subnet of a node, and how much longer a subnet is at least.
NETWORK_LIMIT, SUBNET_LIMIT, SUBNET_EXTRA = 28, 30, 2
# RFC 791: every IPv4 link carries 68 bytes; the rest is the encapsulation.
MTU_MINIMUM = 68 + ENCAPSULATION
# Flannel's default is the kernel's, not IANA's 4789.
DEFAULT_PORT = 8472
DEFAULT_NETWORK = ipaddress.IPv4Network("10.244.0.0/16")
SUBNET_ENV = "/run/flannel/subnet.env"


@dataclasses.dataclass(frozen=True)
class Backend:
    """How packets travel. ``mtu`` is the underlay's, 0 for that of the interface."""

    vni: int
    port: int
    mtu: int

    @property
    def device(self) -> str:
        return f"flannel.{self.vni}"


@dataclasses.dataclass(frozen=True)
class Member:
    """A node of the overlay: its underlay address, its pod subnet, the MAC address of its VXLAN device.

    ``name`` is None for a peer that is known by its lease only.
    """

    name: Optional[str]
    address: Address
    subnet: Network
    mac: str

    @property
    def gateway(self) -> str:
        """Flannel's VXLAN devices hold the first address of the subnet."""
        return str(self.subnet.network_address)


@dataclasses.dataclass(frozen=True)
class SubnetEnv:
    """The file that flannel's CNI plugin reads; ``ipmasq`` is whether the node masquerades pod traffic."""

    path: str
    ipmasq: bool


@dataclasses.dataclass(frozen=True)
class Overlay:
    """The whole declaration for one node. ``interface`` None: the one that holds ``node.address``."""

    network: Network
    backend: Backend
    node: Member
    peers: Tuple[Member, ...]
    interface: Optional[str]
    subnet_env: Optional[SubnetEnv]


@dataclasses.dataclass(frozen=True)
class Underlay:
    """The interface that carries the overlay."""

    name: str
    mtu: int


def parse_overlay(document: Any) -> Overlay:
    """Shape: the parameters of module overlay_network, without ``state``. Raises SpecError naming the item."""
    section = Section(document)
    network = _network(section)
    own = section.section("node")
    node = _member(own, network)
    listed = {peer.path: _member(peer, network, named=False) for peer in section.sections("peers", [])}
    peers = {path: peer for path, peer in listed.items() if peer.name != node.name}
    overlay = Overlay(
        network=network,
        backend=parse_backend(section.section("backend", {})),
        node=node,
        peers=tuple(peers.values()),
        interface=section.interface("interface", None),
        subnet_env=parse_subnet_env(section),
    )
    section.finish()
    _check_members({own.path: node, **peers})
    return overlay


def unusable(entries: Sequence[Mapping[str, Any]], network: Network) -> Dict[int, str]:
    """Index and reason of each entry without a name that ``parse_overlay`` would refuse as a peer beside the others.

    ``entries`` are those of ``peers``. Entries with a name are taken as they are, and come before all others.
    """
    taken = _Taken()
    problems: Dict[int, str] = {}
    for index in sorted(range(len(entries)), key=lambda index: entries[index].get("name") is None):
        named = entries[index].get("name") is not None
        try:
            member = _member(Section(entries[index]), network, named)
            if not named:
                taken.refuse(member)
            taken.add(member)
        except SpecError as error:
            if not named:
                problems[index] = str(error)
    return problems


class _Taken:
    """What members have for themselves. Their subnets do not overlap, unless declared ones do."""

    def __init__(self) -> None:
        self._values: Set[Any] = set()
        self._subnets: List[Tuple[int, int]] = []

    def add(self, member: Member) -> None:
        self._values |= {member.address, member.mac}
        bisect.insort(self._subnets, _span(member.subnet))

    def refuse(self, member: Member) -> None:
        for field in ("address", "mac"):
            if getattr(member, field) in self._values:
                raise SpecError(field, f"{getattr(member, field)} is also that of another lease")
        first, last = _span(member.subnet)
        after = bisect.bisect_right(self._subnets, (last, 2**32))
        if after and self._subnets[after - 1][1] >= first:
            raise SpecError("subnet", f"{member.subnet} overlaps that of another lease")


def _span(subnet: Network) -> Tuple[int, int]:
    return int(subnet.network_address), int(subnet.broadcast_address)


def parse_backend(section: Section) -> Backend:
    section.text("type", "vxlan", choices=["vxlan"])
    backend = Backend(
        vni=section.integer("vni", 1, VNI_LIMIT, 1),
        port=section.integer("port", 1, 65535, DEFAULT_PORT),
        mtu=section.integer("mtu", MTU_MINIMUM, 65535, 0),
    )
    section.finish()
    return backend


def parse_subnet_env(section: Section) -> Optional[SubnetEnv]:
    if section.get("subnet_env", None) is None:
        return None
    part = section.section("subnet_env")
    env = SubnetEnv(part.text("path", SUBNET_ENV), part.boolean("ipmasq", False))
    part.finish()
    if not env.path.startswith("/"):
        raise SpecError(part.at("path"), f"must be absolute, not {env.path!r}")
    return env


def device_mtu(backend: Backend, underlay: Underlay) -> int:
    """Raises SpecError when the declared MTU does not fit through the interface."""
    if backend.mtu > underlay.mtu:
        raise SpecError("backend.mtu", f"{backend.mtu} is more than {underlay.mtu}, the MTU of {underlay.name}")
    return (backend.mtu or underlay.mtu) - ENCAPSULATION


def wanted_items(overlay: Overlay, underlay: Underlay, accept_ra: Optional[int]) -> Iterator[Item]:
    """Everything that flannel's VXLAN backend keeps on this node, and the file about it. ``accept_ra`` is 0, or None
    where that sysctl is beyond reach."""
    backend, node, device = overlay.backend, overlay.node, overlay.backend.device
    mtu = device_mtu(backend, underlay)
    local = str(node.address)
    yield VxlanDevice(device, backend.vni, underlay.name, local, backend.port, node.mac, mtu, accept_ra=accept_ra)
    yield DeviceAddress(device, f"{node.gateway}/{node.subnet.max_prefixlen}")
    yield LinkUp(device)
    for peer in sorted(overlay.peers, key=lambda peer: int(peer.subnet.network_address)):
        yield Neighbor(device, peer.gateway, peer.mac)
        yield ForwardingEntry(device, peer.mac, str(peer.address))
        yield Route(str(peer.subnet), peer.gateway, device)
    if overlay.subnet_env is not None:
        yield File(overlay.subnet_env.path, subnet_env_text(overlay, overlay.subnet_env, mtu))


def subnet_env_text(overlay: Overlay, env: SubnetEnv, mtu: int) -> str:
    """The keys of flannel's subnet.env in its order. FLANNEL_SUBNET is the first host's address with the prefix."""
    subnet = overlay.node.subnet
    values = {
        "FLANNEL_NETWORK": overlay.network,
        "FLANNEL_SUBNET": f"{subnet.network_address + 1}/{subnet.prefixlen}",
        "FLANNEL_MTU": mtu,
        "FLANNEL_IPMASQ": "true" if env.ipmasq else "false",
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())


def _network(section: Section) -> Network:
    network = section.network("network", DEFAULT_NETWORK)
    _require_ipv4(network.version, section.at("network"))
    if network.prefixlen > NETWORK_LIMIT:
        raise SpecError(section.at("network"), f"{network} is too small; the longest prefix is /{NETWORK_LIMIT}")
    return network


def _member(section: Section, network: Network, named: bool = True) -> Member:
    """Entries of leases may come with ``backend_type`` and ``ttl``; nothing here depends on them."""
    section.get("backend_type", None)
    section.get("ttl", None)
    has_name = named or section.get("name", None) is not None
    member = Member(
        name=section.node_name("name") if has_name else None,
        address=section.address("address"),
        subnet=section.network("subnet"),
        mac=section.mac("mac"),
    )
    section.finish()
    _check_address(member.address, network, section.at("address"))
    _check_subnet(member.subnet, network, section.at("subnet"))
    if int(member.mac[:2], 16) & 1 or member.mac == "00:00:00:00:00:00":
        raise SpecError(section.at("mac"), f"must be the address of one device, not {member.mac}")
    return member


def _check_address(address: Address, network: Network, path: str) -> None:
    _require_ipv4(address.version, path)
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise SpecError(path, f"must be the address of a node on the underlay, not {address}")
    if address in network:
        raise SpecError(path, f"{address} is inside the pod network {network}; nodes talk outside of it")


def _check_subnet(subnet: Network, network: Network, path: str) -> None:
    _require_ipv4(subnet.version, path)
    if not subnet.subnet_of(network):  # type: ignore[arg-type]
        raise SpecError(path, f"{subnet} is not inside the pod network {network}")
    shortest = network.prefixlen + SUBNET_EXTRA
    if not shortest <= subnet.prefixlen <= SUBNET_LIMIT:
        raise SpecError(path, f"{subnet} must have a prefix of /{shortest} to /{SUBNET_LIMIT} in {network}")


def _require_ipv4(version: int, path: str) -> None:
    if version != 4:
        raise SpecError(path, "must be IPv4; the vxlan backend carries no IPv6 yet")


def _check_members(members: Mapping[str, Member]) -> None:
    """``members`` maps the path of each member in the input to it, own entry first."""
    unique({f"{path}.name": member.name for path, member in members.items() if member.name is not None}, "name")
    for field, what in (("address", "address"), ("mac", "MAC address"), ("subnet", "subnet")):
        unique({f"{path}.{field}": getattr(member, field) for path, member in members.items()}, what)
    _refuse_overlap({f"{path}.subnet": member.subnet for path, member in members.items()})


def _refuse_overlap(subnets: Dict[str, Network]) -> None:
    def start(entry: Tuple[str, Network]) -> Tuple[int, int]:
        return int(entry[1].network_address), entry[1].prefixlen

    ordered: List[Tuple[str, Network]] = sorted(subnets.items(), key=start)
    for (path, subnet), (next_path, following) in zip(ordered, ordered[1:]):
        if int(following.network_address) <= int(subnet.broadcast_address):
            raise SpecError(next_path, f"{following} overlaps {subnet} of {path}")
