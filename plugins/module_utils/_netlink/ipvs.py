# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services and real servers as messages of generic netlink (uapi/linux/ip_vs.h), packed here: pyroute2's own
commands for a change are those that delete, and it has none for time-outs."""

from __future__ import annotations

import socket
import struct
from typing import Dict, List, Optional, Tuple

from .._model.ip_version import IPV4, IPV6, IpVersion, address_text
from .._model.ipvs import (
    FLAGS,
    FORWARDING,
    PLAIN_TUNNEL,
    PROTOCOLS,
    TUNNEL_CHECKSUMS,
    TUNNELS,
    RealServer,
    ServiceParts,
    Timeouts,
    Tunnel,
    VirtualService,
    endpoint_name,
    endpoint_parts,
    mark_name,
    service_name,
    service_parts,
)
from .._plan.operation import ADD, DELETE, Operation
from . import generic
from .entries import address_bytes
from .rtnetlink import ABSENT, Message, RefusedError, attribute, attributes

FAMILY = "IPVS"
_NEW_SERVICE, _SET_SERVICE, _DELETE_SERVICE, _GET_SERVICE = 1, 2, 3, 4
_NEW_SERVER, _SET_SERVER, _DELETE_SERVER, _GET_SERVER = 5, 6, 7, 8
_SET_CONFIG, _GET_CONFIG = 12, 13
# IPVS_CMD_ATTR_*
_SERVICE, _SERVER, _TCP, _TCP_FIN, _UDP = 1, 2, 4, 5, 6
# IPVS_SVC_ATTR_*
_AF, _PROTOCOL, _ADDRESS, _PORT, _MARK, _SCHEDULER, _SERVICE_FLAGS, _TIMEOUT, _NETMASK, _ENGINE = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    11,
)
# IPVS_DEST_ATTR_*
_TO_ADDRESS, _TO_PORT, _FORWARDING, _WEIGHT, _UPPER, _LOWER, _ACTIVE, _INACTIVE = 1, 2, 3, 4, 5, 6, 7, 8
_TO_FAMILY, _TUNNEL_TYPE, _TUNNEL_PORT, _TUNNEL_FLAGS = 11, 13, 14, 15
# IP_VS_SVC_F_PERSISTENT; IP_VS_CONN_F_FWD_MASK
_PERSISTENT, _FORWARDING_MASK = 0x1, 0x7
_DECLARED_FLAGS = sum(FLAGS.values())
_TUNNEL_FLAG_VALUES = dict(zip(TUNNEL_CHECKSUMS, (0, 1, 2)))

_SHORT, _LONG, _PORT_NUMBER = struct.Struct("=H"), struct.Struct("=I"), struct.Struct(">H")
_PAIR = struct.Struct("=II")
# Attributes of a real server that is not in a tunnel of its own: address, port, method, weight, thresholds, family.
_PLAIN_SERVER = struct.Struct("=HH HH16s HH2sxx HHI HHI HHI HHI HHHxx")
_NESTED = 0x8000


class Ipvs:
    """IPVS of the present network namespace. Use as a context manager. Raises RefusedError with ENOENT where the kernel
    has none, and loads its module where it can."""

    def __init__(self) -> None:
        self.netlink = generic.socket()
        try:
            self.family = generic.family_id(self.netlink, FAMILY)
        except BaseException:
            self.netlink.__exit__(None, None, None)
            raise
        self._heads: Dict[str, bytes] = {}

    def __enter__(self) -> Ipvs:
        return self

    def __exit__(self, *details: object) -> None:
        self.netlink.__exit__(None, None, None)

    def services(self) -> List[VirtualService]:
        dumped = self.netlink.dump(self.family, generic.head(_GET_SERVICE))
        known: Dict[bytes, Tuple[str, int, int, int, str]] = {}
        return [_decode_service(message, known) for message in dumped]

    def service(self, service: str) -> Optional[VirtualService]:
        """One service, None when it is not there."""
        body = generic.head(_GET_SERVICE) + generic.nested(_SERVICE, _identity(service_parts(service)))
        try:
            return _decode_service(self.netlink.get(self.family, body), {})
        except RefusedError as refusal:
            if refusal.code in ABSENT:
                return None
            raise

    def servers(self, service: str) -> List[RealServer]:
        """Those of one service with all that the kernel knows of them. Empty for a service that is not there."""
        body = generic.head(_GET_SERVER) + generic.nested(_SERVICE, _identity(service_parts(service)))
        try:
            return [_decode_server(service, message) for message in self.netlink.dump(self.family, body)]
        except RefusedError as refusal:
            if refusal.code in ABSENT:
                return []
            raise

    def timeouts(self) -> Timeouts:
        found = dict(generic.attributes_of(self.netlink.get(self.family, generic.head(_GET_CONFIG))))
        return Timeouts(*(_LONG.unpack(found[name])[0] for name in (_TCP, _TCP_FIN, _UDP)))

    def set_timeouts(self, item: Timeouts) -> None:
        values = ((_TCP, item.tcp), (_TCP_FIN, item.tcp_fin), (_UDP, item.udp))
        body = b"".join(attribute(name, _LONG.pack(value)) for name, value in values)
        self.netlink.change(self.family, 0, generic.head(_SET_CONFIG) + body)

    def message(self, operation: Operation) -> Message:
        """An operation on a service or a real server. What is added must not be there: see ``replacing``."""
        item, action = operation.item, operation.action
        if isinstance(item, VirtualService):
            if action == DELETE:
                return self.family, 0, self._head(_DELETE_SERVICE, item.service)
            command = _NEW_SERVICE if action == ADD else _SET_SERVICE
            return self.family, 0, generic.head(command) + _encode_service(item)
        assert isinstance(item, RealServer)
        if action == DELETE:
            return self.family, 0, self._head(_DELETE_SERVER, item.service) + _encode_place(item)
        return self.family, 0, self._head(_NEW_SERVER if action == ADD else _SET_SERVER, item.service) + _encode(item)

    def _head(self, command: int, service: str) -> bytes:
        """What messages about a service and its servers begin with. Servers of one follow each other."""
        known = self._heads.get(service)
        if known is None:
            known = self._heads[service] = generic.nested(_SERVICE, _identity(service_parts(service)))
        return generic.head(command) + known


def replacing(message: Message) -> Message:
    """The message that changes what a message would add."""
    family, flags, body = message
    command = body[0]
    assert command in (_NEW_SERVICE, _NEW_SERVER)
    return family, flags, bytes([command + 1]) + body[1:]


def _identity(parts: ServiceParts) -> bytes:
    family = attribute(_AF, _SHORT.pack(parts.version.family))
    if parts.mark:
        return family + attribute(_MARK, _LONG.pack(parts.mark))
    protocol = attribute(_PROTOCOL, _SHORT.pack(PROTOCOLS[parts.protocol]))
    packed = address_bytes(parts.address)[1]
    address = attribute(_ADDRESS, packed.ljust(16, b"\0"))
    return family + protocol + address + attribute(_PORT, _PORT_NUMBER.pack(parts.port))


def _encode_service(item: VirtualService) -> bytes:
    parts = service_parts(item.service)
    flags = item.flags | (_PERSISTENT if item.persistence else 0)
    body = _identity(parts) + attribute(_SCHEDULER, item.scheduler.encode() + b"\0")
    body += attribute(_ENGINE, item.engine.encode() + b"\0") if item.engine else b""
    body += attribute(_SERVICE_FLAGS, _PAIR.pack(flags, 0xFFFFFFFF)) + attribute(_TIMEOUT, _LONG.pack(item.persistence))
    return generic.nested(_SERVICE, body + attribute(_NETMASK, _netmask(parts.version, item.netmask)))


def _netmask(version: IpVersion, length: int) -> bytes:
    """A mask of IPv4, a length of IPv6. The kernel wants one of IPv6 without persistence too."""
    length = length or version.bits
    if version is IPV6:
        return _LONG.pack(length)
    return ((0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF).to_bytes(4, "big")


def _encode_place(item: RealServer) -> bytes:
    family, address, port = _place(item)
    body = attribute(_TO_ADDRESS, address) + attribute(_TO_PORT, port) + attribute(_TO_FAMILY, _SHORT.pack(family))
    return generic.nested(_SERVER, body)


def _place(item: RealServer) -> Tuple[int, bytes, bytes]:
    address, port = endpoint_parts(item.address)
    family, packed = address_bytes(address)
    return family, packed.ljust(16, b"\0"), _PORT_NUMBER.pack(port)


def _encode(item: RealServer) -> bytes:
    family, address, port = _place(item)
    method = FORWARDING.index(item.forwarding)
    more = b"" if item.tunnel == PLAIN_TUNNEL else _encode_tunnel(item.tunnel)
    return (
        _PLAIN_SERVER.pack(
            _PLAIN_SERVER.size + len(more), _SERVER | _NESTED,
            20, _TO_ADDRESS, address, 6, _TO_PORT, port, 8, _FORWARDING, method, 8, _WEIGHT, item.weight,
            8, _UPPER, item.upper, 8, _LOWER, item.lower, 6, _TO_FAMILY, family,
        )
        + more
    )  # fmt: skip


def _encode_tunnel(tunnel: Tunnel) -> bytes:
    kind, port, checksum = tunnel
    body = attribute(_TUNNEL_TYPE, bytes([TUNNELS.index(kind)])) + attribute(_TUNNEL_PORT, _PORT_NUMBER.pack(port))
    return body + attribute(_TUNNEL_FLAGS, _SHORT.pack(_TUNNEL_FLAG_VALUES[checksum]))


# Where the attributes of a service begin in a message, behind its headers and the nest's own, and where those begin
# that come after its identity.
_START, _AFTER_ADDRESS, _AFTER_MARK = 24, 24 + 8 + 8 + 20 + 8, 24 + 8 + 8
_FAMILY_AND_NEXT = struct.Struct("=HHHxxHHH")


def _decode_service(message: bytes, known: Dict[bytes, Tuple[str, int, int, int, str]]) -> VirtualService:
    """Most services differ in nothing but their address: ``known`` has what others were found to be."""
    _length, _kind, family, _next_length, following, number = _FAMILY_AND_NEXT.unpack_from(message, _START)
    if following == _MARK:
        version = IPV6 if family == socket.AF_INET6 else IPV4
        service, start = mark_name(_LONG.unpack_from(message, _START + 12)[0], version), _AFTER_MARK
    else:
        packed = message[_START + 20 : _START + (36 if family == socket.AF_INET6 else 24)]
        port = _PORT_NUMBER.unpack_from(message, _START + 40)[0]
        service = service_name(_PROTOCOL_NAMES.get(number, str(number)), address_text(family, packed), port)
        start = _AFTER_ADDRESS
    # Name of the scheduler, flags, time-out and netmask; names of four letters and more, and engines, take up more.
    rest = bytes((family,)) + message[start : start + 36]
    settings = known.get(rest)
    if settings is None:
        settings = _settings(family, message, start)
        if message[start] <= 8 and not settings[4]:
            known[rest] = settings
    return tuple.__new__(VirtualService, (service, *settings))


_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}


def _settings(family: int, message: bytes, start: int) -> Tuple[str, int, int, int, str]:
    found = dict(attributes(message, start))
    flags, _mask = _PAIR.unpack(found[_SERVICE_FLAGS])
    persistence, netmask = 0, 0
    if flags & _PERSISTENT:
        persistence = _LONG.unpack(found[_TIMEOUT])[0]
        mask = found[_NETMASK]
        netmask = _LONG.unpack(mask)[0] if family == socket.AF_INET6 else bin(int.from_bytes(mask, "big")).count("1")
    return _text(found[_SCHEDULER]), flags & _DECLARED_FLAGS, persistence, netmask, _text(found.get(_ENGINE, b""))


_NUMBERS = (_FORWARDING, _WEIGHT, _UPPER, _LOWER, _ACTIVE, _INACTIVE)


def _decode_server(service: str, message: bytes) -> RealServer:
    found = dict(attributes(message, _START))
    default = _SHORT.pack(service_parts(service).version.family)
    family = _SHORT.unpack(found.get(_TO_FAMILY, default))[0]
    packed = found[_TO_ADDRESS][: 16 if family == socket.AF_INET6 else 4]
    number = {name: _LONG.unpack(found[name])[0] for name in _NUMBERS}
    return RealServer(
        service,
        endpoint_name(address_text(family, packed), _PORT_NUMBER.unpack(found[_TO_PORT])[0]),
        FORWARDING[number[_FORWARDING] & _FORWARDING_MASK],
        number[_WEIGHT],
        number[_UPPER],
        number[_LOWER],
        _decode_tunnel(found),
        number[_ACTIVE],
        number[_INACTIVE],
    )


def _decode_tunnel(found: Dict[int, bytes]) -> Tunnel:
    """Linux before 5.2 knows of no tunnels but the plain one."""
    kind, flags = found.get(_TUNNEL_TYPE, b"\0")[0], _SHORT.unpack(found.get(_TUNNEL_FLAGS, b"\0\0"))[0]
    checksum = next((name for name, value in _TUNNEL_FLAG_VALUES.items() if value == flags), str(flags))
    port = _PORT_NUMBER.unpack(found.get(_TUNNEL_PORT, b"\0\0"))[0]
    return TUNNELS[kind] if kind < len(TUNNELS) else str(kind), port, checksum


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
