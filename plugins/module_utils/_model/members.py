# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The nodes of an overlay as declared: each with its underlay address, its pod subnet and, where the backend's device
has one, its MAC address or its public key, for each IP version that it has.

A cluster has thousands of them, and every run reads all. An entry in the usual form is taken at one go; any other is
read field by field, which either names what is wrong with it or comes to the same.
"""

from __future__ import annotations

import bisect
import re
import socket
from typing import Any, Collection, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from .errors import SpecError
from .ip_version import IPV4, VERSIONS, IpVersion, address_text, version_of_network
from .parse import NODE_NAME, Address, Network, Section, unique
from .wireguard import parse_public_key

# How much longer than the network a node's subnet is at least, as in flannel's etcd manager.
SUBNET_EXTRA = 2
_FIELDS = ("address", "subnet", "mac")
_KEY_FIELDS = ("public_key", "listen_port")
_OF_VERSIONS = [field + each.suffix for each in VERSIONS for field in (*_FIELDS, *_KEY_FIELDS)]
_KEYS = frozenset({"name", "backend_type", "ttl", *_OF_VERSIONS})
_UNICAST_MAC = re.compile(r"(?!00:00:00:00:00:00)[0-9a-f][02468ace](:[0-9a-f]{2}){5}")


class Member(NamedTuple):
    """A node of the overlay in one IP version: its underlay address, its pod subnet, the MAC address of its device (""
    where the backend has none). With WireGuard it has a public key and a port, 0 for the usual one.

    ``name`` is None for a peer that is known by its lease only. ``first`` and ``last`` are the subnet's addresses as
    numbers.
    """

    name: Optional[str]
    address: str
    subnet: str
    mac: str
    first: int
    last: int
    public_key: str = ""
    listen_port: int = 0

    @property
    def gateway(self) -> str:
        """Flannel's devices hold the first address of the subnet."""
        return self.subnet.partition("/")[0]


class MemberReader:
    """Reads the half of each entry that a pod network of one IP version asks for.

    Without ``with_mac`` MAC addresses are neither needed nor looked at, and without ``with_key`` WireGuard's public
    keys are not.
    """

    def __init__(self, network: Network, with_mac: bool = True, with_key: bool = False) -> None:
        self.version: IpVersion = version_of_network(network)
        self.network = network
        self.with_mac, self.with_key = with_mac, with_key
        self.address, self.subnet, self.mac = (field + self.version.suffix for field in _FIELDS)
        self.public_key, self.listen_port = (field + self.version.suffix for field in _KEY_FIELDS)
        self._others = [field + each.suffix for each in VERSIONS if each != self.version for field in _FIELDS]
        self._first, self._last = int(network.network_address), int(network.broadcast_address)
        self._lengths = range(network.prefixlen + SUBNET_EXTRA, self.version.subnet_limit + 1)

    def concerns(self, section: Section) -> bool:
        """Whether an entry has, or should have, a half of this IP version: a node may have the other one only."""
        data = section.data
        own = (self.address, self.subnet, self.mac)
        return any(data.get(key) is not None for key in own) or all(data.get(key) is None for key in self._others)

    def read(self, section: Section, named: bool = True) -> Member:
        """``named``: whether the entry must have a name. Raises SpecError naming the field."""
        return (None if self.with_key else self._usual(section.data, named)) or self._careful(section, named)

    def read_listed(self, listed: Mapping[str, Any]) -> Dict[str, Member]:
        """The halves that there are of entries, which need no name, by the same paths. Raises SpecError."""
        members: Dict[str, Member] = {}
        for path, entry in listed.items():
            member = None if self.with_key else self._usual(entry, False)
            if member is None:
                section = Section(entry, path)
                if not self.concerns(section):
                    continue
                member = self._careful(section, False)
            members[path] = member
        return members

    def _usual(self, data: Any, named: bool) -> Optional[Member]:
        """The member, None when anything about the entry is unusual or wrong."""
        if not isinstance(data, dict):
            return None
        name, address, subnet, mac = data.get("name"), data.get(self.address), data.get(self.subnet), data.get(self.mac)
        if not self.with_mac:
            mac = ""
        elif not isinstance(mac, str) or not _UNICAST_MAC.fullmatch(mac):
            return None
        if not data.keys() <= _KEYS:
            return None
        if named if name is None else not (isinstance(name, str) and NODE_NAME.fullmatch(name)):
            return None
        version = self.version
        number_of = _number4 if version is IPV4 else _number6
        try:
            host, _slash, bits = subnet.partition("/")  # type: ignore[union-attr]
            number, first = number_of(address), number_of(host)
            length = int(bits)
        except (AttributeError, OSError, TypeError, ValueError):
            return None
        if str(length) != bits or length not in self._lengths:
            return None
        rest = (1 << (version.bits - length)) - 1
        (low, high), (hole_low, hole_high) = version.hosts, version.hole
        usual = (
            not first & rest
            and self._first <= first <= self._last
            and not self._first <= number <= self._last
            and low <= number <= high
            and not hole_low <= number <= hole_high
        )
        return tuple.__new__(Member, (name, address, subnet, mac, first, first + rest, "", 0)) if usual else None

    def _careful(self, section: Section, named: bool) -> Member:
        unused = [field + each.suffix for each in VERSIONS for field in _KEY_FIELDS]
        for key in ("backend_type", "ttl", self.mac, *self._others, *unused):
            section.get(key, None)
        has_name = named or section.get("name", None) is not None
        name = section.node_name("name") if has_name else None
        address, subnet = section.address(self.address), section.network(self.subnet)
        mac = self._mac(section) if self.with_mac else ""
        key, port = self._key(section) if self.with_key else ("", 0)
        section.finish()
        self._check_address(address, section.at(self.address))
        self._check_subnet(subnet, section.at(self.subnet))
        first, last = int(subnet.network_address), int(subnet.broadcast_address)
        return Member(name, str(address), str(subnet), mac, first, last, key, port)

    def _key(self, section: Section) -> Tuple[str, int]:
        """A node may have one key for both IP versions, as flannel's nodes do."""
        field = self.public_key if section.get(self.public_key, None) is not None else "public_key"
        key = parse_public_key(section.get(field), section.at(field))
        return key, section.integer(self.listen_port, 0, 65535, 0)

    def _mac(self, section: Section) -> str:
        mac = section.mac(self.mac)
        if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
            raise SpecError(section.at(self.mac), f"must be the address of one device, not {mac}")
        return mac

    def _check_address(self, address: Address, path: str) -> None:
        require_version(address.version, self.version, path)
        if not self.version.is_host(address):
            raise SpecError(path, f"must be the address of a node on the underlay, not {address}")
        if address in self.network:
            raise SpecError(path, f"{address} is inside the pod network {self.network}; nodes talk outside of it")

    def _check_subnet(self, subnet: Network, path: str) -> None:
        require_version(subnet.version, self.version, path)
        if not subnet.subnet_of(self.network):  # type: ignore[arg-type]
            raise SpecError(path, f"{subnet} is not inside the pod network {self.network}")
        if subnet.prefixlen not in self._lengths:
            allowed = f"/{self._lengths[0]} to /{self._lengths[-1]}"
            raise SpecError(path, f"{subnet} must have a prefix of {allowed} in {self.network}")


def _number4(address: Any) -> int:
    """Raises OSError unless it is an IPv4 address in its one canonical form."""
    packed = socket.inet_aton(address)
    if socket.inet_ntoa(packed) != address:
        raise OSError
    return int.from_bytes(packed, "big")


def _number6(address: Any) -> int:
    """The same for IPv6; one with an IPv4 address in it is left to a closer look."""
    packed = socket.inet_pton(socket.AF_INET6, address)
    if address_text(socket.AF_INET6, packed) != address or packed.startswith(bytes(10)):
        raise OSError
    return int.from_bytes(packed, "big")


def require_version(found: int, version: IpVersion, path: str) -> None:
    if found != version.number:
        raise SpecError(path, f"must be {version}, not IPv{found}")


def parse_members(own: Section, listed: Mapping[str, Any], reader: MemberReader) -> Tuple[Member, Tuple[Member, ...]]:
    """The node and its peers, among which an entry with the node's name is skipped. ``listed`` are the entries by the
    paths that lead to them. Raises SpecError."""
    node = reader.read(own)
    peers = {path: peer for path, peer in reader.read_listed(listed).items() if peer.name != node.name}
    _check_members({own.path: node, **peers}, reader)
    return node, tuple(peers.values())


def of_backend(entry: Any, backend_type: str) -> bool:
    """Whether an entry tells of no other backend: as with flannel, nodes with another one are no peers."""
    found = entry.get("backend_type") if isinstance(entry, Mapping) else None
    return not isinstance(found, str) or found.lower() in ("", backend_type)


def unusable(
    entries: Sequence[Mapping[str, Any]],
    networks: Iterable[Network],
    with_mac: bool = True,
    with_key: bool = False,
    doubted: Collection[str] = (),
) -> Dict[int, str]:
    """Index and reason of each entry that could not be a peer beside the others.

    ``entries`` are those of ``peers``. Those with a name are taken as they are, and come before all others; but those
    whose names are in ``doubted`` are judged too, before those without a name.
    """
    readers = [(MemberReader(network, with_mac, with_key), _Taken()) for network in networks]
    problems: Dict[int, str] = {}
    names = [entry.get("name") for entry in entries]
    ranks = [2 if name is None else int(name in doubted) for name in names]
    for index in sorted(range(len(entries)), key=ranks.__getitem__):
        section, named, trusted = Section(entries[index]), names[index] is not None, not ranks[index]
        try:
            halves = [
                (taken, reader, reader.read(section, named)) for reader, taken in readers if reader.concerns(section)
            ]
            for taken, reader, member in halves:
                if not trusted:
                    taken.refuse(member, reader)
            for taken, _reader, member in halves:
                taken.add(member)
        except SpecError as error:
            if not trusted:
                problems[index] = str(error)
    return problems


class _Taken:
    """What members have for themselves. Their subnets do not overlap, unless declared ones do."""

    def __init__(self) -> None:
        self._values: Set[str] = set()
        self._subnets: List[Tuple[int, int]] = []

    def add(self, member: Member) -> None:
        self._values |= {member.address, member.mac, member.public_key} - {""}
        bisect.insort(self._subnets, (member.first, member.last))

    def refuse(self, member: Member, reader: MemberReader) -> None:
        values = (member.address, member.mac, member.public_key)
        for field, value in zip((reader.address, reader.mac, reader.public_key), values):
            if value in self._values:
                raise SpecError(field, f"{value} is also that of another lease")
        after = bisect.bisect_right(self._subnets, (member.last, 1 << 128))
        if after and self._subnets[after - 1][1] >= member.first:
            raise SpecError(reader.subnet, f"{member.subnet} overlaps that of another lease")


def _check_members(members: Mapping[str, Member], reader: MemberReader) -> None:
    """``members`` come by their paths in the input, own entry first."""
    names, addresses, subnets, macs, _firsts, _lasts, keys, _ports = zip(*members.values())
    for field, what, column in (
        ("name", "name", names),
        (reader.address, "address", addresses),
        (reader.mac, "MAC address", macs),
        (reader.public_key, "public key", keys),
        (reader.subnet, "subnet", subnets),
    ):
        given = [value for value in column if value]
        if len(set(given)) < len(given):
            unique({f"{path}.{field}": value for path, value in zip(members, column) if value}, what)
    _refuse_overlap(members, reader.subnet)


def _refuse_overlap(members: Mapping[str, Member], field: str) -> None:
    ordered = sorted(members.items(), key=lambda entry: entry[1].first)
    for (path, member), (next_path, following) in zip(ordered, ordered[1:]):
        if following.first <= member.last:
            raise SpecError(f"{next_path}.{field}", f"{following.subnet} overlaps {member.subnet} of {path}.{field}")
