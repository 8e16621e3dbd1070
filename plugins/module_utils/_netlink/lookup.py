# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Single objects of the kernel's tables, asked for by their keys."""

from __future__ import annotations

import errno
import socket
from typing import Dict, Iterable, Optional

from .._model.datapath import ForwardingEntry, Neighbor, Nexthop, Route
from .._model.item import Item, Key
from . import entries, nexthops
from .rtnetlink import ABSENT, RefusedError, Rtnetlink, interface_index

# No route at all to a destination is how the kernel tells that there is not this one either.
_ABSENT = ABSENT | {errno.ENETUNREACH}


def find(netlink: Rtnetlink, items: Iterable[Item]) -> Dict[Key, Optional[Item]]:
    """The present versions of neighbors, forwarding entries, nexthop objects and routes; None for those that are not
    there. Raises RefusedError when the kernel cannot be asked."""
    names = dict(socket.if_nameindex())
    found: Dict[Key, Optional[Item]] = {}
    for item in items:
        try:
            present = _find(netlink, item, names)
        except RefusedError as error:
            if error.code not in _ABSENT:
                raise
            present = None
        # The kernel answers with what it would use, which may be another object.
        found[item.key] = present if present is not None and present.key == item.key else None
    return found


def _find(netlink: Rtnetlink, item: Item, names: Dict[int, str]) -> Optional[Item]:
    if isinstance(item, Neighbor):
        index = interface_index(item.device)
        message = netlink.get(entries.GET_NEIGHBOR, entries.neighbor_key(item, index))
        return entries.decode_neighbor(message, index, item.device)
    if isinstance(item, ForwardingEntry):
        index = interface_index(item.device)
        message = netlink.get(entries.GET_NEIGHBOR, entries.fdb_key(item, index))
        return entries.decode_fdb(message, index, item.device)
    if isinstance(item, Nexthop):
        return nexthops.decode_nexthop(netlink.get(nexthops.GET_NEXTHOP, nexthops.get_request(item.id)), names)
    assert isinstance(item, Route)
    return entries.decode_route(netlink.get(entries.GET_ROUTE, entries.route_key(item)), names)[1]
