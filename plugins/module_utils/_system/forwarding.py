# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What else on the node decides about forwarded packets: chain FORWARD of iptables, chains of nftables on that hook.

A packet is dropped when one of the chains on a hook drops it; what the others say does not count.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

from .._model.filter_items import nft_name
from .._model.ip_version import VERSIONS, IpVersion
from .._model.masquerade import FORWARD_CHAIN
from .runner import Runner

_POLICY = re.compile(r":FORWARD (\S+)")
_RULE = re.compile(r"-A FORWARD ?(.*)")
# A rule without a condition: nothing that comes to it gets past it.
_DROPS_ALL = re.compile(r'(-m comment --comment ("(\\.|[^"\\])*"|\S+) )?-j (DROP|REJECT)( --reject-with \S+)?')
_DROPPING = ("drop", "reject")
# What may stand in a rule of nftables without being a condition.
_NO_CONDITION = ("counter", "log")


@dataclasses.dataclass(frozen=True)
class ForwardChain:
    """Chain FORWARD of table filter: its policy ("" where the table does not exist) and its rules as saved.

    ``ours`` tells the rules that lead into our chain.
    """

    policy: str = ""
    rules: Tuple[str, ...] = ()

    @property
    def foreign(self) -> bool:
        return any(not leads_to(rule, FORWARD_CHAIN) for rule in self.rules)

    @property
    def drops(self) -> str:
        """Why packets that nothing accepts are dropped at its end, "" when they are not."""
        if self.policy == "DROP":
            return "its policy is DROP"
        wall = next((rule for rule in self.rules if drops_all(rule)), None)
        return f"its rule {wall!r} drops everything" if wall else ""


def forward_chain(saved: str) -> ForwardChain:
    """From the output of iptables-save or ip6tables-save."""
    policy, rules, table = "", [], ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        declared, rule = _POLICY.match(line), _RULE.fullmatch(line.strip())
        if table == "filter" and declared:
            policy = declared[1]
        elif table == "filter" and rule:
            rules.append(rule[1])
    return ForwardChain(policy, tuple(rules))


def drops_all(rule: str) -> bool:
    return _DROPS_ALL.fullmatch(rule) is not None


def leads_to(rule: str, chain: str) -> bool:
    return re.search(rf"(^| )-[jg] {re.escape(chain)}( |$)", rule) is not None


@dataclasses.dataclass(frozen=True)
class DroppingChain:
    """A chain of nftables that sees forwarded packets and drops those that it does not accept itself."""

    family: str
    table: str
    name: str
    reason: str

    @property
    def versions(self) -> Tuple[IpVersion, ...]:
        """The IP versions of the packets that it sees."""
        return tuple(version for version in VERSIONS if self.family in (nft_name(version), "inet"))

    @property
    def of_iptables(self) -> bool:
        """Whether it is the chain that iptables-nft shows as FORWARD of table filter."""
        return self.family != "inet" and (self.table, self.name) == ("filter", "FORWARD")

    def __str__(self) -> str:
        return f"chain {self.name} of table {self.family} {self.table} ({self.reason})"


def dropping_chains(runner: Runner, versions: Sequence[IpVersion]) -> List[DroppingChain]:
    """Those that see packets of the IP versions. Without nft, or where it fails, none: its own adapter tells what is
    wrong with it."""
    seeing = {"inet", *map(nft_name, versions)}
    found = []
    for chain in _listed(runner, ["chains"], "chain"):
        if chain.get("hook") == "forward" and chain.get("family") in seeing:
            place = (str(chain["family"]), str(chain["table"]), str(chain["name"]))
            reason = "policy drop" if chain.get("policy") == "drop" else _wall(runner, place)
            found += [DroppingChain(*place, reason)] if reason else []
    return found


def _wall(runner: Runner, place: Tuple[str, str, str]) -> str:
    for rule in _listed(runner, ["chain", *place], "rule"):
        words = [next(iter(expression), "") for expression in rule.get("expr", []) if isinstance(expression, dict)]
        if words and words[-1] in _DROPPING and all(word in _NO_CONDITION for word in words[:-1]):
            return f"a rule that does {words[-1]} with everything"
    return ""


def _listed(runner: Runner, words: List[str], what: str) -> Iterator[Mapping[str, Any]]:
    status, output, _error = runner(["nft", "-j", "list", *words])
    try:
        entries: List[Dict[str, Any]] = json.loads(output)["nftables"] if status == 0 else []
    except (ValueError, KeyError, TypeError):
        return
    yield from (entry[what] for entry in entries if isinstance(entry.get(what), dict))
