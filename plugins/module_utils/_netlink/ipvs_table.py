# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""All virtual services with their real servers, as the kernel has them.

By netlink, the kernel tells of the servers of one service at a time, which for ten thousand services takes it seconds.
Its file /proc/net/ip_vs has all of them at once, but not everything about each: it lacks thresholds and tunnels of
servers, and of services what the conditions below name. Those are asked for one by one.
"""

from __future__ import annotations

import re
import socket
from typing import Collection, Dict, List, Tuple

from .._model.ip_version import address_text
from .._model.ipvs import (
    BYPASS,
    DIRECT,
    FLAGS,
    LOCAL,
    MASQUERADE,
    PLAIN_TUNNEL,
    TUNNEL,
    RealServer,
    VirtualService,
    endpoint_name,
)
from .._model.item import State
from .ipvs import Ipvs

#: That of the network namespace of the thread, which is not always that of the process.
PATH = "/proc/thread-self/net/ip_vs"
# For so many services, asking for the servers of each takes no longer than starting up did.
_FEW = 200
# ip_vs_info_seq_show() and ip_vs_fwd_name() of net/netfilter/ipvs/ip_vs_ctl.c
_METHODS = {"Masq": MASQUERADE, "Local": LOCAL, "Tunnel": TUNNEL, "Route": DIRECT, "Bypass": BYPASS}
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
# A service: protocol, address and port, scheduler, one packet, persistence in ticks, netmask. Or a real server: place,
# method, weight, connections.
_LINE = re.compile(
    r"^(?:([A-Z]+) +(\S+) (\S+) +(ops )? ?(?:persistent (\d+) (\w+))?"
    r"|  -> (\S+) +(\w+) +(-?\d+) +(\d+) +(\d+) *)$",
    re.MULTILINE,
)
# Schedulers with flags that the file does not tell.
_FLAGGED = frozenset({"sh", "mh"})
_Fields = Tuple[str, ...]


def read_table(ipvs: Ipvs, thorough: Collection[str]) -> State:
    """Services and servers by key. Of the services in ``thorough`` everything is told of their servers; of the others
    too, unless there are many of them: then thresholds and tunnels are taken for none."""
    with open(PATH, encoding="ascii", errors="replace") as stream:
        found = _LINE.findall(stream.read())
    servers = sum(1 for fields in found if fields[6])
    if len(found) - servers <= _FEW:
        return _asked(ipvs, ipvs.services())
    state, doubtful = _listed(found)
    if doubtful or any(fields[0] == "FWM" for fields in found):
        known: Dict[str, VirtualService] = {each.service: each for each in ipvs.services()}
        state.update((known[name].key, known[name]) for name in doubtful if name in known)
        thorough = {*thorough, *(name for name in known if name.startswith("mark"))}
        state.update((known[name].key, known[name]) for name in known if name.startswith("mark"))
    for name in thorough:
        if ("virtual_service", name) in state:
            state.update((server.key, server) for server in ipvs.servers(name))
    return state


def _asked(ipvs: Ipvs, services: List[VirtualService]) -> State:
    state: State = {}
    for service in services:
        state[service.key] = service
        state.update((server.key, server) for server in ipvs.servers(service.service))
    return state


def _listed(lines: List[_Fields]) -> Tuple[State, List[str]]:
    """What the file tells, and the services of which it does not tell everything. Those of firewall marks are left out,
    since it does not tell their IP version."""
    state: State = {}
    doubtful: List[str] = []
    name = ""
    new, kind = tuple.__new__, RealServer
    for protocol, address, scheduler, one_packet, ticks, _mask, place, method, weight, active, inactive in lines:
        if place:
            if name:
                end = _place(place)
                numbers = int(weight), 0, 0, PLAIN_TUNNEL, int(active), int(inactive)
                state["real_server", name, end] = new(kind, (name, end, _METHODS[method], *numbers))
        elif protocol == "FWM":
            name = ""
        else:
            name = f"{_PROTOCOLS.get(protocol, protocol)} {_place(address)}"
            if ticks or scheduler in _FLAGGED or (protocol == "UDP" and address[0] == "["):
                doubtful.append(name)
            flags = FLAGS["one-packet"] if one_packet else 0
            state["virtual_service", name] = new(VirtualService, (name, scheduler, flags, 0, 0, ""))
    return state, doubtful


def _place(text: str) -> str:
    """ "0A600001:0050" and "[fd00:...]:0050" as addresses are written everywhere else."""
    if text[0] != "[":
        return f"{socket.inet_ntoa(bytes.fromhex(text[:8]))}:{int(text[9:], 16)}"
    address, _colon, port = text.rpartition(":")
    packed = socket.inet_pton(socket.AF_INET6, address[1:-1])
    return endpoint_name(address_text(socket.AF_INET6, packed), int(port, 16))
