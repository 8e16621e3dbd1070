# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Devices made, removed and asked for their kind by plain messages (linux/rtnetlink.h, linux/if_link.h)."""

from __future__ import annotations

import struct

from .rtnetlink import CREATE, EXCLUSIVE, HEADER, Rtnetlink, attribute, attributes, interface_index

_NEW_LINK, _DELETE_LINK, _GET_LINK = 16, 17, 18
# struct ifinfomsg: family, type, index, flags, mask of flags.
_LINK = struct.Struct("=BxHiII")
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_EXT_MASK = 3, 18, 1, 29
# RTEXT_FILTER_SKIP_STATS
_SKIP_STATS = struct.pack("=I", 8)


def add(netlink: Rtnetlink, name: str, kind: str, flags: int = 0, values: bytes = b"") -> None:
    """A device that is down. ``flags`` are those of linux/if.h that are set, ``values`` more attributes. Raises
    RefusedError, with EOPNOTSUPP where the kernel has no such devices."""
    body = _LINK.pack(0, 0, 0, flags, flags) + attribute(_IFLA_IFNAME, name.encode() + b"\0") + values
    body += attribute(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, kind.encode()))
    netlink.change(_NEW_LINK, CREATE | EXCLUSIVE, body)


def delete(netlink: Rtnetlink, name: str) -> None:
    """Raises RefusedError with ENODEV where no interface is called so."""
    netlink.change(_DELETE_LINK, 0, _LINK.pack(0, 0, interface_index(name), 0, 0))


def kind_of(netlink: Rtnetlink, name: str) -> str:
    """Empty for a device of hardware. Raises RefusedError with ENODEV where no interface is called so."""
    body = _LINK.pack(0, 0, interface_index(name), 0, 0) + attribute(_IFLA_EXT_MASK, _SKIP_STATS)
    values = dict(attributes(netlink.get(_GET_LINK, body), HEADER.size + _LINK.size))
    info = dict(attributes(values.get(_IFLA_LINKINFO, b""), 0))
    return info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
