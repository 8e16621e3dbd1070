# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Which changes of leases have to happen at once, and in which order.

A lease that gets or loses its IPv6 half moves to another key, and its IPv4 subnet is in both. Nobody shall see the node
without a lease or with two, so both changes go in one transaction. In it the old key goes first: flanneld is told of
the changes in their order, knows leases by their subnets, and would take away what it has just made for the new key
when the old one went after it (pkg/lease of flannel; with its IPv6 on it ends instead).
"""

from __future__ import annotations

import ipaddress
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple

from .._model.ip_version import VERSIONS
from .._model.item import Item
from .._model.lease import Lease
from .operation import DELETE, Operation


def in_groups(operations: Sequence[Operation]) -> List[List[Operation]]:
    """The same operations, in order of the first of each group. Those whose subnets overlap are in one group, and those
    that are about one node; deletions come first in it."""
    changes_hands = any(_marks_of(each.previous) - _marks_of(each.item) for each in operations)
    if len({operation.action == DELETE for operation in operations}) < 2 and not changes_hands:
        return [[operation] for operation in operations]
    heads = list(range(len(operations)))
    for spans in _spans(operations):
        head, end = -1, -1
        for first, last, index in sorted(spans):
            if first > end:
                head = index
            else:
                _unite(heads, head, index)
            end = max(end, last)
    firsts: Dict[str, int] = {}
    for index, operation in enumerate(operations):
        for mark in _marks(operation):
            _unite(heads, firsts.setdefault(mark, index), index)
    groups: Dict[int, List[Operation]] = {}
    for index, operation in enumerate(operations):
        groups.setdefault(_head(heads, index), []).append(operation)
    return [sorted(group, key=lambda operation: operation.action != DELETE) for group in groups.values()]


def in_batches(operations: Sequence[Operation], size: int) -> Iterator[List[Operation]]:
    """Parts of at most ``size`` operations that no group is split over, unless it is larger than that by itself."""
    batch: List[Operation] = []
    for group in in_groups(operations):
        if batch and len(batch) + len(group) > size:
            yield batch
            batch = []
        for start in range(0, len(group), size):
            if start:
                yield batch
                batch = []
            batch = [*batch, *group[start : start + size]]
    if batch:
        yield batch


def _marks(operation: Operation) -> Set[str]:
    """By what leases of one node are known, and those of the node that a key is taken from."""
    return _marks_of(operation.item) | _marks_of(operation.previous)


def _marks_of(item: Optional[Item]) -> Set[str]:
    halves = item.halves if isinstance(item, Lease) else ()
    return {mark for half in halves for mark in (*half.marks, half.address) if mark}


def _spans(operations: Sequence[Operation]) -> Iterator[List[Tuple[int, int, int]]]:
    """For each IP version the first and last address of each operation's subnet, with the operation's index."""
    for version in VERSIONS:
        spans = []
        for index, operation in enumerate(operations):
            half = operation.item.half(version) if isinstance(operation.item, Lease) else None
            if half is not None:
                network = ipaddress.ip_network(half.subnet)
                spans.append((int(network.network_address), int(network.broadcast_address), index))
        yield spans


def _unite(heads: List[int], one: int, other: int) -> None:
    """The smaller index is the head of both."""
    low, high = sorted((_head(heads, one), _head(heads, other)))
    heads[high] = low


def _head(heads: List[int], index: int) -> int:
    while heads[index] != index:
        heads[index] = heads[heads[index]]
        index = heads[index]
    return index
