# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Whole tables of the kernel, decoded in bulk: neighbors, forwarding entries, nexthop objects and routes.

Nearly all messages of a table look alike and differ in two addresses only. One that is laid out as the objects of ours
are is cut at fixed places; any other goes through the decoders of ``entries`` and ``nexthops``, which also tell what
the fixed part of a layout means when it is met for the first time.
"""

from __future__ import annotations

import socket
import struct
from typing import AbstractSet, Callable, Dict, Hashable, Mapping, NamedTuple, Optional, Tuple

from .._model.datapath import DUPLICATE, PROTOCOL_KERNEL, ForwardingEntry, Neighbor, Nexthop, Route
from .._model.ip_version import IPV4, IPV6, IpVersion, address_text
from .._model.item import Key, State
from . import entries, nexthops
from .rtnetlink import HEADER, Rtnetlink, attributes

# Bytes that the longest layout below reads past the end of a short last message.
_SLACK = bytes(160)
# linux/rtnetlink.h and linux/neighbour.h: an attribute's length and number.
_NDA_LLADDR = struct.pack("=HH", 10, 2)
_RTA_GATEWAY, _RTA_GATEWAY6, _RTA_NH_ID = (struct.pack("=HH", *each) for each in ((8, 5), (20, 5), (8, 30)))
_NHA_GATEWAY = struct.pack("=HH", 8, 6)
# What the kernel tells of every entry: its addresses, and when it was used.
_NDA_USUAL = frozenset({1, 2, 3, 4})
# Message length; header of the object; then attributes.
_NEXTHOP = struct.Struct("=I12x8s4xI8s4s4s")
# Header with the table's attribute and the head of the destination's, the destination, gateway and interface; between
# them the nexthop object, if any. With IPv6 also the metric, and after the interface what the kernel remembers of the
# route's use and its preference. These lengths have nothing after it.
_ROUTE = struct.Struct("=I12x24s4s4s4s8s")
_ROUTE_BY_OBJECT = struct.Struct("=I12x24s4s4sI4s4s8s")
_ROUTE6 = struct.Struct("=I12x24s16s8s4s16s8s36x8s")
_PLAIN_LENGTHS = frozenset({60, 68, 136})


def _text6(packed: bytes) -> str:
    return address_text(socket.AF_INET6, packed)


class _Form(NamedTuple):
    """How messages of one IP version are laid out: structs as above, the head of an address' attribute in a neighbor
    and in a forwarding entry, and what makes text of an address."""

    neighbor: struct.Struct
    fdb: struct.Struct
    destination: bytes
    text: Callable[[bytes], str]


_FORMS: Mapping[IpVersion, _Form] = {
    IPV4: _Form(
        struct.Struct("=I12x12s4s4s4s6s"),
        struct.Struct("=I12x12s4s6sxx4s4s"),
        struct.pack("=HH", 8, 1),
        socket.inet_ntoa,
    ),
    IPV6: _Form(
        struct.Struct("=I12x12s4s16s4s6s"),
        struct.Struct("=I12x12s4s6sxx4s16s"),
        struct.pack("=HH", 20, 1),
        _text6,
    ),
}


def read_neighbors(netlink: Rtnetlink, index: int, device: str, version: IpVersion, into: State) -> None:
    """Permanent neighbors of the interface."""
    layouts: Dict[Tuple[int, bytes], bool] = {}
    layout, _fdb, destination, text = _FORMS[version]
    new, unpack = tuple.__new__, layout.unpack_from
    for data in netlink.dump_chunks(entries.GET_NEIGHBOR, entries.neighbor_request(index, version.family)):
        padded, end, start = data + _SLACK, len(data), 0
        while start < end:
            length, head, first, address, second, mac = unpack(padded, start)
            if first == destination and second == _NDA_LLADDR and layouts.get((length, head)):
                found = new(Neighbor, (device, text(address), mac.hex(":"), ()))
                into["neighbor", device, found[1]] = found
            else:
                item = entries.decode_neighbor(data[start : start + length], index, device)
                if item is not None:
                    into[item.key] = item
                    layouts[length, head] = not item.options and _only(data[start : start + length], 12, _NDA_USUAL)
            start += (length + 3) & ~3


def read_fdb(netlink: Rtnetlink, index: int, device: str, version: IpVersion, into: State) -> None:
    """Permanent entries of the VXLAN device's own forwarding table. ``version`` is that of most outer addresses."""
    layouts: Dict[Tuple[int, bytes], Tuple[Hashable, ...]] = {}
    _neighbor, layout, destination, text = _FORMS[version]
    new, unpack = tuple.__new__, layout.unpack_from
    for data in netlink.dump_chunks(entries.GET_NEIGHBOR, entries.fdb_request(index)):
        padded, end, start = data + _SLACK, len(data), 0
        while start < end:
            length, head, first, mac, second, address = unpack(padded, start)
            rest = layouts.get((length, head))
            if rest and first == _NDA_LLADDR and second == destination and not mac[0] & 1 and any(mac):
                found = new(ForwardingEntry, (device, mac.hex(":"), text(address), *rest))
                into["fdb", device, found[1]] = found
            else:
                item = entries.decode_fdb(data[start : start + length], index, device)
                if item is not None:
                    into[item.key] = item
                    usual = not item.options and _only(data[start : start + length], 12, _NDA_USUAL)
                    layouts[length, head] = item[3:] if usual else ()
            start += (length + 3) & ~3


def read_nexthops(
    netlink: Rtnetlink, names: Mapping[int, str], devices: AbstractSet[str], wanted: AbstractSet[Key], into: State
) -> None:
    """Nexthop objects over one of the devices, and those that have one of the wanted keys."""
    layouts: Dict[Tuple[int, bytes, bytes], Optional[Tuple[Hashable, ...]]] = {}
    new, text = tuple.__new__, socket.inet_ntoa
    for data in netlink.dump_chunks(nexthops.GET_NEXTHOP, nexthops.dump_request()):
        padded, end, start = data + _SLACK, len(data), 0
        while start < end:
            length, head, identifier, interface, first, gateway = _NEXTHOP.unpack_from(padded, start)
            rest = layouts.get((length, head, interface)) if first == _NHA_GATEWAY else None
            if rest:
                into["nexthop", identifier] = new(Nexthop, (identifier, text(gateway), *rest))
            else:
                item = nexthops.decode_nexthop(data[start : start + length], names)
                if item.device in devices or item.key in wanted:
                    into[item.key] = item
                    plain = item.device in devices and not item.options
                    layouts[length, head, interface] = item[2:] if plain else None
            start += (length + 3) & ~3


def read_routes(
    netlink: Rtnetlink,
    version: IpVersion,
    names: Mapping[int, str],
    devices: AbstractSet[str],
    wanted: AbstractSet[Key],
    into: State,
) -> None:
    """Routes of all tables over one of the devices but the kernel's own, and those that have one of the wanted keys.
    Further ones with the same key are numbered."""
    reader = _RouteReader(names, devices, wanted, into)
    for data in netlink.dump_chunks(entries.GET_ROUTE, entries.route_request(version.family)):
        reader.read(data, _cut4 if version is IPV4 else _cut6, _FORMS[version].text)


# Length, head, destination, nexthop object, gateway (None: not where ours have it), and what else makes the layout.
_Cut = Tuple[int, bytes, bytes, int, Optional[bytes], bytes]


def _cut4(data: bytes, start: int) -> _Cut:
    length, head, address, first, number, second, gateway, interface = _ROUTE_BY_OBJECT.unpack_from(data, start)
    if first != _RTA_NH_ID:
        length, head, address, second, gateway, interface = _ROUTE.unpack_from(data, start)
        number = 0
    return length, head, address, number, gateway if second == _RTA_GATEWAY else None, interface


def _cut6(data: bytes, start: int) -> _Cut:
    length, head, address, metric, second, gateway, interface, preference = _ROUTE6.unpack_from(data, start)
    return length, head, address, 0, gateway if second == _RTA_GATEWAY6 else None, metric + interface + preference


class _Layout(NamedTuple):
    """What routes of one layout have in common: whether they go over a device of ours, how their destinations end, what
    stands before and after it in the key, and the fields after the nexthop object."""

    ours: bool
    suffix: str
    table: int
    key_end: Tuple[Hashable, ...]
    device: str
    rest: Tuple[Hashable, ...]


class _RouteReader:
    def __init__(
        self, names: Mapping[int, str], devices: AbstractSet[str], wanted: AbstractSet[Key], into: State
    ) -> None:
        self._names = names
        self._devices = devices
        self._wanted = wanted
        self._into = into
        self._layouts: Dict[Tuple[int, bytes, bytes], _Layout] = {}

    def read(self, data: bytes, cut: Callable[[bytes, int], _Cut], text: Callable[[bytes], str]) -> None:
        new, into, find = tuple.__new__, self._into, self._layouts.get
        padded, end, start = data + _SLACK, len(data), 0
        while start < end:
            length, head, address, number, gateway, rest_of_layout = cut(padded, start)
            layout = find((length, head, rest_of_layout)) if gateway is not None else None
            if layout is None or gateway is None:
                self._read_one(data[start : start + length], (length, head, rest_of_layout))
            else:
                ours, suffix, table, (tos, metric), device, rest = layout
                destination = text(address) + suffix
                key = ("route", table, destination, tos, metric)
                if ours and key not in into:
                    into[key] = new(Route, (destination, text(gateway), device, number, *rest))
                elif ours or key in self._wanted:
                    self._read_one(data[start : start + length], None)
            start += (length + 3) & ~3

    def _read_one(self, message: bytes, layout: Optional[Tuple[int, bytes, bytes]]) -> None:
        _index, item = entries.decode_route(message, self._names)
        key = item.place
        ours = item.device in self._devices and item.protocol != PROTOCOL_KERNEL
        if ours or key in self._wanted:
            self._keep(item)
        if layout is not None and layout[0] in _PLAIN_LENGTHS and not item.source and not item.options:
            suffix = item.destination[item.destination.index("/") :]
            self._layouts[layout] = _Layout(ours, suffix, item.table, key[3:], item.device, item[4:])

    def _keep(self, item: Route) -> None:
        found, number = item, 0
        while found.key in self._into:
            number += 1
            found = item._replace(options=(*item.options, (DUPLICATE, number)))
        self._into[found.key] = found


def _only(message: bytes, header: int, known: AbstractSet[int]) -> bool:
    """Whether a message of fixed layout carries no other attributes than the known ones."""
    return all(kind in known for kind, _value in attributes(message, HEADER.size + header))
