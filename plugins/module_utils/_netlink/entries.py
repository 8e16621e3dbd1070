# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Addresses, neighbors, VXLAN forwarding entries and routes as rtnetlink messages.

Encoded by struct, at one go where an object is as ours are, because there may be many thousands of them; how ``tables``
decodes them in bulk rests on the decoders of this file. Constants and layouts are those of
linux/rtnetlink.h, linux/neighbour.h and linux/if_addr.h. Attributes that an item does not name are carried through its
``options``, so that a foreign object that was removed comes back as it was.
"""

from __future__ import annotations

import socket
import struct
from typing import Dict, Hashable, Iterator, List, Mapping, Optional, Tuple

from .._model.datapath import (
    PERMANENT,
    PROTOCOL_BOOT,
    TABLE_MAIN,
    TYPE_UNICAST,
    DeviceAddress,
    ForwardingEntry,
    Neighbor,
    Options,
    Route,
)
from .._model.ip_version import IPV6, address_text
from .rtnetlink import HEADER, attribute, attributes

NEW_ADDRESS, DELETE_ADDRESS, GET_ADDRESS = 20, 21, 22
NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26
NEW_NEIGHBOR, DELETE_NEIGHBOR, GET_NEIGHBOR = 28, 29, 30

AF_BRIDGE = 7
_ADDRESS = struct.Struct("=BBBBI")
_NEIGHBOR = struct.Struct("=BxxxiHBB")
_ROUTE = struct.Struct("=BBBBBBBBI")

_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 3, 4, 8
# Flags that the kernel sets by itself: secondary (IPv6: temporary), failed and running detection of duplicates,
# permanent.
IFA_TEMPORARY, IFA_DUPLICATE, IFA_DEPRECATED, IFA_PERMANENT = 0x01, 0x08, 0x20, 0x80
_IFA_OWN_FLAGS = IFA_TEMPORARY | IFA_DUPLICATE | 0x40 | IFA_PERMANENT
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8
_NTF_SELF = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE, _RTA_NH_ID = 1, 4, 5, 6, 7, 15, 30
_RTNH_ONLINK = 0x4
_RTM_F_FIB_MATCH = 0x2000
_RTN_UNICAST = 1

# Further attributes: number, name, form. A form of struct is shown as a number, "" as hexadecimal bytes.
_NEIGHBOR_OPTIONS = {12: ("protocol", "=B")}
_FDB_OPTIONS = {6: ("port", ">H"), 7: ("vni", "=I"), 8: ("via", "=I"), 11: ("src_vni", "=I"), 13: ("nexthop_id", "=I")}
_ROUTE_OPTIONS = {
    8: ("metrics", ""),
    9: ("multipath", ""),
    11: ("realm", "=I"),
    18: ("via", ""),
    20: ("preference", "=B"),
    21: ("encap_type", "=H"),
    22: ("encap", ""),
}
# What the kernel tells of every IPv6 route (RFC 4191); of no other object is it an attribute of one byte.
_MEDIUM_PREFERENCE = (20, b"\0")
# Objects as ours are, in one piece: the header, then each attribute as length, number and value.
_PLAIN_NEIGHBOR = {4: struct.Struct("=BxxxiHBBHH4sHH6sxx"), 16: struct.Struct("=BxxxiHBBHH16sHH6sxx")}
_PLAIN_FDB = {4: struct.Struct("=BxxxiHBBHH6sxxHH4s"), 16: struct.Struct("=BxxxiHBBHH6sxxHH16s")}
_PLAIN_ROUTE = struct.Struct("=BBxxBBBBIHH4sHHI")
_PLAIN_ROUTE6 = struct.Struct("=BBxxBBBBIHH16sHHIHH16sHHI")
# A route's fields after its nexthop object, which says itself whether its gateway is taken to be on the link.
_PLAIN_FIELDS = Route("", "", "")[5:]
_PLAIN_FIELDS6 = Route("", "", "", metric=IPV6.metric)[5:]
_Forms = Mapping[int, Tuple[str, str]]


def address_request(index: int, family: int) -> bytes:
    """Asks for the addresses of an interface, 0 for those of all."""
    return _ADDRESS.pack(family, 0, 0, 0, index)


def address_index(message: bytes) -> int:
    """The index of the interface that an address is on."""
    return int(_ADDRESS.unpack_from(message, HEADER.size)[4])


def decode_address(message: bytes, device: str) -> Tuple[int, int, DeviceAddress]:
    """The interface's index, all flags, and the address."""
    family, prefix, flags, scope, index = _ADDRESS.unpack_from(message, HEADER.size)
    found = dict(attributes(message, HEADER.size + _ADDRESS.size))
    local = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))
    options: List[Tuple[str, Hashable]] = []
    if found.get(_IFA_ADDRESS, local) != local:
        options.append(("peer", address_text(family, found[_IFA_ADDRESS])))
    if _IFA_BROADCAST in found:
        options.append(("broadcast", address_text(family, found[_IFA_BROADCAST])))
    label = found.get(_IFA_LABEL, b"").rstrip(b"\0").decode()
    if label not in ("", device):
        options.append(("label", label))
    all_flags = struct.unpack("=I", found[_IFA_FLAGS])[0] if _IFA_FLAGS in found else flags
    if all_flags & ~_IFA_OWN_FLAGS:
        options.append(("flags", all_flags & ~_IFA_OWN_FLAGS))
    text = f"{address_text(family, local)}/{prefix}"
    return index, all_flags, DeviceAddress(device, text, scope, tuple(options))


def encode_address(item: DeviceAddress, index: int) -> bytes:
    host, prefix = item.address.split("/")
    family, local = address_bytes(host)
    options = dict(item.options)
    body = _ADDRESS.pack(family, int(prefix), 0, item.scope, index) + attribute(_IFA_LOCAL, local)
    body += attribute(_IFA_ADDRESS, address_bytes(str(options["peer"]))[1] if "peer" in options else local)
    if "broadcast" in options:
        body += attribute(_IFA_BROADCAST, address_bytes(str(options["broadcast"]))[1])
    if "label" in options:
        body += attribute(_IFA_LABEL, str(options["label"]).encode() + b"\0")
    if "flags" in options:
        body += attribute(_IFA_FLAGS, struct.pack("=I", options["flags"]))
    return body


def neighbor_request(index: int, family: int) -> bytes:
    return _NEIGHBOR.pack(family, 0, 0, 0, 0) + attribute(_NDA_IFINDEX, struct.pack("=I", index))


def decode_neighbor(message: bytes, index: int, device: str) -> Optional[Neighbor]:
    """None unless it is a permanent entry of the interface: all others are the kernel's own."""
    family, found_index, state, flags, _kind = _NEIGHBOR.unpack_from(message, HEADER.size)
    if found_index != index or not state & PERMANENT:
        return None
    found = dict(attributes(message, HEADER.size + _NEIGHBOR.size))
    options = (*(("flags", flags) for _once in range(bool(flags))), *_options(found, _NEIGHBOR_OPTIONS))
    return Neighbor(device, address_text(family, found[_NDA_DST]), _mac(found.get(_NDA_LLADDR, b"")), options)


def encode_neighbor(item: Neighbor, index: int) -> bytes:
    family, address = address_bytes(item.address)
    if not item.options and item.mac:
        length, mac = len(address), _mac_bytes(item.mac)
        return _PLAIN_NEIGHBOR[length].pack(
            family, index, PERMANENT, 0, _RTN_UNICAST, 4 + length, _NDA_DST, address, 10, _NDA_LLADDR, mac
        )
    flags = dict(item.options).get("flags", 0)
    body = _NEIGHBOR.pack(family, index, PERMANENT, flags, _RTN_UNICAST) + attribute(_NDA_DST, address)
    if item.mac:
        body += attribute(_NDA_LLADDR, _mac_bytes(item.mac))
    return body + _encoded(item.options, _NEIGHBOR_OPTIONS)


def fdb_request(index: int) -> bytes:
    return _NEIGHBOR.pack(AF_BRIDGE, index, 0, 0, 0)


def decode_fdb(message: bytes, index: int, device: str) -> Optional[ForwardingEntry]:
    """None unless it is a permanent entry of the VXLAN device itself: learned ones, and those of a bridge that the
    device is a port of, are the kernel's own."""
    _family, found_index, state, flags, _kind = _NEIGHBOR.unpack_from(message, HEADER.size)
    if found_index != index or not flags & _NTF_SELF or not state & PERMANENT:
        return None
    found = dict(attributes(message, HEADER.size + _NEIGHBOR.size))
    mac, remote = _mac(found.get(_NDA_LLADDR, b"")), found.get(_NDA_DST, b"")
    destination = address_text(socket.AF_INET6 if len(remote) == 16 else socket.AF_INET, remote) if remote else ""
    more = (("flags", flags & ~_NTF_SELF),) if flags & ~_NTF_SELF else ()
    return ForwardingEntry(device, mac, destination, state, (*more, *_options(found, _FDB_OPTIONS)))


def encode_fdb(item: ForwardingEntry, index: int) -> bytes:
    if not item.options and item.destination:
        (_family, address), mac = address_bytes(item.destination), _mac_bytes(item.mac)
        length = len(address)
        return _PLAIN_FDB[length].pack(
            AF_BRIDGE, index, item.state, _NTF_SELF, 0, 10, _NDA_LLADDR, mac, 4 + length, _NDA_DST, address
        )
    flags = _NTF_SELF | dict(item.options).get("flags", 0)  # type: ignore[operator]
    body = _NEIGHBOR.pack(AF_BRIDGE, index, item.state, flags, 0) + attribute(_NDA_LLADDR, _mac_bytes(item.mac))
    if item.destination:
        body += attribute(_NDA_DST, address_bytes(item.destination)[1])
    return body + _encoded(item.options, _FDB_OPTIONS)


def encode_fdb_key(item: ForwardingEntry, index: int) -> bytes:
    """What to delete. A destination is named only where there can be several: the kernel answers a wrong one with
    success and deletes nothing."""
    if item.many:
        return encode_fdb(item, index)
    return _NEIGHBOR.pack(AF_BRIDGE, index, item.state, _NTF_SELF, 0) + attribute(_NDA_LLADDR, _mac_bytes(item.mac))


def fdb_key(item: ForwardingEntry, index: int) -> bytes:
    """What to ask for one forwarding entry."""
    return _NEIGHBOR.pack(AF_BRIDGE, index, 0, _NTF_SELF, 0) + attribute(_NDA_LLADDR, _mac_bytes(item.mac))


def neighbor_key(item: Neighbor, index: int) -> bytes:
    """What to ask for one neighbor."""
    family, address = address_bytes(item.address)
    return _NEIGHBOR.pack(family, index, 0, 0, 0) + attribute(_NDA_DST, address)


def route_key(item: Route) -> bytes:
    """What to ask for the entry of the routing tables that a destination's first address matches."""
    family, address = address_bytes(item.destination.partition("/")[0])
    return _ROUTE.pack(family, 8 * len(address), 0, 0, 0, 0, 0, 0, _RTM_F_FIB_MATCH) + attribute(_RTA_DST, address)


def path_request(address: str) -> bytes:
    """What to ask for the way that packets to an address take."""
    family, packed = address_bytes(address)
    return _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0) + attribute(_RTA_DST, packed)


def route_request(family: int) -> bytes:
    """Asks for the routes of all tables."""
    return _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)


def decode_route(message: bytes, names: Mapping[int, str]) -> Tuple[int, Route]:
    """The index of its interface (0: none) and the route. ``names`` maps indexes to names of interfaces."""
    family, prefix, _source, tos, table, protocol, scope, kind, flags = _ROUTE.unpack_from(message, HEADER.size)
    found = dict(attributes(message, HEADER.size + _ROUTE.size))
    width = 16 if family == socket.AF_INET6 else 4

    def text(number: int) -> str:
        return address_text(family, found[number]) if number in found else ""

    def number_of(number: int, default: int = 0) -> int:
        return int(struct.unpack("=I", found[number])[0]) if number in found else default

    route = Route(
        destination=f"{address_text(family, found.get(_RTA_DST, bytes(width)))}/{prefix}",
        gateway=text(_RTA_GATEWAY),
        device=names.get(number_of(_RTA_OIF), ""),
        onlink=bool(flags & _RTNH_ONLINK),
        protocol=protocol,
        scope=scope,
        metric=number_of(_RTA_PRIORITY),
        table=number_of(_RTA_TABLE, table),
        type=kind,
        tos=tos,
        source=text(_RTA_PREFSRC),
        nexthop_id=number_of(_RTA_NH_ID),
        options=tuple(_options(found, _ROUTE_OPTIONS)),
    )
    return number_of(_RTA_OIF), route


def encode_route(item: Route, index: int) -> bytes:
    """``index`` is that of the item's device, 0 for a route without one."""
    host, _slash, prefix = item.destination.partition("/")
    family, destination = address_bytes(host)
    flags = _RTNH_ONLINK if item.onlink and not item.nexthop_id else 0
    over_gateway = item.gateway and index and not item.nexthop_id
    if item.nexthop_id and item[5:] == _PLAIN_FIELDS and family == socket.AF_INET:
        return _PLAIN_ROUTE.pack(
            family, int(prefix), TABLE_MAIN, PROTOCOL_BOOT, 0, TYPE_UNICAST, flags,
            8, _RTA_DST, destination, 8, _RTA_NH_ID, item.nexthop_id,
        )  # fmt: skip
    if over_gateway and item[5:] == _PLAIN_FIELDS6 and family == socket.AF_INET6:
        return _PLAIN_ROUTE6.pack(
            family, int(prefix), TABLE_MAIN, PROTOCOL_BOOT, 0, TYPE_UNICAST, flags, 20, _RTA_DST, destination,
            8, _RTA_PRIORITY, item.metric, 20, _RTA_GATEWAY, address_bytes(item.gateway)[1], 8, _RTA_OIF, index,
        )  # fmt: skip
    return _encode_route(item, index, family, flags)


def _encode_route(item: Route, index: int, family: int, flags: int) -> bytes:
    host, _slash, prefix = item.destination.partition("/")
    table = item.table if item.table < 256 else 0
    body = _ROUTE.pack(family, int(prefix), 0, item.tos, table, item.protocol, item.scope, item.type, flags)
    body += attribute(_RTA_TABLE, struct.pack("=I", item.table))
    if int(prefix):
        body += attribute(_RTA_DST, address_bytes(host)[1])
    if item.metric:
        body += attribute(_RTA_PRIORITY, struct.pack("=I", item.metric))
    if item.source:
        body += attribute(_RTA_PREFSRC, address_bytes(item.source)[1])
    return body + _next_hop(item, index) + _encoded(item.options, _ROUTE_OPTIONS)


def _next_hop(item: Route, index: int) -> bytes:
    if item.nexthop_id:
        return attribute(_RTA_NH_ID, struct.pack("=I", item.nexthop_id))
    body = attribute(_RTA_GATEWAY, address_bytes(item.gateway)[1]) if item.gateway else b""
    return body + (attribute(_RTA_OIF, struct.pack("=I", index)) if index else b"")


def _options(found: Mapping[int, bytes], forms: _Forms) -> Iterator[Tuple[str, Hashable]]:
    for number, (name, form) in forms.items():
        if number in found and (number, found[number]) != _MEDIUM_PREFERENCE:
            yield name, struct.unpack(form, found[number])[0] if form else found[number].hex()


def _encoded(options: Options, forms: _Forms) -> bytes:
    values: Dict[str, Hashable] = dict(options)
    return b"".join(
        attribute(number, struct.pack(form, values[name]) if form else bytes.fromhex(str(values[name])))
        for number, (name, form) in forms.items()
        if name in values
    )


def address_bytes(address: str) -> Tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def _mac(address: bytes) -> str:
    return address.hex(":")


def _mac_bytes(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))
