# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""WireGuard devices and peers as messages of generic netlink (uapi/linux/wireguard.h)."""

from __future__ import annotations

import socket
import struct
from base64 import b64decode
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from .._model.errors import PrerequisiteError
from .._model.secret import NO_SECRET, Secret
from .._model.wireguard import (
    KEY_LENGTH,
    NO_WIREGUARD,
    WireguardDevice,
    WireguardPeer,
    canonical,
    endpoint_of,
    shown,
    split_endpoint,
)
from .._plan.operation import DELETE, Operation
from .._plan.wireguard import given_back
from . import generic, link_requests
from .rtnetlink import Message, RefusedError, Rtnetlink, attribute, attributes

KIND = FAMILY = "wireguard"
_GET_DEVICE, _SET_DEVICE = 0, 1
_IFNAME, _PRIVATE_KEY, _PUBLIC_KEY, _LISTEN_PORT, _FWMARK, _PEERS = 2, 3, 4, 6, 7, 8
_PEER_KEY, _PRESHARED_KEY, _FLAGS, _ENDPOINT, _KEEPALIVE, _HANDSHAKE, _ALLOWED_IPS = 1, 2, 3, 4, 5, 6, 9
_IP_FAMILY, _IP_ADDRESS, _IP_LENGTH = 1, 2, 3
_REMOVE, _REPLACE_ALLOWED, _UPDATE_ONLY = 1, 2, 4
_NO_KEY = bytes(KEY_LENGTH)
# struct sockaddr_in and sockaddr_in6: the port is in network order.
_IPV4, _IPV6 = struct.Struct("=H2s4s8x"), struct.Struct("=H2s4x16s4x")
_FAMILY, _PORT, _LONG = struct.Struct("=H"), struct.Struct(">H"), struct.Struct("=q")
_NUMBER = struct.Struct("=I")
FWMARK, QUEUE_LENGTH = "fwmark", "txqlen"
# linux/if_link.h
_IFLA_MTU, _IFLA_TXQLEN = 4, 13


class Found(NamedTuple):
    """What the kernel tells of a device. A peer comes with the time of its last handshake, in seconds since 1970."""

    private_key: Secret
    public_key: str
    listen_port: int
    fwmark: int
    peers: List[Tuple[WireguardPeer, int]]


def add_link(netlink: Rtnetlink, name: str, mtu: int, queue: int = 0) -> None:
    """A device without a key, down. Raises RefusedError, with EOPNOTSUPP where the kernel has no such devices."""
    values = attribute(_IFLA_MTU, _NUMBER.pack(mtu)) + attribute(_IFLA_TXQLEN, _NUMBER.pack(queue))
    link_requests.add(netlink, name, KIND, values=values)


class Wireguard:
    """Devices of the present network namespace. Use as a context manager. Raises RefusedError with ENOENT where the
    kernel has none."""

    def __init__(self) -> None:
        self.netlink = generic.socket()
        try:
            self._family = generic.family_id(self.netlink, FAMILY)
        except BaseException:
            self.netlink.__exit__(None, None, None)
            raise

    def __enter__(self) -> Wireguard:
        return self

    def __exit__(self, *details: object) -> None:
        self.netlink.__exit__(None, None, None)

    def read(self, name: str) -> Found:
        """Raises RefusedError, with ENODEV or EOPNOTSUPP for a device that is not there, or is of another kind."""
        body = generic.head(_GET_DEVICE) + attribute(_IFNAME, name.encode() + b"\0")
        return _decode_device(name, self.netlink.dump(self._family, body))

    def configure(self, device: WireguardDevice) -> None:
        """Key, port and mark of a device that is there; its peers stay. Raises RefusedError."""
        body = attribute(_IFNAME, device.name.encode() + b"\0")
        body += attribute(_PRIVATE_KEY, device.private_key.value or _NO_KEY)
        body += attribute(_LISTEN_PORT, _FAMILY.pack(device.listen_port))
        body += attribute(_FWMARK, _NUMBER.pack(int(str(dict(device.options).get(FWMARK, 0)))))
        self.netlink.change(self._family, 0, generic.head(_SET_DEVICE) + body)

    def message(self, operation: Operation) -> Message:
        """An operation on a peer; it leads to the same state when it is sent twice."""
        peer, previous = operation.item, operation.previous
        assert isinstance(peer, WireguardPeer) and (previous is None or isinstance(previous, WireguardPeer))
        values = _removal(peer) if operation.action == DELETE else _encode_peer(peer, previous)
        body = attribute(_IFNAME, peer.device.encode() + b"\0")
        others = (generic.nested(0, _gift(key, network)) for network, key in given_back(operation))
        body += generic.nested(_PEERS, generic.nested(0, values) + b"".join(others))
        return self._family, 0, generic.head(_SET_DEVICE) + body


def _gift(public_key: str, network: str) -> bytes:
    """One more network for a peer that is there."""
    values = attribute(_PEER_KEY, b64decode(public_key)) + attribute(_FLAGS, _NUMBER.pack(_UPDATE_ONLY))
    return values + generic.nested(_ALLOWED_IPS, _encode_network(network))


def _removal(peer: WireguardPeer) -> bytes:
    return attribute(_PEER_KEY, _key_of(peer)) + attribute(_FLAGS, _NUMBER.pack(_REMOVE))


def _encode_peer(peer: WireguardPeer, previous: Optional[WireguardPeer]) -> bytes:
    """What is the same already is left out where naming it anew would disturb: the kernel takes all allowed addresses
    away before it gives the new ones, and a peer that roamed is not where the endpoint says."""
    replaced = previous is None or previous.allowed_ips != peer.allowed_ips
    values = attribute(_PEER_KEY, _key_of(peer)) + attribute(_PRESHARED_KEY, peer.preshared_key.value or _NO_KEY)
    values += attribute(_KEEPALIVE, _FAMILY.pack(peer.keepalive))
    endpoint = peer.roamed or peer.endpoint
    if endpoint and (previous is None or peer.roamed or previous.endpoint != peer.endpoint):
        values += attribute(_ENDPOINT, _encode_endpoint(endpoint))
    if replaced:
        values += attribute(_FLAGS, _NUMBER.pack(_REPLACE_ALLOWED))
        values += generic.nested(_ALLOWED_IPS, b"".join(map(_encode_network, peer.allowed_ips)))
    return values


def _key_of(peer: WireguardPeer) -> bytes:
    return b64decode(peer.public_key)


def _encode_endpoint(endpoint: str) -> bytes:
    address, port = split_endpoint(endpoint)
    if ":" in address:
        return _IPV6.pack(socket.AF_INET6, _PORT.pack(port), socket.inet_pton(socket.AF_INET6, address))
    return _IPV4.pack(socket.AF_INET, _PORT.pack(port), socket.inet_aton(address))


def _encode_network(network: str) -> bytes:
    address, _slash, length = network.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    values = attribute(_IP_FAMILY, _FAMILY.pack(family))
    values += attribute(_IP_ADDRESS, socket.inet_pton(family, address)) + attribute(_IP_LENGTH, bytes([int(length)]))
    return generic.nested(0, values)


def _decode_device(name: str, messages: List[bytes]) -> Found:
    """Many peers, and many addresses of one peer, come in several messages."""
    device: Dict[int, bytes] = {}
    parts: Dict[bytes, Dict[int, bytes]] = {}
    allowed: Dict[bytes, List[str]] = {}
    for message in messages:
        values = dict(generic.attributes_of(message))
        device = {**values, **device}
        for _index, value in attributes(values.get(_PEERS, b""), 0):
            peer = dict(attributes(value, 0))
            key = peer[_PEER_KEY]
            parts.setdefault(key, peer)
            allowed.setdefault(key, []).extend(_decode_networks(peer.get(_ALLOWED_IPS, b"")))
    peers = [_decode_peer(name, peer, allowed[key]) for key, peer in parts.items()]
    private, public = device.get(_PRIVATE_KEY, b""), device.get(_PUBLIC_KEY, b"")
    port, mark = _unpacked(_FAMILY, device, _LISTEN_PORT), _unpacked(_NUMBER, device, _FWMARK)
    return Found(Secret(private), shown(public) if public else "", port, mark, peers)


def _decode_peer(device: str, values: Dict[int, bytes], allowed: List[str]) -> Tuple[WireguardPeer, int]:
    preshared = values.get(_PRESHARED_KEY, _NO_KEY)
    handshake = values.get(_HANDSHAKE)
    peer = WireguardPeer(
        device,
        shown(values[_PEER_KEY]),
        _decode_endpoint(values.get(_ENDPOINT, b"")),
        canonical(allowed),
        _unpacked(_FAMILY, values, _KEEPALIVE),
        Secret(preshared) if preshared != _NO_KEY else NO_SECRET,
    )
    return peer, _LONG.unpack_from(handshake)[0] if handshake else 0


def _unpacked(number: struct.Struct, values: Dict[int, bytes], kind: int) -> int:
    return int(number.unpack_from(values[kind])[0]) if kind in values else 0


def _decode_endpoint(value: bytes) -> str:
    if not value:
        return ""
    layout = _IPV6 if _FAMILY.unpack_from(value)[0] == socket.AF_INET6 else _IPV4
    family, port, address = layout.unpack_from(value)
    return endpoint_of(socket.inet_ntop(family, address), _PORT.unpack(port)[0])


def _decode_networks(value: bytes) -> Iterator[str]:
    for _index, part in attributes(value, 0):
        fields = dict(attributes(part, 0))
        address = socket.inet_ntop(_FAMILY.unpack(fields[_IP_FAMILY])[0], fields[_IP_ADDRESS])
        yield f"{address}/{fields[_IP_LENGTH][0]}"


def opened() -> Wireguard:
    """Where the kernel has it as a module, that is loaded. Raises PrerequisiteError where there is none."""
    try:
        return Wireguard()
    except RefusedError as error:
        raise PrerequisiteError(NO_WIREGUARD) from error
