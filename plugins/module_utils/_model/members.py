# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The nodes of an overlay as declared: each with its underlay address, its pod subnet and, where the backend's device
has one, its MAC address.

A cluster has thousands of them, and every run reads all. An entry in the usual form is taken at one go; any other is
read field by field, which either names what is wrong with it or comes to the same.
"""

from __future__ import annotations

import bisect
import re
import socket
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, TypeVar, Union

from .errors import SpecError
from .parse import NODE_NAME, Address, Network, Section, unique

# Longest subnet of a node, and how much longer than the network it is at least, as in flannel's etcd manager.
SUBNET_LIMIT, SUBNET_EXTRA = 30, 2
_KEYS = frozenset({"name", "address", "subnet", "mac", "backend_type", "ttl"})
_Entry = TypeVar("_Entry", bound=Union[Section, Mapping[str, Any]])
_UNICAST_MAC = re.compile(r"(?!00:00:00:00:00:00)[0-9a-f][02468ace](:[0-9a-f]{2}){5}")


class Member(NamedTuple):
    """A node of the overlay: its underlay address, its pod subnet, the MAC address of its device ("" where the backend
    has none).

    ``name`` is None for a peer that is known by its lease only. ``first`` is the subnet's first address as a number.
    """

    name: Optional[str]
    address: str
    subnet: str
    mac: str
    first: int
    length: int

    @property
    def gateway(self) -> str:
        """Flannel's devices hold the first address of the subnet."""
        return self.subnet.partition("/")[0]

    @property
    def last(self) -> int:
        return self.first + (1 << (32 - self.length)) - 1


def parse_members(
    own: Section, listed: Sequence[Section], network: Network, with_mac: bool = True
) -> Tuple[Member, Tuple[Member, ...]]:
    """The node and its peers, among which an entry with the node's name is skipped. Raises SpecError.

    Without ``with_mac`` MAC addresses are neither needed nor looked at.
    """
    node = parse_member(own, network, True, with_mac)
    members = [(section, parse_member(section, network, False, with_mac)) for section in listed]
    peers = [(section, peer) for section, peer in members if peer.name != node.name]
    _check_members([(own, node), *peers])
    return node, tuple(peer for _section, peer in peers)


def of_backend(entries: Iterable[_Entry], backend_type: str) -> List[_Entry]:
    """Without the entries that tell of another backend: as with flannel, their nodes are no peers."""
    return [entry for entry in entries if _backend_of(entry) in ("", backend_type)]


def _backend_of(entry: Any) -> str:
    found = (entry.data if isinstance(entry, Section) else entry).get("backend_type")
    return found.lower() if isinstance(found, str) else ""


def parse_member(section: Section, network: Network, named: bool = True, with_mac: bool = True) -> Member:
    """Entries of leases may come with ``backend_type`` and ``ttl``; nothing here depends on them."""
    return _usual(section.data, network, named, with_mac) or _careful(section, network, named, with_mac)


def unusable(entries: Sequence[Mapping[str, Any]], network: Network, with_mac: bool = True) -> Dict[int, str]:
    """Index and reason of each entry without a name that could not be a peer beside the others.

    ``entries`` are those of ``peers``. Entries with a name are taken as they are, and come before all others.
    """
    taken = _Taken()
    problems: Dict[int, str] = {}
    for index in sorted(range(len(entries)), key=lambda index: entries[index].get("name") is None):
        named = entries[index].get("name") is not None
        try:
            member = parse_member(Section(entries[index]), network, named, with_mac)
            if not named:
                taken.refuse(member)
            taken.add(member)
        except SpecError as error:
            if not named:
                problems[index] = str(error)
    return problems


class _Taken:
    """What members have for themselves. Their subnets do not overlap, unless declared ones do."""

    def __init__(self) -> None:
        self._values: Set[str] = set()
        self._subnets: List[Tuple[int, int]] = []

    def add(self, member: Member) -> None:
        self._values |= {member.address, member.mac} - {""}
        bisect.insort(self._subnets, (member.first, member.last))

    def refuse(self, member: Member) -> None:
        for field in ("address", "mac"):
            if getattr(member, field) in self._values:
                raise SpecError(field, f"{getattr(member, field)} is also that of another lease")
        after = bisect.bisect_right(self._subnets, (member.last, 2**32))
        if after and self._subnets[after - 1][1] >= member.first:
            raise SpecError("subnet", f"{member.subnet} overlaps that of another lease")


def _usual(data: Mapping[str, Any], network: Network, named: bool, with_mac: bool = True) -> Optional[Member]:
    """The member, None when anything about the entry is unusual or wrong."""
    name, address, subnet, mac = data.get("name"), data.get("address"), data.get("subnet"), data.get("mac")
    if not with_mac:
        mac = ""
    elif not isinstance(mac, str) or not _UNICAST_MAC.fullmatch(mac):
        return None
    if not data.keys() <= _KEYS:
        return None
    if named if name is None else not (isinstance(name, str) and NODE_NAME.fullmatch(name)):
        return None
    try:
        host, _slash, bits = subnet.partition("/")  # type: ignore[union-attr]
        number, first = _number(address), _number(host)
        length = int(bits)
    except (AttributeError, OSError, TypeError, ValueError):
        return None
    start, end = int(network.network_address), int(network.broadcast_address)
    usual = (
        str(length) == bits
        and network.prefixlen + SUBNET_EXTRA <= length <= SUBNET_LIMIT
        and not first & (0xFFFFFFFF >> length)
        and start <= first <= end
        and not start <= number <= end
        and 0 < number < 0xE0000000
        and number >> 24 != 127
    )
    return tuple.__new__(Member, (name, address, subnet, mac, first, length)) if usual else None


def _number(address: Any) -> int:
    """Raises OSError unless it is an IPv4 address in its one canonical form."""
    packed = socket.inet_aton(address)
    if socket.inet_ntoa(packed) != address:
        raise OSError
    return int.from_bytes(packed, "big")


def _careful(section: Section, network: Network, named: bool, with_mac: bool = True) -> Member:
    section.get("backend_type", None)
    section.get("ttl", None)
    has_name = named or section.get("name", None) is not None
    name = section.node_name("name") if has_name else None
    address, subnet = section.address("address"), section.network("subnet")
    section.get("mac", None)
    mac = _mac(section) if with_mac else ""
    section.finish()
    _check_address(address, network, section.at("address"))
    _check_subnet(subnet, network, section.at("subnet"))
    return Member(name, str(address), str(subnet), mac, int(subnet.network_address), subnet.prefixlen)


def _mac(section: Section) -> str:
    mac = section.mac("mac")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise SpecError(section.at("mac"), f"must be the address of one device, not {mac}")
    return mac


def _check_address(address: Address, network: Network, path: str) -> None:
    require_ipv4(address.version, path)
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise SpecError(path, f"must be the address of a node on the underlay, not {address}")
    if address in network:
        raise SpecError(path, f"{address} is inside the pod network {network}; nodes talk outside of it")


def _check_subnet(subnet: Network, network: Network, path: str) -> None:
    require_ipv4(subnet.version, path)
    if not subnet.subnet_of(network):  # type: ignore[arg-type]
        raise SpecError(path, f"{subnet} is not inside the pod network {network}")
    shortest = network.prefixlen + SUBNET_EXTRA
    if not shortest <= subnet.prefixlen <= SUBNET_LIMIT:
        raise SpecError(path, f"{subnet} must have a prefix of /{shortest} to /{SUBNET_LIMIT} in {network}")


def require_ipv4(version: int, path: str) -> None:
    if version != 4:
        raise SpecError(path, "must be IPv4; no backend carries IPv6 yet")


def _check_members(members: Sequence[Tuple[Section, Member]]) -> None:
    """``members`` come with their place in the input, own entry first."""
    names = [(section, member.name) for section, member in members if member.name is not None]
    for field, what, values in (
        ("name", "name", names),
        ("address", "address", [(section, member.address) for section, member in members]),
        ("mac", "MAC address", [(section, member.mac) for section, member in members if member.mac]),
        ("subnet", "subnet", [(section, member.subnet) for section, member in members]),
    ):
        if len({value for _section, value in values}) < len(values):
            unique({section.at(field): value for section, value in values}, what)
    _refuse_overlap(members)


def _refuse_overlap(members: Sequence[Tuple[Section, Member]]) -> None:
    ordered = sorted(members, key=lambda entry: entry[1][4:])
    for (section, member), (next_section, following) in zip(ordered, ordered[1:]):
        if following.first <= member.last:
            path, next_path = section.at("subnet"), next_section.at("subnet")
            raise SpecError(next_path, f"{following.subnet} overlaps {member.subnet} of {path}")
