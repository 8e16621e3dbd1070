# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Masquerade and forward rules for pod traffic, by nftables or by iptables, whichever works on the node."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence

from .._engine import Outcome
from .._engine import converge as engine_converge
from .._model.errors import PrerequisiteError
from .._model.item import State
from .._model.masquerade import AUTO, IPTABLES, NFTABLES, FilterObject, FilterRule, MasqueradeSpec, parse_masquerade
from .._plan.operation import difference
from .._system import iptables
from .._system.nftables import Nftables
from .._system.packet_filter import Backend, FilterAdapter, MissingError, UnsupportedError
from .._system.runner import Runner

_RANKS = {FilterObject.kind: 0, FilterRule.kind: 1}
_ALTERNATIVES = {
    AUTO: "install nftables or iptables, and a kernel with nf_tables (or iptable_nat) and NAT",
    NFTABLES: "install it, or choose backend iptables or auto",
    IPTABLES: "install it, or choose backend nftables or auto",
}


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Document: see ``parse_masquerade``. One backend holds the rules; all others hold none of ours.

    Raises PrerequisiteError before any change when no backend that the document allows works on the node.
    """
    spec = parse_masquerade(document)
    backends: List[Backend] = [Nftables(runner), *iptables.find(runner)]
    adapter = FilterAdapter(backends)
    want: State = {} if spec.empty else _choose(spec, backends, adapter.read(), check).wanted(spec)
    return engine_converge(adapter, lambda have: difference(have, want, _RANKS), check)


def _choose(spec: MasqueradeSpec, backends: Sequence[Backend], have: State, check: bool) -> Backend:
    """The allowed backend that has rules of ours already, else the first that works."""
    allowed = [backend for backend in backends if spec.backend == AUTO or backend.backend.startswith(spec.backend)]
    in_use = {item.backend for item in have.values() if isinstance(item, (FilterObject, FilterRule))}
    for backend in allowed:
        if backend.backend in in_use:
            return backend
    return _first_working(spec, backends, allowed, check)


def _first_working(
    spec: MasqueradeSpec, backends: Sequence[Backend], allowed: Sequence[Backend], check: bool
) -> Backend:
    problems: Dict[str, PrerequisiteError] = {}
    for backend in allowed:
        problem = _problem(backend, check) or _problem_of_kin(backend, backends[0], check)
        if problem is None:
            return backend
        problems[backend.backend] = problem
    missing = [backend for backend in allowed if isinstance(problems[backend.backend], MissingError)]
    # A real run comes here with the packages that check mode did not install.
    if check and missing:
        return missing[0]
    found = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
    raise PrerequisiteError(f"backend {spec.backend} does not work here: {found}. {_ALTERNATIVES[spec.backend]}")


def _problem(backend: Backend, check: bool) -> Optional[PrerequisiteError]:
    try:
        backend.read()
        backend.probe(check)
    except PrerequisiteError as error:
        return error
    return None


def _problem_of_kin(backend: Backend, nftables: Backend, check: bool) -> Optional[PrerequisiteError]:
    """Check mode can try iptables-nft only by way of nft, if that is there: both need the same of the kernel."""
    problem = _problem(nftables, check) if check and backend.backend == iptables.NFT else None
    return problem if isinstance(problem, UnsupportedError) else None
