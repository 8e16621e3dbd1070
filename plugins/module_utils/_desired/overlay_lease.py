# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Subnet leases in etcd: those of all declared nodes (``ensure``), or only this node's kept alive (``renew``).

Document: the parameters of module ``overlay_lease``. The saved one also carries the subnet that this node got, so
that a renewal years later asks for the same one. Not applied at boot: leases live in etcd, and a timer renews them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from .._engine import Outcome, Plan
from .._engine import converge as engine_converge
from .._etcd.gateway import Gateway, UnreachableError
from .._etcd.leases import LeaseAdapter, LostRaceError
from .._model.errors import ApplyError, FairleadError, PrerequisiteError, SpecError
from .._model.etcd import parse_access
from .._model.item import State
from .._model.lease import Lease, LeaseSpec, Node, parse_lease_spec, parse_nodes, parse_prefix
from .._model.lease_codec import lease_key
from .._model.members import unusable
from .._model.parse import Section
from .._plan.lease import claim, leases_of, owners, plan, plan_keep, plan_release
from .._plan.operation import Operation, outcome_of
from .._system.runner import Runner

KIND = "overlay_lease"
# New plans after a lost race. Each loss means that somebody else got on, so a handful is plenty.
PLANS = 10


@dataclasses.dataclass(frozen=True)
class Ensured:
    """``leases``: ``[{name, subnet, address, mac, backend_type, ttl}]`` of the declared backend, by rising subnet.

    Left out, with a warning each, are leases of no declared node that no datapath can be made from: one broken or stale
    lease of somebody else shall not stop all nodes. ``name`` is None for a lease of no declared node; ``ttl``
    is in seconds, 0 for a permanent lease and None where it was not asked for, which is the case for all but
    this node's.
    """

    outcome: Outcome
    leases: List[Dict[str, Any]]
    warnings: List[str]


class LostLeaseError(ApplyError):
    """This node's lease ran out and its subnet is another node's by now. Trying again is of no use."""


class _NotAsLeftError(FairleadError):
    """The lease is not what this node left it as."""


def converge(document: Mapping[str, Any], check: bool, runner: Optional[Runner] = None) -> Outcome:
    return ensure(document, check).outcome


def ensure(document: Mapping[str, Any], check: bool) -> Ensured:
    """Every declared node has its lease, this node's has at least half of its time left."""
    spec, access = parse_lease_spec(document), parse_access(document)
    try:
        adapter = _adapter(Gateway(access), spec)
        outcome = _converge(adapter, lambda have: plan(have, spec), check)
    except (UnreachableError, PrerequisiteError) as error:
        if not check:
            raise
        operations = plan({}, spec)
        outcome = Outcome({}, outcome_of({}, operations), operations)
        return Ensured(outcome, _listed(outcome.after, spec.nodes, _backend(spec)), [_prediction(error)])
    return Ensured(outcome, *_usable(outcome.after, spec, adapter))


def release(document: Mapping[str, Any], check: bool) -> Outcome:
    """This node's lease is gone, so that peers stop sending at once."""
    spec, access = parse_lease_spec(document), parse_access(document)
    return _converge(_adapter(Gateway(access), spec), lambda have: plan_release(have, spec), check)


def renew(document: Mapping[str, Any], check: bool = False) -> Outcome:
    """This node's lease, as remembered in the saved document, is alive. Nobody else's lease is touched.

    Raises LostLeaseError when its subnet is another node's by now.
    """
    own = [entry for entry in document.get("nodes", []) if entry.get("name") == document.get("node")]
    spec = dataclasses.replace(parse_lease_spec({**document, "nodes": own}), update_config=False)
    gateway = Gateway(parse_access(document))
    try:
        return _keep(_adapter(gateway, spec, spec.own.subnet), spec, check)
    except (_NotAsLeftError, LostRaceError):
        return _take_again(_adapter(gateway, spec), spec, check)


def _keep(adapter: LeaseAdapter, spec: LeaseSpec, check: bool) -> Outcome:
    """The usual case, which costs etcd one key: the lease is as it was left, and at most needs more time."""

    def planned(have: State) -> List[Operation]:
        operations = plan_keep(have, spec)
        if operations is None:
            raise _NotAsLeftError
        return operations

    return engine_converge(adapter, planned, check)


def _take_again(adapter: LeaseAdapter, spec: LeaseSpec, check: bool) -> Outcome:
    try:
        return _converge(adapter, lambda have: plan(have, spec), check)
    except SpecError as error:
        if error.path != "nodes[0].subnet":
            raise
        raise LostLeaseError(
            f"lease {spec.own.subnet} of {spec.own.name}",
            f"{error.problem.split(';')[0]}. Run the overlay playbook on this node, which takes a new subnet",
        ) from error


def gather(document: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """All leases below the prefix with their remaining time; names only of the nodes in the document."""
    section = Section(document)
    nodes = parse_nodes(section) if document.get("nodes") else ()
    adapter = LeaseAdapter(Gateway(parse_access(document)), parse_prefix(section), 0, lambda lease: True)
    return _listed(adapter.read(), nodes, None, adapter)


def remembered(document: Mapping[str, Any], ensured: Ensured) -> Dict[str, Any]:
    """The document to save: with the subnet that this node has."""
    subnets = {lease["name"]: lease["subnet"] for lease in ensured.leases}
    own = document["node"]
    nodes = [{**entry, "subnet": subnets[own]} if entry["name"] == own else dict(entry) for entry in document["nodes"]]
    return {**document, "nodes": nodes}


def _adapter(gateway: Gateway, spec: LeaseSpec, subnet: Optional[str] = None) -> LeaseAdapter:
    def owned(lease: Lease) -> bool:
        return bool(claim([lease], [spec.own])[spec.node])

    return LeaseAdapter(gateway, spec.prefix, spec.ttl, owned, subnet)


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
    state: State, nodes: Iterable[Node], backend: Optional[str], adapter: Optional[LeaseAdapter] = None
) -> List[Dict[str, Any]]:
    names = owners(state, nodes)
    return [
        {
            "name": names.get(lease),
            "subnet": lease.subnet,
            "address": lease.address,
            "mac": lease.mac,
            "backend_type": lease.backend_type,
            "ttl": None if adapter is None else adapter.seconds_left(lease),
        }
        for lease in leases_of(state)
        if backend in (None, lease.backend_type)
    ]


def _usable(state: State, spec: LeaseSpec, adapter: LeaseAdapter) -> Tuple[List[Dict[str, Any]], List[str]]:
    """The leases that a datapath can be made from, and a warning for each other one."""
    listed = _listed(state, spec.nodes, _backend(spec), adapter)
    problems = unusable(listed, ipaddress.IPv4Network(spec.config.network))
    leases = [lease for lease in leases_of(state) if lease.backend_type == _backend(spec)]
    warnings = [
        f"etcd key {lease_key(spec.prefix, leases[index])} is of no declared node and left out of the overlay, because "
        f"no datapath can be made from it: {problem}"
        for index, problem in sorted(problems.items())
    ]
    return [lease for index, lease in enumerate(listed) if index not in problems], warnings


def _prediction(error: Exception) -> str:
    return f"predicted from the declared data alone, as if etcd were empty, because it cannot be asked: {error}"
