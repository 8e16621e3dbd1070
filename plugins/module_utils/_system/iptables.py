# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Our chains of iptables and ip6tables: read from iptables-save(8), replaced table by table by iptables-restore(8)."""

from __future__ import annotations

import re
from typing import Dict, List, Mapping, Optional, Tuple

from .._model.errors import ReadError
from .._model.filter_items import FilterObject, FilterRule, nft_name, version_of_table
from .._model.ip_version import IPV4, VERSIONS, IpVersion
from .._model.item import Item, State, state_of
from .._model.masquerade import FORWARD_CHAIN, MASQUERADE, POSTROUTING_CHAIN, Match, Rule, Rules
from .forwarding import ForwardChain, drops_all, forward_chain, leads_to
from .packet_filter import FORWARD_COMMENT, MASQUERADE_COMMENT, MissingError, UnsupportedError, base_of, refused
from .runner import Runner

NFT, LEGACY = "iptables-nft", "iptables-legacy"
# Our chain of each table, the chain of the kernel that jumps to it, and the comment of all rules.
_CHAINS = {
    "nat": (POSTROUTING_CHAIN, "POSTROUTING", MASQUERADE_COMMENT),
    "filter": (FORWARD_CHAIN, "FORWARD", FORWARD_COMMENT),
}
# Stands behind a jump to our chain that no packet comes to, in its text only.
_UNREACHED = " (behind a rule that drops everything)"
_VERDICTS = {MASQUERADE: "MASQUERADE --random-fully"}
_RULE = re.compile(r"-A (\S+) ?(.*)")
# What iptables-nft-save says, with status 0, of a table that was made by nft itself.
_UNREADABLE = re.compile(r"# Table `(nat|filter)' is incompatible")
# A transaction that leaves nothing behind but, with iptables-nft, an empty table.
_PROBE = "*nat\n:FAIRLEAD-PROBE - [0:0]\n-F FAIRLEAD-PROBE\n-X FAIRLEAD-PROBE\nCOMMIT\n"


class Iptables:
    """One way of the packet filter: a command for each IP version, with its -save and -restore, all speaking to
    ``backend`` of the kernel."""

    at_once = False

    def __init__(self, backend: str, commands: Mapping[IpVersion, str], runner: Runner) -> None:
        self.backend = backend
        self.commands = commands
        self.runner = runner
        self._forward: Dict[IpVersion, ForwardChain] = {}

    def read(self, version: IpVersion) -> State:
        """Raises MissingError without the command, UnsupportedError when the kernel has no such tables.

        Without a table's name, iptables-save tells of tables in use only, and does not bring others into being.
        """
        self._forward[version] = ForwardChain()
        saved = self._run([f"{self.commands[version]}-save"])
        self._forward[version] = forward_chain(saved)
        unreadable = _UNREADABLE.findall(saved)
        for table in unreadable:
            self._refuse_hidden(version, table)
        items = _items(self.backend, version, saved)
        if unreadable and not items:
            raise UnsupportedError(
                f"{self.commands[version]} cannot work with table {unreadable[0]}, which nft changed"
            )
        return state_of(items)

    def forward_chain(self, version: IpVersion) -> ForwardChain:
        """Chain FORWARD as it was read last, empty where this iptables does not work."""
        return self._forward.get(version, ForwardChain())

    def _refuse_hidden(self, version: IpVersion, table: str) -> None:
        """ReadError when a table that iptables cannot read holds our chain, or when nobody can tell."""
        command, chain = self.commands[version], _CHAINS[table][0]
        words = ["nft", "list", "table", nft_name(version), table]
        status, output, error = self.runner(words)
        if status == 127:
            raise ReadError(
                f"{command}: rules that nft wrote make table {table} unreadable, so whether {chain} is in it "
                f"cannot be told; install package nftables, or remove those rules"
            )
        if status != 0:
            raise refused(" ".join(words), error or output)
        if chain in output:
            raise ReadError(
                f"{command}: rules that nft wrote make table {table} unreadable, and our chain {chain} is in it; "
                f"see {' '.join(words)!r}, remove the rules that are not of iptables, and run again"
            )

    def probe(self, version: IpVersion, check: bool) -> None:
        """Listing a table may succeed where making one does not (iptables-nft on a kernel without family ip), but is
        all that can be done in check mode. May bring table nat into being, empty."""
        self._run([self.commands[version], "-w", "-t", "nat", "-S"])
        if not check:
            self._restore(version, _PROBE)

    def wanted(self, rules: Rules) -> State:
        by_table = {"nat": rules.postrouting, "filter": rules.forward}
        items: List[Item] = []
        for name, (chain, parent, comment) in _CHAINS.items():
            texts = [_text(rule, comment) for rule in by_table[name]]
            if texts:
                table = f"{nft_name(rules.version)} {name}"
                items.append(FilterObject(self.backend, table, f"chain {chain}"))
                items += [FilterRule(self.backend, table, chain, at, text) for at, text in enumerate(texts, 1)]
                items.append(FilterRule(self.backend, table, parent, 1, f"{_comment(comment)} -j {chain}"))
        return state_of(items)

    def write(self, table: str, have: State, want: State) -> None:
        """Jumps go first, so that nothing points at a chain that goes."""
        version, name = version_of_table(table), table.partition(" ")[2]
        chain = _CHAINS[name][0]
        old, new = _lines(have), _lines(want)
        old.pop(chain, None)
        rules = new.pop(chain, [])
        jumps = self._jumps(version, old, new)
        lines = [f"*{name}"]
        if any(isinstance(item, FilterObject) for item in want.values()):
            lines += [f":{chain} - [0:0]", *(f"-A {chain} {rule}" for rule in rules), *jumps]
        else:
            lines += [*jumps, f"-F {chain}", f"-X {chain}"]
        self._restore(version, "\n".join([*lines, "COMMIT", ""]))

    def _jumps(self, version: IpVersion, old: Dict[str, List[str]], new: Dict[str, List[str]]) -> List[str]:
        """What has to go, then what is missing; a jump that is there as wanted keeps its place among others' rules."""
        gone: List[str] = []
        added: List[str] = []
        for chain in {**old, **new}:
            have, want = old.get(chain, []), new.get(chain, [])
            # A jump is taken away by its words, so one that is reached and one that is not cannot be told apart.
            kept = [] if any(rule.endswith(_UNREACHED) for rule in have) else have
            leaving = [_words(rule) for rule in _beyond(have, want if kept else [])]
            coming = _beyond(want, kept)
            gone += [f"-D {chain} {rule}" for rule in leaving]
            place = self._place(version, chain, leaving) if coming else ""
            added += [f"-A {chain} {_words(r)}" if _words(r) != r else f"{place} {r}" for r in coming]
        return gone + added

    def _place(self, version: IpVersion, chain: str, leaving: List[str]) -> str:
        """At the end of a chain, or before the rule of FORWARD that no packet gets past."""
        rules = list(self.forward_chain(version).rules) if chain == "FORWARD" else []
        for rule in leaving:
            if rule in rules:
                rules.remove(rule)
        wall = next((number for number, rule in enumerate(rules, 1) if drops_all(rule)), 0)
        return f"-I {chain} {wall}" if wall else f"-A {chain}"

    def _restore(self, version: IpVersion, data: str) -> None:
        self._run([f"{self.commands[version]}-restore", "--noflush", "-w"], data)

    def _run(self, words: List[str], data: Optional[str] = None) -> str:
        status, output, error = self.runner(words, data)
        if status == 127:
            raise MissingError(f"command {words[0]} is missing (package iptables)")
        if status != 0:
            raise refused(words[0], error or output)
        return output


def find(runner: Runner) -> List[Iptables]:
    """Both kinds of iptables, the kind first that command iptables is. Other than that may or may not be installed."""
    default = {version: _kind_of(version, runner) for version in VERSIONS}

    def command(kind: str, version: IpVersion) -> str:
        plain = _plain_command(version)
        return plain if default[version] == kind else kind.replace("iptables", plain)

    kinds = sorted((NFT, LEGACY), key=lambda kind: kind != default[IPV4])
    return [Iptables(kind, {version: command(kind, version) for version in VERSIONS}, runner) for kind in kinds]


def _plain_command(version: IpVersion) -> str:
    return f"{nft_name(version)}tables"


def _kind_of(version: IpVersion, runner: Runner) -> Optional[str]:
    """What command iptables (or ip6tables) is, None when it is missing. The two may be of different kinds."""
    status, output, error = runner([_plain_command(version), "--version"])
    if status == 127:
        return None
    # Before 1.8 there was only one kind, and the version does not name it. On a kernel without nftables, not even the
    # version gets printed.
    return NFT if "nft" in error or "nf_tables" in output else LEGACY


def _items(backend: str, version: IpVersion, saved: str) -> List[Item]:
    """Our chains, their rules, and all rules elsewhere that lead into them."""
    items: List[Item] = []
    positions: Dict[Tuple[str, str], int] = {}
    name, walled = "", False
    for line in saved.splitlines():
        if line.startswith("*"):
            name = line[1:].strip()
        ours, table = _CHAINS[name][0] if name in _CHAINS else "", f"{nft_name(version)} {name}"
        if ours and line.startswith(f":{ours} "):
            items.append(FilterObject(backend, table, f"chain {ours}"))
        rule = _RULE.fullmatch(line.strip()) if ours else None
        if rule and (rule[1] == ours or leads_to(rule[2], ours)):
            position = positions[table, rule[1]] = positions.get((table, rule[1]), 0) + 1
            text = rule[2] + (_UNREACHED if walled and rule[1] == "FORWARD" else "")
            items.append(FilterRule(backend, table, rule[1], position, text))
        walled = walled or bool(rule and name == "filter" and rule[1] == "FORWARD" and drops_all(rule[2]))
    return items


def _lines(state: State) -> Dict[str, List[str]]:
    """Rules by chain, in order."""
    lines: Dict[str, List[str]] = {}
    rules = [item for item in state.values() if isinstance(item, FilterRule)]
    for item in sorted(rules, key=lambda item: item.position):
        lines.setdefault(item.chain, []).append(item.rule)
    return lines


def _words(rule: str) -> str:
    """The rule as iptables knows it."""
    return rule[: -len(_UNREACHED)] if rule.endswith(_UNREACHED) else rule


def _beyond(rules: List[str], others: List[str]) -> List[str]:
    """Rules without counterpart among the others; of equal ones as many as there are more."""
    left = list(others)
    beyond = []
    for rule in rules:
        if rule in left:
            left.remove(rule)
        else:
            beyond.append(rule)
    return beyond


def _text(rule: Rule, comment: str) -> str:
    """A rule as iptables-save prints it: addresses, other matches, target."""
    words = [_address("-s", rule.source), _address("-d", rule.destination)]
    if rule.mark is not None:
        words.append(f"-m mark --mark {rule.mark:#x}/{rule.mark:#x}")
    words += [_comment(comment), f"-j {_VERDICTS.get(rule.verdict, rule.verdict.upper())}"]
    return " ".join(filter(None, words))


def _address(option: str, match: Optional[Match]) -> str:
    if match is None:
        return ""
    return f"{'! ' if match.negated else ''}{option} {base_of(match.network)}/{match.network.prefixlen}"


def _comment(comment: str) -> str:
    return f'-m comment --comment "{comment}"'
