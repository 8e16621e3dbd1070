# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Operations that turn a node's datapath into flannel's, in the order that interrupts traffic least.

Additions go from the ground up: device, address, up, then neighbor, forwarding entry, route. A packet for a new peer
is routed only when all that carries it is there. A neighbor that changes its MAC address is replaced after the
forwarding entry of the new address, so that the peer stays reachable throughout. A route is replaced in one step, also
from a plain one to one through a nexthop object and back. Removals come afterwards and take the
route first: what is no longer carried must not be routed either.

A WireGuard device changes in place, its key too. A peer with a new key is added before the old one is removed: the
kernel hands its subnet over in one step, and an undo hands it back. Other peers are never named, so they lose nothing.

The same order makes a change of the way there, between a device of ours and the underlay (direct routing, another
backend), one step for each peer: what carries the new way is there, then the route or its nexthop object is
replaced, then what carried the old way goes. Until a peer has made the same change, its packets come by the old way:
what receives them stays with direct routing, because the device does, and goes with its backend.

A device that the kernel cannot change into the wanted one is taken down object by object and built anew. Every object
has its own operation, because only what was an operation can be undone.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Dict, FrozenSet, List, Mapping, Set, Tuple

from .._model.datapath import (
    PROTOCOL_BOOT,
    PROTOCOL_KERNEL,
    PROTOCOL_RA,
    DeviceAddress,
    IpipDevice,
    Nexthop,
    Route,
    VxlanDevice,
    device_of,
)
from .._model.errors import PrerequisiteError
from .._model.ip_version import IPV6, version_of
from .._model.item import Item, Key, State, same, state_of
from .._model.parse import Network
from .._model.wireguard import WireguardDevice, WireguardPeer
from .operation import ADD, DELETE, REPLACE, Operation, outcome_of
from .wireguard import taking

_CONNECTED = (PROTOCOL_KERNEL, PROTOCOL_RA)
_DEVICES = ("vxlan", "ipip", "wireguard")
_PEERS = ("wireguard_peer", "neighbor", "fdb", "moved neighbor", "nexthop")
_BUILD = (*_DEVICES, "address", "link_up", *_PEERS, "route", "file")
_REMOVE = ("file", "route", "nexthop", "neighbor", "fdb", "wireguard_peer", "link_up", "address", *_DEVICES)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What shall be there. ``networks`` are the pod networks: other addresses in them are collected from our devices.

    ``earlier`` maps the keys of routes and nexthop objects that an earlier run may have put on the underlay's
    interface to their gateways; those that are still the same are ours. ``gateways`` are the addresses of peers.
    """

    items: State
    networks: Tuple[Network, ...] = ()
    earlier: Mapping[Key, str] = dataclasses.field(default_factory=dict)
    gateways: FrozenSet[str] = frozenset()

    @property
    def keys(self) -> List[Key]:
        """Of what has to be known whatever device it is on."""
        keys = [key for key in self.items if key[0] in (Route.kind, Nexthop.kind)]
        connected = [
            (*key[:4], IPV6.connected_metric) for key in keys if key[0] == Route.kind and key[4] == IPV6.metric
        ]
        return [*keys, *connected, *self.earlier]


def plan_overlay(have: State, wanted: Wanted) -> List[Operation]:
    """Pure, and linear in the number of objects. Raises PrerequisiteError for a wanted destination that is a connected
    network of the node, and for a nexthop object that is somebody else's."""
    if have == wanted.items:
        # What most runs find, and what verifying finds; looking for differences takes several times as long.
        return []
    ours = _devices(have)
    rebuilt = _removals(_outdated(have, wanted.items, ours))
    left = outcome_of(have, rebuilt)
    restored = state_of(operation.item for operation in rebuilt if _is_kept(operation.item, wanted))
    steps: Dict[str, List[Operation]] = {step: [] for step in _BUILD}
    for key, item in {**wanted.items, **restored}.items():
        found = left.pop(key, None)
        if found != item and not same(found, item):
            operation = Operation(ADD, item) if found is None else Operation(REPLACE, item, found)
            if key in have:
                _refuse_foreign(have, operation, wanted)
            steps[_step(operation)].append(operation)
    steps[WireguardPeer.kind] = taking(steps[WireguardPeer.kind], have)
    others = list(left.values())
    _refuse_connected(others, wanted.items, ours)
    beside = [item for item in others if _is_beside(item, wanted.items)]
    gone = [item for item in others if not _is_beside(item, wanted.items) and _collected(item, ours, wanted)]
    building = [operation for step in _BUILD for operation in steps[step]]
    return rebuilt + _removals(beside) + building + _removals(gone)


def _step(operation: Operation) -> str:
    item = operation.item
    return "moved neighbor" if operation.action == REPLACE and item.kind == "neighbor" else item.kind


def _removals(items: List[Item]) -> List[Operation]:
    """Deletions by kind of what was found in this order; in a kind the last one goes first, so that secondary addresses
    go before their primary one and undoing brings all back in the order they had. Of IPv6 addresses the kernel puts
    the latest one first."""
    steps: Dict[str, List[Operation]] = {kind: [] for kind in _REMOVE}
    for item in reversed(items):
        steps[item.kind].append(Operation(DELETE, item))
    ipv6 = [each for each in steps[DeviceAddress.kind] if ":" in str(each.item)]
    steps[DeviceAddress.kind] = [each for each in steps[DeviceAddress.kind] if each not in ipv6] + ipv6[::-1]
    return [operation for kind in _REMOVE for operation in steps[kind]]


def _is_beside(item: Item, want: State) -> bool:
    """Whether a route shares a wanted one's place. Such routes go first: a replacement is of one route only, and which
    one that is depends on the others."""
    return isinstance(item, Route) and item.place in want and item.protocol != PROTOCOL_KERNEL


def _collected(item: Item, ours: Set[str], wanted: Wanted) -> bool:
    """Routes and nexthop objects of other devices only where an earlier run made them. The kernel's own routes go with
    the addresses that they are for."""
    if _is_kept(item, wanted) or (isinstance(item, Route) and item.protocol == PROTOCOL_KERNEL):
        return False
    if not isinstance(item, (Route, Nexthop)) or item.device in ours:
        return True
    return item.protocol == PROTOCOL_BOOT and wanted.earlier.get(item.key) == item.gateway


def _outdated(have: State, want: State, ours: Set[str]) -> List[Item]:
    """Devices that must be made anew, with all that hangs on them."""
    devices = {name for name in ours if not _stays(name, have, want) or _in_the_way(name, have, want)}
    return [item for item in have.values() if device_of(item) in devices] if devices else []


def _devices(state: State) -> Set[str]:
    return {item.name for item in state.values() if isinstance(item, (VxlanDevice, IpipDevice, WireguardDevice))}


def _stays(name: str, have: State, want: State) -> bool:
    """Whether a device needs not be made anew: it is not wanted at all, or can be changed in place."""
    for kind in (VxlanDevice.kind, IpipDevice.kind):
        found, wanted = have.get((kind, name)), want.get((kind, name))
        if isinstance(found, VxlanDevice) and isinstance(wanted, VxlanDevice):
            return found.changeable_to(wanted)
        if isinstance(found, IpipDevice) and isinstance(wanted, IpipDevice):
            return found.changeable_to(wanted)
    return True


def _in_the_way(name: str, have: State, want: State) -> bool:
    """Whether a device that is not wanted keeps a wanted one from coming up: the kernel lets VXLAN devices share a port
    of one IP version only when they agree on group policy."""
    found = have.get((VxlanDevice.kind, name))
    if not isinstance(found, VxlanDevice) or found.key in want:
        return False
    devices = [want[VxlanDevice.kind, wanted] for wanted in _devices(want) if (VxlanDevice.kind, wanted) in want]
    return any(isinstance(item, VxlanDevice) and found.disagrees_with(item) for item in devices)


def _is_kept(item: Item, wanted: Wanted) -> bool:
    """Addresses outside of the pod networks that somebody put on our device stay, as with flannel."""
    if not isinstance(item, DeviceAddress) or not wanted.networks:
        return False
    address = ipaddress.ip_interface(item.address).ip
    stays = any((device.kind, item.device) in wanted.items for device in (VxlanDevice, IpipDevice, WireguardDevice))
    return stays and not any(address in network for network in wanted.networks)


def _refuse_connected(others: List[Item], want: State, ours: Set[str]) -> None:
    """IPv6 keeps the routes to what is connected beside those to peers, and prefers them."""
    for item in others:
        if isinstance(item, Route) and item.protocol in _CONNECTED and item.device not in ours and not item.gateway:
            peers = want.get((*item.place[:4], version_of(item.destination).metric))
            if peers is not None:
                raise _connected(peers, item)


def _connected(item: Item, found: Route) -> PrerequisiteError:
    return PrerequisiteError(
        f"{item}: {found.destination} is connected to {found.device} of this node, so a peer cannot have it; "
        f"remove that address or device first, or give the peer another subnet"
    )


def _refuse_foreign(have: State, operation: Operation, wanted: Wanted) -> None:
    found = have.get(operation.item.key)
    if isinstance(found, Route) and found.protocol == PROTOCOL_KERNEL:
        raise _connected(operation.item, found)
    if isinstance(found, Nexthop) and not _is_ours(found, have, wanted):
        raise PrerequisiteError(
            f"{operation.item}: the identifier is in use on this node by {found}; remove that object first"
        )


def _is_ours(found: Nexthop, have: State, wanted: Wanted) -> bool:
    """Its identifier is one of ours. So is the object itself when it leads over a device of ours, or to a peer."""
    to_a_peer = found.gateway in wanted.gateways or wanted.earlier.get(found.key) == found.gateway
    if to_a_peer and found.protocol == PROTOCOL_BOOT and not found.options:
        return True
    return any((kind, found.device) in state for kind in ("vxlan", "ipip") for state in (have, wanted.items))
