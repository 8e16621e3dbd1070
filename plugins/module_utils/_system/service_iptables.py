# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Rules for services by iptables with sets of ipset(8): chains of our own, and one jump to each."""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, List, Mapping, Tuple

from .._model.filter_items import FilterObject, FilterRule, nft_name
from .._model.ip_version import VERSIONS, IpVersion
from .._model.item import Item, State, state_of
from .._model.service_nat import MARK, SETS, ServiceNat
from .packet_filter import MissingError, refused
from .runner import Runner
from .service_sets import ServiceSets, set_name

COMMENT = '-m comment --comment "fairlead services"'
# Chain, table, chains of the kernel that jump to it, and whether before all other rules there: one that accepts
# everything must not come first where packets are refused, and one that rewrites the source of a marked packet would
# leave it with the mark.
MARKING, SOURCE, GUARD = "FAIRLEAD-SVC", "FAIRLEAD-SVC-SNAT", "FAIRLEAD-SVC-GUARD"
_CHAINS = {
    MARKING: ("nat", ("PREROUTING", "OUTPUT"), False),
    SOURCE: ("nat", ("POSTROUTING",), True),
    GUARD: ("filter", ("INPUT", "OUTPUT"), True),
}
_MARKED = f"{MARK:#x}/{MARK:#x}"
_RULE = re.compile(r"-A (\S+) (.*)")


class ServiceIptables:
    """For both IP versions. ``backend`` is iptables-nft or iptables-legacy, ``commands`` its commands."""

    at_once = True

    def __init__(self, backend: str, commands: Mapping[IpVersion, str], runner: Runner) -> None:
        self.backend = backend
        self.commands = commands
        self.runner = runner
        self.sets = ServiceSets(runner)

    def read(self, version: IpVersion) -> State:
        """Raises MissingError without a command, UnsupportedError when the kernel has no such tables."""
        saved = self._run([f"{self.commands[version]}-save"])
        items: List[Item] = list(_rules(self.backend, version, saved))
        return state_of(items)

    def probe(self, version: IpVersion, check: bool) -> None:
        self._run([self.commands[version], "-w", "-t", "nat", "-S"])
        self.sets.probe(version, check)

    def wanted(self, nat: ServiceNat) -> State:
        """The sets too."""
        items: List[Item] = []
        for chain, rules in _wanted_rules(nat).items():
            table, parents, _first = _CHAINS[chain]
            place = f"{nft_name(nat.version)} {table}"
            items.append(FilterObject(self.backend, place, f"chain {chain}"))
            items += [FilterRule(self.backend, place, chain, at, rule) for at, rule in enumerate(rules, 1)]
            items += [FilterRule(self.backend, place, parent, 1, f"{COMMENT} -j {chain}") for parent in parents]
        return {**self.sets.wanted(nat), **state_of(items)}

    def write(self, table: str, have: State, want: State) -> None:
        for version in VERSIONS:
            for name in ("nat", "filter"):
                place = f"{nft_name(version)} {name}"
                old, new = _in_table(have, place), _in_table(want, place)
                if old != new:
                    self._restore_rules(version, name, old, new)

    def _restore_rules(self, version: IpVersion, table: str, old: State, new: State) -> None:
        """In one transaction. A jump that is there stays where it is; chains go after the jumps to them."""
        before, after = _by_chain(old), _by_chain(new)
        filled = [chain for chain in _CHAINS if chain in after and _chain_there(new, chain)]
        gone = [chain for chain in _CHAINS if _chain_there(old, chain) and chain not in filled]
        lines = [f"*{table}", *(f":{chain} - [0:0]" for chain in filled)]
        for chain in {**before, **after}:
            if chain not in _CHAINS:
                lines += _jumps(chain, before.get(chain, []), after.get(chain, []))
        lines += [f"-A {chain} {rule}" for chain in filled for rule in after.get(chain, [])]
        lines += [f"-F {chain}" for chain in gone] + [f"-X {chain}" for chain in gone]
        self._run([f"{self.commands[version]}-restore", "--noflush", "-w"], "\n".join([*lines, "COMMIT", ""]))

    def _run(self, words: List[str], data: Any = None) -> str:
        status, output, error = self.runner(words, data)
        if status == 127:
            raise MissingError(f"command {words[0]} is missing (package iptables)")
        if status != 0:
            raise refused(words[0], error or output)
        return output


def _wanted_rules(nat: ServiceNat) -> Dict[str, List[str]]:
    def match(field: str, negated: bool = False, directions: str = "") -> str:
        found = directions or SETS[field].directions
        return f"-m set {'! ' if negated else ''}--match-set {set_name(field, nat.version)} {found}"

    mark = f"{COMMENT} -j MARK --set-xmark {_MARKED}"
    unreachable = f"REJECT --reject-with icmp{nat.version.suffix}-port-unreachable"
    pods = [] if nat.masquerade_all else [f"-s {network} {COMMENT} -j RETURN" for network in nat.pods]
    new = f"-m conntrack --ctstate NEW {COMMENT}"
    return {
        MARKING: [
            f"{match('outside')} {mark}",
            f"{match('addresses', directions='src')} {mark}",
            *pods,
            f"{match('cluster')} {mark}",
        ],
        SOURCE: [
            f"{match('hairpins')} {mark}",
            f"-m mark ! --mark {_MARKED} {COMMENT} -j RETURN",
            f"{COMMENT} -j MARK --set-xmark 0x0/{MARK:#x}",
            f"{COMMENT} -j MASQUERADE --random-fully",
        ],
        GUARD: [
            f"{match('guarded')} {match('allowed', negated=True)} {COMMENT} -j DROP",
            *(
                f"-p {protocol} {match('addresses')} {match('known', negated=True)} {new} -j {unreachable}"
                for protocol in ("tcp", "udp", "sctp")
            ),
        ],
    }


def _rules(backend: str, version: IpVersion, saved: str) -> Iterator[Item]:
    """Our chains and their rules, and the jumps to them, of what iptables-save prints."""
    table = ""
    positions: Dict[Tuple[str, str], int] = {}
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        place = f"{nft_name(version)} {table}"
        chain = line[1:].split(" ")[0] if line.startswith(":") else ""
        if chain in _CHAINS:
            yield FilterObject(backend, place, f"chain {chain}")
        rule = _RULE.fullmatch(line.strip())
        if rule and (rule[1] in _CHAINS or rule[2].split(" ")[-1] in _CHAINS):
            at = positions[table, rule[1]] = positions.get((table, rule[1]), 0) + 1
            yield FilterRule(backend, place, rule[1], at, rule[2])


def _in_table(state: State, place: str) -> State:
    return {key: item for key, item in state.items() if getattr(item, "table", "") == place}


def _by_chain(state: State) -> Dict[str, List[str]]:
    """Rules in order."""
    rules = [item for item in state.values() if isinstance(item, FilterRule)]
    chains: Dict[str, List[str]] = {}
    for item in sorted(rules, key=lambda item: item.position):
        chains.setdefault(item.chain, []).append(item.rule)
    return chains


def _chain_there(state: State, chain: str) -> bool:
    return any(isinstance(item, FilterObject) and item.name == f"chain {chain}" for item in state.values())


def _jumps(chain: str, have: List[str], want: List[str]) -> List[str]:
    """A jump that stands twice, or is another than the wanted one, goes."""
    kept: List[str] = []
    lines = []
    for rule in have:
        if rule in want and rule not in kept:
            kept.append(rule)
        else:
            lines.append(f"-D {chain} {rule}")
    for rule in want:
        if rule not in kept:
            first = _CHAINS[rule.split(" ")[-1]][2]
            lines.append(f"-I {chain} 1 {rule}" if first else f"-A {chain} {rule}")
    return lines
