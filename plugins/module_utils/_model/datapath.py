# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel objects of the overlay's datapath in canonical form: what flannel's backends make on a node.

Interfaces are named, never numbered: a device that is made again gets another index. Addresses and networks are
strings as `ipaddress` prints them, MAC addresses are lower case with colons, either IP family. ``options`` holds what
objects of ours leave at the kernel's default, as (name, value) pairs; objects of others keep it through an undo.

What there is one of for each peer is a tuple instead of a dataclass: a node of a large cluster has a hundred thousand
of them, and a tuple is made and compared several times as fast.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Dict, Hashable, NamedTuple, Optional, Tuple, Union

from .ip_version import IpVersion, version_of
from .item import BaseItem, Item, Key

# linux/neighbour.h NUD_PERMANENT, linux/rtnetlink.h RTPROT_KERNEL (the routes that the kernel keeps for addresses),
# RTPROT_BOOT, RTPROT_RA (those for prefixes that a router announced), RT_TABLE_MAIN, RT_SCOPE_LINK, RTN_UNICAST.
PERMANENT = 0x80
PROTOCOL_KERNEL = 2
PROTOCOL_BOOT = 3
PROTOCOL_RA = 9
TABLE_MAIN = 254
SCOPE_LINK = 253
TYPE_UNICAST = 1
# An option of routes: which one it is of those that are found beside the first one with the same key.
DUPLICATE = "duplicate"
# linux/if_addr.h IFA_F_NODAD: an IPv6 address that is good from the first moment on.
NO_DUPLICATE_DETECTION = 0x02

Options = Tuple[Tuple[str, Hashable], ...]
# The second hexadecimal digit of an address for several devices: the lowest bit of the first octet is set.
_MULTICAST_DIGITS = "13579bdf"


@dataclasses.dataclass(frozen=True)
class VxlanDevice(BaseItem):
    """A VXLAN device. ``link`` is the underlying interface ("" when there is none), ``local`` the outer source address.

    ``accept_ra`` is the sysctl, None when this node has no such key or does not let it be written. ``defaults`` are
    properties that are kept through an undo but not compared, because flannel leaves them alone too.
    """

    kind: ClassVar[str] = "vxlan"
    name: str
    vni: int
    link: str
    local: str
    port: int
    mac: str
    mtu: int
    learning: bool = False
    gbp: bool = False
    accept_ra: Optional[int] = 0
    options: Options = ()
    defaults: Options = dataclasses.field(default=(), compare=False)

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.name,)

    def __str__(self) -> str:
        words = [f"vxlan {self.name} id {self.vni} local {self.local} dev {self.link} dstport {self.port}"]
        words += ["learning" if self.learning else "nolearning", *(["gbp"] if self.gbp else [])]
        words += [f"address {self.mac} mtu {self.mtu}"]
        if self.accept_ra is not None:
            words.append(f"accept_ra {self.accept_ra}")
        return " ".join([*words, *_shown(self.options)])

    def changeable_to(self, other: VxlanDevice) -> bool:
        """Whether the kernel turns this device into ``other`` in place."""
        settled = dataclasses.replace(self, mtu=other.mtu, accept_ra=other.accept_ra, learning=other.learning)
        return settled == other

    def disagrees_with(self, other: VxlanDevice) -> bool:
        """Whether both would receive at one port, and differ in what one port can do only one way."""
        same_socket = (self.port, ":" in self.local) == (other.port, ":" in other.local)
        return same_socket and self.gbp != other.gbp


@dataclasses.dataclass(frozen=True)
class IpipDevice(BaseItem):
    """A device that puts IPv4 packets into IPv4 packets. ``local`` is the outer source address; the outer destination
    is the gateway of the route that leads through the device."""

    kind: ClassVar[str] = "ipip"
    name: str
    local: str
    mtu: int
    options: Options = ()
    defaults: Options = dataclasses.field(default=(), compare=False)

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.name,)

    def __str__(self) -> str:
        return " ".join([f"ipip {self.name} local {self.local} mtu {self.mtu}", *_shown(self.options)])

    def changeable_to(self, other: IpipDevice) -> bool:
        """Whether the kernel turns this device into ``other`` in place."""
        return dataclasses.replace(self, mtu=other.mtu) == other


Device = Union[VxlanDevice, IpipDevice]


@dataclasses.dataclass(frozen=True)
class LinkUp(BaseItem):
    """The device is administratively up."""

    kind: ClassVar[str] = "link_up"
    device: str

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.device,)

    def __str__(self) -> str:
        return f"link {self.device} up"


@dataclasses.dataclass(frozen=True)
class DeviceAddress(BaseItem):
    """An address with its prefix length ("10.244.3.0/32") on a device."""

    kind: ClassVar[str] = "address"
    device: str
    address: str
    scope: int = 0
    options: Options = dataclasses.field(default=(), compare=False)

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.device, self.address)

    def __str__(self) -> str:
        return f"address {self.address} dev {self.device}"


class TupleItem:
    """What the tuples below share: the part of ``Item`` that does not depend on their fields."""

    __slots__ = ()
    kind: ClassVar[str] = ""

    @property
    def compared(self) -> Hashable:
        return self

    def to_dict(self) -> Dict[str, Any]:
        return {"kind": self.kind, **self._asdict()}  # type: ignore[attr-defined]


class _NeighborFields(NamedTuple):
    device: str
    address: str
    mac: str
    options: Options = ()


class Neighbor(TupleItem, _NeighborFields):
    """A permanent neighbor (ARP or NDP) entry."""

    __slots__ = ()
    kind: ClassVar[str] = "neighbor"

    @property
    def key(self) -> Key:
        return ("neighbor", self.device, self.address)

    @property
    def compared(self) -> Hashable:
        return self[:3]

    def __str__(self) -> str:
        return f"neighbor {self.address} lladdr {self.mac} dev {self.device}"


class _ForwardingEntryFields(NamedTuple):
    device: str
    mac: str
    destination: str
    state: int = PERMANENT
    options: Options = ()


class ForwardingEntry(TupleItem, _ForwardingEntryFields):
    """An entry of a VXLAN device's own forwarding table: frames to ``mac`` go to the outer address ``destination``."""

    __slots__ = ()
    kind: ClassVar[str] = "fdb"

    @property
    def many(self) -> bool:
        """Whether the kernel keeps several destinations: it does for the all-zero and for multicast addresses."""
        return self.mac[1] in _MULTICAST_DIGITS or self.mac == "00:00:00:00:00:00"

    @property
    def key(self) -> Key:
        if self.many:
            return ("fdb", self.device, self.mac, self.destination, self.options)
        return ("fdb", self.device, self.mac)

    def __str__(self) -> str:
        state = "" if self.state == PERMANENT else f"state {self.state:#x}"
        words = [f"fdb {self.mac} dst {self.destination} dev {self.device} self", state, *_shown(self.options)]
        return " ".join(word for word in words if word)


class _NexthopFields(NamedTuple):
    id: int
    gateway: str
    device: str
    onlink: bool = True
    protocol: int = PROTOCOL_BOOT
    options: Options = ()


class Nexthop(TupleItem, _NexthopFields):
    """A nexthop object (Linux 5.3). Routes through one cost the kernel the same however many there are; plain IPv4
    routes over one device cost it quadratic time."""

    __slots__ = ()
    kind: ClassVar[str] = "nexthop"

    @property
    def key(self) -> Key:
        return ("nexthop", self.id)

    def __str__(self) -> str:
        words = [f"nexthop id {self.id}"]
        words += [f"via {self.gateway}"] if self.gateway else []
        words += [f"dev {self.device}"] if self.device else []
        words += ["onlink"] if self.onlink else []
        words += [f"protocol {self.protocol}"] if self.protocol != PROTOCOL_BOOT else []
        return " ".join([*words, *_shown(self.options)])


class _RouteFields(NamedTuple):
    destination: str
    gateway: str
    device: str
    nexthop_id: int = 0
    onlink: bool = True
    protocol: int = PROTOCOL_BOOT
    scope: int = 0
    metric: int = 0
    table: int = TABLE_MAIN
    type: int = TYPE_UNICAST
    tos: int = 0
    source: str = ""
    options: Options = ()


class Route(TupleItem, _RouteFields):
    """A route with one next hop. ``device`` is "" for routes without one (blackhole and the like), ``type`` is RTN_*,
    ``nexthop_id`` the nexthop object it goes through (0: none).

    The kernel takes a second route for the same destination when it is appended, and IPv6 then uses both. ``place`` is
    what they have in common, ``key`` what tells them apart.
    """

    __slots__ = ()
    kind: ClassVar[str] = "route"

    @property
    def place(self) -> Key:
        return ("route", self.table, self.destination, self.tos, self.metric)

    @property
    def key(self) -> Key:
        last = self.options[-1] if self.options else ("", 0)
        return (*self.place, last[1]) if last[0] == DUPLICATE else self.place

    def __str__(self) -> str:
        words = [f"route {self.destination}"]
        words += [f"via {self.gateway}"] if self.gateway else []
        words += [f"dev {self.device}"] if self.device else []
        words += ["onlink"] if self.onlink else []
        words += [
            f"{name} {getattr(self, name)}"
            for name in ("protocol", "scope", "metric", "table", "type", "tos", "source", "nexthop_id")
            if getattr(self, name) != self._field_defaults[name]
        ]
        return " ".join([*words, *_shown(self.options)])


def device_version(device: Device) -> IpVersion:
    """The IP version that a device of ours is for, which is that of its underlay too."""
    return version_of(device.local)


def device_of(item: Item) -> str:
    """The device that an item is, or hangs on; "" for items without one."""
    return str(getattr(item, "device", "") or getattr(item, "name", ""))


def _shown(options: Options) -> Tuple[str, ...]:
    return tuple(f"{name} {value}" for name, value in options)
