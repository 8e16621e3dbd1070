# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The datapath of an overlay in the kernel: reads it, and carries out operations on it."""

from __future__ import annotations

import socket
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from .._model.datapath import (
    TABLE_MAIN,
    DeviceAddress,
    ForwardingEntry,
    LinkUp,
    Neighbor,
    Route,
    VxlanDevice,
)
from .._model.errors import ApplyError, ReadError
from .._model.item import Item, Key, State, state_of
from .._plan.operation import ADD, DELETE, Operation
from .._plan.overlay import PROTOCOL_KERNEL
from . import entries, links
from .rtnetlink import ABSENT, APPEND, CREATE, REPLACE, RefusedError, Rtnetlink, interface_index

KINDS = ("vxlan", "address", "link_up", "neighbor", "fdb", "route")


class OverlayAdapter:
    """Speaks for the given VXLAN devices with everything on them, and for the routes of the given keys on any device.

    Left out is what the kernel itself put there: connected and multicast routes, IPv6 link-local addresses, neighbors
    and forwarding entries that are not permanent. A link of one of these names that is no VXLAN device is left out too.
    ``with_accept_ra`` tells whether that sysctl of the devices is looked at.
    """

    def __init__(self, devices: Iterable[str], routes: Iterable[Key], with_accept_ra: bool) -> None:
        self._devices = list(dict.fromkeys(devices))
        self._routes: Set[Key] = set(routes)
        self._with_accept_ra = with_accept_ra
        self._made: Dict[str, str] = {}

    def read(self) -> State:
        try:
            with Rtnetlink() as netlink:
                return state_of(self._items(netlink))
        except (RefusedError, OSError) as error:
            raise ReadError(f"the kernel's view of {', '.join(self._devices)}: {error}") from error

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        with Rtnetlink() as netlink:
            for operation in operations:
                try:
                    self._carry_out(netlink, operation)
                except (RefusedError, OSError) as error:
                    reason = str(error) if isinstance(error, RefusedError) else str(error.strerror or error)
                    raise ApplyError(operation.item, f"cannot {operation.action}: {reason}") from error
                yield operation

    def _items(self, netlink: Rtnetlink) -> Iterator[Item]:
        indexes: Dict[int, str] = {}
        for name in self._devices:
            link = links.read_link(netlink, name)
            if link is not None and links.kind_of(link) == "vxlan":
                indexes[link["index"]] = name
                yield links.decode_vxlan(link, self._with_accept_ra)
                yield from self._on_device(netlink, link["index"], name, bool(link["flags"] & links.IFF_UP))
        if indexes or self._routes:
            yield from self._read_routes(netlink, indexes)

    def _on_device(self, netlink: Rtnetlink, index: int, name: str, up: bool) -> Iterator[Item]:
        for message in netlink.dump(entries.GET_ADDRESS, entries.address_request(index)):
            found_index, address = entries.decode_address(message, name)
            if found_index == index:
                yield address
        if up:
            yield LinkUp(name)
        found: List[Optional[Item]] = [
            entries.decode_neighbor(message, index, name)
            for message in netlink.dump(entries.GET_NEIGHBOR, entries.neighbor_request(index))
        ]
        found += [
            entries.decode_fdb(message, index, name)
            for message in netlink.dump(entries.GET_NEIGHBOR, entries.fdb_request(index))
        ]
        yield from (item for item in found if item is not None)

    def _read_routes(self, netlink: Rtnetlink, indexes: Dict[int, str]) -> Iterator[Route]:
        names = dict(socket.if_nameindex())
        for message in netlink.dump(entries.GET_ROUTE, entries.route_request()):
            index, route = entries.decode_route(message, names)
            ours = index in indexes and route.protocol != PROTOCOL_KERNEL
            if ours or (route.table == TABLE_MAIN and route.key in self._routes):
                yield route

    def _carry_out(self, netlink: Rtnetlink, operation: Operation) -> None:
        item = operation.item
        if operation.action == DELETE:
            _delete(netlink, item)
        elif isinstance(item, VxlanDevice) and operation.action == ADD:
            links.add_vxlan(netlink, item)
            self._made[item.name] = item.mac
        elif isinstance(item, VxlanDevice):
            assert isinstance(operation.previous, VxlanDevice)
            links.change_vxlan(netlink, item, operation.previous)
        elif isinstance(item, LinkUp):
            links.set_up(netlink, item.device, True)
            self._check_mac(netlink, item)
        else:
            kind, flags, body = _PUT[item.kind](item)
            netlink.change(kind, CREATE | flags, body)

    def _check_mac(self, netlink: Rtnetlink, item: LinkUp) -> None:
        """A udev rule may give a new device another address at any time until it is up; peers would not reach it."""
        link = links.read_link(netlink, item.device)
        wanted = self._made.get(item.device)
        if link is not None and wanted is not None and link.get_attr("IFLA_ADDRESS") != wanted:
            found = link.get_attr("IFLA_ADDRESS")
            raise ApplyError(
                item,
                f"something changed the MAC address from {wanted} to {found}; "
                f"systemd-udevd does so without a .link file with MACAddressPolicy=none for flannel*",
            )


def _delete(netlink: Rtnetlink, item: Item) -> None:
    try:
        if isinstance(item, VxlanDevice):
            links.delete_link(netlink, item.name)
        elif isinstance(item, LinkUp):
            links.set_up(netlink, item.device, False)
        else:
            kind, body = _TAKE[item.kind](item)
            netlink.change(kind, 0, body)
    except (RefusedError, OSError) as error:
        code = error.code if isinstance(error, RefusedError) else error.errno
        if code not in ABSENT:
            raise


def _index(device: str) -> int:
    return interface_index(device) if device else 0


def _put_address(item: DeviceAddress) -> Tuple[int, int, bytes]:
    return entries.NEW_ADDRESS, REPLACE, entries.encode_address(item, _index(item.device))


def _put_neighbor(item: Neighbor) -> Tuple[int, int, bytes]:
    return entries.NEW_NEIGHBOR, REPLACE, entries.encode_neighbor(item, _index(item.device))


def _put_fdb(item: ForwardingEntry) -> Tuple[int, int, bytes]:
    """For the address of one device: replace, because the kernel takes an append and does nothing."""
    return entries.NEW_NEIGHBOR, APPEND if item.many else REPLACE, entries.encode_fdb(item, _index(item.device))


def _put_route(item: Route) -> Tuple[int, int, bytes]:
    return entries.NEW_ROUTE, REPLACE, entries.encode_route(item, _index(item.device))


_PUT: Dict[str, Callable[..., Tuple[int, int, bytes]]] = {
    "address": _put_address,
    "neighbor": _put_neighbor,
    "fdb": _put_fdb,
    "route": _put_route,
}
_TAKE: Dict[str, Callable[..., Tuple[int, bytes]]] = {
    "address": lambda item: (entries.DELETE_ADDRESS, entries.encode_address(item, _index(item.device))),
    "neighbor": lambda item: (entries.DELETE_NEIGHBOR, entries.encode_neighbor(item, _index(item.device))),
    "fdb": lambda item: (entries.DELETE_NEIGHBOR, entries.encode_fdb_key(item, _index(item.device))),
    "route": lambda item: (entries.DELETE_ROUTE, entries.encode_route(item, _index(item.device))),
}
