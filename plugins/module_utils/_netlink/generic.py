# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Generic netlink (linux/genetlink.h): families of the kernel by name, and their messages."""

from __future__ import annotations

import struct
from typing import Iterator, Tuple

from .rtnetlink import HEADER, Rtnetlink, attribute, attributes

NETLINK_GENERIC = 16
# GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME
_CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_HEADER = struct.Struct("=BBxx")
_NESTED = 0x8000


def socket() -> Rtnetlink:
    """The same wire protocol as for links and routes, on another bus of the kernel's."""
    return Rtnetlink(NETLINK_GENERIC)


def family_id(generic: Rtnetlink, name: str) -> int:
    """The number of a family; the kernel loads the module for it. Raises RefusedError with ENOENT where it has none."""
    body = head(_GET_FAMILY) + attribute(_FAMILY_NAME, name.encode() + b"\0")
    answer = generic.get(_CONTROL, body)
    return int(struct.unpack("=H", dict(attributes_of(answer))[_FAMILY_ID])[0])


def head(command: int, version: int = 1) -> bytes:
    return _HEADER.pack(command, version)


def nested(kind: int, value: bytes) -> bytes:
    return attribute(kind | _NESTED, value)


def attributes_of(message: bytes) -> Iterator[Tuple[int, bytes]]:
    """Those of a message with its headers."""
    return attributes(message, HEADER.size + _HEADER.size)
