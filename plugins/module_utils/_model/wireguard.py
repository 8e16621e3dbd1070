# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""WireGuard devices and their peers in canonical form, the keys of both, and where a peer is reached.

Names, ports, modes and the overhead are flannel's (pkg/backend/wireguard). Public keys are base64, as everywhere in
WireGuard; private and preshared ones are ``Secret``.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import ipaddress
from typing import Any, ClassVar, Dict, Hashable, Iterable, Iterator, List, Mapping, NamedTuple, Tuple

from .datapath import Options, TupleItem
from .errors import SpecError
from .item import BaseItem, Key
from .secret import NO_SECRET, Secret

WIREGUARD_DEVICE, WIREGUARD_DEVICE6 = "flannel-wg", "flannel-wg-v6"
# One device for each family; or one for both, whose peers are reached at the address that suits, or at a family's.
SEPARATE, AUTO, IPV4, IPV6 = "separate", "auto", "ipv4", "ipv6"
MODES = (SEPARATE, AUTO, IPV4, IPV6)
WIREGUARD_PORT, WIREGUARD_PORT6 = 51820, 51821
# The longest header of the outer packet, IPv6's 40 bytes, then UDP's 8, and 32 of WireGuard's own.
WIREGUARD_OVERHEAD = 80
KEY_FILE = "/etc/fairlead/wireguard.key"
# What is shown in place of a preshared key that is none.
NO_KEY = "(no WireGuard key)"
# uapi/linux/wireguard.h WG_KEY_LEN
KEY_LENGTH = 32
# What to tell where the kernel lacks it.
NO_WIREGUARD = (
    "backend.type: this node's kernel has no wireguard (CONFIG_WIREGUARD, module wireguard); install a kernel that has "
    "it (5.6 or newer, or the module built for an older one), or use vxlan or host-gw, which do not encrypt"
)
_PRIVATE_IPV4 = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
_PRIVATE_IPV6 = ipaddress.IPv6Network("fc00::/7")


@dataclasses.dataclass(frozen=True)
class WireguardDevice(BaseItem):
    """A WireGuard device. ``public_key`` is "" while it has no key. ``private_key`` goes with it and is not compared,
    for two devices with the same public key have the same private one. ``options`` is what ours leave at the kernel's
    default, and ``defaults`` what is kept through an undo only."""

    kind: ClassVar[str] = "wireguard"
    name: str
    public_key: str
    listen_port: int
    mtu: int
    options: Options = ()
    defaults: Options = dataclasses.field(default=(), compare=False)
    private_key: Secret = dataclasses.field(default=NO_SECRET, compare=False)

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.name,)

    def to_dict(self) -> Dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"kind": self.kind, **{name: value for name, value in fields.items() if name != "private_key"}}

    def __str__(self) -> str:
        words = [f"wireguard {self.name} public key {self.public_key or 'none'} listen port {self.listen_port}"]
        return " ".join([*words, f"mtu {self.mtu}", *(f"{name} {value}" for name, value in self.options)])


class _PeerFields(NamedTuple):
    device: str
    public_key: str
    endpoint: str
    allowed_ips: Tuple[str, ...]
    keepalive: int = 0
    preshared_key: Secret = NO_SECRET
    roamed: str = ""
    taken: Tuple[Tuple[str, str], ...] = ()


class WireguardPeer(TupleItem, _PeerFields):
    """A peer of a WireGuard device. ``endpoint`` is "ADDRESS:PORT" with brackets around IPv6, "" for none;
    ``allowed_ips`` are networks in the order of ``canonical``; ``keepalive`` is in seconds, 0 for none.

    ``roamed`` is the endpoint that the kernel uses instead, "" for the declared one: it follows a peer whose packets
    come from elsewhere, as behind address translation, and is right to. ``taken`` has networks with the public keys of
    the peers that lose them to this one, for an undo: a network is one peer's, and the kernel tells nobody of the move.
    """

    __slots__ = ()
    kind: ClassVar[str] = "wireguard_peer"

    @property
    def key(self) -> Key:
        return ("wireguard_peer", self.device, self.public_key)

    @property
    def compared(self) -> Hashable:
        return self[:6]

    def to_dict(self) -> Dict[str, Any]:
        fields = {name: value for name, value in super().to_dict().items() if name != "taken"}
        return {**fields, "preshared_key": str(self.preshared_key)}

    def __str__(self) -> str:
        words = [f"wireguard_peer {self.public_key} dev {self.device} endpoint {self.endpoint or 'none'}"]
        words += [f"allowed ips {','.join(self.allowed_ips) or 'none'}"]
        words += [f"keepalive {self.keepalive}"] if self.keepalive else []
        words += [f"preshared key {self.preshared_key}"] if self.preshared_key else []
        return " ".join([*words, *([f"roamed to {self.roamed}"] if self.roamed else [])])


def canonical(networks: Iterable[str]) -> Tuple[str, ...]:
    """Networks in the one order in which they are compared."""
    return tuple(sorted(networks))


def endpoint_of(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def split_endpoint(endpoint: str) -> Tuple[str, int]:
    """Address without brackets, and port."""
    address, _colon, port = endpoint.rpartition(":")
    return address.strip("[]"), int(port)


def parse_key(value: Any, path: str) -> bytes:
    """The bytes of a key in base64. Raises SpecError, which does not tell the value: it may be a secret one."""
    problem = "must be a WireGuard key: 32 bytes in base64, as `wg genkey`, `wg pubkey` and `wg genpsk` print them"
    if not isinstance(value, str):
        raise SpecError(path, problem)
    try:
        key = base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise SpecError(path, problem) from None
    if len(key) != KEY_LENGTH or shown(key) != value:
        raise SpecError(path, problem)
    return key


def parse_public_key(value: Any, path: str) -> str:
    """A public key in the one form that the kernel's is compared with."""
    if not any(parse_key(value, path)):
        raise SpecError(path, "is all zeros, which is no key")
    return str(value)


def is_public_key(value: str) -> bool:
    try:
        return bool(parse_public_key(value, ""))
    except SpecError:
        return False


def preshared_key(value: Any, path: str) -> Secret:
    """From base64, "" for none. Raises SpecError without telling the value."""
    return Secret(parse_key(value, path)) if value != "" else NO_SECRET


def fingerprint(psk: Any) -> str:
    """What stands for a preshared key in base64 wherever it is shown or compared, "" for none. What is no key may be
    some password that its fingerprint could give away, and has none."""
    try:
        return str(preshared_key(psk, "psk"))
    except SpecError:
        return NO_KEY


def same_port_problem(mode: str, port: int, port6: int) -> str:
    """What is wrong with the ports of an overlay of both IP versions, "" for nothing. Each device has sockets of both
    on its port, so the kernel gives it to one only."""
    if mode != SEPARATE or port != port6:
        return ""
    return (
        f"must not be {port6}, which is the port of the other device: with mode {SEPARATE} each device listens on "
        "one of its own; choose another one"
    )


def shown(key: bytes) -> str:
    """A key as WireGuard's tools print it."""
    return base64.b64encode(key).decode("ascii")


def clamped(key: bytes) -> bytes:
    """Random bytes as a private key of X25519 (RFC 7748, section 5)."""
    return bytes([key[0] & 248, *key[1:31], (key[31] & 127) | 64])


class Half(NamedTuple):
    """What a peer has of one IP version; ``port`` is 0 for the usual one."""

    device: str
    public_key: str
    version: int
    address: str
    port: int
    subnet: str


def wireguard_peers(
    halves: Iterable[Half],
    own: Mapping[int, str],
    mode: str,
    ports: Mapping[str, int],
    keepalive: int,
    preshared_key: Secret,
) -> Iterator[WireguardPeer]:
    """Halves on one device with one key are one peer. ``own`` are this node's addresses by IP version, ``ports`` those
    of devices of ours, which peers that do not tell are taken to have too."""
    grouped: Dict[Tuple[str, str], List[Half]] = {}
    for half in halves:
        grouped.setdefault((half.device, half.public_key), []).append(half)
    for (device, key), found in grouped.items():
        by_version = {half.version: half for half in found}
        peer = {version: half.address for version, half in by_version.items()}
        half = by_version[preferred_version(own, peer, mode)] if len(by_version) > 1 else found[0]
        endpoint = endpoint_of(half.address, half.port or ports[device])
        allowed = canonical(each.subnet for each in found)
        yield WireguardPeer(device, key, endpoint, allowed, keepalive, preshared_key)


def preferred_version(own: Mapping[int, str], peer: Mapping[int, str], mode: str) -> int:
    """4 or 6: which of a peer's two addresses, by IP version, a single device sends to.

    ``own`` are this node's. Mode "auto" decides as flannel does: IPv4 when the peer's address of that family is a
    public one and this node has any; IPv6 when both have a public one; IPv4 otherwise.
    """
    if mode in (IPV4, IPV6):
        return 4 if mode == IPV4 else 6
    if 4 in own and not _is_private(peer[4]):
        return 4
    return 6 if 6 in own and not _is_private(own[6]) and not _is_private(peer[6]) else 4


def _is_private(address: str) -> bool:
    """As flannel understands it: RFC 1918 and RFC 4193."""
    number = ipaddress.ip_address(address)
    if isinstance(number, ipaddress.IPv4Address):
        return any(number in network for network in _PRIVATE_IPV4)
    return number in _PRIVATE_IPV6
