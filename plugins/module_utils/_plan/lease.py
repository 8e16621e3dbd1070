# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""From the leases there are to those that shall be. The same input gives the same subnets on whichever node it runs.

A declared node has exactly one lease. It keeps the subnets of the one with a MAC address of its own (or else with an
address of its own) as long as flannel's configuration allows them; any other lease with its MAC or address is a
leftover and goes. Both IP versions are handled alike, each with its own pool of subnets. A lease gets another key when
it gets or loses its IPv6 half.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set

from .._model.errors import SpecError
from .._model.ip_version import IPV4
from .._model.item import State, state_of
from .._model.lease import (
    ENDING,
    LEASED,
    PERMANENT,
    SHARED,
    FlannelConfig,
    Half,
    Lease,
    LeaseSpec,
    Node,
    NodeHalf,
    Pool,
    lease_of,
    pool_keys,
)
from .._model.lease_codec import backend_data
from .lease_moves import in_groups
from .operation import Operation, difference

# The configuration comes before the leases that follow from it.
_RANKS = {FlannelConfig.kind: 0, Lease.kind: 1}
# By name of the node: the lease whose subnet it keeps; the subnet that it gets.
_Kept = Mapping[str, Lease]
_Subnets = Dict[str, str]


def plan(have: State, spec: LeaseSpec) -> List[Operation]:
    """Operations that give every declared node its lease. Raises SpecError where that is impossible or destructive."""
    config = _wanted_config(have, spec)
    spec = _as_configured(spec, config)
    leases = leases_of(have)
    claims = claim(leases, spec.nodes)
    # Leases of others are left out on both sides: no operation is ever about them.
    ours = state_of(lease for found in claims.values() for lease in found)
    foreign = [lease for lease in leases if lease.key not in ours]
    kept: List[_Kept] = []
    subnets: List[_Subnets] = []
    for pool in spec.config.pools:
        # An IPv6 subnet is kept along with the lease that the IPv4 subnet comes from.
        kept.append(_kept(claims, foreign, spec, pool, kept[0] if kept else {}))
        subnets.append(_allocate(leases, foreign, kept[-1], spec, pool))
    want = [_wanted(node, [given[node.name] for given in subnets], kept[0].get(node.name), spec) for node in spec.nodes]
    operations = difference({**state_of(_present_config(have)), **ours}, state_of([config, *want]), _RANKS)
    return [operation for group in in_groups(operations) for operation in group]


def plan_release(have: State, spec: LeaseSpec) -> List[Operation]:
    """Operations that take away every lease of ``spec.node``; the configuration and all other leases stay."""
    return difference(state_of(claim(leases_of(have), [spec.own])[spec.node]), {})


def plan_keep(have: State, spec: LeaseSpec) -> Optional[List[Operation]]:
    """Operations that keep the lease of ``spec.node`` alive when its pinned subnets are leased to it as declared.

    None when they are not, which takes the whole plan. That it has an IPv6 half and none is declared, or the other way
    round, is as good: another node has taken the cluster to dual stack, or back, and this node does not know yet.
    """
    for lease in claim(leases_of(have), [spec.own])[spec.node]:
        if lease.backend_type == spec.config.backend_type and all(_is_as_pinned(half, spec) for half in lease.halves):
            want = dataclasses.replace(lease, life=_wanted_life(spec.own, lease, spec))
            return difference(state_of([lease]), state_of([want]))
    return None


def _is_as_pinned(half: Half, spec: LeaseSpec) -> bool:
    pool = next((pool for pool in spec.config.pools if pool.version is half.version), None)
    node = spec.own.half(half.version)
    if pool is None or node is None:
        return half.version is not IPV4
    return half.subnet == node.subnet and pool.holds(half.subnet) and half == _wanted_half(node, half.subnet, spec)


def leases_of(have: State) -> List[Lease]:
    """All leases by rising subnet."""
    leases = [item for item in have.values() if isinstance(item, Lease)]
    return sorted(leases, key=lambda lease: (ipaddress.IPv4Network(lease.subnet), lease.subnet6))


def claim(leases: Iterable[Lease], nodes: Iterable[Node]) -> Dict[str, List[Lease]]:
    """Which leases belong to which declared node: by MAC address or public key, and where no node has that, by address.

    These come first because they stay the same when a node moves to another address.
    """
    nodes = list(nodes)
    by_mark = {
        mark: node.name for node in nodes for half in node.halves for mark in (half.mac, half.public_key) if mark
    }
    by_address = {half.address: node.name for node in nodes for half in node.halves}
    found: Dict[str, List[Lease]] = {node.name: [] for node in nodes}
    behind: Dict[str, List[Lease]] = {node.name: [] for node in nodes}
    for lease in leases:
        halves = lease.halves
        of_mark = [by_mark[mark] for half in halves for mark in half.marks if mark in by_mark]
        of_address = [by_address[half.address] for half in halves if half.address in by_address]
        if of_mark:
            found[of_mark[0]].append(lease)
        elif of_address:
            behind[of_address[0]].append(lease)
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
    leases = leases_of(have)
    declared = {pool.version: pool for pool in spec.config.pools}
    for pool in present.pools:
        held = sum(1 for lease in leases if lease.half(pool.version) is not None)
        if pool.version in declared and declared[pool.version].network != pool.network and held:
            raise _other_network(declared[pool.version], pool, held, spec)
    return dataclasses.replace(spec.config, others=present.others)


def _other_network(declared: Pool, present: Pool, held: int, spec: LeaseSpec) -> SpecError:
    network_key = pool_keys(declared.version)[0]
    way_out = "remove the leases" if declared.version is IPV4 else f"run without {network_key}"
    return SpecError(
        f"config.{network_key}",
        f"is {declared.network}, but below {spec.prefix} etcd has network {present.network} with {held} leases. "
        f"A cluster cannot change its pod network in place: declare the old one, or {way_out} first",
    )


def _as_configured(spec: LeaseSpec, config: FlannelConfig) -> LeaseSpec:
    """Whoever leaves the configuration alone gives no node an IPv6 half that it has no place for."""
    if spec.update_config or config.network6 or not spec.config.network6:
        return spec
    pool, *_others = spec.config.pools
    alone = FlannelConfig(backend=spec.config.backend, others=spec.config.others, **pool.fields)
    return dataclasses.replace(spec, config=alone)


def _kept(
    claims: Mapping[str, Sequence[Lease]], foreign: Iterable[Lease], spec: LeaseSpec, pool: Pool, kept: _Kept
) -> Dict[str, Lease]:
    """Of each node the first lease whose subnet it can keep; before all others the one it keeps already."""
    found: Dict[str, Lease] = {}
    taken: Set[str] = set()
    others = {half.subnet for lease in foreign for half in lease.halves if half.version is pool.version}
    for node in spec.nodes:
        pinned = _half_of(node, pool).subnet
        for lease in sorted(claims[node.name], key=lambda lease: lease is not kept.get(node.name)):
            subnet = _subnet_of(lease, pool)
            stays = len(lease.halves) == len(spec.config.pools) and kept.get(node.name) in (None, lease)
            # Under another key it could come into the place of somebody else's lease.
            is_free = subnet not in taken and (stays or subnet not in others)
            if subnet is not None and is_free and pinned in (None, subnet) and pool.holds(subnet):
                found[node.name] = lease
                taken.add(subnet)
                break
    return found


def _half_of(node: Node, pool: Pool) -> NodeHalf:
    half = node.half(pool.version)
    assert half is not None, "a declared node has a half for each pool"
    return half


def _subnet_of(lease: Lease, pool: Pool) -> Optional[str]:
    half = lease.half(pool.version)
    return half.subnet if half is not None else None


def _allocate(leases: Sequence[Lease], foreign: Sequence[Lease], kept: _Kept, spec: LeaseSpec, pool: Pool) -> _Subnets:
    """A subnet for every node by name: its own, the one it must have, or in declared order the first free one."""
    subnets = {name: subnet for name, lease in kept.items() if (subnet := _subnet_of(lease, pool))}
    staying = {subnet: name for name, subnet in subnets.items()}
    for index, node in enumerate(spec.nodes):
        pinned = _half_of(node, pool).subnet
        if pinned is not None and node.name not in subnets:
            _refuse_taken(f"nodes[{index}].subnet{pool.version.suffix}", pinned, staying, foreign, pool)
            subnets[node.name] = pinned
    # What is given up in this same plan is not given out again: peers may still send there.
    used = [half.subnet for lease in leases for half in lease.halves if half.version is pool.version]
    promised = [half.subnet for node in spec.waiting for half in node.halves if half.version is pool.version]
    free = free_subnets(pool, [*used, *filter(None, promised), *subnets.values()])
    for index, node in enumerate(spec.nodes):
        if node.name not in subnets:
            subnets[node.name] = _next_free(free, index, node, pool)
    return subnets


def _refuse_taken(path: str, subnet: str, staying: Mapping[str, str], foreign: Iterable[Lease], pool: Pool) -> None:
    network = ipaddress.ip_network(subnet)
    if subnet in staying:
        raise SpecError(path, f"{subnet} is leased to node {staying[subnet]}; choose another or give that node one")
    for lease in foreign:
        half = lease.half(pool.version)
        if half is not None and network.overlaps(ipaddress.ip_network(half.subnet)):
            raise SpecError(path, f"{subnet} is leased to {lease.address or 'an unknown node'}; choose another one")


def _next_free(free: Iterator[str], index: int, node: Node, pool: Pool) -> str:
    try:
        return next(free)
    except StopIteration:
        _network, _length, low, high = pool_keys(pool.version)
        raise SpecError(
            f"nodes[{index}]",
            f"no subnet is left for {node.name}: each /{pool.subnet_len} from {pool.subnet_min} to "
            f"{pool.subnet_max} is leased. Widen {low} and {high}, or release leases of removed nodes",
        ) from None


def free_subnets(pool: Pool, used: Iterable[str]) -> Iterator[str]:
    """Subnets from the first to the last that overlap none of the used ones, each given once.

    The time it takes depends on the number of those, not on their size nor on that of the pool.
    """
    shift = pool.version.bits - pool.subnet_len
    networks = [ipaddress.ip_network(subnet) for subnet in used]
    spans = sorted((int(net.network_address) >> shift, int(net.broadcast_address) >> shift) for net in networks)
    index, last = pool.first >> shift, pool.last >> shift
    for low, high in [*spans, (last + 1, last + 1)]:
        while index < min(low, last + 1):
            yield f"{pool.version.text(index << shift)}/{pool.subnet_len}"
            index += 1
        index = max(index, high + 1)


def _wanted(node: Node, subnets: Sequence[str], kept: Optional[Lease], spec: LeaseSpec) -> Lease:
    pools = zip(spec.config.pools, subnets)
    halves = [_wanted_half(_half_of(node, pool), subnet, spec) for pool, subnet in pools]
    return lease_of(halves, spec.config.backend_type, _wanted_life(node, kept, spec))


def _wanted_half(node: NodeHalf, subnet: str, spec: LeaseSpec) -> Half:
    return Half(node.version, subnet, node.address, backend_data(spec.config, node))


def _wanted_life(node: Node, kept: Optional[Lease], spec: LeaseSpec) -> str:
    # Only the node itself renews: that its lease ends is how the others learn that it has been gone for a day.
    if kept is not None and node.name != spec.node:
        return LEASED if kept.life in (ENDING, SHARED) else kept.life
    return LEASED if spec.ttl else PERMANENT
