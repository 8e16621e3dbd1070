# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Operations on what there is one of for each peer, as messages that can be sent in bulk.

Each leads to the same state when it is sent twice: what is added replaces what is there.
"""

from __future__ import annotations

from typing import Callable, Dict, Tuple

from .._model.datapath import DUPLICATE, ForwardingEntry, Neighbor, Nexthop, Route
from .._plan.operation import DELETE, Operation
from . import entries, nexthops
from .rtnetlink import APPEND, CREATE, REPLACE, Message, interface_index

BULK = frozenset({"neighbor", "fdb", "nexthop", "route"})


class MessageEncoder:
    """Remembers the indexes of interfaces while operations on them are encoded."""

    def __init__(self) -> None:
        self._indexes: Dict[str, int] = {"": 0}

    def message(self, operation: Operation) -> Message:
        """Raises RefusedError with ENODEV when the object's device is not there."""
        action, item, _previous = operation
        device = item.device  # type: ignore[attr-defined]
        index = self._indexes.get(device)
        if index is None:
            index = self._indexes[device] = interface_index(device)
        return (_TAKE if action == DELETE else _PUT)[item.kind](item, index)


def _put_neighbor(item: Neighbor, index: int) -> Message:
    return entries.NEW_NEIGHBOR, CREATE | REPLACE, entries.encode_neighbor(item, index)


def _put_fdb(item: ForwardingEntry, index: int) -> Message:
    """For the address of one device: replace, because the kernel takes an append and does nothing."""
    flags = CREATE | APPEND if item.many else CREATE | REPLACE
    return entries.NEW_NEIGHBOR, flags, entries.encode_fdb(item, index)


def _put_nexthop(item: Nexthop, index: int) -> Message:
    return nexthops.NEW_NEXTHOP, CREATE | REPLACE, nexthops.encode_nexthop(item, index)


def _put_route(item: Route, index: int) -> Message:
    flags = CREATE | APPEND if _is_duplicate(item) else CREATE | REPLACE
    return entries.NEW_ROUTE, flags, entries.encode_route(item, index)


def _take_route(item: Route, index: int) -> Message:
    """Of several routes, the one without a gateway has to be told from one with a gateway over the same device."""
    if _is_duplicate(item) and ":" in item.destination and not item.gateway and len(item.options) == 1:
        item = item._replace(gateway="::")
    return entries.DELETE_ROUTE, 0, entries.encode_route(item, index)


def _is_duplicate(item: Route) -> bool:
    return bool(item.options) and item.options[-1][0] == DUPLICATE


_Encoders = Dict[str, Callable[..., Tuple[int, int, bytes]]]
_PUT: _Encoders = {"neighbor": _put_neighbor, "fdb": _put_fdb, "nexthop": _put_nexthop, "route": _put_route}
_TAKE: _Encoders = {
    "neighbor": lambda item, index: (entries.DELETE_NEIGHBOR, 0, entries.encode_neighbor(item, index)),
    "fdb": lambda item, index: (entries.DELETE_NEIGHBOR, 0, entries.encode_fdb_key(item, index)),
    "nexthop": lambda item, _index: (nexthops.DELETE_NEXTHOP, 0, nexthops.get_request(item.id)),
    "route": _take_route,
}
