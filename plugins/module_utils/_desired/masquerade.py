# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Masquerade and forward rules for pod traffic, by nftables or by iptables, whichever works on the node."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any, Collection, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from .._engine import Outcome
from .._engine import converge as engine_converge
from .._model.errors import PrerequisiteError
from .._model.item import State
from .._model.masquerade import AUTO, IPTABLES, NFTABLES, FilterObject, FilterRule, MasqueradeSpec, parse_masquerade
from .._plan.operation import difference
from .._system import iptables
from .._system.forwarding import ForwardChain, dropping_chains
from .._system.lock import exclusive
from .._system.nftables import Nftables
from .._system.packet_filter import Backend, FilterAdapter, MissingError, UnsupportedError
from .._system.runner import Runner

KIND = "masquerade"
_RANKS = {FilterObject.kind: 0, FilterRule.kind: 1}
_ALTERNATIVES = {
    AUTO: "install nftables or iptables, and a kernel with nf_tables (or iptable_nat) and NAT",
    NFTABLES: "install it, or choose backend iptables or auto",
    IPTABLES: "install it, or choose backend nftables or auto",
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """The backend that holds the rules, why it, and what on the node drops pod packets all the same, a line each."""

    backend: str
    reason: str
    warnings: Tuple[str, ...] = ()


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Document: see ``parse_masquerade``. One backend holds the rules; all others hold none of ours.

    Raises PrerequisiteError before any change when no backend that the document allows works on the node.
    """
    return converge_and_explain(document, check, runner)[0]


def converge_and_explain(document: Mapping[str, Any], check: bool, runner: Runner) -> Tuple[Outcome, Optional[Choice]]:
    """The same with the choice that was made, None when no rules are wanted."""
    spec = parse_masquerade(document)
    with nullcontext() if check else exclusive(KIND):
        return _converge(spec, check, runner)


def _converge(spec: MasqueradeSpec, check: bool, runner: Runner) -> Tuple[Outcome, Optional[Choice]]:
    choosing = _Choosing(spec, runner, check)
    adapter = FilterAdapter(choosing.backends)
    if spec.empty:
        return engine_converge(adapter, lambda have: difference(have, {}, _RANKS), check), None
    backend, reason = choosing.choose(adapter.read())
    want = backend.wanted(spec)
    outcome = engine_converge(adapter, lambda have: difference(have, want, _RANKS), check)
    return outcome, Choice(backend.backend, reason, tuple(choosing.warnings(backend)))


class _Choosing:
    """Which of the allowed backends, by what is on the node.

    First iptables of the kind whose chain FORWARD drops, where rules of nftables could not help the pods; then of the
    kind that others use for forwarding, because what drops there may come any time; then what has rules of ours, or had
    them last; then the first that works.
    """

    def __init__(self, spec: MasqueradeSpec, runner: Runner, check: bool) -> None:
        self.spec, self.runner, self.check = spec, runner, check
        self.iptables = iptables.find(runner)
        self.backends: List[Backend] = [Nftables(runner), *self.iptables]
        self.forward: Dict[str, ForwardChain] = {}

    def choose(self, have: State) -> Tuple[Backend, str]:
        """The backend and the reason for it."""
        self.forward = {kind.backend: kind.forward_chain() for kind in self.iptables}
        in_use = {item.backend for item in have.values() if isinstance(item, (FilterObject, FilterRule))}
        allowed = [
            one for one in self.backends if self.spec.backend == AUTO or one.backend.startswith(self.spec.backend)
        ]
        reasons = {one.backend: self._reason(one.backend, in_use) for one in allowed}
        # In use before not in use, among those with reasons of the same weight.
        ranked = sorted(allowed, key=lambda one: (reasons[one.backend][0], one.backend not in in_use))
        backend = self._first_working(ranked, in_use)
        return backend, reasons[backend.backend][1]

    def _reason(self, name: str, in_use: Collection[str]) -> Tuple[int, str]:
        """Weight, the smallest first, and words."""
        forward = self.forward.get(name, ForwardChain())
        if forward.drops:
            return 0, f"only rules there let pods through chain FORWARD: {forward.drops}"
        if forward.foreign:
            return 1, "chain FORWARD there holds rules of others"
        if name in in_use:
            return 2, "has the rules already"
        if name == self.spec.remembered:
            return 3, "had the rules last"
        return (
            4,
            "the first that works" if self.spec.backend == AUTO else f"the first that works of {self.spec.backend}",
        )

    def _first_working(self, ranked: Sequence[Backend], in_use: Collection[str]) -> Backend:
        problems: Dict[str, PrerequisiteError] = {}
        for backend in ranked:
            problem = None if backend.backend in in_use else self._problem(backend)
            if problem is None:
                return backend
            problems[backend.backend] = problem
        missing = [backend for backend in ranked if isinstance(problems[backend.backend], MissingError)]
        # A real run comes here with the packages that check mode did not install.
        if self.check and missing:
            return missing[0]
        asked, found = self.spec.backend, "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        raise PrerequisiteError(f"backend {asked} does not work here: {found}. {_ALTERNATIVES[asked]}")

    def _problem(self, backend: Backend) -> Optional[PrerequisiteError]:
        return _problem(backend, self.check) or _problem_of_kin(backend, self.backends[0], self.check)

    def warnings(self, chosen: Backend) -> Iterator[str]:
        """Chains beside the chosen backend that drop forwarded packets."""
        if not self.spec.forward:
            return
        advice = f"Rules of {chosen.backend} cannot overrule that; accept {self._pods()} there"
        for name, forward in self.forward.items():
            if forward.drops and name != chosen.backend:
                dropped = f"drops pod packets that it does not accept: {forward.drops}"
                yield f"{name}: chain FORWARD of table filter {dropped}. {advice}"
        for chain in dropping_chains(self.runner):
            told = chain.of_iptables and self.forward.get(iptables.NFT, ForwardChain()).policy
            if not told:
                yield f"nftables: {chain} drops pod packets that it does not accept. {advice}"

    def _pods(self) -> str:
        networks = {
            str(match.network) for rule in self.spec.forward for match in (rule.source, rule.destination) if match
        }
        return f"{', '.join(sorted(networks))} as source and as destination"


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
