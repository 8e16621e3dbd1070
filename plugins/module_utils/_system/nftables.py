# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Our tables of nftables, one an IP version: read as JSON (libnftables-json(5)), replaced in one transaction."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from .._model.errors import ReadError
from .._model.filter_items import FilterObject, FilterRule, nft_name, version_of_table
from .._model.ip_version import VERSIONS, IpVersion
from .._model.item import Item, State, state_of
from .._model.masquerade import MASQUERADE, Match, Rule, Rules
from .nft_text import rule_text
from .packet_filter import FORWARD_COMMENT, MASQUERADE_COMMENT, MissingError, base_of, refused
from .runner import Runner

BACKEND, TABLE = "nftables", "fairlead"
# nft(8), table 7: srcnat is 100, filter is 0.
_POSTROUTING = {"name": "postrouting", "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"}
_FORWARD = {"name": "forward", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}


class Nftables:
    """One way of the packet filter: rules of ours in tables ``ip fairlead`` and ``ip6 fairlead``."""

    backend = BACKEND
    at_once = True
    table = TABLE

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def read(self, version: IpVersion) -> State:
        """Raises MissingError without the command, UnsupportedError when the kernel has no such tables."""
        return state_of(items_of(self.table, self.listed(version)))

    def listed(self, version: IpVersion) -> List[Dict[str, Any]]:
        """Entries of our table as nft has them, empty without it."""
        status, output, error = self.runner(["nft", "-j", "list", "table", nft_name(version), self.table])
        if status == 0:
            return _parsed(output)
        if status == 127:
            raise MissingError("command nft is missing (package nftables)")
        if "No such file or directory" in error:
            return []
        raise refused("nft", error or output)

    def probe(self, version: IpVersion, check: bool) -> None:
        """Have the kernel look at a table with the parts that ours has, and drop it."""
        table = {"family": nft_name(version), "table": f"{self.table}-probe"}
        rule = {**table, "chain": _POSTROUTING["name"], "expr": [_verdict(MASQUERADE)]}
        commands: List[Dict[str, Any]] = [
            {"add": {"table": {"family": nft_name(version), "name": table["table"]}}},
            {"add": {"chain": {**table, **_POSTROUTING}}},
            {"add": {"rule": rule}},
        ]
        self.run(commands, ["-c"])

    def wanted(self, rules: Rules) -> State:
        ours = {"family": nft_name(rules.version), "table": TABLE}
        entries: List[Dict[str, Any]] = [{"table": {"family": nft_name(rules.version), "name": TABLE}}]
        for chain, chain_rules, comment in (
            (_POSTROUTING, rules.postrouting, MASQUERADE_COMMENT),
            (_FORWARD, rules.forward, FORWARD_COMMENT),
        ):
            if chain_rules:
                place = {**ours, "chain": chain["name"], "comment": comment}
                entries.append({"chain": {**ours, **chain}})
                entries += [{"rule": {**place, "expr": _expressions(rules.version, rule)}} for rule in chain_rules]
        return state_of(items_of(self.table, entries))

    def write(self, table: str, have: State, want: State) -> None:
        """Replace what differs in both tables; a table without wanted items goes."""
        commands: List[Dict[str, Any]] = []
        for version in VERSIONS:
            commands += replacement(self.table, version, of_version(version, have), of_version(version, want))
        self.run(commands)

    def run(self, commands: Sequence[Mapping[str, Any]], options: Sequence[str] = ()) -> None:
        words = ["nft", *options, "-j", "-f", "-"]
        status, output, error = self.runner(words, json.dumps({"nftables": commands}))
        if status == 127:
            raise MissingError("command nft is missing (package nftables)")
        if status != 0:
            raise refused("nft", error or output)


def of_version(version: IpVersion, state: State) -> State:
    """Tables, chains, sets and rules of one IP version."""
    items = {key: item for key, item in state.items() if isinstance(item, (FilterObject, FilterRule))}
    return {key: item for key, item in items.items() if version_of_table(item.table) is version}


def replacement(table: str, version: IpVersion, have: State, want: State) -> List[Dict[str, Any]]:
    """Commands that turn one table into the wanted one.

    A chain that stays is emptied and filled again, not made anew: the hook of a new chain stands beside that of the
    old one for a moment, and a packet that is just between them would see neither's rules.
    """
    old, new = _objects(have), _objects(want)
    if old.get("table") != new.get("table"):
        named = {"table": {"family": nft_name(version), "name": table}}
        return [{"add": named}, {"delete": named}, *_additions(new, _rules(want))]
    before, after = _rules(have), _rules(want)
    gone = {name: item for name, item in old.items() if new.get(name) != item}
    chains = [name.partition(" ")[2] for name in old if name.startswith("chain ")]
    emptied = {chain for chain in chains if f"chain {chain}" in gone or before.get(chain) != after.get(chain)}
    added = {name: item for name, item in new.items() if old.get(name) != item}
    filled = {chain: rules for chain, rules in after.items() if chain in emptied or f"chain {chain}" in added}
    return [
        *(
            {"flush": {"chain": {"family": nft_name(version), "table": table, "name": chain}}}
            for chain in sorted(emptied)
        ),
        *({"delete": _named(item)} for item in sorted(gone.values(), key=_creation_order, reverse=True)),
        *_additions(added, filled),
    ]


def _objects(state: State) -> Dict[str, FilterObject]:
    return {item.name: item for item in state.values() if isinstance(item, FilterObject)}


def _rules(state: State) -> Dict[str, List[FilterRule]]:
    """By chain, in order."""
    rules: Dict[str, List[FilterRule]] = {}
    for item in sorted((item for item in state.values() if isinstance(item, FilterRule)), key=_position):
        rules.setdefault(item.chain, []).append(item)
    return rules


def _additions(objects: Mapping[str, FilterObject], rules: Mapping[str, Sequence[FilterRule]]) -> List[Dict[str, Any]]:
    items: List[Union[FilterObject, FilterRule]] = [
        *sorted(objects.values(), key=_creation_order),
        *(rule for chain in sorted(rules) for rule in rules[chain]),
    ]
    return [{"add": json.loads(item.source)} for item in items]


def _named(item: FilterObject) -> Dict[str, Any]:
    """The object as it is deleted: by name."""
    ((what, content),) = json.loads(item.source).items()
    return {what: {name: content[name] for name in ("family", "table", "name")}}


def _parsed(output: str) -> List[Dict[str, Any]]:
    try:
        return list(json.loads(output)["nftables"])
    except (ValueError, KeyError, TypeError) as error:
        raise ReadError(f"nft: output is not the JSON of libnftables-json(5): {error}") from None


def items_of(name: str, entries: Iterable[Mapping[str, Any]]) -> List[Item]:
    """Entries of the table of this name as items."""
    items: List[Item] = []
    positions: Dict[str, int] = {}
    for entry in entries:
        for what, content in entry.items():
            if what == "metainfo":
                continue
            data = {name: value for name, value in content.items() if name not in ("handle", "index")}
            source = json.dumps({what: data}, sort_keys=True)
            table = f"{data['family']} {name}"
            if what == "rule":
                chain = data["chain"]
                positions[chain] = positions.get(chain, 0) + 1
                items.append(FilterRule(BACKEND, table, chain, positions[chain], rule_text(data), source))
            else:
                items.append(_object(table, what, data, source))
    return items


def _object(table: str, what: str, data: Mapping[str, Any], source: str) -> FilterObject:
    name = what if what == "table" else f"{what} {data.get('name', '')}"
    rest = {key: value for key, value in data.items() if key not in ("family", "table", "name")}
    definition = ", ".join(f"{key} {_shown(value)}" for key, value in sorted(rest.items()))
    return FilterObject(BACKEND, table, name, definition, source)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _creation_order(item: FilterObject) -> Tuple[int, str]:
    """The table first, chains last: maps and sets may be spoken of in rules only."""
    return (0 if item.name == "table" else 2 if item.name.startswith("chain ") else 1, item.name)


def _position(item: FilterRule) -> int:
    return item.position


def _expressions(version: IpVersion, rule: Rule) -> List[Dict[str, Any]]:
    expressions = [_address(version, "saddr", rule.source), _address(version, "daddr", rule.destination)]
    if rule.mark is not None:
        expressions.append(_match("==", {"&": [{"meta": {"key": "mark"}}, rule.mark]}, rule.mark))
    return [expression for expression in expressions if expression] + [_verdict(rule.verdict)]


def _address(version: IpVersion, field: str, match: Optional[Match]) -> Dict[str, Any]:
    if match is None:
        return {}
    payload = {"payload": {"protocol": nft_name(version), "field": field}}
    value = {"prefix": {"addr": base_of(match.network), "len": match.network.prefixlen}}
    return _match("!=" if match.negated else "==", payload, value)


def _match(operator: str, left: Any, right: Any) -> Dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


def _verdict(verdict: str) -> Dict[str, Any]:
    return {verdict: {"flags": "fully-random"} if verdict == MASQUERADE else None}
