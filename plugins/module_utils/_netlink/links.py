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

_NEW_LINK, _DELETE_LINK, _GET_LINK = 16, 17, 18
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
_QUEUE_LENGTH = "txqlen"


def read_link(netlink: Rtnetlink, name: str) -> Optional[Any]:
    """pyroute2's message about an interface, None when there is none of that name."""
    try:
        body = _encoded(attrs=[("IFLA_IFNAME", name), ("IFLA_EXT_MASK", _SKIP_STATS)])
        return _decoded(netlink.get(_GET_LINK, body))
    except RefusedError as error:
        if error.code in ABSENT:
            return None
        raise


def read_vxlan_links(netlink: Rtnetlink) -> List[Any]:
    """Messages about all VXLAN devices."""
    kind = ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "vxlan")]})
    body = _encoded(attrs=[kind, ("IFLA_EXT_MASK", _SKIP_STATS)])
    return [link for link in map(_decoded, netlink.dump(_GET_LINK, body)) if kind_of(link) == "vxlan"]


def kind_of(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return str((info and info.get_attr("IFLA_INFO_KIND")) or "")


def vni_and_port(link: Any) -> Tuple[int, int]:
    data = _vxlan_data(link)
    return int(data.get("IFLA_VXLAN_ID", 0)), int(data.get("IFLA_VXLAN_PORT", 0))


def decode_vxlan(link: Any, with_accept_ra: bool) -> VxlanDevice:
    data = _vxlan_data(link)
    name = link.get_attr("IFLA_IFNAME")
    queue = link.get_attr("IFLA_TXQLEN") or 0
    return VxlanDevice(
        name=name,
        vni=data.get("IFLA_VXLAN_ID", 0),
        link=_name_of(data.get("IFLA_VXLAN_LINK", 0)),
        local=data.get("IFLA_VXLAN_LOCAL") or data.get("IFLA_VXLAN_LOCAL6") or "",
        port=data.get("IFLA_VXLAN_PORT", 0),
        mac=link.get_attr("IFLA_ADDRESS"),
        mtu=link.get_attr("IFLA_MTU"),
        learning=bool(data.get("IFLA_VXLAN_LEARNING")),
        gbp="IFLA_VXLAN_GBP" in data,
        accept_ra=read_accept_ra(name) if with_accept_ra else None,
        options=tuple(_differing(data, _OPTIONS)) + _port_range(data),
        defaults=tuple(_differing(data, _DEFAULTS)) + (((_QUEUE_LENGTH, queue),) if queue else ()),
    )


def add_vxlan(netlink: Rtnetlink, device: VxlanDevice) -> None:
    """Make the device, down. Raises RefusedError, with ENODEV when its underlying interface is missing."""
    defaults = dict(device.defaults)
    queue = defaults.pop(_QUEUE_LENGTH, 0)
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
    netlink.change(_NEW_LINK, CREATE | EXCLUSIVE, _encoded(attrs=attrs))
    try:
        write_accept_ra(device)
    except OSError:
        delete_link(netlink, device.name)
        raise


def change_vxlan(netlink: Rtnetlink, device: VxlanDevice, previous: VxlanDevice) -> None:
    """Bring what can change in place, the MTU and the sysctl: both or none."""
    index = interface_index(device.name)
    write_accept_ra(device)
    try:
        netlink.change(_NEW_LINK, 0, _encoded(index=index, attrs=[("IFLA_MTU", device.mtu)]))
    except RefusedError:
        write_accept_ra(previous)
        raise


def set_up(netlink: Rtnetlink, name: str, up: bool) -> None:
    index = interface_index(name)
    netlink.change(_NEW_LINK, 0, _encoded(index=index, flags=IFF_UP if up else 0, change=IFF_UP))


def delete_link(netlink: Rtnetlink, name: str) -> None:
    netlink.change(_DELETE_LINK, 0, _encoded(index=interface_index(name)))


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


def _vxlan_data(link: Any) -> Dict[str, Any]:
    data = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    return dict(data["attrs"]) if data else {}


def _differing(data: Dict[str, Any], usual: Dict[str, Hashable]) -> Iterator[Tuple[str, Hashable]]:
    for name, value in usual.items():
        if data.get(name, value) != value:
            yield name[len("IFLA_VXLAN_") :].lower(), data[name]


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


def _encoded(index: int = 0, flags: int = 0, change: int = 0, attrs: Optional[List[Tuple[str, Any]]] = None) -> bytes:
    message = _message_class()()
    message.update(index=index, flags=flags, change=change)
    message["attrs"] = attrs or []
    message.encode()
    return bytes(message.data[HEADER.size :])


def _decoded(data: bytes) -> Any:
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
