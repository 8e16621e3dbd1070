# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Operations that turn a node's datapath into flannel's, in the order that interrupts traffic least.

Additions go from the ground up: device, address, up, then neighbor, forwarding entry, route. A packet for a new peer
is routed only when all that carries it is there. A neighbor that changes its MAC address is replaced after the
forwarding entry of the new address, so that the peer stays reachable throughout. A route is replaced in one step, also
from a plain one to one through a nexthop object and back. Removals come afterwards and take the
route first: what is no longer carried must not be routed either.

A device that the kernel cannot change into the wanted one is taken down object by object and built anew. Every object
has its own operation, because only what was an operation can be undone.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Dict, List, Optional, Tuple

from .._model.datapath import PROTOCOL_KERNEL, DeviceAddress, Nexthop, Route, VxlanDevice, device_of
from .._model.errors import PrerequisiteError
from .._model.item import Item, Key, State, same, state_of
from .._model.parse import Network
from .operation import ADD, DELETE, REPLACE, Operation, outcome_of

_BUILD = ("vxlan", "address", "link_up", "neighbor", "fdb", "moved neighbor", "nexthop", "route", "file")
_REMOVE = ("file", "route", "nexthop", "neighbor", "fdb", "link_up", "address", "vxlan")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What shall be there. ``network`` is the pod network: other addresses in it are collected from our device."""

    items: State
    network: Optional[Network] = None


def plan_overlay(have: State, wanted: Wanted) -> List[Operation]:
    """Pure, and linear in the number of objects. Raises PrerequisiteError for a wanted destination that is a connected
    network of the node, and for a nexthop object that is somebody else's."""
    rebuilt = _removals(_outdated(have, wanted.items))
    rest = outcome_of(have, rebuilt) if rebuilt else have
    want = {**wanted.items, **_kept(have, wanted)}
    steps: Dict[str, List[Operation]] = {step: [] for step in _BUILD}
    for key, item in want.items():
        found = rest.get(key)
        if found != item and not same(found, item):
            operation = Operation(ADD, item) if found is None else Operation(REPLACE, item, found)
            if key in have:
                _refuse_foreign(have, operation, wanted.items)
            steps[_step(operation)].append(operation)
    gone = [item for key, item in rest.items() if key not in want]
    return rebuilt + [operation for step in _BUILD for operation in steps[step]] + _removals(gone)


def _step(operation: Operation) -> str:
    item = operation.item
    return "moved neighbor" if operation.action == REPLACE and item.kind == "neighbor" else item.kind


def _removals(items: List[Item]) -> List[Operation]:
    """Deletions by kind of what was found in this order; in a kind the last one goes first, so that secondary addresses
    go before their primary one and undoing brings all back in the order they had."""
    steps: Dict[str, List[Operation]] = {kind: [] for kind in _REMOVE}
    for item in reversed(items):
        steps[item.kind].append(Operation(DELETE, item))
    return [operation for kind in _REMOVE for operation in steps[kind]]


def _outdated(have: State, want: State) -> List[Item]:
    """Devices that must be made anew, with all that hangs on them."""
    devices = {item.name for key, item in _devices(have) if key in want and not _changeable(item, want[key])}
    return [item for item in have.values() if device_of(item) in devices] if devices else []


def _devices(state: State) -> List[Tuple[Key, VxlanDevice]]:
    return [(key, item) for key, item in state.items() if isinstance(item, VxlanDevice)]


def _changeable(device: VxlanDevice, wanted: Item) -> bool:
    return isinstance(wanted, VxlanDevice) and device.changeable_to(wanted)


def _kept(have: State, wanted: Wanted) -> State:
    """Addresses outside of the pod network that somebody put on our device: they stay, as with flannel."""
    network = wanted.network
    if network is None:
        return {}
    devices = {item.name for _key, item in _devices(wanted.items)}
    return state_of(
        item
        for item in have.values()
        if isinstance(item, DeviceAddress)
        and item.device in devices
        and ipaddress.ip_interface(item.address).ip not in network
    )


def _refuse_foreign(have: State, operation: Operation, want: State) -> None:
    found = have.get(operation.item.key)
    if isinstance(found, Route) and found.protocol == PROTOCOL_KERNEL:
        raise PrerequisiteError(
            f"{operation.item}: {found.destination} is connected to {found.device} of this node, so a peer cannot have "
            f"it; remove that address or device first, or give the peer another subnet"
        )
    if isinstance(found, Nexthop) and found.device not in {item.name for _key, item in _devices({**have, **want})}:
        raise PrerequisiteError(
            f"{operation.item}: the identifier is in use on this node by {found}; remove that object first"
        )
