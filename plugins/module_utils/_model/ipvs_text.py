# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services and real servers as lines of ipvsadm(8): what `ipvsadm-save -n` prints and `ipvsadm --restore`
takes."""

from __future__ import annotations

import ipaddress
from typing import Dict, Iterable, List, Tuple

from .ip_version import IPV6
from .ipvs import (
    DIRECT,
    FLAGS,
    LOCAL,
    MASQUERADE,
    TUNNEL,
    RealServer,
    ServiceParts,
    VirtualService,
    endpoint_parts,
    service_parts,
)

_PROTOCOLS = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}
_METHODS = {MASQUERADE: "-m", TUNNEL: "-i", DIRECT: "-g", LOCAL: "-g"}
_CHECKSUMS = {"none": "--tun-nocsum", "checksum": "--tun-csum", "remote": "--tun-remcsum"}
# Of schedulers that give the flags a meaning, ipvsadm writes them by name.
_NAMED_FLAGS = {"sh": ("sh-fallback", "sh-port", "flag-3"), "mh": ("mh-fallback", "mh-port", "flag-3")}
_OTHER_FLAGS = ("flag-1", "flag-2", "flag-3")
_FLAG_BITS = (FLAGS["fallback"], FLAGS["port"], FLAGS["flag-3"])


def restore_lines(services: Iterable[VirtualService], servers: Iterable[RealServer]) -> List[str]:
    """Each service in front of its real servers, in the order of addresses. The lines are those of `ipvsadm-save -n`,
    but for thresholds, which it forgets."""
    of_service: Dict[str, List[RealServer]] = {}
    for server in servers:
        of_service.setdefault(server.service, []).append(server)
    lines: List[str] = []
    for service in sorted(services, key=lambda each: _order(service_parts(each.service))):
        place = _place(service_parts(service.service))
        lines.append(_service_line(service, place))
        found = sorted(of_service.get(service.service, ()), key=lambda each: _endpoint(each.address))
        lines += [_server_line(server, place) for server in found]
    return lines


def _order(parts: ServiceParts) -> Tuple[int, int, str, int, int]:
    address = int(ipaddress.ip_address(parts.address)) if parts.address else 0
    return parts.mark, parts.version.number, parts.protocol, address, parts.port


def _endpoint(name: str) -> Tuple[int, int, int]:
    address, port = endpoint_parts(name)
    ip = ipaddress.ip_address(address)
    return ip.version, int(ip), port


def _place(parts: ServiceParts) -> str:
    if parts.mark:
        return f"-f {parts.mark}" + (" -6" if parts.version is IPV6 else "")
    address = f"[{parts.address}]" if parts.version is IPV6 else parts.address
    return f"{_PROTOCOLS[parts.protocol]} {address}:{parts.port}"


def _service_line(service: VirtualService, place: str) -> str:
    words = [f"-A {place} -s {service.scheduler}"]
    version = service_parts(service.service).version
    if service.persistence:
        words.append(f"-p {service.persistence}")
        if service.netmask != version.bits:
            mask = ipaddress.ip_network(f"0.0.0.0/{service.netmask}").netmask if version.number == 4 else service.netmask
            words.append(f"-M {mask}")
    words += [f"--pe {service.engine}"] if service.engine else []
    words += ["-o"] if service.flags & FLAGS["one-packet"] else []
    names = zip(_FLAG_BITS, _NAMED_FLAGS.get(service.scheduler, _OTHER_FLAGS))
    flags = ",".join(name for bit, name in names if service.flags & bit)
    return " ".join([*words, *([f"-b {flags}"] if flags else [])])


def _server_line(server: RealServer, place: str) -> str:
    words = [f"-a {place} -r {server.address} {_METHODS[server.forwarding]} -w {server.weight}"]
    words += [f"-x {server.upper}"] if server.upper else []
    words += [f"-y {server.lower}"] if server.lower else []
    if server.forwarding == TUNNEL:
        kind, port, checksum = server.tunnel
        words.append(f"--tun-type {kind}")
        words += [f"--tun-port {port}"] if port else []
        words += [_CHECKSUMS[checksum]] if kind != "ipip" else []
    return " ".join(words)
