# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services and real servers as ipvsadm-save of ipvsadm 1.31 writes them with -n: lines that ipvsadm --restore
takes. Limits on connections, which ipvsadm-save leaves out, are there."""

from __future__ import annotations

import ipaddress
from typing import Dict, Iterable, List, Tuple

from .errors import SpecError
from .ip_version import IPV4
from .ipvs import (
    DIRECT,
    FLAGS,
    LOCAL,
    MASQUERADE,
    PROTOCOLS,
    TUNNEL,
    RealServer,
    ServiceParts,
    VirtualService,
    endpoint_name,
    endpoint_parts,
    service_parts,
)

_PROTOCOL_OPTIONS = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}
_FORWARDING_OPTIONS = {MASQUERADE: "-m", DIRECT: "-g", LOCAL: "-g", TUNNEL: "-i"}
_CHECKSUM_OPTIONS = {"none": "--tun-nocsum", "checksum": "--tun-csum", "remote": "--tun-remcsum"}
_FLAG_BITS = tuple(FLAGS[name] for name in ("fallback", "port", "flag-3"))
# Names that flags have with some schedulers; the others just count them.
_FLAG_NAMES = {"sh": ("sh-fallback", "sh-port", "flag-3"), "mh": ("mh-fallback", "mh-port", "flag-3")}
_FLAGS = ("flag-1", "flag-2", "flag-3")


def ipvsadm_lines(services: Iterable[VirtualService], servers: Iterable[RealServer]) -> List[str]:
    """In ipvsadm's order: services by firewall mark, IP version, protocol and address, each before its real servers.
    Raises SpecError for a real server that ipvsadm has no option for."""
    of_service: Dict[str, List[RealServer]] = {}
    for server in servers:
        of_service.setdefault(server.service, []).append(server)
    lines = []
    for service in sorted(services, key=lambda each: _service_order(service_parts(each.service))):
        lines.append(_service_line(service))
        found = of_service.get(service.service, ())
        lines += [_server_line(server) for server in sorted(found, key=_server_order)]
    return lines


def _service_order(parts: ServiceParts) -> Tuple[int, int, int, int, int]:
    address = int(ipaddress.ip_address(parts.address)) if parts.address else 0
    return parts.mark, parts.version.number, PROTOCOLS.get(parts.protocol, 0), address, parts.port


def _server_order(server: RealServer) -> Tuple[int, int, int]:
    text, port = endpoint_parts(server.address)
    address = ipaddress.ip_address(text)
    return address.version, int(address), port


def _service_option(parts: ServiceParts) -> str:
    if parts.mark:
        return f"-f {parts.mark}" + ("" if parts.version is IPV4 else " -6")
    return f"{_PROTOCOL_OPTIONS[parts.protocol]} {endpoint_name(parts.address, parts.port)}"


def _service_line(service: VirtualService) -> str:
    parts = service_parts(service.service)
    words = ["-A", _service_option(parts), "-s", service.scheduler]
    if service.persistence:
        words += ["-p", str(service.persistence)]
        if service.netmask != parts.version.bits:
            words += ["-M", _netmask(service.netmask, parts)]
    words += ["--pe", service.engine] if service.engine else []
    words += ["-o"] if service.flags & FLAGS["one-packet"] else []
    names = zip(_FLAG_BITS, _FLAG_NAMES.get(service.scheduler, _FLAGS))
    flags = [name for bit, name in names if service.flags & bit]
    return " ".join([*words, *(["-b", ",".join(flags)] if flags else [])])


def _netmask(length: int, parts: ServiceParts) -> str:
    return str(ipaddress.ip_network(f"0.0.0.0/{length}").netmask) if parts.version is IPV4 else str(length)


def _server_line(server: RealServer) -> str:
    option = _FORWARDING_OPTIONS.get(server.forwarding)
    if option is None:
        raise SpecError(server.service, f"ipvsadm has no option for forwarding {server.forwarding} ({server.address})")
    service = _service_option(service_parts(server.service))
    words = ["-a", service, "-r", server.address, option, "-w", str(server.weight)]
    words += ["-x", str(server.upper)] if server.upper else []
    words += ["-y", str(server.lower)] if server.lower else []
    return " ".join([*words, *(_tunnel_words(server) if server.forwarding == TUNNEL else [])])


def _tunnel_words(server: RealServer) -> List[str]:
    kind, port, checksum = server.tunnel
    words = ["--tun-type", kind, *(["--tun-port", str(port)] if port else [])]
    return words if kind == "ipip" else [*words, _CHECKSUM_OPTIONS[checksum]]
