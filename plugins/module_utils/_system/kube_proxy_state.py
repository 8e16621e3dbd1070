# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Rules and sets that kube-proxy left: read as their own commands dump them, removed, and restored from the dump."""

from __future__ import annotations

import re
import shlex
from typing import Dict, Iterator, List, Sequence

from .._model.errors import ApplyError, ReadError
from .._model.item import BaseItem, State, state_of
from .._model.kube_proxy_state import NFT_TABLE, SETS, Chains, IpSet, NftTable, StateWish, goes, jump_goes
from .._plan.operation import DELETE, Operation
from .packet_filter import dumped
from .runner import Runner

_COMMANDS = {"IPv4": "iptables", "IPv6": "ip6tables"}
_TABLE, _RULE = re.compile(r"\*(\S+)"), re.compile(r"-A (\S+) ?(.*)")


class ChainsAdapter:
    """The variant of iptables that kube-proxy calls too: the one in PATH."""

    def __init__(self, wish: StateWish, runner: Runner) -> None:
        self.wish, self.runner = wish, runner

    def read(self) -> State:
        items: List[Chains] = []
        for family, command in _COMMANDS.items():
            items += _chains(self.wish, family, dumped(self.runner, [f"{command}-save"]))
        return state_of(items)

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            item = operation.item
            assert isinstance(item, Chains)
            script = _removal(item) if operation.action == DELETE else _return(item)
            _run(self.runner, item, [f"{_COMMANDS[item.family]}-restore", "--noflush", "--wait"], script)
            yield operation


def _chains(wish: StateWish, family: str, saved: str) -> Iterator[Chains]:
    """What goes, a table at a time."""
    for table, rules in _rules(saved).items():
        gone = [name for name in rules if goes(wish, table, name)]
        jumps = [
            (chain, place, rule)
            for chain, all_rules in rules.items()
            if chain not in gone
            for place, rule in enumerate(all_rules, 1)
            if _leads_there(wish, shlex.split(rule), gone)
        ]
        if gone or jumps:
            yield Chains(family, table, tuple((name, tuple(rules[name])) for name in sorted(gone)), tuple(jumps))


def _leads_there(wish: StateWish, words: Sequence[str], gone: Sequence[str]) -> bool:
    targets = [word for before, word in zip(words, words[1:]) if before in ("-j", "-g")]
    return (bool(targets) and targets[-1] in gone) or jump_goes(wish, words)


def _rules(saved: str) -> Dict[str, Dict[str, List[str]]]:
    """Rules in order, by table and chain."""
    found: Dict[str, Dict[str, List[str]]] = {}
    chains: Dict[str, List[str]] = {}
    for line in saved.splitlines():
        table, rule = _TABLE.fullmatch(line), _RULE.fullmatch(line)
        if table:
            chains = found.setdefault(table[1], {})
        elif line.startswith(":"):
            chains.setdefault(line[1:].split()[0], [])
        elif rule:
            chains.setdefault(rule[1], []).append(rule[2])
    return found


def _removal(item: Chains) -> str:
    """Jumps first, then all rules, so that no chain leads to one that is gone."""
    names = [name for name, _rules in item.chains]
    lines = [f"-D {chain} {rule}" for chain, _place, rule in item.jumps]
    return _script(item, [*lines, *(f"-F {name}" for name in names), *(f"-X {name}" for name in names)])


def _return(item: Chains) -> str:
    """Jumps come back to their places: in the order in which they were found, each is where it was."""
    made = [f":{name} - [0:0]" for name, _rules in item.chains]
    rules = [f"-A {name} {rule}" for name, rules in item.chains for rule in rules]
    return _script(item, [*made, *rules, *(f"-I {chain} {place} {rule}" for chain, place, rule in item.jumps)])


def _script(item: Chains, lines: Sequence[str]) -> str:
    return "\n".join([f"*{item.table}", *lines, "COMMIT", ""])


class SetsAdapter:
    """Sets of both IP versions."""

    def __init__(self, wanted: bool, runner: Runner) -> None:
        self.wanted, self.runner = wanted, runner

    def read(self) -> State:
        saved = dumped(self.runner, ["ipset", "save"]) if self.wanted else ""
        texts: Dict[str, List[str]] = {}
        for line in saved.splitlines():
            _verb, name, *_rest = line.split()
            if name in SETS:
                texts.setdefault(name, []).append(line)
        return state_of(IpSet(name, "\n".join([*lines, ""])) for name, lines in texts.items())

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            item = operation.item
            assert isinstance(item, IpSet)
            deletes = operation.action == DELETE
            words, data = (["ipset", "destroy", item.name], "") if deletes else (["ipset", "restore"], item.text)
            _run(self.runner, item, words, data)
            yield operation


class TablesAdapter:
    """Table kube-proxy of nftables, of both IP versions."""

    def __init__(self, wanted: bool, runner: Runner) -> None:
        self.wanted, self.runner = wanted, runner

    def read(self) -> State:
        listed = dumped(self.runner, ["nft", "list", "tables"]) if self.wanted else ""
        families = [line.split()[1] for line in listed.splitlines() if line.split()[2:] == [NFT_TABLE]]
        return state_of(NftTable(family, self._text(family)) for family in families if family in ("ip", "ip6"))

    def _text(self, family: str) -> str:
        words = ["nft", "list", "table", family, NFT_TABLE]
        status, output, error = self.runner(words)
        if status != 0:
            raise ReadError(f"{' '.join(words)}: {error.strip() or f'status {status}'}")
        return output

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            item = operation.item
            assert isinstance(item, NftTable)
            command = f"delete table {item.name} {NFT_TABLE}\n" if operation.action == DELETE else item.text
            _run(self.runner, item, ["nft", "-f", "-"], command)
            yield operation


def _run(runner: Runner, item: BaseItem, words: List[str], data: str) -> None:
    status, output, error = runner(words, data or None)
    if status != 0:
        raise ApplyError(item, f"{' '.join(words)}: {error.strip() or output.strip() or f'status {status}'}")
