# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""All virtual services with their real servers, as the kernel has them.

The kernel tells of the servers of one service at a time, which for ten thousand services takes it seconds. Its file
/proc/net/ip_vs has all of them, and weights and connections, but neither thresholds nor what tunnels are like.
"""

from __future__ import annotations

import socket
from typing import Collection, Dict, Iterable, Iterator, List

from .._model.ip_version import address_text
from .._model.ipvs import BYPASS, DIRECT, LOCAL, MASQUERADE, PLAIN_TUNNEL, TUNNEL, RealServer, endpoint_name
from .._model.item import State
from .ipvs import Ipvs

#: That of the network namespace of the thread, which is not always that of the process.
PATH = "/proc/thread-self/net/ip_vs"
# With so many services, asking for the servers of each takes no longer than starting up did.
_FEW = 200
# ip_vs_fwd_name() of net/netfilter/ipvs/ip_vs_ctl.c
_METHODS = {"Masq": MASQUERADE, "Local": LOCAL, "Tunnel": TUNNEL, "Route": DIRECT, "Bypass": BYPASS}
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}


def read_table(ipvs: Ipvs, thorough: Collection[str]) -> State:
    """Services and servers by key. Of the services in ``thorough`` everything is told of their servers; of the others
    too, unless there are many of them: then thresholds and tunnels are taken for none."""
    state: State = {}
    asked: List[str] = []
    services = ipvs.services()
    few = len(services) <= _FEW
    for service in services:
        state["virtual_service", service.service] = service
        if few or service.service.startswith("mark") or service.service in thorough:
            asked.append(service.service)
    if not few:
        apart = frozenset(asked)
        for server in _listed(_lines()):
            if server[0] not in apart and ("virtual_service", server[0]) in state:
                state["real_server", server[0], server[1]] = server
    for name in asked:
        for server in ipvs.servers(name):
            state[server.key] = server
    return state


def active_connections(ipvs: Ipvs, servers: Iterable[RealServer]) -> Dict[str, int]:
    """Established connections of those of the given servers that have some, by the text of the server's key."""
    wanted = {(server.service, server.address) for server in servers}
    found: Dict[str, int] = {}
    for service in {service for service, _address in wanted}:
        for server in ipvs.servers(service):
            if server.active and (service, server.address) in wanted:
                found[f"{service} {server.address}"] = server.active
    return found


def _lines() -> List[str]:
    with open(PATH, encoding="ascii", errors="replace") as stream:
        return stream.read().split("\n")


def _listed(lines: Iterable[str]) -> Iterator[RealServer]:
    """Real servers; those of firewall marks are left out, since the file does not tell their IP version."""
    service = ""
    new, kind = tuple.__new__, RealServer
    places: Dict[str, str] = {}
    for line in lines:
        words = line.split()
        if len(words) == 6 and words[0] == "->":
            if service:
                place = places.get(words[1])
                if place is None:
                    place = places[words[1]] = _place(words[1])
                weight, active = int(words[3]), int(words[4])
                yield new(kind, (service, place, _METHODS[words[2]], weight, 0, 0, PLAIN_TUNNEL, active))
        elif len(words) > 2:
            protocol = _PROTOCOLS.get(words[0], "")
            service = f"{protocol} {_place(words[1])}" if protocol else ""


def _place(text: str) -> str:
    """ "0A600001:0050" and "[fd00:...]:0050" as addresses are written everywhere else."""
    address, _colon, port = text.rpartition(":")
    if address.startswith("["):
        packed = socket.inet_pton(socket.AF_INET6, address[1:-1])
        return endpoint_name(address_text(socket.AF_INET6, packed), int(port, 16))
    return f"{socket.inet_ntoa(bytes.fromhex(address))}:{int(port, 16)}"
