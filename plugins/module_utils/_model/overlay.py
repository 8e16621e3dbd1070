# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A declared flannel overlay as one node sees it, and the kernel objects it asks for on that node.

Limits and forms are flannel's: subnets are at least two bits longer than the network, routes have the form that the
backend in question gives them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from .backend import HOST_GW, IPIP, VNI_LIMIT6, VXLAN, WIREGUARD, Backend, overhead, parse_backend
from .datapath import (
    NO_DUPLICATE_DETECTION,
    SCOPE_LINK,
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
from .ip_version import IPV4, IPV6, VERSIONS, IpVersion
from .item import Item, Key
from .members import Member, MemberReader, of_backend, parse_members, require_version
from .parse import Address, Network, Section
from .secret import NO_SECRET, Secret
from .underlay import Rules, Underlay, parse_rules
from .wireguard import SEPARATE, Half, WireguardDevice, same_port_problem, wireguard_peers

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
class Family:
    """What the overlay has of one IP version. ``device`` is the name of the backend's, "" where it has none; ``rules``
    tell which interface carries the overlay."""

    version: IpVersion
    network: Network
    device: str
    node: Member
    peers: Tuple[Member, ...]
    rules: Rules


@dataclasses.dataclass(frozen=True)
class Overlay:
    """The whole declaration for one node: one family or, with dual stack, two. ``nexthop_objects`` None: where the
    kernel has them."""

    backend: Backend
    families: Tuple[Family, ...]
    subnet_env: Optional[SubnetEnv]
    nexthop_objects: Optional[bool] = None

    @property
    def networks(self) -> Tuple[Network, ...]:
        return tuple(family.network for family in self.families)


def parse_overlay(document: Any) -> Overlay:
    """Shape: the parameters of module overlay_network, without ``state``. Raises SpecError naming the item."""
    section = Section(document)
    networks = _networks(section)
    backend = parse_backend(section.section("backend", {}))
    own, entries = section.section("node"), section.entries("peers", [])
    listed = {path: entry for path, entry in entries.items() if of_backend(entry, backend.type)}
    families = []
    for network in networks:
        reader = MemberReader(network, backend.has_mac, backend.type == WIREGUARD)
        version = reader.version
        _check_backend(section, backend, version)
        node, peers = parse_members(own, listed, reader)
        rules = parse_rules(section, version)
        families.append(Family(version, network, backend.device(version), node, peers, rules))
    overlay = Overlay(
        backend=backend,
        families=tuple(families),
        subnet_env=parse_subnet_env(section),
        nexthop_objects=section.boolean("nexthop_objects", None),
    )
    _ignore_undeclared(section)
    section.finish()
    _check_devices(overlay)
    for family in overlay.families:
        _check_public_address(backend, family)
    return overlay


def _networks(section: Section) -> List[Network]:
    """IPv4 is taken for granted only where IPv6 is not declared."""
    ipv6 = section.get("network6", None)
    networks = [
        _network(section, f"network{version.suffix}", version, default)
        for version, default in ((IPV4, DEFAULT_NETWORK if ipv6 is None else None), (IPV6, None))
    ]
    return [network for network in networks if network is not None]


def _network(section: Section, key: str, version: IpVersion, default: Optional[Network]) -> Optional[Network]:
    network = section.network(key, default)
    if network is not None:
        require_version(network.version, version, section.at(key))
        if network.prefixlen > version.network_limit:
            longest = f"the longest prefix is /{version.network_limit}"
            raise SpecError(section.at(key), f"{network} is too small; {longest}")
    return network


def _check_backend(section: Section, backend: Backend, version: IpVersion) -> None:
    if version is not IPV6:
        return
    if backend.type == IPIP:
        raise SpecError(section.at("network6"), "backend ipip carries IPv4 only; use vxlan or host-gw")
    if backend.type == VXLAN and backend.vni > VNI_LIMIT6:
        name = backend.device(version)
        raise SpecError("backend.vni", f"must be at most {VNI_LIMIT6} with network6, for {name} is no name of a device")


def _check_devices(overlay: Overlay) -> None:
    backend = overlay.backend
    if backend.type != WIREGUARD or len(overlay.families) < 2:
        return
    problem = same_port_problem(backend.mode, backend.listen_port, backend.listen_port6)
    if problem:
        raise SpecError("backend.listen_port6", problem)
    keys = [family.node.public_key for family in overlay.families]
    if backend.mode != SEPARATE and keys[0] != keys[1]:
        raise SpecError("node.public_key6", "must be that of IPv4: there is one device for both with this mode")


def _ignore_undeclared(section: Section) -> None:
    """What belongs to an IP version without a network may be there all the same, as in a lease."""
    for version in VERSIONS:
        section.get(f"public_address{version.suffix}", None)


def _check_public_address(backend: Backend, family: Family) -> None:
    public, node = family.rules.public_address, family.node
    if backend.type == HOST_GW and public is not None and public != node.address:
        raise SpecError(
            f"public_address{family.version.suffix}",
            f"{public} is not {node.address}, the node's address; with host-gw peers route to the address on "
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


def device_mtu(backend: Backend, underlay: Underlay, version: IpVersion) -> int:
    """The largest packet that the overlay carries. Raises SpecError when the declared MTU does not fit through the
    interface, and when what is left is less than the IP version needs."""
    if backend.mtu > underlay.mtu:
        raise SpecError("backend.mtu", f"{backend.mtu} is more than {underlay.mtu}, the MTU of {underlay.name}")
    mtu = (backend.mtu or underlay.mtu) - overhead(backend.type, version)
    if mtu < version.smallest_mtu:
        needed = f"{version} needs {version.smallest_mtu}"
        raise SpecError("backend.mtu", f"leaves {mtu} bytes for packets of pods, and {needed}")
    return mtu


def pods_mtu(backend: Backend, families: Sequence[Family], underlays: Sequence[Underlay]) -> int:
    """The largest packet that pods can send: they have one MTU for both IP versions."""
    return min(device_mtu(backend, underlay, each.version) for each, underlay in zip(families, underlays))


def refuse_to_cover(overlay: Overlay, controller: Optional[Address]) -> None:
    """Raises SpecError when a route of the overlay would take away the one to where this run is steered from."""
    for family in overlay.families:
        if controller is None or controller.version != family.version.number:
            continue
        number = int(controller)
        for peer in family.peers:
            if peer.first <= number <= peer.last:
                raise SpecError(
                    f"peers: {peer.name or peer.address}",
                    f"its subnet {peer.subnet} holds {controller}, from where this connection comes; it would be cut. "
                    f"Give the peer another subnet, or run from elsewhere",
                )
        # WireGuard's route is for the whole network. Pods of this node are nearer than that.
        covered = overlay.backend.type == WIREGUARD and controller in family.network
        if covered and not family.node.first <= number <= family.node.last:
            raise SpecError(
                f"network{family.version.suffix}",
                f"{family.network} holds {controller}, from where this connection comes, and with wireguard all of it "
                "goes through the device; it would be cut. Choose another network, or run from elsewhere",
            )


def nexthop_id(member: Member, network: Network) -> int:
    """Which nexthop object leads to a peer: its subnet's place in the pod network, counted in the smallest subnets that
    there are, so that no two peers share one. 0 for IPv6, where routes cost the same without one."""
    if network.version != IPV4.number:
        return 0
    return NEXTHOP_BASE + ((member.first - int(network.network_address)) >> (IPV4.bits - IPV4.subnet_limit))


def wanted_items(
    overlay: Overlay,
    underlays: Sequence[Underlay],
    accept_ra: Optional[int],
    with_nexthops: bool,
    private_key: Secret = NO_SECRET,
) -> Iterator[Item]:
    """Everything that flannel's backend keeps on this node, and the file about it. ``underlays`` are those of the
    families. ``accept_ra`` is 0, or None where that sysctl is beyond reach. ``with_nexthops`` sends routes through
    nexthop objects, which flannel does not: to packets it is the same. ``private_key`` is WireGuard's."""
    for family, underlay in zip(overlay.families, underlays):
        yield from _device_items(overlay.backend, family, underlay, accept_ra)
        if overlay.backend.type == WIREGUARD:
            # The whole network: the device knows which peer has what of it.
            scope = SCOPE_LINK if family.version is IPV4 else 0
            route = Route(str(family.network), "", family.device, onlink=False, scope=scope)
            yield route._replace(metric=family.version.metric)
        else:
            yield from _peer_items(overlay.backend, family, underlay, with_nexthops)
    if overlay.backend.type == WIREGUARD:
        yield from _wireguard_devices(overlay, underlays, private_key)
        yield from declared_peers(overlay)
    if overlay.subnet_env is not None:
        mtu = pods_mtu(overlay.backend, overlay.families, underlays)
        yield File(overlay.subnet_env.path, subnet_env_text(overlay.families, overlay.subnet_env, mtu))


def _wireguard_devices(overlay: Overlay, underlays: Sequence[Underlay], private_key: Secret) -> Iterator[Item]:
    """A device for both families carries what the smaller one of them does."""
    mtu, backend = pods_mtu(overlay.backend, overlay.families, underlays), overlay.backend
    for device, key in {family.device: family.node.public_key for family in overlay.families}.items():
        yield WireguardDevice(device, key, backend.port_of(device), mtu, private_key=private_key)


def declared_peers(overlay: Overlay) -> Iterator[Item]:
    """The peers of the WireGuard devices."""
    backend, addresses = overlay.backend, {each.version.number: each.node.address for each in overlay.families}
    halves = [
        Half(family.device, peer.public_key, family.version.number, peer.address, peer.listen_port, peer.subnet)
        for family in overlay.families
        for peer in family.peers
    ]
    ports = {device: backend.port_of(device) for device in backend.devices}
    yield from wireguard_peers(halves, addresses, backend.mode, ports, backend.keepalive, backend.psk)


def _device_items(backend: Backend, family: Family, underlay: Underlay, accept_ra: Optional[int]) -> Iterator[Item]:
    node, name, version = family.node, family.device, family.version
    local, mtu = underlay.address or node.address, device_mtu(backend, underlay, version)
    if backend.type == VXLAN:
        # The kernel has no IPv6, and no such sysctl, on a device with a smaller MTU.
        has_ipv6 = mtu >= IPV6.smallest_mtu
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
            accept_ra if has_ipv6 else None,
        )
    elif backend.type == IPIP:
        yield IpipDevice(name, local, mtu)
    if name:
        # Nobody answers a question for duplicates there, and until the kernel has given up the address is of no use.
        options = (("flags", NO_DUPLICATE_DETECTION),) if version is IPV6 else ()
        yield DeviceAddress(name, f"{node.gateway}/{version.bits}", options=options)
        yield LinkUp(name)


def _peer_items(backend: Backend, family: Family, underlay: Underlay, with_nexthops: bool) -> Iterator[Item]:
    network, device, metric = family.network, family.device, family.version.metric
    hop_of = {VXLAN: _vxlan_hop, IPIP: _ipip_hop, HOST_GW: _plain_hop}[backend.type]
    for peer in sorted(family.peers, key=lambda peer: peer.first):
        gateway, leaving, onlink = hop_of(peer, device, underlay)
        if leaving == device and peer.mac:
            yield Neighbor(device, gateway, peer.mac)
            yield ForwardingEntry(device, peer.mac, peer.address)
        number = nexthop_id(peer, network) if with_nexthops else 0
        if number:
            yield Nexthop(number, gateway, leaving, onlink)
        yield Route(peer.subnet, gateway, leaving, number, onlink, metric=metric)


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
    for family in overlay.families:
        for peer in family.peers:
            keys["route", TABLE_MAIN, peer.subnet, 0, family.version.metric] = peer.address
            number = nexthop_id(peer, family.network)
            if number:
                keys["nexthop", number] = peer.address
    return keys


def subnet_env_text(families: Sequence[Family], env: SubnetEnv, mtu: int) -> str:
    """The keys of flannel's subnet.env in its order. FLANNEL_SUBNET is the first host's address with the prefix."""
    values: Dict[str, Any] = {}
    for family in families:
        name = "IPV6_" if family.version is IPV6 else ""
        first, length = family.version.text(family.node.first + 1), family.node.subnet.partition("/")[2]
        values[f"FLANNEL_{name}NETWORK"] = family.network
        values[f"FLANNEL_{name}SUBNET"] = f"{first}/{length}"
    values["FLANNEL_MTU"] = mtu
    values["FLANNEL_IPMASQ"] = "true" if env.ipmasq else "false"
    return "".join(f"{key}={value}\n" for key, value in values.items())
