# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Subnet leases in etcd: those of all declared nodes (``ensure``), or only this node's kept alive (``renew``).

Document: the parameters of module ``overlay_lease``. The saved one also carries the subnet that this node got, so
that a renewal years later asks for the same one. Not applied at boot: leases live in etcd, and a timer renews them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Iterable, List, Mapping, Optional

from .._engine import Outcome, Plan
from .._engine import converge as engine_converge
from .._etcd.gateway import Gateway, UnreachableError
from .._etcd.leases import LeaseAdapter, LostRaceError
from .._model.errors import ApplyError, PrerequisiteError, SpecError
from .._model.etcd import parse_access
from .._model.item import State
from .._model.lease import LeaseSpec, Node, parse_lease_spec, parse_nodes, parse_prefix
from .._model.parse import Section
from .._plan.lease import claim, leases_of, owners, plan, plan_release
from .._plan.operation import outcome_of
from .._system.runner import Runner

KIND = "overlay_lease"
# New plans after a lost race. Each loss means that somebody else got on, so a handful is plenty.
PLANS = 10


@dataclasses.dataclass(frozen=True)
class Ensured:
    """``leases``: ``[{name, subnet, address, mac, backend_type, ttl}]`` of the declared backend, by rising subnet.

    ``name`` is None for a lease of no declared node; ``ttl`` is in seconds, 0 for a permanent lease and None where it
    was not asked for, which is the case for all but this node's.
    """

    outcome: Outcome
    leases: List[Dict[str, Any]]
    warnings: List[str]


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
    return Ensured(outcome, _listed(outcome.after, spec.nodes, _backend(spec), adapter), [])


def release(document: Mapping[str, Any], check: bool) -> Outcome:
    """This node's lease is gone, so that peers stop sending at once."""
    spec, access = parse_lease_spec(document), parse_access(document)
    return _converge(_adapter(Gateway(access), spec), lambda have: plan_release(have, spec), check)


def renew(document: Mapping[str, Any], check: bool = False) -> Outcome:
    """This node's lease, as remembered in the saved document, is alive. Nobody else's lease is touched.

    Raises ApplyError when the lease is lost and its subnet is another node's by now.
    """
    own = [entry for entry in document.get("nodes", []) if entry.get("name") == document.get("node")]
    spec = dataclasses.replace(parse_lease_spec({**document, "nodes": own}), update_config=False)
    adapter = _adapter(Gateway(parse_access(document)), spec)
    try:
        return _converge(adapter, lambda have: plan(have, spec), check)
    except SpecError as error:
        if error.path != "nodes[0].subnet":
            raise
        raise ApplyError(
            f"lease {spec.own.subnet} of {spec.own.name}",
            f"{error.problem.split(';')[0]}: this node lost it. Run the overlay playbook on it, which takes a new one",
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


def _adapter(gateway: Gateway, spec: LeaseSpec) -> LeaseAdapter:
    return LeaseAdapter(gateway, spec.prefix, spec.ttl, lambda lease: bool(claim([lease], [spec.own])[spec.node]))


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


def _prediction(error: Exception) -> str:
    return f"predicted from the declared data alone, as if etcd were empty, because it cannot be asked: {error}"
