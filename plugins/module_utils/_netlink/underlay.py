# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What an overlay rests on: the interface that carries it, ways to its peers, and a device that nobody else uses."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Dict, Iterable, List, Mapping, Optional, Tuple

from .._model.backend import HOST_GW, IPIP, VXLAN, WIREGUARD, Backend
from .._model.datapath import TABLE_MAIN, TYPE_UNICAST, DeviceAddress, Route
from .._model.errors import PrerequisiteError
from .._model.ip_version import IPV4, IPV6, VERSIONS, IpVersion
from .._model.overlay import Family
from .._model.parse import Network
from .._model.underlay import Interface, Path, Underlay, choose, require_direct
from .._model.wireguard import NO_WIREGUARD
from . import entries, ipip
from .links import GET_LINK, IFF_UP, data_of, has_group_policy, kind_of, local_of, read_link, read_links
from .rtnetlink import HEADER, RefusedError, Rtnetlink, attributes

_LINK_HEADER = struct.Struct("=BxHiII")
_IFLA_IFNAME, _IFLA_MTU = 3, 4
# linux/if.h
_IFF_LOOPBACK = 0x8
_DEFAULT_ROUTES = {IPV4: "0.0.0.0/0", IPV6: "::/0"}
_DISABLE_IPV6 = "/proc/sys/net/ipv6/conf/{}/disable_ipv6"


def find_underlay(netlink: Rtnetlink, backend: Backend, family: Family, ours: Iterable[str] = ()) -> Underlay:
    """The interface that carries a family of the overlay, and which peers are reached without one of our devices.

    ``ours`` are names of devices that are no underlay. Raises PrerequisiteError that tells what there is.
    """
    interface, address = find_interface(netlink, family, ours)
    direct: Dict[str, str] = {}
    if backend.may_be_direct:
        paths = read_paths(netlink, [peer.address for peer in family.peers])
        if backend.type == HOST_GW:
            peers = [(f"peer {peer.name or peer.subnet}", peer.address) for peer in family.peers]
            require_direct(address, interface, peers, paths)
        direct = {peer: path.device for peer, path in paths.items() if not path.gateway}
    return Underlay(interface.name, interface.mtu, address, direct)


def find_interface(netlink: Rtnetlink, family: Family, ours: Iterable[str] = ()) -> Tuple[Interface, str]:
    """The interface that carries a family, and the address that packets leave with. Raises PrerequisiteError."""
    rules, node = family.rules, family.node.address
    interfaces = read_interfaces(netlink, family, {family.device, *ours})
    default = _default_interface(netlink, family.version) if rules.public_address == node else None
    return choose(rules, node, interfaces, lambda address: read_paths(netlink, [address]).get(address), default)


def read_interfaces(netlink: Rtnetlink, family: Family, ours: Iterable[str]) -> List[Interface]:
    """Interfaces that may carry an overlay, in the kernel's order, loopback last: nothing of the pod network counts."""
    held = _addresses(netlink, family.version, family.network)
    others = {}
    if family.rules.declared:
        (other,) = (version for version in VERSIONS if version is not family.version)
        others = _addresses(netlink, other)
    found: List[Tuple[bool, Interface]] = []
    for message in netlink.dump(GET_LINK, _LINK_HEADER.pack(0, 0, 0, 0, 0)):
        _family, _type, index, flags, _change = _LINK_HEADER.unpack_from(message, HEADER.size)
        values = dict(attributes(message, HEADER.size + _LINK_HEADER.size))
        name = values[_IFLA_IFNAME].rstrip(b"\0").decode()
        if name not in ours:
            mtu = struct.unpack("=I", values[_IFLA_MTU])[0]
            interface = Interface(name, mtu, tuple(held.get(index, ())), tuple(others.get(index, ())))
            found.append((bool(flags & _IFF_LOOPBACK), interface))
    return [interface for _loopback, interface in sorted(found, key=lambda entry: entry[0])]


def _addresses(netlink: Rtnetlink, version: IpVersion, network: Optional[Network] = None) -> Dict[int, List[str]]:
    """Addresses by interface, as flannel prefers them: those that are valid everywhere first, then permanent ones, then
    those that are not made for privacy; deprecated and duplicate ones not at all. Nor, unlike with flannel, IPv6
    addresses of the link alone: no other node answers to one without knowing the interface."""
    ranked: Dict[int, List[Tuple[Tuple[int, bool, bool], str]]] = {}
    for message in netlink.dump(entries.GET_ADDRESS, entries.address_request(0, version.family)):
        index, flags, item = entries.decode_address(message, "")
        address = item.address.partition("/")[0]
        usable = _reaches_nodes(item) and not flags & (entries.IFA_DEPRECATED | entries.IFA_DUPLICATE)
        if usable and not (network is not None and ipaddress.ip_address(address) in network):
            temporary = version is IPV6 and bool(flags & entries.IFA_TEMPORARY)
            rank = (item.scope, not flags & entries.IFA_PERMANENT, temporary)
            ranked.setdefault(index, []).append((rank, address))
    return {index: [address for _rank, address in sorted(found, key=_rank_of)] for index, found in ranked.items()}


def _reaches_nodes(item: DeviceAddress) -> bool:
    address = ipaddress.ip_interface(item.address)
    return not address.is_loopback and not (address.version == IPV6.number and address.is_link_local)


def _rank_of(entry: Tuple[Tuple[int, bool, bool], str]) -> Tuple[int, bool, bool]:
    return entry[0]


def _default_interface(netlink: Rtnetlink, version: IpVersion) -> Optional[str]:
    """That of the default route that the kernel prefers."""
    names, request = dict(socket.if_nameindex()), entries.route_request(version.family)
    routes = [entries.decode_route(each, names)[1] for each in netlink.dump(entries.GET_ROUTE, request)]
    wanted = (_DEFAULT_ROUTES[version], TABLE_MAIN, TYPE_UNICAST)
    defaults = [route for route in routes if (route.destination, route.table, route.type) == wanted]
    return _device_of(min(defaults, key=lambda route: route.metric), names) if defaults else None


def _device_of(route: Route, names: Mapping[int, str]) -> str:
    """Of a route with several ways, that of the first one (linux/rtnetlink.h struct rtnexthop)."""
    ways = bytes.fromhex(str(dict(route.options).get("multipath", "")))
    return names.get(struct.unpack_from("=4xi", ways)[0], "") if ways else route.device


def read_paths(netlink: Rtnetlink, addresses: Iterable[str]) -> Dict[str, Path]:
    """Where packets to addresses would go; those that go nowhere, or stay on this node, are left out."""
    names, listed = dict(socket.if_nameindex()), list(addresses)
    bodies = [entries.path_request(address) for address in listed]
    paths: Dict[str, Path] = {}
    for address, answer in zip(listed, netlink.get_many(entries.GET_ROUTE, bodies)):
        if not isinstance(answer, RefusedError):
            _index, route = entries.decode_route(answer, names)
            if route.type == TYPE_UNICAST:
                paths[address] = Path(route.device, _gateway(route), route.source)
    return paths


def _gateway(route: Route) -> str:
    """Also of IPv6, which the kernel tells in another attribute."""
    return route.gateway or ("one of IPv6" if "via" in dict(route.options) else "")


def require_free(netlink: Rtnetlink, backend: Backend, family: Family, ours: List[str]) -> None:
    """Refuse a device that the kernel does not have, and one whose name or number is in use by something that is not
    ours to change. Raises PrerequisiteError.

    ``ours`` are the names of devices that the run may replace.
    """
    if family.version is IPV6:
        _require_ipv6()
    if not family.device:
        return
    link = read_link(netlink, family.device)
    if link is not None and kind_of(link) != backend.type:
        advice = ", or choose another backend.vni" if backend.type == VXLAN else ""
        raise PrerequisiteError(
            f"interface {family.device} is there already and is {kind_of(link) or 'a plain interface'}, not "
            f"{backend.type}; rename or remove it{advice}"
        )
    if backend.type == VXLAN:
        _require_free_vni(netlink, backend, family.version, ours)
    elif link is None:
        require_kind(netlink, backend)


def _require_ipv6() -> None:
    """New devices begin as "default" tells, and what holds for "all" holds for them too."""
    for name in ("all", "default"):
        try:
            with open(_DISABLE_IPV6.format(name), encoding="ascii") as stream:
                disabled = stream.read().strip() != "0"
        except OSError:
            raise PrerequisiteError(
                "network6: this node's kernel has no IPv6; enable it, or leave network6 out"
            ) from None
        if disabled:
            key = f"net.ipv6.conf.{name}.disable_ipv6"
            raise PrerequisiteError(f"network6: IPv6 is disabled on this node; set {key} to 0, or leave network6 out")


def _require_free_vni(netlink: Rtnetlink, backend: Backend, version: IpVersion, ours: List[str]) -> None:
    """Devices for nodes of IPv4 and of IPv6 do not get into each other's way."""
    for other in read_links(netlink, VXLAN):
        name, data = other.get_attr("IFLA_IFNAME"), data_of(other)
        port, receives_ipv6 = data.get("IFLA_VXLAN_PORT", 0), ":" in local_of(other) or "IFLA_VXLAN_GROUP6" in data
        if name in ours or port != backend.port or receives_ipv6 != (version is IPV6):
            continue
        if data.get("IFLA_VXLAN_ID", 0) == backend.vni:
            raise PrerequisiteError(
                f"VXLAN device {name} uses VNI {backend.vni} on port {backend.port} already, and only one device can; "
                f"remove it, or choose another backend.vni or backend.port"
            )
        if has_group_policy(other) != backend.gbp and other["flags"] & IFF_UP:
            policy = "without" if backend.gbp else "with"
            raise PrerequisiteError(
                f"VXLAN device {name} uses port {port} {policy} group policy, and devices on one port have to agree on "
                "that; choose another backend.port"
            )


def require_kind(netlink: Rtnetlink, backend: Backend) -> None:
    """Devices of a kind that not every kernel has. Raises PrerequisiteError."""
    if backend.type == WIREGUARD and not ipip.supported(netlink, WIREGUARD):
        raise PrerequisiteError(NO_WIREGUARD)
    if backend.type == IPIP and not ipip.supported(netlink):
        raise PrerequisiteError(
            "backend.type: this node's kernel has no ipip (CONFIG_NET_IPIP, module ipip); install a kernel that has "
            "it, or use vxlan or host-gw"
        )


def require_free_address(netlink: Rtnetlink, underlay: Underlay, ours: List[str]) -> None:
    """Only one device can take packets of kind ipip from anybody to the node's address. Raises PrerequisiteError."""
    for other in read_links(netlink, IPIP):
        name = other.get_attr("IFLA_IFNAME")
        if name not in ours and ipip.is_for_any_peer(other) and ipip.local_of(other) == underlay.address:
            raise PrerequisiteError(
                f"ipip device {name} takes all packets to {underlay.address} already, and only one device can; "
                "remove it, or use another backend.type"
            )
