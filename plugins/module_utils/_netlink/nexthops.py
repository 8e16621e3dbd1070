# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Nexthop objects as rtnetlink messages. Constants and layouts are those of linux/nexthop.h and linux/rtnetlink.h."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Hashable, List, Mapping, Tuple

from .._model.datapath import Nexthop
from .._model.ip_version import address_text
from .entries import address_bytes
from .rtnetlink import HEADER, RefusedError, Rtnetlink, attribute, attributes

NEW_NEXTHOP, DELETE_NEXTHOP, GET_NEXTHOP = 104, 105, 106
_NEXTHOP = struct.Struct("=BBBBI")
_NHA_ID, _NHA_OIF, _NHA_GATEWAY = 1, 5, 6
_RTNH_ONLINK = 0x4
# Flags that tell of the link's state instead of what was asked for: dead, linkdown, offload, trap.
_RTNH_STATE = 0x01 | 0x10 | 0x08 | 0x40
# To ask whether the kernel knows of such objects at all. No object of ours has this identifier.
_NO_ID = 0xFFFFFFFF
# A gateway over a device, which is all that ours are: the header and three attributes of eight bytes.
_PLAIN = struct.Struct("=BxBxIHHIHHIHH4s")
_ID, _OIF, _GATEWAY = (8, _NHA_ID), (8, _NHA_OIF), (8, _NHA_GATEWAY)


def supported(netlink: Rtnetlink) -> bool:
    """Whether the kernel has nexthop objects: Linux 5.3 and later."""
    try:
        netlink.get(GET_NEXTHOP, get_request(_NO_ID))
    except RefusedError as error:
        return error.code != errno.EOPNOTSUPP
    return True


def dump_request() -> bytes:
    """Asks for the nexthop objects of all interfaces: those of our identifiers may be anywhere."""
    return _NEXTHOP.pack(0, 0, 0, 0, 0)


def get_request(identifier: int) -> bytes:
    return _NEXTHOP.pack(0, 0, 0, 0, 0) + attribute(_NHA_ID, struct.pack("=I", identifier))


def decode_nexthop(message: bytes, names: Mapping[int, str]) -> Nexthop:
    """``options`` keeps what objects of ours do not have: other flags, and other attributes by number as hexadecimal
    bytes."""
    family, _scope, protocol, _reserved, flags = _NEXTHOP.unpack_from(message, HEADER.size)
    identifier, index, gateway = 0, 0, ""
    options: List[Tuple[str, Hashable]] = [("family", family)] if family != socket.AF_INET else []
    if flags & ~(_RTNH_ONLINK | _RTNH_STATE):
        options.append(("flags", flags & ~(_RTNH_ONLINK | _RTNH_STATE)))
    for kind, value in attributes(message, HEADER.size + _NEXTHOP.size):
        if kind == _NHA_ID:
            identifier = struct.unpack("=I", value)[0]
        elif kind == _NHA_OIF:
            index = struct.unpack("=I", value)[0]
        elif kind == _NHA_GATEWAY:
            gateway = address_text(family, value)
        else:
            options.append((f"attribute_{kind}", value.hex()))
    device = names.get(index, "") if index else ""
    return Nexthop(identifier, gateway, device, bool(flags & _RTNH_ONLINK), protocol, tuple(options))


def encode_nexthop(item: Nexthop, index: int) -> bytes:
    """``index`` is that of the item's device, 0 for an object without one."""
    if not item.options and ":" not in item.gateway:
        flags = _RTNH_ONLINK if item.onlink else 0
        gateway = socket.inet_aton(item.gateway)
        return _PLAIN.pack(socket.AF_INET, item.protocol, flags, *_ID, item.id, *_OIF, index, *_GATEWAY, gateway)
    return _encode(item, index)


def _encode(item: Nexthop, index: int) -> bytes:
    options = dict(item.options)
    family = int(options.pop("family", socket.AF_INET))  # type: ignore[call-overload]
    flags = (_RTNH_ONLINK if item.onlink else 0) | int(options.pop("flags", 0))  # type: ignore[call-overload]
    body = _NEXTHOP.pack(family, 0, item.protocol, 0, flags) + attribute(_NHA_ID, struct.pack("=I", item.id))
    if index:
        body += attribute(_NHA_OIF, struct.pack("=I", index))
    if item.gateway:
        body += attribute(_NHA_GATEWAY, address_bytes(item.gateway)[1])
    for name, value in options.items():
        body += attribute(int(name[len("attribute_") :]), bytes.fromhex(str(value)))
    return body
