# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""From the leases there are to those that shall be. The same input gives the same subnets on whichever node it runs.

A declared node has exactly one lease. It keeps the one with its MAC address (or else with its address) as long as
flannel's configuration allows that subnet; any other lease with its MAC or address is a leftover and goes.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set

from .._model.backend import VXLAN
from .._model.errors import SpecError
from .._model.item import State, state_of
from .._model.lease import ENDING, LEASED, PERMANENT, SHARED, FlannelConfig, Lease, LeaseSpec, Node
from .._model.lease_codec import vxlan_data
from .operation import Operation, difference

# The configuration comes before the leases that follow from it.
_RANKS = {FlannelConfig.kind: 0, Lease.kind: 1}


def plan(have: State, spec: LeaseSpec) -> List[Operation]:
    """Operations that give every declared node its lease. Raises SpecError where that is impossible or destructive."""
    config = _wanted_config(have, spec)
    leases = leases_of(have)
    claims = claim(leases, spec.nodes)
    kept = {node.name: _kept(claims[node.name], node, spec.config) for node in spec.nodes}
    # Leases of others are left out on both sides: no operation is ever about them.
    ours = state_of(lease for found in claims.values() for lease in found)
    subnets = _allocate(leases, [lease for lease in leases if lease.key not in ours], kept, spec)
    want = [_wanted(node, subnets[node.name], kept[node.name], spec) for node in spec.nodes]
    return difference({**state_of(_present_config(have)), **ours}, state_of([config, *want]), _RANKS)


def plan_release(have: State, spec: LeaseSpec) -> List[Operation]:
    """Operations that take away every lease of ``spec.node``; the configuration and all other leases stay."""
    return difference(state_of(claim(leases_of(have), [spec.own])[spec.node]), {})


def plan_keep(have: State, spec: LeaseSpec) -> Optional[List[Operation]]:
    """Operations that keep the lease of ``spec.node`` alive when its pinned subnet is leased to it as declared.

    None when it is not, which takes the whole plan.
    """
    subnet = spec.own.subnet
    lease = next((lease for lease in leases_of(have) if lease.identity == (subnet, "")), None)
    if lease is None or not spec.config.holds(lease.subnet):
        return None
    want = _wanted(spec.own, lease.subnet, lease, spec)
    if dataclasses.replace(lease, life=want.life) != want:
        return None
    return difference(state_of([lease]), state_of([want]))


def leases_of(have: State) -> List[Lease]:
    """All leases by rising subnet."""
    leases = [item for item in have.values() if isinstance(item, Lease)]
    return sorted(leases, key=lambda lease: (ipaddress.IPv4Network(lease.subnet), lease.subnet6))


def claim(leases: Iterable[Lease], nodes: Iterable[Node]) -> Dict[str, List[Lease]]:
    """Which leases belong to which declared node: by MAC address, and where no node has that, by address.

    The MAC address comes first because it stays the same when a node moves to another address.
    """
    nodes = list(nodes)
    by_mac = {node.mac: node.name for node in nodes}
    by_address = {node.address: node.name for node in nodes}
    found: Dict[str, List[Lease]] = {node.name: [] for node in nodes}
    behind: Dict[str, List[Lease]] = {node.name: [] for node in nodes}
    for lease in leases:
        if lease.mac in by_mac:
            found[by_mac[lease.mac]].append(lease)
        elif lease.address in by_address:
            behind[by_address[lease.address]].append(lease)
    return {name: found[name] + behind[name] for name in found}


def owners(have: State, nodes: Iterable[Node]) -> Dict[Lease, str]:
    """The declared node's name for each lease that has one."""
    return {lease: name for name, leases in claim(leases_of(have), nodes).items() for lease in leases}


def _present_config(have: State) -> List[FlannelConfig]:
    return [item for item in have.values() if isinstance(item, FlannelConfig)]


def _wanted_config(have: State, spec: LeaseSpec) -> FlannelConfig:
    present = next(iter(_present_config(have)), None)
    if present is None:
        return spec.config
    if not spec.update_config:
        return present
    held = len(leases_of(have))
    if present.network != spec.config.network and held:
        raise SpecError(
            "config.network",
            f"is {spec.config.network}, but below {spec.prefix} etcd has network {present.network} with {held} leases. "
            "A cluster cannot change its pod network in place: declare the old one, or remove the leases first",
        )
    return dataclasses.replace(spec.config, others=present.others)


def _kept(claimed: Iterable[Lease], node: Node, config: FlannelConfig) -> Optional[Lease]:
    fitting = (lease for lease in claimed if not lease.subnet6 and config.holds(lease.subnet))
    return next((lease for lease in fitting if node.subnet in (None, lease.subnet)), None)


def _allocate(
    leases: Sequence[Lease], foreign: Sequence[Lease], kept: Mapping[str, Optional[Lease]], spec: LeaseSpec
) -> Dict[str, str]:
    """A subnet for every node by name: its own, the one it must have, or in declared order the first free one."""
    staying = {lease.subnet: name for name, lease in kept.items() if lease is not None}
    subnets = {name: subnet for subnet, name in staying.items()}
    pinned = [(index, node) for index, node in enumerate(spec.nodes) if node.subnet and node.name not in subnets]
    for index, node in pinned:
        assert node.subnet is not None
        _refuse_taken(f"nodes[{index}].subnet", node.subnet, staying, foreign)
        subnets[node.name] = node.subnet
    # What is given up in this same plan is not given out again: peers may still send there.
    used = [lease.subnet for lease in leases] + list(subnets.values())
    free = _free_subnets(spec.config, used)
    for index, node in enumerate(spec.nodes):
        if node.name not in subnets:
            subnets[node.name] = _next_free(free, index, node, spec)
    return subnets


def _refuse_taken(path: str, subnet: str, staying: Mapping[str, str], foreign: Iterable[Lease]) -> None:
    network = ipaddress.IPv4Network(subnet)
    if subnet in staying:
        raise SpecError(path, f"{subnet} is leased to node {staying[subnet]}; choose another or give that node one")
    for lease in foreign:
        if network.overlaps(ipaddress.IPv4Network(lease.subnet)):
            raise SpecError(path, f"{subnet} is leased to {lease.address or 'an unknown node'}; choose another one")


def _next_free(free: Iterator[str], index: int, node: Node, spec: LeaseSpec) -> str:
    try:
        return next(free)
    except StopIteration:
        config = spec.config
        raise SpecError(
            f"nodes[{index}]",
            f"no subnet is left for {node.name}: each /{config.subnet_len} from {config.subnet_min} to "
            f"{config.subnet_max} is leased. Widen subnet_min and subnet_max, or release leases of removed nodes",
        ) from None


def _free_subnets(config: FlannelConfig, used: Iterable[str]) -> Iterator[str]:
    """Subnets from the first to the last that overlap none of the used ones, each given once."""
    shift = 32 - config.subnet_len
    first = int(ipaddress.IPv4Address(config.subnet_min)) >> shift
    last = int(ipaddress.IPv4Address(config.subnet_max)) >> shift
    taken: Set[int] = set()
    for subnet in used:
        network = ipaddress.IPv4Network(subnet)
        low = max(first, int(network.network_address) >> shift)
        taken.update(range(low, min(last, int(network.broadcast_address) >> shift) + 1))
    for index in range(first, last + 1):
        if index not in taken:
            yield f"{ipaddress.IPv4Address(index << shift)}/{config.subnet_len}"


def _wanted(node: Node, subnet: str, kept: Optional[Lease], spec: LeaseSpec) -> Lease:
    backend = json.loads(spec.config.backend)
    kind = spec.config.backend_type
    return Lease(
        subnet=subnet,
        address=node.address,
        backend_type=kind,
        data=vxlan_data(backend["VNI"], node.mac) if kind == VXLAN else "",
        life=_wanted_life(node, kept, spec),
    )


def _wanted_life(node: Node, kept: Optional[Lease], spec: LeaseSpec) -> str:
    # Only the node itself renews: that its lease ends is how the others learn that it has been gone for a day.
    if kept is not None and node.name != spec.node:
        return LEASED if kept.life in (ENDING, SHARED) else kept.life
    return LEASED if spec.ttl else PERMANENT
