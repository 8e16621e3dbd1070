# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Subnet leases in etcd: those of all declared nodes (``ensure``), or only this node's kept alive (``renew``).

Document: the parameters of module ``overlay_lease``. The saved one also carries the subnet that this node got, so
that a renewal years later asks for the same one. Not applied at boot: leases live in etcd, and a timer renews them.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import ipaddress
from typing import Any, Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .._engine import Outcome, Plan
from .._engine import converge as engine_converge
from .._etcd.gateway import Gateway, UnreachableError
from .._etcd.leases import LeaseAdapter, LostRaceError
from .._model.backend import VXLAN, WIREGUARD
from .._model.errors import ApplyError, FairleadError, PrerequisiteError, SpecError
from .._model.etcd import parse_access
from .._model.ip_version import IPV4, VERSIONS, IpVersion
from .._model.item import State
from .._model.lease import Half, Lease, LeaseSpec, Node, parse_lease_spec, parse_nodes, parse_prefix
from .._model.lease_codec import lease_key, lease_name
from .._model.members import unusable
from .._model.parse import Section
from .._model.wireguard import is_public_key
from .._plan.lease import claim, leases_of, owners, plan, plan_keep, plan_release
from .._plan.lease_report import Conflict, conflicts, orphans
from .._plan.operation import Operation, outcome_of
from .._system.runner import Runner

KIND = "overlay_lease"
# New plans after a lost race. Each loss means that somebody else got on, so a handful is plenty.
PLANS = 10
# Leases of no declared node whose remaining time is asked for, each by a request of its own.
ASKED = 20
# Warnings of one run, and keys in one of them: what a person still reads. Results have all.
WARNINGS, SHOWN_KEYS = 20, 5


@dataclasses.dataclass(frozen=True)
class Ensured:
    """``leases``: ``[{name, subnet, address, mac, subnet6?, address6?, mac6?, backend_type, ttl}]`` of the declared
    backend, by rising subnet. Those that end with 6 are there where a lease has an IPv6 half and IPv6 is declared.

    Left out, with a warning each, are leases that no datapath can be made from and that this run cannot put right, or
    just their IPv6 half: those of no declared node, and with WireGuard those of nodes that have not told their keys.
    One broken or stale lease of somebody else shall not stop all nodes. ``name`` is None for a lease of no
    declared node; ``ttl`` is in seconds, 0 for a permanent lease and None where it was not asked for, which is the case
    for all but this node's. ``orphaned`` (``[{key, address, ttl}]``) are all leases of no declared node, and
    ``conflicts`` (``[{keys, problem, advice}]``) what is wrong with leases that nobody here may change.
    """

    outcome: Outcome
    leases: List[Dict[str, Any]]
    warnings: List[str]
    orphaned: List[Dict[str, Any]] = dataclasses.field(default_factory=list)
    conflicts: List[Dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Gathered:
    """All leases below the prefix, of all backends; the rest as in ``Ensured``."""

    leases: List[Dict[str, Any]]
    orphaned: List[Dict[str, Any]]
    conflicts: List[Dict[str, Any]]


class LostLeaseError(ApplyError):
    """This node's lease ran out and its subnet is another node's by now. Trying again is of no use."""


class _NotAsLeftError(FairleadError):
    """The lease is not what this node left it as."""


def converge(document: Mapping[str, Any], check: bool, runner: Optional[Runner] = None) -> Outcome:
    return ensure(document, check).outcome


def ensure(document: Mapping[str, Any], check: bool) -> Ensured:
    """Every declared node has its lease, this node's has at least half of its time left."""
    spec, access = parse_lease_spec(document), parse_access(document)
    _require_own_key(spec)
    try:
        adapter = _adapter(Gateway(access), spec)
        outcome = _converge(adapter, lambda have: plan(have, _with_known_keys(spec, have)), check)
    except (UnreachableError, PrerequisiteError) as error:
        if not check:
            raise
        operations = plan({}, _with_known_keys(spec, {}))
        outcome = Outcome({}, outcome_of({}, operations), operations)
        return Ensured(outcome, _listed(outcome.after, spec.nodes, spec), [_prediction(error)])
    leases, warnings = _usable(outcome.after, spec, adapter)
    return Ensured(
        outcome,
        leases,
        warnings,
        _orphaned(outcome.after, spec.nodes, spec.prefix, adapter),
        _conflicting(outcome.after, spec.nodes, spec.prefix, adapter),
    )


def _require_own_key(spec: LeaseSpec) -> None:
    if _backend(spec) == WIREGUARD and not spec.own.public_key:
        raise SpecError(
            f"nodes[{spec.nodes.index(spec.own)}].public_key",
            f"is required for {spec.node}, this node, with backend wireguard; module wireguard_key returns it",
        )


def _untold(spec: LeaseSpec) -> FrozenSet[str]:
    """Names of the nodes whose keys this run does not know."""
    return frozenset(node.name for node in spec.nodes if _backend(spec) == WIREGUARD and not node.public_key)


def _with_known_keys(spec: LeaseSpec, have: State) -> LeaseSpec:
    """With WireGuard a lease is of use only with a key, which is made on the node. Nodes that have not told theirs get
    no lease yet, or keep the one they have; one that is broken is put right with the key that it tells."""
    untold = _untold(spec)
    if not untold:
        return spec
    told = _keys_in_broken_leases(spec, have)
    nodes = [dataclasses.replace(node, public_key=node.public_key or told.get(node.name, "")) for node in spec.nodes]
    known, waiting = (tuple(node for node in nodes if bool(node.public_key) is known) for known in (True, False))
    return dataclasses.replace(spec, nodes=known, waiting=waiting)


def _keys_in_broken_leases(spec: LeaseSpec, have: State) -> Dict[str, str]:
    """By names of nodes that have not told their keys. A lease that is of use stays as its node wrote it: with another
    port declared by now, that node still listens on the old one."""
    listed = _listed(have, spec.nodes, spec)
    leases = _of_backend(have, spec)
    broken = [index for index in _problems(listed, spec) if listed[index]["name"] is not None]
    if not broken:
        return {}
    names = collections.Counter(entry["name"] for entry in listed)
    holders = collections.Counter(key for lease in leases for key in {half.public_key for half in lease.halves})
    holders.update(node.public_key for node in spec.nodes)
    found = {}
    for index in broken:
        name, keys = (
            listed[index]["name"],
            set(filter(is_public_key, (half.public_key for half in leases[index].halves))),
        )
        # What is also somebody else's, or not the only lease of the node, is no help.
        if names[name] == 1 and [holders[key] for key in keys] == [1]:
            found[name] = keys.pop()
    return found


def release(document: Mapping[str, Any], check: bool) -> Outcome:
    """This node's lease is gone, so that peers stop sending at once."""
    spec, access = parse_lease_spec(document), parse_access(document)
    return _converge(_adapter(Gateway(access), spec), lambda have: plan_release(have, spec), check)


def renew(document: Mapping[str, Any], check: bool = False) -> Outcome:
    """This node's lease, as remembered in the saved document, is alive. Nobody else's lease is touched.

    Raises LostLeaseError when its subnet, or its IPv6 subnet, is another node's by now.
    """
    own = [entry for entry in document.get("nodes", []) if entry.get("name") == document.get("node")]
    spec = dataclasses.replace(parse_lease_spec({**document, "nodes": own}), update_config=False)
    gateway = Gateway(parse_access(document))
    try:
        return _keep(_adapter(gateway, spec, _pinned_name(spec)), spec, check)
    except (_NotAsLeftError, LostRaceError):
        return _take_again(_adapter(gateway, spec), spec, check)


def _pinned_name(spec: LeaseSpec) -> str:
    """Of the key that the saved document tells of."""
    return lease_name(spec.own.subnet or "", (spec.own.subnet6 or "") if spec.config.network6 else "")


def _keep(adapter: LeaseAdapter, spec: LeaseSpec, check: bool) -> Outcome:
    """The usual case, which costs etcd one key: the lease is as it was left, and at most needs more time."""

    def planned(have: State) -> List[Operation]:
        operations = plan_keep(have, spec)
        if operations is None:
            raise _NotAsLeftError
        return operations

    return engine_converge(adapter, planned, check)


def _take_again(adapter: LeaseAdapter, spec: LeaseSpec, check: bool) -> Outcome:
    def planned(have: State) -> List[Operation]:
        operations = plan_keep(have, spec)
        return plan(have, spec) if operations is None else operations

    try:
        return _converge(adapter, planned, check)
    except SpecError as error:
        if error.path not in ("nodes[0].subnet", "nodes[0].subnet6"):
            raise
        raise LostLeaseError(
            f"lease {_pinned_name(spec)} of {spec.own.name}",
            f"{error.problem.split(';')[0]}. Run the overlay playbook on this node, which takes a new subnet",
        ) from error


def gather(document: Mapping[str, Any]) -> Gathered:
    """All leases below the prefix with their remaining time; names only of the nodes in the document."""
    section = Section(document)
    nodes = parse_nodes(section) if document.get("nodes") else ()
    prefix = parse_prefix(section)
    adapter = LeaseAdapter(Gateway(parse_access(document)), prefix, 0, lambda lease: True)
    try:
        have = adapter.read()
    finally:
        adapter.gateway.close()
    orphaned = _orphaned(have, nodes, prefix, adapter) if nodes else []
    return Gathered(_listed(have, nodes, adapter=adapter), orphaned, _conflicting(have, nodes, prefix, adapter))


def remembered(document: Mapping[str, Any], ensured: Ensured) -> Dict[str, Any]:
    """The document to save: with the subnets that this node has, and without the public keys of others, which only
    those tell that are part of a run."""
    own = next(lease for lease in ensured.leases if lease["name"] == document["node"])
    subnets: Dict[str, Any] = {key: own[key] for key in ("subnet", "subnet6") if key in own}
    nodes = [
        {**entry, **subnets} if entry["name"] == own["name"] else _without_key(entry) for entry in document["nodes"]
    ]
    return {**document, "nodes": nodes}


def _without_key(entry: Mapping[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "public_key"}


def _adapter(gateway: Gateway, spec: LeaseSpec, only: Optional[str] = None) -> LeaseAdapter:
    def owned(lease: Lease) -> bool:
        return bool(claim([lease], [spec.own])[spec.node])

    return LeaseAdapter(gateway, spec.prefix, spec.ttl, owned, only)


def _converge(adapter: LeaseAdapter, planned: Plan, check: bool) -> Outcome:
    try:
        for _attempt in range(PLANS - 1):
            try:
                return engine_converge(adapter, planned, check)
            except LostRaceError:
                continue
        return engine_converge(adapter, planned, check)
    finally:
        adapter.gateway.close()


def _backend(spec: LeaseSpec) -> str:
    return spec.config.backend_type


def _listed(
    state: State, nodes: Iterable[Node], spec: Optional[LeaseSpec] = None, adapter: Optional[LeaseAdapter] = None
) -> List[Dict[str, Any]]:
    """With ``spec`` only leases of its backend, and only halves that it declares."""
    names = owners(state, nodes)
    versions = VERSIONS if spec is None else tuple(pool.version for pool in spec.config.pools)
    return [
        {
            "name": names.get(lease),
            **{key: value for half in lease.halves if half.version in versions for key, value in _entry(half).items()},
            "backend_type": lease.backend_type,
            "ttl": None if adapter is None else adapter.seconds_left(lease),
        }
        for lease in leases_of(state)
        if spec is None or lease.backend_type == _backend(spec)
    ]


def _entry(half: Half) -> Dict[str, Any]:
    """How a half of a lease is told in results, which is how module overlay_network takes it."""
    suffix = half.version.suffix
    entry: Dict[str, Any] = {f"subnet{suffix}": half.subnet, f"address{suffix}": half.address}
    if half.public_key:
        return {**entry, f"public_key{suffix}": half.public_key, f"listen_port{suffix}": half.listen_port}
    return {**entry, f"mac{suffix}": half.mac}


def _usable(state: State, spec: LeaseSpec, adapter: LeaseAdapter) -> Tuple[List[Dict[str, Any]], List[str]]:
    """The leases, or halves of leases, that a datapath can be made from, and a warning for each other one."""
    listed, leases = _listed(state, spec.nodes, spec, adapter), _of_backend(state, spec)
    left_out = {leases[index]: out for index, out in _problems(listed, spec).items()}
    warnings = _warnings(conflicts(state, spec.nodes), left_out, spec.prefix)
    warnings += [f"etcd key {key} {_STRANGE[0]}. {_STRANGE[1]}" for key in adapter.strange]
    if len(warnings) > WARNINGS:
        more = f"and {len(warnings) - WARNINGS} more problems of leases; result conflicts has all"
        warnings = [*warnings[:WARNINGS], more]
    usable = [_without(entry, left_out.get(lease)) for lease, entry in zip(leases, listed)]
    return [entry for entry in usable if entry], warnings


class _LeftOut(NamedTuple):
    """Why no datapath can be made from a lease, or from its IPv6 half alone. ``name`` is that of its node, None where
    that is not declared."""

    version: IpVersion
    problem: str
    name: Optional[str]

    @property
    def whole(self) -> bool:
        return self.version is IPV4

    @property
    def owner(self) -> str:
        return "no declared node" if self.name is None else f"node {self.name}, whose public key is not known here,"

    @property
    def advice(self) -> str:
        if self.name is None:
            return "Delete the key, or have its node write it anew"
        return f"Run the overlay playbook on {self.name}, which writes it anew"


def _problems(listed: Sequence[Mapping[str, Any]], spec: LeaseSpec) -> Dict[int, _LeftOut]:
    """By index, of leases of the backend that no datapath can be made from."""
    kind, untold = _backend(spec), _untold(spec)
    found: Dict[int, _LeftOut] = {}
    for pool in spec.config.pools:
        network = ipaddress.ip_network(pool.network)
        for index, problem in unusable(listed, [network], kind == VXLAN, kind == WIREGUARD, untold).items():
            found.setdefault(index, _LeftOut(pool.version, problem, listed[index]["name"]))
    return found


def _of_backend(state: State, spec: LeaseSpec) -> List[Lease]:
    """In the order of ``_listed``."""
    return [lease for lease in leases_of(state) if lease.backend_type == _backend(spec)]


def _without(entry: Dict[str, Any], left_out: Optional[_LeftOut]) -> Dict[str, Any]:
    """What is left of the entry, which may be nothing."""
    if left_out is None:
        return entry
    # As with flannel, a lease whose IPv4 half is broken is not trusted in its other half.
    suffix = left_out.version.suffix
    return {} if left_out.whole else {key: value for key, value in entry.items() if not key.endswith(suffix)}


_STRANGE = (
    "is not in flannel's form of a subnet, like 10.244.1.0-24, without host bits",
    "It is not looked at, and a subnet it may stand for is given out: delete the key",
)


def _warnings(found: Iterable[Conflict], left_out: Mapping[Lease, _LeftOut], prefix: str) -> List[str]:
    """One for each conflict, and one for each lease that is left out and in none."""
    warnings, told = [], set()
    for conflict in found:
        gone = [lease for lease in conflict.leases if lease in left_out]
        told.update(gone)
        consequence = "".join(
            f"; {what} of the overlay: {_keys(leases, prefix)}"
            for what, leases in (
                ("left out", [lease for lease in gone if left_out[lease].whole]),
                ("IPv6 left out", [lease for lease in gone if not left_out[lease].whole]),
            )
            if leases
        )
        many = "keys" if len(conflict.leases) > 1 else "key"
        keys = _keys(conflict.leases, prefix)
        warnings.append(f"etcd {many} {keys} {conflict.problem}{consequence}. {conflict.advice}")
    return warnings + [
        f"etcd key {lease_key(prefix, lease)} is of {out.owner} and "
        f"{'left' if out.whole else 'with its IPv6 left'} out of the overlay, because "
        f"no datapath can be made from it: {out.problem}. {out.advice}"
        for lease, out in left_out.items()
        if lease not in told
    ]


def _keys(leases: Sequence[Lease], prefix: str) -> str:
    more = f" and {len(leases) - SHOWN_KEYS} more" if len(leases) > SHOWN_KEYS else ""
    return ", ".join(f"{lease_key(prefix, lease)} ({lease.address})" for lease in leases[:SHOWN_KEYS]) + more


def _orphaned(state: State, nodes: Iterable[Node], prefix: str, adapter: LeaseAdapter) -> List[Dict[str, Any]]:
    found = orphans(state, nodes)
    try:
        # The run is over and was well: that this cannot be told is no failure of it.
        with contextlib.suppress(FairleadError):
            adapter.ask_time(found[:ASKED])
    finally:
        adapter.gateway.close()
    return [
        {"key": lease_key(prefix, lease), "address": lease.address, "ttl": adapter.seconds_left(lease)}
        for lease in found
    ]


def _conflicting(state: State, nodes: Iterable[Node], prefix: str, adapter: LeaseAdapter) -> List[Dict[str, Any]]:
    found = [
        {
            "keys": [lease_key(prefix, lease) for lease in conflict.leases],
            "problem": conflict.problem,
            "advice": conflict.advice,
        }
        for conflict in conflicts(state, nodes)
    ]
    return found + [{"keys": [key], "problem": _STRANGE[0], "advice": _STRANGE[1]} for key in adapter.strange]


def _prediction(error: Exception) -> str:
    return f"predicted from the declared data alone, as if etcd were empty, because it cannot be asked: {error}"
