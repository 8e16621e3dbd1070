# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with leases that nobody declared, and so nobody here changes: who is in whose way, and what to do."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

from .._model.item import State
from .._model.lease import FlannelConfig, Lease, Node
from .lease import leases_of, owners

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
    found += _same(leases, "PublicIP", lambda lease: lease.address)
    found += _same(leases, "PublicIPv6", lambda lease: lease.address6)
    found += _same(leases, "MAC address", lambda lease: lease.mac)
    found += _overlaps((ipaddress.IPv4Network(lease.subnet), lease) for lease in leases)
    found += _overlaps((ipaddress.IPv6Network(lease.subnet6), lease) for lease in leases if lease.subnet6)
    return found


def _unreadable(leases: Iterable[Lease]) -> Iterator[Conflict]:
    for lease in leases:
        if not _is_address(lease.address):
            shown = f"PublicIP {lease.address!r}" if lease.address else "no PublicIP"
            yield Conflict((lease,), f"has a value with {shown}, which flannel cannot read", _UNREADABLE)


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _outside(leases: Iterable[Lease], config: Optional[FlannelConfig]) -> Iterator[Conflict]:
    for lease in leases:
        if config is not None and not config.holds(lease.subnet):
            allowed = f"a /{config.subnet_len} from {config.subnet_min} to {config.subnet_max}"
            yield Conflict((lease,), f"is not what the network configuration allows, {allowed}", _OUTSIDE)


def _same(leases: Iterable[Lease], what: str, value_of: Callable[[Lease], str]) -> Iterator[Conflict]:
    groups: Dict[str, List[Lease]] = {}
    for lease in leases:
        groups.setdefault(value_of(lease), []).append(lease)
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
