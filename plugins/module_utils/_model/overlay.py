# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A declared flannel overlay as one node sees it, and the kernel objects it asks for on that node.

Limits and forms are flannel's: device ``flannel.<vni>``, device MTU 50 below the underlay's, subnets at least two bits
longer than the network.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any, Iterator, Optional, Tuple

from .datapath import DeviceAddress, ForwardingEntry, LinkUp, Neighbor, Nexthop, Route, VxlanDevice
from .errors import SpecError
from .files import File
from .item import Item
from .lease import VNI_LIMIT
from .members import SUBNET_LIMIT, Member, parse_members, require_ipv4
from .parse import Network, Section

# Outer Ethernet, IPv4, UDP and VXLAN headers, as flannel counts them.
ENCAPSULATION = 50
# Longest pod network.
NETWORK_LIMIT = 28
# RFC 791: every IPv4 link carries 68 bytes; the rest is the encapsulation.
MTU_MINIMUM = 68 + ENCAPSULATION
# Flannel's default is the kernel's, not IANA's 4789.
DEFAULT_PORT = 8472
DEFAULT_NETWORK = ipaddress.IPv4Network("10.244.0.0/16")
SUBNET_ENV = "/run/flannel/subnet.env"
# Identifiers of our nexthop objects begin here. Others count from 1 (FRR, `ip nexthop`), or take the first free one.
NEXTHOP_BASE = 0x40000000


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
class SubnetEnv:
    """The file that flannel's CNI plugin reads; ``ipmasq`` is whether the node masquerades pod traffic."""

    path: str
    ipmasq: bool


@dataclasses.dataclass(frozen=True)
class Overlay:
    """The whole declaration for one node. ``interface`` None: the one that holds ``node.address``; ``nexthop_objects``
    None: where the kernel has them."""

    network: Network
    backend: Backend
    node: Member
    peers: Tuple[Member, ...]
    interface: Optional[str]
    subnet_env: Optional[SubnetEnv]
    nexthop_objects: Optional[bool] = None


@dataclasses.dataclass(frozen=True)
class Underlay:
    """The interface that carries the overlay."""

    name: str
    mtu: int


def parse_overlay(document: Any) -> Overlay:
    """Shape: the parameters of module overlay_network, without ``state``. Raises SpecError naming the item."""
    section = Section(document)
    network = _network(section)
    own, listed = section.section("node"), section.sections("peers", [])
    node, peers = parse_members(own, listed, network)
    overlay = Overlay(
        network=network,
        backend=parse_backend(section.section("backend", {})),
        node=node,
        peers=peers,
        interface=section.interface("interface", None),
        subnet_env=parse_subnet_env(section),
        nexthop_objects=section.boolean("nexthop_objects", None),
    )
    section.finish()
    return overlay


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


def nexthop_id(member: Member, network: Network) -> int:
    """Which nexthop object leads to a peer: its subnet's place in the pod network, counted in the smallest subnets that
    there are, so that no two peers share one."""
    return NEXTHOP_BASE + ((member.first - int(network.network_address)) >> (32 - SUBNET_LIMIT))


def wanted_items(overlay: Overlay, underlay: Underlay, accept_ra: Optional[int], with_nexthops: bool) -> Iterator[Item]:
    """Everything that flannel's VXLAN backend keeps on this node, and the file about it. ``accept_ra`` is 0, or None
    where that sysctl is beyond reach. ``with_nexthops`` sends routes through nexthop objects, which flannel does not:
    to packets it is the same."""
    backend, node, device = overlay.backend, overlay.node, overlay.backend.device
    mtu = device_mtu(backend, underlay)
    yield VxlanDevice(
        device, backend.vni, underlay.name, node.address, backend.port, node.mac, mtu, accept_ra=accept_ra
    )
    yield DeviceAddress(device, f"{node.gateway}/32")
    yield LinkUp(device)
    for peer in sorted(overlay.peers, key=lambda peer: peer.first):
        gateway = peer.gateway
        yield Neighbor(device, gateway, peer.mac)
        yield ForwardingEntry(device, peer.mac, peer.address)
        number = nexthop_id(peer, overlay.network) if with_nexthops else 0
        if number:
            yield Nexthop(number, gateway, device)
        yield Route(peer.subnet, gateway, device, number)
    if overlay.subnet_env is not None:
        yield File(overlay.subnet_env.path, subnet_env_text(overlay, overlay.subnet_env, mtu))


def subnet_env_text(overlay: Overlay, env: SubnetEnv, mtu: int) -> str:
    """The keys of flannel's subnet.env in its order. FLANNEL_SUBNET is the first host's address with the prefix."""
    first = ipaddress.IPv4Address(overlay.node.first + 1)
    values = {
        "FLANNEL_NETWORK": overlay.network,
        "FLANNEL_SUBNET": f"{first}/{overlay.node.length}",
        "FLANNEL_MTU": mtu,
        "FLANNEL_IPMASQ": "true" if env.ipmasq else "false",
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())


def _network(section: Section) -> Network:
    network = section.network("network", DEFAULT_NETWORK)
    require_ipv4(network.version, section.at("network"))
    if network.prefixlen > NETWORK_LIMIT:
        raise SpecError(section.at("network"), f"{network} is too small; the longest prefix is /{NETWORK_LIMIT}")
    return network
