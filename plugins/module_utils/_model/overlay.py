# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A declared flannel overlay as one node sees it, and the kernel objects it asks for on that node.

Limits and forms are flannel's: subnets are at least two bits longer than the network, routes have the form that the
backend in question gives them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any, Dict, Iterator, Optional, Tuple

from .backend import HOST_GW, IPIP, VXLAN, Backend, parse_backend
from .datapath import (
    TABLE_MAIN,
    DeviceAddress,
    ForwardingEntry,
    IpipDevice,
    LinkUp,
    Neighbor,
    Nexthop,
    Route,
    VxlanDevice,
)
from .errors import SpecError
from .files import File
from .item import Item, Key
from .members import SUBNET_LIMIT, Member, of_backend, parse_members, require_ipv4
from .parse import Network, Section
from .underlay import Rules, Underlay, parse_rules

# Longest pod network.
NETWORK_LIMIT = 28
DEFAULT_NETWORK = ipaddress.IPv4Network("10.244.0.0/16")
SUBNET_ENV = "/run/flannel/subnet.env"
# Identifiers of our nexthop objects begin here. Others count from 1 (FRR, `ip nexthop`), or take the first free one.
NEXTHOP_BASE = 0x40000000


@dataclasses.dataclass(frozen=True)
class SubnetEnv:
    """The file that flannel's CNI plugin reads; ``ipmasq`` is whether the node masquerades pod traffic."""

    path: str
    ipmasq: bool


@dataclasses.dataclass(frozen=True)
class Overlay:
    """The whole declaration for one node. ``rules`` tell which interface carries it; ``nexthop_objects`` None: where
    the kernel has them."""

    network: Network
    backend: Backend
    node: Member
    peers: Tuple[Member, ...]
    rules: Rules
    subnet_env: Optional[SubnetEnv]
    nexthop_objects: Optional[bool] = None


def parse_overlay(document: Any) -> Overlay:
    """Shape: the parameters of module overlay_network, without ``state``. Raises SpecError naming the item."""
    section = Section(document)
    network = _network(section)
    backend = parse_backend(section.section("backend", {}))
    own, listed = section.section("node"), of_backend(section.sections("peers", []), backend.type)
    node, peers = parse_members(own, listed, network, backend.has_mac)
    overlay = Overlay(
        network=network,
        backend=backend,
        node=node,
        peers=peers,
        rules=parse_rules(section),
        subnet_env=parse_subnet_env(section),
        nexthop_objects=section.boolean("nexthop_objects", None),
    )
    section.finish()
    _check_public_address(overlay)
    return overlay


def _check_public_address(overlay: Overlay) -> None:
    public = overlay.rules.public_address
    if overlay.backend.type == HOST_GW and public is not None and public != overlay.node.address:
        raise SpecError(
            "public_address",
            f"{public} is not {overlay.node.address}, the node's address; with host-gw peers route to the address on "
            "the interface, so no address translation can be between nodes: use another backend",
        )


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
    """The largest packet that the overlay carries. Raises SpecError when the declared MTU does not fit through the
    interface."""
    if backend.mtu > underlay.mtu:
        raise SpecError("backend.mtu", f"{backend.mtu} is more than {underlay.mtu}, the MTU of {underlay.name}")
    return (backend.mtu or underlay.mtu) - backend.overhead


def nexthop_id(member: Member, network: Network) -> int:
    """Which nexthop object leads to a peer: its subnet's place in the pod network, counted in the smallest subnets that
    there are, so that no two peers share one."""
    return NEXTHOP_BASE + ((member.first - int(network.network_address)) >> (32 - SUBNET_LIMIT))


def wanted_items(overlay: Overlay, underlay: Underlay, accept_ra: Optional[int], with_nexthops: bool) -> Iterator[Item]:
    """Everything that flannel's backend keeps on this node, and the file about it. ``accept_ra`` is 0, or None
    where that sysctl is beyond reach. ``with_nexthops`` sends routes through nexthop objects, which flannel does not:
    to packets it is the same."""
    mtu = device_mtu(overlay.backend, underlay)
    yield from _device_items(overlay, underlay, mtu, accept_ra)
    network, device = overlay.network, overlay.backend.device
    hops = {VXLAN: _vxlan_hop, IPIP: _ipip_hop, HOST_GW: _plain_hop}
    hop_of = hops[overlay.backend.type]
    for peer in sorted(overlay.peers, key=lambda peer: peer.first):
        gateway, leaving, onlink = hop_of(peer, device, underlay)
        if leaving == device and peer.mac:
            yield Neighbor(device, gateway, peer.mac)
            yield ForwardingEntry(device, peer.mac, peer.address)
        number = nexthop_id(peer, network) if with_nexthops else 0
        if number:
            yield Nexthop(number, gateway, leaving, onlink)
        yield Route(peer.subnet, gateway, leaving, number, onlink)
    if overlay.subnet_env is not None:
        yield File(overlay.subnet_env.path, subnet_env_text(overlay, overlay.subnet_env, mtu))


def _device_items(overlay: Overlay, underlay: Underlay, mtu: int, accept_ra: Optional[int]) -> Iterator[Item]:
    backend, node, name = overlay.backend, overlay.node, overlay.backend.device
    local = underlay.address or node.address
    if backend.type == VXLAN:
        yield VxlanDevice(
            name,
            backend.vni,
            underlay.name,
            local,
            backend.port,
            node.mac,
            mtu,
            backend.learning,
            backend.gbp,
            accept_ra,
        )
    elif backend.type == IPIP:
        yield IpipDevice(name, local, mtu)
    if name:
        yield DeviceAddress(name, f"{node.gateway}/32")
        yield LinkUp(name)


# Gateway and device of the route to a peer, and whether the gateway is taken to be on the link without looking. Where
# the way is direct, flannel's vxlan leaves it to the kernel to find the interface, and its ipip names the underlay's.
_Hop = Tuple[str, str, bool]


def _vxlan_hop(peer: Member, device: str, underlay: Underlay) -> _Hop:
    direct = underlay.direct.get(peer.address)
    return (peer.gateway, device, True) if direct is None else (peer.address, direct, False)


def _ipip_hop(peer: Member, device: str, underlay: Underlay) -> _Hop:
    return peer.address, underlay.name if peer.address in underlay.direct else device, True


def _plain_hop(peer: Member, _device: str, underlay: Underlay) -> _Hop:
    return peer.address, underlay.name, False


def direct_keys(overlay: Overlay) -> Dict[Key, str]:
    """Gateways by key of the routes and nexthop objects that the overlay may keep on the underlay's interface."""
    if not overlay.backend.may_be_direct:
        return {}
    keys: Dict[Key, str] = {}
    for peer in overlay.peers:
        keys["route", TABLE_MAIN, peer.subnet, 0, 0] = peer.address
        keys["nexthop", nexthop_id(peer, overlay.network)] = peer.address
    return keys


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
