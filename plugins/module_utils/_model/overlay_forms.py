# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Other forms of a declared overlay: joined with an earlier one, and as commands of `ip` and `bridge`."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

from .datapath import (
    DeviceAddress,
    ForwardingEntry,
    IpipDevice,
    LinkUp,
    Neighbor,
    Nexthop,
    Route,
    VxlanDevice,
)
from .item import Item


def joined(earlier: Optional[Mapping[str, Any]], declared: Mapping[str, Any]) -> Dict[str, Any]:
    """The declared document with those peers of the earlier one that no declared peer replaces.

    One replaces another by having its name or its subnet. Both are parameters of module overlay_network.
    """
    taken = {peer[key] for peer in declared["peers"] for key in ("name", "subnet") if peer[key]}
    kept = [
        peer
        for peer in (earlier or {}).get("peers", [])
        if peer.get("name") not in taken and peer.get("subnet") not in taken
    ]
    return {**declared, "peers": [*kept, *declared["peers"]]}


def commands(item: Item) -> List[str]:
    """Command lines that make the object; none for an object that is no part of the kernel's."""
    if isinstance(item, VxlanDevice):
        return _vxlan_commands(item)
    if isinstance(item, IpipDevice):
        return [f"ip link add {item.name} mtu {item.mtu} type ipip local {item.local} remote any"]
    if isinstance(item, DeviceAddress):
        return [f"ip address replace {item.address} dev {item.device}"]
    if isinstance(item, LinkUp):
        return [f"ip link set {item.device} up"]
    if isinstance(item, Neighbor):
        return [f"ip neigh replace {item.address} lladdr {item.mac} dev {item.device} nud permanent"]
    if isinstance(item, ForwardingEntry):
        return [f"bridge fdb replace {item.mac} dst {item.destination} dev {item.device} self permanent"]
    if isinstance(item, Nexthop):
        return [f"ip nexthop replace id {item.id} {_way(item.gateway, item.device, item.onlink)} proto boot"]
    if isinstance(item, Route):
        way = f"nhid {item.nexthop_id}" if item.nexthop_id else _way(item.gateway, item.device, item.onlink)
        return [f"ip route replace {item.destination} {way} proto boot"]
    return []


def _vxlan_commands(item: VxlanDevice) -> List[str]:
    learning = "learning" if item.learning else "nolearning"
    words = [f"ip link add {item.name} address {item.mac} mtu {item.mtu} txqlen 0 type vxlan id {item.vni}"]
    words += [f"local {item.local} dev {item.link} dstport {item.port} {learning}", *(["gbp"] if item.gbp else [])]
    # Slashes instead of dots: the name of the device has a dot of its own.
    sysctl = [] if item.accept_ra is None else [f"sysctl -q -w net/ipv6/conf/{item.name}/accept_ra={item.accept_ra}"]
    return [" ".join(words), *sysctl]


def _way(gateway: str, device: str, onlink: bool) -> str:
    return " ".join([f"via {gateway}", *([f"dev {device}"] if device else []), *(["onlink"] if onlink else [])])
