# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services as they are declared: the parameters of module ipvs_service."""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import re
import socket
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .errors import SpecError
from .ip_version import VERSIONS, IpVersion, version_of
from .ipvs import (
    BYPASS,
    FLAGS,
    FORWARDING,
    LOCAL,
    MASQUERADE,
    PLAIN_TUNNEL,
    PROTOCOLS,
    SCHEDULERS,
    TUNNEL,
    TUNNEL_CHECKSUMS,
    TUNNELS,
    RealServer,
    ServiceParts,
    Timeouts,
    Tunnel,
    VirtualService,
    endpoint_name,
    endpoint_parts,
    flag_names,
    mark_name,
    service_name,
    service_parts,
    version_of_service,
)
from .parse import Network, Section, parse_address

DEVICE = "fairlead-ipvs"
# What is on these belongs to others, whoever made them first.
DEVICES_OF_OTHERS = {"kube-ipvs0": "kube-proxy", "fairlead-svc": "module cluster_service"}
# The limit of ipvsadm(8) for time-outs and persistence: 31 days.
LONGEST = 31 * 86400
# ipvsadm(8): weights.
HEAVIEST = 65535
# Thresholds are numbers of 32 bits.
MOST_CONNECTIONS = 2**31 - 1
DRAIN_SECONDS, LONGEST_DRAIN = 30, 3600
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_MARKS = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?")
_DECLARED_FORWARDING = tuple(name for name in FORWARDING if name not in (LOCAL, BYPASS))
_HASHING = ("sh", "mh")


class Area(NamedTuple):
    """Part of a scope: services of addresses in ``network``, or with firewall marks, from ``low`` to ``high``."""

    network: Optional[Network]
    low: int
    high: int

    def covers(self, parts: ServiceParts) -> bool:
        if self.network is None:
            return self.low <= parts.mark <= self.high
        if parts.mark or self.network.version != parts.version.number or not self.low <= parts.port <= self.high:
            return False
        return ipaddress.ip_address(parts.address) in self.network

    def to_dict(self) -> Dict[str, str]:
        span = f"{self.low}-{self.high}"
        return {"marks": span} if self.network is None else {"network": str(self.network), "ports": span}


@dataclasses.dataclass(frozen=True)
class Scope:
    """Which services nobody else has: those that are there and not declared are removed."""

    areas: Tuple[Area, ...] = ()

    def covers(self, service: str) -> bool:
        return any(area.covers(service_parts(service)) for area in self.areas)


@dataclasses.dataclass(frozen=True)
class Declared:
    """``device`` holds the addresses of services that no other interface has, "" for none. A removed server that has
    connections gets ``drain`` seconds in which no new ones come. ``timeouts`` of 0 are left as they are."""

    services: Tuple[VirtualService, ...]
    servers: Tuple[RealServer, ...]
    scope: Scope = Scope()
    device: str = DEVICE
    timeouts: Optional[Timeouts] = None
    drain: int = DRAIN_SECONDS


def parse_services(data: Mapping[str, Any]) -> Declared:
    """The parameters of the module but for its state. Raises SpecError naming the item."""
    section = Section(data)
    services: List[VirtualService] = []
    servers: List[RealServer] = []
    paths: Dict[str, str] = {}
    for entry in section.sections("services", []):
        service = _parse_service(entry)
        first = paths.setdefault(service.service, entry.path)
        if first != entry.path:
            raise SpecError(entry.path, f"service {service.service} is also that of {first}")
        services.append(service)
        servers += _parse_servers(entry, service.service)
        entry.finish()
    declared = Declared(
        tuple(services),
        tuple(servers),
        Scope(tuple(map(_parse_area, section.sections("scope", [])))),
        _parse_device(section),
        _parse_timeouts(section),
        section.integer("drain_seconds", 0, LONGEST_DRAIN, DRAIN_SECONDS),
    )
    section.finish()
    return declared


def _parse_service(section: Section) -> VirtualService:
    service = _parse_mark(section) if section.get("mark", None) is not None else _parse_place(section)
    scheduler = section.text("scheduler", "rr", SCHEDULERS)
    persistence = section.integer("persistence", 0, LONGEST, 0)
    version = version_of_service(service)
    netmask = section.integer("persistence_netmask", 1, version.bits, 0)
    engine = section.text("persistence_engine", "", ("", "sip"))
    for name, value in (("persistence_netmask", netmask), ("persistence_engine", engine)):
        if value and not persistence:
            raise SpecError(section.at(name), "says how clients are told apart, which takes persistence")
    if engine and not service.startswith("udp "):
        raise SpecError(section.at("persistence_engine"), f"{engine} is for services of udp")
    if not persistence and service.endswith(":0"):
        raise SpecError(section.at("port"), "0 stands for all ports, which takes persistence")
    flags = _parse_flags(section, service, scheduler)
    return VirtualService(service, scheduler, flags, persistence, (netmask or version.bits) * bool(persistence), engine)


def _parse_mark(section: Section) -> str:
    for name in ("protocol", "address", "port"):
        if section.get(name, None) is not None:
            raise SpecError(section.at(name), "a service by firewall mark has none; the mark says which packets it is")
    family = section.text("family", "ipv4", ("ipv4", "ipv6"))
    return mark_name(section.integer("mark", 1, 2**32 - 1), VERSIONS[family == "ipv6"])


def _parse_place(section: Section) -> str:
    if section.get("family", None) is not None:
        raise SpecError(section.at("family"), "goes with a mark; otherwise the address tells it")
    address = _address(section, "address")
    if not _is_of_one_host(address):
        raise SpecError(section.at("address"), f"{address} cannot be that of a virtual service")
    return service_name(section.text("protocol", "tcp", tuple(PROTOCOLS)), address, section.integer("port", 0, 65535))


def _is_of_one_host(address: str) -> bool:
    """The kernel refuses other real servers, and takes no packets for other services."""
    if ":" not in address:
        return address not in ("0.0.0.0", "255.255.255.255") and not 224 <= int(address.partition(".")[0]) < 240
    ip = ipaddress.IPv6Address(address)
    return not (ip.is_multicast or ip.is_unspecified or ip.is_link_local or ip.ipv4_mapped)


def _address(section: Section, key: str) -> str:
    """In canonical form. IPv4 as it is nearly always written costs a tenth of the general way."""
    value = section.get(key)
    if isinstance(value, str) and ":" not in value:
        try:
            return socket.inet_ntop(socket.AF_INET, socket.inet_pton(socket.AF_INET, value))
        except (OSError, ValueError):
            pass
    return str(parse_address(value, section.at(key)))


def _parse_flags(section: Section, service: str, scheduler: str) -> int:
    flags = 0
    for path, name in section.entries("flags", []).items():
        if name not in FLAGS or name == "flag-3":
            raise SpecError(path, f"must be one of {', '.join(list(FLAGS)[:3])}, not {name!r}")
        if name == "one-packet" and not service.startswith(("udp ", "mark")):
            raise SpecError(path, "one-packet is for services of udp")
        if name != "one-packet" and scheduler not in _HASHING:
            raise SpecError(path, f"{name} is for schedulers {' and '.join(_HASHING)}, and this is {scheduler}")
        flags |= FLAGS[name]
    return flags


def _parse_servers(section: Section, service: str) -> List[RealServer]:
    paths: Dict[str, str] = {}
    servers = []
    port, version = service_parts(service).port, version_of_service(service)
    for entry in section.sections("servers", []):
        server = _parse_server(entry, service, port, version)
        first = paths.setdefault(server.address, entry.path)
        if first != entry.path:
            raise SpecError(entry.path, f"real server {server.address} is also that of {first}")
        entry.finish()
        servers.append(server)
    return servers


def _parse_server(section: Section, service: str, service_port: int, version: IpVersion) -> RealServer:
    address = _address(section, "address")
    port = section.integer("port", 0, 65535, service_port)
    forwarding = section.text("forwarding", MASQUERADE, _DECLARED_FORWARDING)
    tunnel = _parse_tunnel(section, forwarding)
    if forwarding != MASQUERADE and port != service_port:
        raise SpecError(section.at("port"), f"{forwarding} leaves the port as it is, so it must be {service_port}")
    if forwarding != TUNNEL and (":" in address) != (version is VERSIONS[1]):
        raise SpecError(section.at("address"), f"must be an {version} address as the service's, not {address}")
    if not _is_of_one_host(address):
        raise SpecError(section.at("address"), f"{address} cannot be that of a real server")
    upper = section.integer("connections_max", 0, MOST_CONNECTIONS, 0)
    lower = section.integer("connections_min", 0, MOST_CONNECTIONS, 0)
    if lower > upper:
        raise SpecError(section.at("connections_min"), f"must be at most connections_max, {upper}")
    weight = section.integer("weight", 0, HEAVIEST, 1)
    return RealServer(service, endpoint_name(address, port), forwarding, weight, upper, lower, tunnel)


def _parse_tunnel(section: Section, forwarding: str) -> Tunnel:
    if section.get("tunnel", None) is None:
        return PLAIN_TUNNEL
    if forwarding != TUNNEL:
        raise SpecError(section.at("tunnel"), f"goes with forwarding {TUNNEL}, and this is {forwarding}")
    entry = section.section("tunnel")
    kind = entry.text("type", TUNNELS[0], TUNNELS)
    port = entry.integer("port", 1, 65535, 0)
    checksum = entry.text("checksum", TUNNEL_CHECKSUMS[0], TUNNEL_CHECKSUMS)
    if (kind == "gue") != bool(port):
        raise SpecError(entry.at("port"), "is required with type gue, and goes with no other")
    if kind == TUNNELS[0] and checksum != TUNNEL_CHECKSUMS[0]:
        raise SpecError(entry.at("checksum"), f"type {kind} has none")
    if checksum == TUNNEL_CHECKSUMS[2] and kind != "gue":
        raise SpecError(entry.at("checksum"), f"{checksum} is for type gue, and this is {kind}")
    entry.finish()
    return kind, port, checksum


def _parse_area(section: Section) -> Area:
    if section.get("marks", None) is not None:
        if section.get("network", None) is not None or section.get("ports", None) is not None:
            raise SpecError(section.at("marks"), "goes without network and ports")
        area = Area(None, *_parse_span(section, "marks", _MARKS, 1, 2**32 - 1))
    else:
        area = Area(section.network("network"), *_parse_span(section, "ports", _PORTS, 0, 65535))
    section.finish()
    return area


def _parse_span(section: Section, key: str, form: re.Pattern[str], lowest: int, highest: int) -> Tuple[int, int]:
    if section.get(key, None) is None:
        return lowest, highest
    text = str(section.get(key))
    found = form.fullmatch(text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not lowest <= low <= high <= highest:
        raise SpecError(section.at(key), f"must be a number or LOW-HIGH of {lowest} to {highest}, not {text!r}")
    return low, high


def _parse_device(section: Section) -> str:
    if not section.text("device", DEVICE):
        return ""
    device = section.interface("device", DEVICE)
    if device in DEVICES_OF_OTHERS:
        problem = f"{device} is the device of {DEVICES_OF_OTHERS[device]}; name another one"
        raise SpecError(section.at("device"), problem)
    return device


def _parse_timeouts(section: Section) -> Optional[Timeouts]:
    if section.get("timeouts", None) is None:
        return None
    entry = section.section("timeouts")
    timeouts = Timeouts(*(entry.integer(name, 0, LONGEST, 0) for name in ("tcp", "tcp_fin", "udp")))
    entry.finish()
    return timeouts


def described(declared: Declared) -> Dict[str, Any]:
    """The same as parameters in canonical form, without what is the default."""
    servers: Dict[str, List[Dict[str, Any]]] = {}
    for server in declared.servers:
        servers.setdefault(server.service, []).append(_described_server(server))
    services = [_described_service(each, servers.get(each.service, [])) for each in declared.services]
    more: Dict[str, Any] = {}
    if declared.timeouts is not None:
        times = declared.timeouts
        more["timeouts"] = {"tcp": times.tcp, "tcp_fin": times.tcp_fin, "udp": times.udp}
    scope = [area.to_dict() for area in declared.scope.areas]
    return {
        "services": services, "scope": scope, "device": declared.device, "drain_seconds": declared.drain, **more
    }  # fmt: skip


def _described_service(item: VirtualService, servers: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    parts = service_parts(item.service)
    shown: Dict[str, Any] = {"scheduler": item.scheduler, "servers": list(servers)}
    if parts.mark:
        shown.update(mark=parts.mark, family=f"ipv{parts.version.number}")
    else:
        shown.update(protocol=parts.protocol, address=parts.address, port=parts.port)
    if item.flags:
        shown["flags"] = list(flag_names(item.flags))
    if item.persistence:
        shown.update(persistence=item.persistence, persistence_netmask=item.netmask)
    if item.engine:
        shown["persistence_engine"] = item.engine
    return shown


def _described_server(item: RealServer) -> Dict[str, Any]:
    address, port = endpoint_parts(item.address)
    shown: Dict[str, Any] = {"address": address, "port": port, "weight": item.weight}
    if item.forwarding != MASQUERADE:
        shown["forwarding"] = item.forwarding
    if item.upper or item.lower:
        shown.update(connections_max=item.upper, connections_min=item.lower)
    if item.tunnel != PLAIN_TUNNEL:
        kind, tunnel_port, checksum = item.tunnel
        shown["tunnel"] = {"type": kind, "checksum": checksum, **({"port": tunnel_port} if tunnel_port else {})}
    return shown


def service_addresses(services: Sequence[VirtualService]) -> List[str]:
    """Those that packets to the services go to, in order, each once, with their prefix lengths."""
    parts = (service_parts(each.service) for each in services)
    found = dict.fromkeys(each.address for each in parts if each.address)
    return [f"{address}/{version_of(address).bits}" for address in found]


@functools.cache
def is_loopback(address: str) -> bool:
    """Every interface lo answers for 127.0.0.0/8 and ::1 without having each."""
    return ipaddress.ip_address(address).is_loopback
