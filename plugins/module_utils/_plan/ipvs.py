# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Operations that turn a node's virtual services into the wanted ones, in the order that no connection notices.

Services come before their servers, both before the address that brings packets. Of what goes, addresses are first. A
real server that has connections gets weight 0 before anything is removed and is removed at the very end, so that what
it serves comes to its end meanwhile; new connections go to the others, which are there by then.
"""

from __future__ import annotations

import dataclasses
from typing import Callable, Dict, FrozenSet, List, Tuple

from .._model.datapath import DeviceAddress
from .._model.ipvs import OWN_TIMEOUTS, DummyDevice, RealServer, Timeouts, VirtualService, service_parts
from .._model.ipvs_service import Scope
from .._model.item import Item, Key, State, same
from .operation import ADD, DELETE, REPLACE, Operation

MERGED, REPLACED, OVERRIDDEN, DELETED = "merged", "replaced", "overridden", "deleted"
_BUILD = ("ipvs_timeouts", "virtual_service", "real_server", "dummy", "address")
_REMOVE = ("address", "dummy", "real_server", "virtual_service")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """``items`` by key; with ``state`` deleted, the services to remove. ``earlier`` are the names of services that an
    earlier run made; those of ``others`` are made by other modules and stay. ``drains`` tells whether servers with
    connections are given time. ``given_up`` are time-outs that earlier runs set: where they are in force still, and
    not wanted, the kernel's own come back."""

    items: State
    state: str = OVERRIDDEN
    scope: Scope = Scope()
    earlier: FrozenSet[str] = frozenset()
    device: str = ""
    drains: bool = True
    others: FrozenSet[str] = frozenset()
    given_up: Tuple[Timeouts, ...] = ()


def plan_services(have: State, wanted: Wanted) -> List[Operation]:
    """Pure, and linear in the number of objects; empty for the wanted state."""
    target = _target(have, wanted)
    steps: Dict[str, List[Operation]] = {kind: [] for kind in _BUILD}
    for key, item in target.items():
        found = have.get(key)
        if found is not item and not same(found, item):
            steps[item.kind].append(Operation(ADD, item) if found is None else Operation(REPLACE, item, found))
    gone = [item for key, item in have.items() if key not in target]
    draining, removals = _removals(gone, target, wanted)
    return [operation for kind in _BUILD for operation in steps[kind]] + draining + removals


def _target(have: State, wanted: Wanted) -> State:
    """What shall be there of everything that is there or wanted."""
    timeouts = _timeouts(have, wanted)
    if wanted.state == DELETED:
        named = _named(wanted.items)
        removed = named or _ours(have, wanted)
        left = {key: item for key, item in {**have, **timeouts}.items() if _service_of(key) not in removed}
        return _without_unused(left, named, wanted.earlier) if named else _without_devices(left)
    items = {**wanted.items, **timeouts}
    if wanted.state == MERGED:
        return _on_one_device({**have, **items}, wanted.device)
    declared = _named(wanted.items)
    removed = _ours(have, wanted) - declared if wanted.state == OVERRIDDEN else frozenset()
    kept = {key: item for key, item in have.items() if _is_kept(key, declared, removed, wanted)}
    return _on_one_device({**kept, **items}, wanted.device)


def _named(items: State) -> FrozenSet[str]:
    return frozenset(str(key[1]) for key in items if key[0] == VirtualService.kind)


def _ours(have: State, wanted: Wanted) -> FrozenSet[str]:
    """Services on the node that an earlier run made or that lie in the scope, and that no other module has."""
    found = _named(have)
    covers: Callable[[str], bool] = wanted.scope.covers if wanted.scope.areas else lambda _service: False
    return frozenset(each for each in found - wanted.others if each in wanted.earlier or covers(each))


def _service_of(key: Key) -> str:
    return str(key[1]) if key[0] in (VirtualService.kind, RealServer.kind) else ""


def _is_kept(key: Key, declared: FrozenSet[str], removed: FrozenSet[str], wanted: Wanted) -> bool:
    kind = key[0]
    if kind == RealServer.kind:
        return key[1] not in declared and key[1] not in removed
    if kind == VirtualService.kind:
        return key[1] not in removed
    if kind in (DeviceAddress.kind, DummyDevice.kind):
        # Nobody else has something on our device. What a service that stays needs is among what is wanted.
        return wanted.state != OVERRIDDEN
    return kind == Timeouts.kind


def _without_devices(state: State) -> State:
    return {key: item for key, item in state.items() if item.kind not in (DeviceAddress.kind, DummyDevice.kind)}


def _on_one_device(state: State, device: str) -> State:
    """With addresses of services that stay, and that an earlier run had on another device, on the present one."""
    mine = {(DummyDevice.kind, device)}
    others = [item for item in state.values() if isinstance(item, DeviceAddress) and item.device != device]
    if not others and not any(key[0] == DummyDevice.kind and key not in mine for key in state):
        return state
    left = _without_devices(state)
    if device:
        moved = [dataclasses.replace(item, device=device) for item in others]
        there = [item for item in state.values() if item.kind == DeviceAddress.kind and item not in others]
        left.update((item.key, item) for item in (*moved, *there))
        left.update((item.key, item) for item in [DummyDevice(device)] * bool(moved or there))
    return left


def _without_unused(left: State, removed: FrozenSet[str], earlier: FrozenSet[str]) -> State:
    """Without the addresses of services that go, also of such that went without them, and without the device when it
    has none any more."""
    used = {service_parts(service).address for service in _named(left) | (earlier - removed)}
    gone = {service_parts(service).address for service in removed} - used
    kept = {
        key: item
        for key, item in left.items()
        if not (isinstance(item, DeviceAddress) and item.address.partition("/")[0] in gone)
    }
    if not any(isinstance(item, DeviceAddress) for item in kept.values()):
        kept = {key: item for key, item in kept.items() if not isinstance(item, DummyDevice)}
    return kept


def _timeouts(have: State, wanted: Wanted) -> State:
    """Where 0 is wanted, or none are, what is there stays unless it is given up."""
    declared, found = (items.get((Timeouts.kind,)) for items in (wanted.items, have))
    if not isinstance(found, Timeouts):
        return {} if declared is None else {declared.key: declared}
    values = []
    for name in ("tcp", "tcp_fin", "udp"):
        there = getattr(found, name)
        given_up = any(getattr(each, name) == there for each in wanted.given_up)
        values.append(getattr(declared, name, 0) or getattr(OWN_TIMEOUTS if given_up else found, name))
    return {found.key: Timeouts(*values)}


def _removals(gone: List[Item], target: State, wanted: Wanted) -> Tuple[List[Operation], List[Operation]]:
    """Those that keep new connections away, and the removals."""
    draining: List[Operation] = []
    steps: Dict[str, List[Operation]] = {kind: [] for kind in _REMOVE}
    waited: List[Operation] = []
    for item in reversed(gone):
        if isinstance(item, RealServer) and wanted.drains and _drains(item, target):
            if item.weight:
                draining.append(Operation(REPLACE, item.drained, item))
            waited.append(Operation(DELETE, item.drained))
        else:
            steps[item.kind].append(Operation(DELETE, item))
    return draining, [operation for kind in _REMOVE for operation in steps[kind]] + waited


def _drains(server: RealServer, target: State) -> bool:
    """A datagram is its own connection. With its service, a server goes at once."""
    stays = (VirtualService.kind, server.service) in target
    return stays and bool(server.active or server.inactive) and not server.service.startswith("udp ")
