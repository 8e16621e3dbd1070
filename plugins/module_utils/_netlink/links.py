# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Links, and VXLAN devices among them, as pyroute2's messages."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import socket
import sys
from typing import Any, Dict, Hashable, Iterator, List, Optional, Tuple

from .._model.datapath import VxlanDevice
from .rtnetlink import ABSENT, CREATE, EXCLUSIVE, HEADER, RefusedError, Rtnetlink, interface_index

NEW_LINK, DELETE_LINK, GET_LINK = 16, 17, 18
IFF_UP = 0x1
# linux/rtnetlink.h RTEXT_FILTER_SKIP_STATS: counters are half of a link's message, and nobody asks for them here.
_SKIP_STATS = 1 << 3

# Attributes of a VXLAN device that ours leave alone: compared, so that a device with another setting is made anew.
_OPTIONS: Dict[str, Hashable] = {
    "IFLA_VXLAN_GROUP": None,
    "IFLA_VXLAN_GROUP6": None,
    "IFLA_VXLAN_TTL": 0,
    "IFLA_VXLAN_TOS": 0,
    "IFLA_VXLAN_LIMIT": 0,
    "IFLA_VXLAN_PROXY": 0,
    "IFLA_VXLAN_RSC": 0,
    "IFLA_VXLAN_L2MISS": 0,
    "IFLA_VXLAN_L3MISS": 0,
    "IFLA_VXLAN_COLLECT_METADATA": 0,
    "IFLA_VXLAN_REMCSUM_TX": 0,
    "IFLA_VXLAN_REMCSUM_RX": 0,
    "IFLA_VXLAN_LABEL": 0,
    "IFLA_VXLAN_DF": 0,
}
# Not compared, as flannel does not compare them either; only kept through an undo.
_DEFAULTS: Dict[str, Hashable] = {
    "IFLA_VXLAN_AGEING": 300,
    "IFLA_VXLAN_UDP_CSUM": 1,
    "IFLA_VXLAN_UDP_ZERO_CSUM6_TX": 0,
    "IFLA_VXLAN_UDP_ZERO_CSUM6_RX": 0,
}
QUEUE_LENGTH = "txqlen"
_PREFIX = "IFLA_VXLAN_"


def read_link(netlink: Rtnetlink, name: str) -> Optional[Any]:
    """pyroute2's message about an interface, None when there is none of that name."""
    try:
        body = encode_link(attrs=[("IFLA_IFNAME", name), ("IFLA_EXT_MASK", _SKIP_STATS)])
        return decode_link(netlink.get(GET_LINK, body))
    except RefusedError as error:
        if error.code in ABSENT:
            return None
        raise


def read_links(netlink: Rtnetlink, kind: str) -> List[Any]:
    """Messages about all interfaces of a kind."""
    info = ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]})
    body = encode_link(attrs=[info, ("IFLA_EXT_MASK", _SKIP_STATS)])
    return [link for link in map(decode_link, netlink.dump(GET_LINK, body)) if kind_of(link) == kind]


def kind_of(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return str((info and info.get_attr("IFLA_INFO_KIND")) or "")


def local_of(link: Any) -> str:
    """Outer source address of a VXLAN device, "" for one without."""
    data = data_of(link)
    return str(data.get("IFLA_VXLAN_LOCAL") or data.get("IFLA_VXLAN_LOCAL6") or "")


def has_group_policy(link: Any) -> bool:
    return "IFLA_VXLAN_GBP" in data_of(link)


def decode_vxlan(link: Any, with_accept_ra: bool) -> VxlanDevice:
    data = data_of(link)
    name = link.get_attr("IFLA_IFNAME")
    queue = link.get_attr("IFLA_TXQLEN") or 0
    return VxlanDevice(
        name=name,
        vni=data.get("IFLA_VXLAN_ID", 0),
        link=_name_of(data.get("IFLA_VXLAN_LINK", 0)),
        local=local_of(link),
        port=data.get("IFLA_VXLAN_PORT", 0),
        mac=link.get_attr("IFLA_ADDRESS"),
        mtu=link.get_attr("IFLA_MTU"),
        learning=bool(data.get("IFLA_VXLAN_LEARNING")),
        gbp=has_group_policy(link),
        accept_ra=read_accept_ra(name) if with_accept_ra else None,
        options=tuple(differing(data, _OPTIONS, _PREFIX)) + _port_range(data),
        defaults=tuple(differing(data, _DEFAULTS, _PREFIX)) + (((QUEUE_LENGTH, queue),) if queue else ()),
    )


def add_vxlan(netlink: Rtnetlink, device: VxlanDevice) -> None:
    """Make the device, down. Raises RefusedError, with ENODEV when its underlying interface is missing."""
    defaults = dict(device.defaults)
    queue = defaults.pop(QUEUE_LENGTH, 0)
    data: List[Tuple[str, Any]] = [
        ("IFLA_VXLAN_ID", device.vni),
        ("IFLA_VXLAN_PORT", device.port),
        ("IFLA_VXLAN_LEARNING", int(device.learning)),
    ]
    if device.link:
        data.append(("IFLA_VXLAN_LINK", interface_index(device.link)))
    if device.local:
        data.append(("IFLA_VXLAN_LOCAL6" if ":" in device.local else "IFLA_VXLAN_LOCAL", device.local))
    if device.gbp:
        data.append(("IFLA_VXLAN_GBP", None))
    data += [_as_attribute(name, value) for name, value in (*device.options, *defaults.items())]
    info = {"attrs": [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": data})]}
    attrs = [
        ("IFLA_IFNAME", device.name),
        ("IFLA_ADDRESS", device.mac),
        ("IFLA_MTU", device.mtu),
        ("IFLA_TXQLEN", queue),
        ("IFLA_LINKINFO", info),
    ]
    netlink.change(NEW_LINK, CREATE | EXCLUSIVE, encode_link(attrs=attrs))
    try:
        write_accept_ra(device)
    except OSError:
        delete_link(netlink, device.name)
        raise


def change_vxlan(netlink: Rtnetlink, device: VxlanDevice, previous: VxlanDevice) -> None:
    """Bring what can change in place: learning, the MTU and the sysctl, which is there when the MTU is large enough for
    IPv6; all or none."""
    _set_learning(netlink, device, previous)
    try:
        change_mtu(netlink, device.name, device.mtu)
        try:
            write_accept_ra(device)
        except OSError:
            change_mtu(netlink, device.name, previous.mtu)
            raise
    except (RefusedError, OSError):
        _set_learning(netlink, previous, device)
        raise


def _set_learning(netlink: Rtnetlink, device: VxlanDevice, previous: VxlanDevice) -> None:
    if device.learning != previous.learning:
        data = {"attrs": [("IFLA_VXLAN_LEARNING", int(device.learning))]}
        info = {"attrs": [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", data)]}
        body = encode_link(index=interface_index(device.name), attrs=[("IFLA_LINKINFO", info)])
        netlink.change(NEW_LINK, 0, body)


def change_mtu(netlink: Rtnetlink, name: str, mtu: int) -> None:
    netlink.change(NEW_LINK, 0, encode_link(index=interface_index(name), attrs=[("IFLA_MTU", mtu)]))


def set_up(netlink: Rtnetlink, name: str, up: bool) -> None:
    index = interface_index(name)
    netlink.change(NEW_LINK, 0, encode_link(index=index, flags=IFF_UP if up else 0, change=IFF_UP))


def delete_link(netlink: Rtnetlink, name: str) -> None:
    netlink.change(DELETE_LINK, 0, encode_link(index=interface_index(name)))


def read_accept_ra(device: str) -> Optional[int]:
    try:
        with open(_accept_ra_path(device), encoding="ascii") as stream:
            return int(stream.read())
    except OSError:
        return None


def write_accept_ra(device: VxlanDevice) -> None:
    if device.accept_ra is not None:
        with open(_accept_ra_path(device.name), "w", encoding="ascii") as stream:
            stream.write(str(device.accept_ra))


def accept_ra_writable() -> bool:
    """Whether this node has IPv6 and lets its sysctls be written, which containers often do not."""
    return os.access(_accept_ra_path("default"), os.W_OK)


def _accept_ra_path(device: str) -> str:
    return f"/proc/sys/net/ipv6/conf/{device}/accept_ra"


def data_of(link: Any) -> Dict[str, Any]:
    """What is particular to the kind of interface, by attribute."""
    data = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    return dict(data["attrs"]) if data else {}


def differing(data: Dict[str, Any], usual: Dict[str, Hashable], prefix: str) -> Iterator[Tuple[str, Hashable]]:
    """Attributes with another value than the usual one: their names without the prefix, and the values."""
    for name, value in usual.items():
        if data.get(name, value) != value:
            yield name[len(prefix) :].lower(), data[name]


def _port_range(data: Dict[str, Any]) -> Tuple[Tuple[str, Hashable], ...]:
    found = data.get("IFLA_VXLAN_PORT_RANGE") or {}
    low, high = found.get("low", 0), found.get("high", 0)
    return (("port_range", f"{low}-{high}"),) if low or high else ()


def _as_attribute(name: str, value: Hashable) -> Tuple[str, Any]:
    if name == "port_range":
        low, high = str(value).split("-")
        return "IFLA_VXLAN_PORT_RANGE", {"low": int(low), "high": int(high)}
    return f"IFLA_VXLAN_{name.upper()}", value


def _name_of(index: int) -> str:
    """ "" for an interface that is gone or in another network namespace."""
    with contextlib.suppress(OSError):
        return socket.if_indextoname(index)
    return ""


def encode_link(
    index: int = 0, flags: int = 0, change: int = 0, attrs: Optional[List[Tuple[str, Any]]] = None
) -> bytes:
    message = _message_class()()
    message.update(index=index, flags=flags, change=change)
    message["attrs"] = attrs or []
    message.encode()
    return bytes(message.data[HEADER.size :])


def decode_link(data: bytes) -> Any:
    message = _message_class()(data)
    message.decode()
    return message


def _message_class() -> Any:
    """pyroute2's ifinfmsg. pyroute2's package file imports every protocol that it knows (0.12 s against 0.035 s), so
    the package is named without running that file while the one module and what it needs are imported."""
    name = "pyroute2.netlink.rtnl.ifinfmsg"
    if name in sys.modules:
        return sys.modules[name].ifinfmsg
    spec = None if "pyroute2" in sys.modules else importlib.util.find_spec("pyroute2")
    if spec is None:
        return importlib.import_module(name).ifinfmsg
    sys.modules["pyroute2"] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(name).ifinfmsg
    finally:
        # Whoever imports pyroute2 later gets all of it.
        del sys.modules["pyroute2"]
