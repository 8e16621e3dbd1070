# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Operations that turn a node's datapath into flannel's, in the order that interrupts traffic least.

Additions go from the ground up: device, address, up, then neighbor, forwarding entry, route. A packet for a new peer
is routed only when all that carries it is there. A neighbor that changes its MAC address is replaced after the
forwarding entry of the new address, so that the peer stays reachable throughout. Removals come afterwards and take the
route first: what is no longer carried must not be routed either.

A device that the kernel cannot change into the wanted one is taken down object by object and built anew. Every object
has its own operation, because only what was an operation can be undone.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Dict, Iterable, List, Optional

from .._model.datapath import DeviceAddress, Neighbor, Route, VxlanDevice, device_of
from .._model.errors import PrerequisiteError
from .._model.item import Item, Key, State, state_of
from .._model.parse import Network
from .operation import ADD, DELETE, REPLACE, Operation, outcome_of

# linux/rtnetlink.h RTPROT_KERNEL: the routes that the kernel keeps for addresses.
PROTOCOL_KERNEL = 2
_BUILD = ("vxlan", "address", "link_up", "neighbor", "fdb", "moved neighbor", "route", "file")
_REMOVE = ("file", "route", "neighbor", "fdb", "link_up", "address", "vxlan")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What shall be there. ``network`` is the pod network: other addresses in it are collected from our device."""

    items: State
    network: Optional[Network] = None


def plan_overlay(have: State, wanted: Wanted) -> List[Operation]:
    """Pure. Raises PrerequisiteError for a wanted destination that is a connected network of the node."""
    _refuse_connected(have, wanted.items)
    rebuilt = _removals(have, _outdated(have, wanted.items))
    rest = outcome_of(have, rebuilt)
    want = {**wanted.items, **_kept(have, wanted)}
    changed = [
        Operation(REPLACE, item, rest[key]) if key in rest else Operation(ADD, item)
        for key, item in want.items()
        if rest.get(key) != item
    ]
    gone = [item for key, item in rest.items() if key not in want]
    return rebuilt + sorted(changed, key=lambda operation: _BUILD.index(_step(operation))) + _removals(have, gone)


def _step(operation: Operation) -> str:
    moved = operation.action == REPLACE and isinstance(operation.item, Neighbor)
    return "moved neighbor" if moved else operation.item.kind


def _removals(have: State, items: Iterable[Item]) -> List[Operation]:
    """Deletions by kind; in a kind the last one read goes first, so that secondary addresses go before their primary
    one and undoing brings all back in the order they had."""
    age: Dict[Key, int] = {key: index for index, key in enumerate(have)}
    ordered = sorted(items, key=lambda item: (_REMOVE.index(item.kind), -age[item.key]))
    return [Operation(DELETE, item) for item in ordered]


def _outdated(have: State, want: State) -> List[Item]:
    """Devices that must be made anew, with all that hangs on them."""
    devices = {
        item.name
        for item in have.values()
        if isinstance(item, VxlanDevice) and item.key in want and not _changeable(item, want[item.key])
    }
    return [item for item in have.values() if device_of(item) in devices]


def _changeable(device: VxlanDevice, wanted: Item) -> bool:
    return isinstance(wanted, VxlanDevice) and device.changeable_to(wanted)


def _kept(have: State, wanted: Wanted) -> State:
    """Addresses outside of the pod network that somebody put on our device: they stay, as with flannel."""
    network = wanted.network
    if network is None:
        return {}
    devices = {item.name for item in wanted.items.values() if isinstance(item, VxlanDevice)}
    return state_of(
        item
        for item in have.values()
        if isinstance(item, DeviceAddress)
        and item.device in devices
        and ipaddress.ip_interface(item.address).ip not in network
    )


def _refuse_connected(have: State, want: State) -> None:
    for key, item in want.items():
        found = have.get(key)
        if isinstance(found, Route) and found.protocol == PROTOCOL_KERNEL:
            raise PrerequisiteError(
                f"{item}: {found.destination} is connected to {found.device} of this node, so a peer cannot have it; "
                f"remove that address or device first, or give the peer another subnet"
            )
