# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services of IPVS and their real servers in canonical form.

A service is named as everywhere in results: "tcp 10.96.0.10:53", "udp [fd00:96::a]:53", or by its firewall mark, "mark
7" for IPv4 and "mark6 7" for IPv6. Both are tuples: a node of a large cluster has a hundred thousand of them.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Dict, Hashable, NamedTuple, Tuple

from .datapath import TupleItem
from .ip_version import IPV4, IPV6, IpVersion
from .item import BaseItem, Key

# linux/in.h
PROTOCOLS: Dict[str, int] = {"tcp": 6, "udp": 17, "sctp": 132}
# linux/ip_vs.h IP_VS_CONN_F_*: how packets come to a real server.
MASQUERADE, LOCAL, TUNNEL, DIRECT, BYPASS = "masquerade", "local", "tunnel", "direct", "bypass"
FORWARDING = (MASQUERADE, LOCAL, TUNNEL, DIRECT, BYPASS)
# Schedulers of Linux 6.x by the names that the kernel knows them by; module ip_vs_NAME has each.
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh", "twos")
# linux/ip_vs.h IP_VS_SVC_F_ONEPACKET, IP_VS_SVC_F_SCHED1 to 3: only schedulers sh and mh give the first two a meaning,
# and none does the third.
FLAGS: Dict[str, int] = {"one-packet": 0x4, "fallback": 0x8, "port": 0x10, "flag-3": 0x20}
# linux/ip_vs.h IP_VS_CONN_F_TUNNEL_TYPE_* and IP_VS_TUNNEL_ENCAP_FLAG_*
TUNNELS = ("ipip", "gue", "gre")
TUNNEL_CHECKSUMS = ("none", "checksum", "remote")
# A tunnel's type, port, and checksum; what every real server without another one has.
Tunnel = Tuple[str, int, str]
PLAIN_TUNNEL: Tunnel = (TUNNELS[0], 0, TUNNEL_CHECKSUMS[0])


class _VirtualServiceFields(NamedTuple):
    service: str
    scheduler: str = "rr"
    flags: int = 0
    persistence: int = 0
    netmask: int = 0
    engine: str = ""


class VirtualService(TupleItem, _VirtualServiceFields):
    """``persistence`` is for how many seconds a client stays with its real server, 0 when each connection is scheduled
    anew; ``netmask`` is the length of the prefix that clients have in common who stay together, 0 without persistence;
    ``engine`` names what else tells clients apart ("sip"). ``flags`` are those of IP_VS_SVC_F_* that are declared."""

    __slots__ = ()
    kind: ClassVar[str] = "virtual_service"

    @property
    def key(self) -> Key:
        return ("virtual_service", self.service)

    def __str__(self) -> str:
        words = [f"virtual service {self.service} scheduler {self.scheduler}"]
        words += flag_names(self.flags)
        if self.persistence:
            words.append(f"persistent {self.persistence}")
            if self.netmask != version_of_service(self.service).bits:
                words.append(f"netmask {self.netmask}")
        return " ".join([*words, *([f"engine {self.engine}"] if self.engine else [])])


class _RealServerFields(NamedTuple):
    service: str
    address: str
    forwarding: str = MASQUERADE
    weight: int = 1
    upper: int = 0
    lower: int = 0
    tunnel: Tunnel = PLAIN_TUNNEL
    active: int = 0
    inactive: int = 0


class RealServer(TupleItem, _RealServerFields):
    """``address`` has the port with it, "10.244.1.5:53". A server with more than ``upper`` connections gets no further
    ones until it has less than ``lower`` (0: no limit). ``active`` and ``inactive`` are its connections as found:
    established ones, and those that begin or end."""

    __slots__ = ()
    kind: ClassVar[str] = "real_server"

    @property
    def key(self) -> Key:
        return ("real_server", self.service, self.address)

    @property
    def compared(self) -> Hashable:
        return self[:7]

    @property
    def drained(self) -> RealServer:
        """The same without new connections."""
        return self._replace(weight=0)

    def __str__(self) -> str:
        words = [f"real server {self.address} of {self.service} {self.forwarding} weight {self.weight}"]
        words += [f"connections {self.lower}-{self.upper}"] if self.upper or self.lower else []
        if self.tunnel != PLAIN_TUNNEL:
            kind, port, checksum = self.tunnel
            words.append(f"in {kind}" + (f" port {port}" if port else "") + f" checksum {checksum}")
        return " ".join(words)


@dataclasses.dataclass(frozen=True)
class Timeouts(BaseItem):
    """For how many seconds a connection without a packet is remembered: established, closing, and of UDP."""

    kind: ClassVar[str] = "ipvs_timeouts"
    tcp: int
    tcp_fin: int
    udp: int

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return ()

    def __str__(self) -> str:
        return f"IPVS time-outs tcp {self.tcp} tcp-fin {self.tcp_fin} udp {self.udp}"


# net/netfilter/ipvs/ip_vs_proto_tcp.c and ip_vs_proto_udp.c: what the kernel starts with.
OWN_TIMEOUTS = Timeouts(15 * 60, 2 * 60, 5 * 60)


@dataclasses.dataclass(frozen=True)
class DummyDevice(BaseItem):
    """A device that only has addresses. It stays down, so that the node answers nobody who asks for them by ARP there;
    packets to them are taken all the same."""

    kind: ClassVar[str] = "dummy"
    name: str

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.name,)

    def __str__(self) -> str:
        return f"dummy {self.name}"


class ServiceParts(NamedTuple):
    """What the name of a service says. ``protocol`` and ``address`` are "" and ``port`` is 0 with a firewall mark."""

    version: IpVersion
    protocol: str = ""
    address: str = ""
    port: int = 0
    mark: int = 0


def service_name(protocol: str, address: str, port: int) -> str:
    return f"{protocol} {endpoint_name(address, port)}"


def mark_name(mark: int, version: IpVersion) -> str:
    return f"mark{version.suffix} {mark}"


def endpoint_name(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def endpoint_parts(name: str) -> Tuple[str, int]:
    address, _colon, port = name.rpartition(":")
    return address.strip("[]"), int(port)


def service_parts(service: str) -> ServiceParts:
    protocol, _space, rest = service.partition(" ")
    if protocol.startswith("mark"):
        return ServiceParts(IPV6 if protocol.endswith("6") else IPV4, mark=int(rest))
    address, port = endpoint_parts(rest)
    return ServiceParts(IPV6 if ":" in address else IPV4, protocol, address, port)


def version_of_service(service: str) -> IpVersion:
    return IPV6 if service.startswith("mark6") or "[" in service else IPV4


def flag_names(flags: int) -> Tuple[str, ...]:
    """As they are declared, and shown."""
    return tuple(name for name, bit in FLAGS.items() if flags & bit)
