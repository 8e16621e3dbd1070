# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Devices of kind ipip, as pyroute2's messages, and whether the kernel has them."""

from __future__ import annotations

import contextlib
import errno
import struct
from typing import Any, Dict, Hashable, List, Tuple

from .._model.datapath import IpipDevice
from .links import NEW_LINK, QUEUE_LENGTH, data_of, delete_link, differing, encode_link
from .rtnetlink import CREATE, EXCLUSIVE, RefusedError, Rtnetlink, attribute

KIND = "ipip"
_PREFIX = "IFLA_IPIP_"
_ANY = "0.0.0.0"
# What flannel's device has (linux/if_tunnel.h IFLA_IPTUN_*). A device with another setting is made anew.
_OPTIONS: Dict[str, Hashable] = {
    "IFLA_IPIP_LINK": 0,
    "IFLA_IPIP_REMOTE": _ANY,
    "IFLA_IPIP_TTL": 0,
    "IFLA_IPIP_TOS": 0,
    "IFLA_IPIP_PROTO": 0,
    "IFLA_IPIP_PMTUDISC": 0,
    "IFLA_IPIP_ENCAP_TYPE": 0,
    "IFLA_IPIP_FWMARK": 0,
}
# The kernel attends to these only together with an encapsulation, and reports flags without one.
_DEFAULTS: Dict[str, Hashable] = {
    "IFLA_IPIP_ENCAP_FLAGS": 0,
    "IFLA_IPIP_ENCAP_SPORT": 0,
    "IFLA_IPIP_ENCAP_DPORT": 0,
}
# A link message without attributes, the attributes of linux/if_link.h, and a name that nobody has.
_LINK_HEADER = struct.Struct("=BxHiII")
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_INFO_KIND = 3, 4, 18, 1
_PROBE = "fairlead.probe"


def decode_ipip(link: Any) -> IpipDevice:
    data = data_of(link)
    queue = link.get_attr("IFLA_TXQLEN") or 0
    return IpipDevice(
        name=link.get_attr("IFLA_IFNAME"),
        local=local_of(link),
        mtu=link.get_attr("IFLA_MTU"),
        options=tuple(differing(data, _OPTIONS, _PREFIX)),
        defaults=tuple(differing(data, _DEFAULTS, _PREFIX)) + (((QUEUE_LENGTH, queue),) if queue else ()),
    )


def local_of(link: Any) -> str:
    """ "" for a device that takes packets to any address of the node."""
    local = str(data_of(link).get("IFLA_IPIP_LOCAL") or "")
    return "" if local == _ANY else local


def is_for_any_peer(link: Any) -> bool:
    return data_of(link).get("IFLA_IPIP_REMOTE", _ANY) == _ANY


def add_ipip(netlink: Rtnetlink, device: IpipDevice) -> None:
    """Make the device, down. Raises RefusedError."""
    settings = dict(device.defaults)
    queue = settings.pop(QUEUE_LENGTH, 0)
    usual = {name[len(_PREFIX) :].lower(): value for name, value in _OPTIONS.items() if name != "IFLA_IPIP_LINK"}
    settings = {**usual, **settings, **dict(device.options)}
    data: List[Tuple[str, Any]] = [("IFLA_IPIP_LOCAL", device.local)] if device.local else []
    data += [(f"{_PREFIX}{name.upper()}", value) for name, value in settings.items()]
    info = {"attrs": [("IFLA_INFO_KIND", KIND), ("IFLA_INFO_DATA", {"attrs": data})]}
    attrs = [("IFLA_IFNAME", device.name), ("IFLA_MTU", device.mtu), ("IFLA_TXQLEN", queue), ("IFLA_LINKINFO", info)]
    netlink.change(NEW_LINK, CREATE | EXCLUSIVE, encode_link(attrs=attrs))


def supported(netlink: Rtnetlink, kind_name: str = KIND) -> bool:
    """Whether the kernel has devices of this kind; it loads its module when there is one.

    Asks for a device with an impossible MTU: a kernel that knows the kind objects to the MTU, any other to the kind.
    Linux before 5.5 makes the device all the same; it is removed at once.
    """
    kind = attribute(_IFLA_INFO_KIND, kind_name.encode())
    body = _LINK_HEADER.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, _PROBE.encode() + b"\0")
    body += attribute(_IFLA_MTU, struct.pack("=I", 0xFFFFFFFF)) + attribute(_IFLA_LINKINFO, kind)
    try:
        netlink.change(NEW_LINK, CREATE | EXCLUSIVE, body)
    except RefusedError as error:
        return error.code != errno.EOPNOTSUPP
    with contextlib.suppress(RefusedError):
        delete_link(netlink, _PROBE)
    return True
