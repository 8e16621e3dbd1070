# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Masquerade and forward rules for pod traffic, by nftables or by iptables, whichever works on the node."""

from __future__ import annotations

import dataclasses
from typing import Any, Collection, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from .._engine import Outcome
from .._engine import converge as engine_converge
from .._model.errors import PrerequisiteError
from .._model.filter_items import FilterObject, FilterRule, version_of_table
from .._model.ip_version import IPV4, IpVersion
from .._model.item import State
from .._model.masquerade import AUTO, IPTABLES, NFTABLES, MasqueradeSpec, parse_masquerade
from .._plan.operation import difference
from .._system import iptables
from .._system.forwarding import ForwardChain, dropping_chains
from .._system.lock import exclusive
from .._system.nftables import Nftables
from .._system.packet_filter import Backend, FilterAdapter, MissingError, UnsupportedError, wanted
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
    """The backend that holds the rules of all IP versions, why it, and what on the node drops pod packets all the same,
    a line each."""

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
    with exclusive(KIND, check):
        return _converge(spec, check, runner)


def _converge(spec: MasqueradeSpec, check: bool, runner: Runner) -> Tuple[Outcome, Optional[Choice]]:
    choosing = _Choosing(spec, runner, check)
    adapter = FilterAdapter(choosing.backends)
    if not spec.rules:
        return engine_converge(adapter, lambda have: difference(have, {}, _RANKS), check), None
    backend, reason = choosing.choose(adapter.read())
    want = wanted(backend, spec)
    outcome = engine_converge(adapter, lambda have: difference(have, want, _RANKS), check)
    return outcome, Choice(backend.backend, reason, tuple(choosing.warnings(backend)))


# Backends and IP versions that they hold rules of ours for.
_Places = Collection[Tuple[str, IpVersion]]


class _Choosing:
    """Which of the allowed backends, by what is on the node. One holds the rules of all declared IP versions.

    First iptables of the kind whose chain FORWARD drops, where rules of nftables could not help the pods, and of two
    such kinds the one that drops more IP versions; then of the kind that others use for forwarding, because what drops
    there may come any time; then what has rules of ours, or had them last; then the first that works.
    """

    def __init__(self, spec: MasqueradeSpec, runner: Runner, check: bool) -> None:
        self.spec, self.runner, self.check = spec, runner, check
        self.iptables = iptables.find(runner)
        self.backends: List[Backend] = [Nftables(runner), *self.iptables]
        # By kind of iptables, for the declared IP versions only.
        self.forward: Dict[str, Dict[IpVersion, ForwardChain]] = {}

    def choose(self, have: State) -> Tuple[Backend, str]:
        """The backend and the reason for it, after ``have`` was read of all."""
        versions = self.spec.versions
        self.forward = {kind.backend: {each: kind.forward_chain(each) for each in versions} for kind in self.iptables}
        items = [item for item in have.values() if isinstance(item, (FilterObject, FilterRule))]
        in_use = {(item.backend, version_of_table(item.table)) for item in items}
        allowed = [
            one for one in self.backends if self.spec.backend == AUTO or one.backend.startswith(self.spec.backend)
        ]
        reasons = {one.backend: self._reason(one.backend, in_use) for one in allowed}
        # In use before not in use, among those with reasons of the same weight.
        ranked = sorted(allowed, key=lambda one: (reasons[one.backend][0], not _in_use(one.backend, in_use)))
        backend = self._first_working(ranked, in_use)
        return backend, reasons[backend.backend][1]

    def _reason(self, name: str, in_use: _Places) -> Tuple[Tuple[int, int], str]:
        """Weight, the smallest first, and words."""
        chains = self.forward.get(name, {})
        walls = [f"{chain.drops} ({version})" for version, chain in chains.items() if chain.drops]
        if walls:
            return (0, -len(walls)), f"only rules there let pods through chain FORWARD: {', '.join(walls)}"
        foreign = [str(version) for version, chain in chains.items() if chain.foreign]
        if foreign:
            return (1, -len(foreign)), f"chain FORWARD there holds rules of others ({', '.join(foreign)})"
        if _in_use(name, in_use):
            return (2, 0), "has the rules already"
        if name == self.spec.remembered:
            return (3, 0), "had the rules last"
        of_choice = "" if self.spec.backend == AUTO else f" of {self.spec.backend}"
        return (4, 0), f"the first that works{of_choice}"

    def _first_working(self, ranked: Sequence[Backend], in_use: _Places) -> Backend:
        problems: Dict[str, Tuple[IpVersion, PrerequisiteError]] = {}
        for backend in ranked:
            problem = self._problem(backend, in_use)
            if problem is None:
                return backend
            problems[backend.backend] = problem
        missing = [backend for backend in ranked if isinstance(problems[backend.backend][1], MissingError)]
        # A real run comes here with the packages that check mode did not install.
        if self.check and missing:
            return missing[0]
        found = "; ".join(f"{_half(name, version)}: {problem}" for name, (version, problem) in problems.items())
        asked = self.spec.backend
        raise PrerequisiteError(f"backend {asked} does not work here: {found}. {_ALTERNATIVES[asked]}")

    def _problem(self, backend: Backend, in_use: _Places) -> Optional[Tuple[IpVersion, PrerequisiteError]]:
        """The first IP version that the backend does not do, and why."""
        for version in self.spec.versions:
            if (backend.backend, version) not in in_use:
                problem = _problem(backend, version, self.check)
                problem = problem or _problem_of_kin(backend, self.backends[0], version, self.check)
                if problem is not None:
                    return version, problem
        return None

    def warnings(self, chosen: Backend) -> Iterator[str]:
        """Chains beside the chosen backend that drop forwarded packets."""
        if not any(rules.forward for rules in self.spec.rules):
            return
        advice = f"Rules of {chosen.backend} cannot overrule that; accept"
        for name, chains in self.forward.items():
            for version, chain in chains.items():
                if chain.drops and name != chosen.backend:
                    dropped = f"drops pod packets that it does not accept: {chain.drops}"
                    place = f"{_half(name, version)}: chain FORWARD of table filter"
                    yield f"{place} {dropped}. {advice} {self._pods([version])} there"
        shown = [version for version, chain in self.forward.get(iptables.NFT, {}).items() if chain.policy]
        for found in dropping_chains(self.runner, self.spec.versions):
            if not found.of_iptables or found.versions[0] not in shown:
                dropped = f"{found} drops pod packets that it does not accept"
                yield f"nftables: {dropped}. {advice} {self._pods(found.versions)} there"

    def _pods(self, versions: Collection[IpVersion]) -> str:
        networks = [str(rules.network) for rules in self.spec.rules if rules.version in versions]
        return f"{', '.join(networks)} as source and as destination"


def _in_use(name: str, places: _Places) -> bool:
    return any(name == backend for backend, _version in places)


def _half(name: str, version: IpVersion) -> str:
    """A backend in messages about one IP version."""
    return name if version is IPV4 else f"{name} ({version})"


def _problem(backend: Backend, version: IpVersion, check: bool) -> Optional[PrerequisiteError]:
    try:
        backend.read(version)
        backend.probe(version, check)
    except PrerequisiteError as error:
        return error
    return None


def _problem_of_kin(
    backend: Backend, nftables: Backend, version: IpVersion, check: bool
) -> Optional[PrerequisiteError]:
    """Check mode can try iptables-nft only by way of nft, if that is there: both need the same of the kernel."""
    problem = _problem(nftables, version, check) if check and backend.backend == iptables.NFT else None
    return problem if isinstance(problem, UnsupportedError) else None
