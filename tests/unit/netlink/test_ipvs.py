# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services and real servers survive the way into a message and back; the kernel's file is read right."""

from __future__ import annotations

import errno
import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import VERSIONS
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs import (
    FLAGS,
    FORWARDING,
    PROTOCOLS,
    SCHEDULERS,
    TUNNEL_CHECKSUMS,
    TUNNELS,
    RealServer,
    VirtualService,
    endpoint_name,
    mark_name,
    service_name,
    version_of_service,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink import ipvs, ipvs_table
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink.ipvs import Ipvs, replacing
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink.rtnetlink import attribute, attributes
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import ADD, DELETE, REPLACE, Operation

HEADER = bytes(16)
ADDRESSES = st.ip_addresses().map(str)
PORTS = st.integers(0, 65535)
MARKS = st.builds(mark_name, st.integers(1, 2**32 - 1), st.sampled_from(VERSIONS))
NAMES = st.one_of(st.builds(service_name, st.sampled_from(list(PROTOCOLS)), ADDRESSES, PORTS), MARKS)
# UAPI linux/ip_vs.h: IPVS_CMD_*
COMMANDS = {
    ("virtual_service", ADD): 1,
    ("virtual_service", REPLACE): 2,
    ("virtual_service", DELETE): 3,
    ("real_server", ADD): 5,
    ("real_server", REPLACE): 6,
    ("real_server", DELETE): 7,
}


@st.composite
def services(draw: st.DrawFn) -> VirtualService:
    name = draw(NAMES)
    persistence = draw(st.sampled_from([0, 1, 31 * 86400]))
    netmask = draw(st.integers(1, version_of_service(name).bits)) if persistence else 0
    flags = sum(draw(st.lists(st.sampled_from(list(FLAGS.values())), unique=True)))
    engine = draw(st.sampled_from(["", "sip"]))
    return VirtualService(name, draw(st.sampled_from(SCHEDULERS)), flags, persistence, netmask, engine)


NUMBERS = st.integers(0, 2**31 - 1)
SERVERS = st.builds(
    RealServer,
    NAMES,
    st.builds(endpoint_name, ADDRESSES, PORTS),
    st.sampled_from(FORWARDING),
    st.integers(0, 65535),
    NUMBERS,
    NUMBERS,
    st.tuples(st.sampled_from(TUNNELS), PORTS, st.sampled_from(TUNNEL_CHECKSUMS)),
)


def speaker() -> Ipvs:
    """One that needs no kernel."""
    made = Ipvs.__new__(Ipvs)
    made.family, made._heads = 33, {}
    return made


def told(body: bytes) -> bytes:
    """A service that was sent, as the kernel tells of it: its HASHED flag is set, and there are counters."""
    nest = dict(attributes(HEADER + body, 20))
    values = dict(attributes(nest[1], 0))
    flags, mask = struct.unpack("=II", values[7])
    values[7] = struct.pack("=II", flags | 2, mask)
    inner = b"".join(attribute(number, value) for number, value in values.items()) + attribute(10, bytes(80))
    # ip_vs_genl_fill_service() puts the engine behind the scheduler, where we send it too.
    return HEADER + body[:4] + attribute(0x8001, inner)


@settings(max_examples=300)
@given(st.lists(services(), min_size=1, max_size=5))
def test_service_comes_back(items: list[VirtualService]) -> None:
    """Whatever was decoded before it."""
    known: dict[bytes, tuple[str, int, int, int, str]] = {}
    for item in items:
        family, flags, body = speaker().message(Operation(ADD, item))
        assert (family, flags, body[0]) == (33, 0, 1)
        assert ipvs._decode_service(told(body), known) == item


@settings(max_examples=300)
@given(SERVERS)
def test_server_comes_back(item: RealServer) -> None:
    _family, _flags, body = speaker().message(Operation(ADD, item))
    place, server = list(attributes(HEADER + body, 20))
    assert (place[0] & 0x7FFF, server[0] & 0x7FFF) == (1, 2)
    values = {**dict(attributes(server[1], 0)), 7: struct.pack("=I", 5), 8: struct.pack("=I", 6)}
    # A server that is none of masquerading has IP_VS_CONN_F_NOOUTPUT and INACTIVE too.
    values[3] = struct.pack("=I", struct.unpack("=I", values[3])[0] | 0x0100 | 0x0800)
    inner = b"".join(attribute(number, value) for number, value in values.items())
    decoded = ipvs._decode_server(item.service, HEADER + body[:4] + attribute(0x8002, inner))
    assert decoded == item._replace(active=5, inactive=6) and decoded.compared == item.compared


@given(services(), SERVERS)
def test_commands_are_the_kernels(service: VirtualService, server: RealServer) -> None:
    for item in (service, server):
        for action in (ADD, REPLACE, DELETE):
            message = speaker().message(Operation(action, item, item if action == REPLACE else None))
            assert message[2][0] == COMMANDS[item.kind, action]
            if action == ADD:
                replaced = speaker().message(Operation(REPLACE, item, item))
                assert replacing(message) == replaced


def test_what_is_deleted_is_named_by_its_place_alone() -> None:
    server = RealServer("mark6 7", "[fd00::1]:80", "direct", 7, 9, 3)
    other = server._replace(weight=0, upper=0, lower=0, forwarding="masquerade")
    assert speaker().message(Operation(DELETE, server)) == speaker().message(Operation(DELETE, other))


@given(services())
def test_netmask_is_always_sent(item: VirtualService) -> None:
    """The kernel refuses an IPv6 service without."""
    _family, _flags, body = speaker().message(Operation(ADD, item))
    values = dict(attributes(dict(attributes(HEADER + body, 20))[1], 0))
    version = version_of_service(item.service)
    if version.number == 6:
        assert struct.unpack("=I", values[9])[0] == (item.netmask or 128)
    else:
        assert str(ipaddress.IPv4Address(values[9])) == str(
            ipaddress.ip_network(f"0.0.0.0/{item.netmask or 32}").netmask
        )


# As Linux 6.1 writes it, but for the bars, which show where lines with blanks at their end are over.
FILE = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
SCTP  0A000001:0063 wlc  |
  -> 0A010101:0063      Masq    1      0          0         |
UDP  0A000001:13C4 rr  persistent 6000 FFFFFFFF
UDP  [fd00:0000:0000:0000:0000:0000:0000:0001]:0035 rr |
UDP  0A000001:0035 rr ops  |
TCP  [fd00:0000:0000:0000:0000:0000:0000:0001]:0050 sh persistent 1000 00000040
  -> [fd00:0000:0000:0000:0000:0000:0000:0009]:0050      Masq    1      12         345       |
  -> 0A090909:0050      Tunnel  65535  0          0         |
  -> 0A090908:0050      Route   0      2147483647 2147483647
FWM  00000007 wlc persistent 10000 FFFFFF00
  -> 0A010101:0000      Route   1      0          0         |
FWM  00000007 mh |
TCP  0A000001:0050 twos  |
""".replace("|", "")


def test_file_of_the_kernel() -> None:
    found = ipvs_table._LINE.findall(FILE)
    state, doubtful = ipvs_table._listed(found)
    expected = [
        VirtualService("sctp 10.0.0.1:99", "wlc"),
        RealServer("sctp 10.0.0.1:99", "10.1.1.1:99"),
        VirtualService("udp 10.0.0.1:5060"),
        VirtualService("udp [fd00::1]:53"),
        VirtualService("udp 10.0.0.1:53", flags=FLAGS["one-packet"]),
        VirtualService("tcp [fd00::1]:80", "sh"),
        RealServer("tcp [fd00::1]:80", "[fd00::9]:80", active=12, inactive=345),
        RealServer("tcp [fd00::1]:80", "10.9.9.9:80", "tunnel", 65535),
        RealServer("tcp [fd00::1]:80", "10.9.9.8:80", "direct", 0, active=2**31 - 1, inactive=2**31 - 1),
        VirtualService("tcp 10.0.0.1:80", "twos"),
    ]
    assert list(state.values()) == expected and list(state) == [item.key for item in expected]
    # Those of which it tells not all, and marks, whose IP version it does not tell.
    assert doubtful == ["udp 10.0.0.1:5060", "udp [fd00::1]:53", "tcp [fd00::1]:80"]
    assert sum(fields[0] == "FWM" for fields in found) == 2


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ESRCH])
def test_codes_of_what_is_absent(code: int) -> None:
    """The kernel says the one of real servers, the other one of services."""
    assert code in ipvs.ABSENT
