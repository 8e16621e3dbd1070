# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with leases that nobody declared, and so nobody here changes: who is in whose way, and what to do."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

from .._model.ip_version import IPV4, IPV6, VERSIONS
from .._model.item import State
from .._model.lease import FlannelConfig, Half, Lease, Node
from .lease import leases_of, owners

# How flannel calls the address of each half, and which MAC address is meant.
_ADDRESSES = {IPV4: "PublicIP", IPV6: "PublicIPv6"}
_MACS = {IPV4: "", IPV6: "IPv6 device's "}
_Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
_SAME = (
    "One of them is left over, or two nodes are set up alike: find out which node is where, then delete the other key"
)
_OVERLAP = "Pods of both would have the same addresses: stop the node that is wrong there, then delete its key"
_OUTSIDE = (
    "flanneld takes another subnet when it restarts: restart it on that node, or delete the key of a node that is gone"
)
_UNREADABLE = "No node can be reached by it, and its subnet is not given out: delete the key when no node keeps it up"


@dataclasses.dataclass(frozen=True)
class Conflict:
    """``leases`` by rising subnet; ``problem`` is what follows their names, ``advice`` what to do about it."""

    leases: Tuple[Lease, ...]
    problem: str
    advice: str


def orphans(have: State, nodes: Iterable[Node]) -> List[Lease]:
    """Leases of no declared node: of nodes that were removed, or of peers that run flanneld."""
    known = owners(have, nodes)
    return [lease for lease in leases_of(have) if lease not in known]


def conflicts(have: State, nodes: Iterable[Node]) -> List[Conflict]:
    """All that there are. Leases of declared nodes are in them only for what others are to them."""
    leases, foreign = leases_of(have), orphans(have, nodes)
    config = next((item for item in have.values() if isinstance(item, FlannelConfig)), None)
    found = [*_unreadable(foreign), *_outside(foreign, config)]
    halves = [(half, lease) for lease in leases for half in lease.halves]
    for version in VERSIONS:
        here = [(half, lease) for half, lease in halves if half.version is version]
        # A node may tell of its IPv6 address without having an IPv6 subnet.
        found += _same([(getattr(lease, f"address{version.suffix}"), lease) for lease in leases], _ADDRESSES[version])
        found += _same([(half.mac, lease) for half, lease in here], f"{_MACS[version]}MAC address")
        found += _same([(half.public_key, lease) for half, lease in here], "public key")
        found += _overlaps((ipaddress.ip_network(half.subnet), lease) for half, lease in here)
    return found


def _unreadable(leases: Iterable[Lease]) -> Iterator[Conflict]:
    for lease in leases:
        for half in lease.halves:
            if not _is_address(half):
                what = _ADDRESSES[half.version]
                shown = f"{what} {half.address!r}" if half.address else f"no {what}"
                yield Conflict((lease,), f"has a value with {shown}, which flannel cannot read", _UNREADABLE)


def _is_address(half: Half) -> bool:
    try:
        return ipaddress.ip_address(half.address).version == half.version.number
    except ValueError:
        return False


def _outside(leases: Iterable[Lease], config: Optional[FlannelConfig]) -> Iterator[Conflict]:
    pools = {pool.version: pool for pool in config.pools} if config is not None else {}
    for lease in leases:
        halves = {half.version: half for half in lease.halves}
        for version in VERSIONS if pools else ():
            pool, half = pools.get(version), halves.get(version)
            if half is not None and pool is None:
                yield Conflict((lease,), f"has an {version} subnet, and the network configuration none", _OUTSIDE)
            elif half is None and pool is not None:
                yield Conflict((lease,), f"has no {version} subnet, and the network configuration has some", _OUTSIDE)
            elif half is not None and pool is not None and not pool.holds(half.subnet):
                yield Conflict((lease,), f"is not what the network configuration allows, {pool}", _OUTSIDE)


def _same(values: Iterable[Tuple[str, Lease]], what: str) -> Iterator[Conflict]:
    groups: Dict[str, List[Lease]] = {}
    for value, lease in values:
        groups.setdefault(value, []).append(lease)
    for value, group in groups.items():
        if value and len(group) > 1:
            yield Conflict(tuple(group), f"have the same {what} {value}", _SAME)


def _overlaps(subnets: Iterable[Tuple[_Network, Lease]]) -> Iterator[Conflict]:
    """Networks nest or are apart: those from a widest one to its end are in conflict with that one."""
    group: List[Lease] = []
    end = -1
    for network, lease in sorted(subnets, key=lambda entry: (int(entry[0].network_address), entry[0].prefixlen)):
        if int(network.network_address) > end:
            yield from _overlap(group)
            group, end = [], int(network.broadcast_address)
        group.append(lease)
    yield from _overlap(group)


def _overlap(group: Sequence[Lease]) -> Iterator[Conflict]:
    if len(group) > 1:
        yield Conflict(tuple(group), "overlap", _OVERLAP)
