# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Our table of nftables: read as JSON (libnftables-json(5)), replaced as a whole in one transaction."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .._model.errors import ReadError
from .._model.item import Item, State, state_of
from .._model.masquerade import MASQUERADE, FilterObject, FilterRule, MasqueradeSpec, Match, Rule
from .packet_filter import FORWARD_COMMENT, MASQUERADE_COMMENT, MissingError, refused
from .runner import Runner

BACKEND = "nftables"
FAMILY, TABLE = "ip", "fairlead"
_SHOWN_TABLE = f"{FAMILY} {TABLE}"
_OURS = {"family": FAMILY, "table": TABLE}
# nft(8), table 7: srcnat is 100, filter is 0.
_POSTROUTING = {"name": "postrouting", "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"}
_FORWARD = {"name": "forward", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}
_FIELDS = {"saddr", "daddr"}


class Nftables:
    """One way of the packet filter: rules of ours in table ``ip fairlead``."""

    backend = BACKEND

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def read(self) -> State:
        """Raises MissingError without the command, UnsupportedError when the kernel has no such tables."""
        status, output, error = self.runner(["nft", "-j", "list", "table", FAMILY, TABLE])
        if status == 0:
            return state_of(_items(_parsed(output)))
        if status == 127:
            raise MissingError("command nft is missing (package nftables)")
        if "No such file or directory" in error:
            return {}
        raise refused("nft", error or output)

    def probe(self, check: bool) -> None:
        """Have the kernel look at a table with the parts that ours has, and drop it."""
        table = {"family": FAMILY, "table": f"{TABLE}-probe"}
        rule = {**table, "chain": _POSTROUTING["name"], "expr": [_verdict(MASQUERADE)]}
        commands: List[Dict[str, Any]] = [
            {"add": {"table": {"family": FAMILY, "name": table["table"]}}},
            {"add": {"chain": {**table, **_POSTROUTING}}},
            {"add": {"rule": rule}},
        ]
        self._run(commands, ["-c"])

    def wanted(self, spec: MasqueradeSpec) -> State:
        items: List[Item] = []
        for chain, rules, comment in (
            (_POSTROUTING, spec.postrouting, MASQUERADE_COMMENT),
            (_FORWARD, spec.forward, FORWARD_COMMENT),
        ):
            if rules:
                items.extend(_items([{"chain": {**_OURS, **chain}}, *_rules(chain["name"], rules, comment)]))
        return state_of([*_items([{"table": {"family": FAMILY, "name": TABLE}}]), *items] if items else [])

    def write(self, table: str, have: State, want: State) -> None:
        """Replace the table by one of the wanted items; without any the table goes."""
        named = {"table": {"family": FAMILY, "name": TABLE}}
        commands: List[Dict[str, Any]] = [{"add": named}, {"delete": named}]
        objects = sorted((item for item in want.values() if isinstance(item, FilterObject)), key=_creation_order)
        rules = sorted((item for item in want.values() if isinstance(item, FilterRule)), key=_rule_order)
        commands += [{"add": json.loads(item.source)} for item in objects]
        commands += [{"add": json.loads(item.source)} for item in rules]
        self._run(commands)

    def _run(self, commands: Sequence[Mapping[str, Any]], options: Sequence[str] = ()) -> None:
        words = ["nft", *options, "-j", "-f", "-"]
        status, output, error = self.runner(words, json.dumps({"nftables": commands}))
        if status == 127:
            raise MissingError("command nft is missing (package nftables)")
        if status != 0:
            raise refused("nft", error or output)


def _parsed(output: str) -> List[Dict[str, Any]]:
    try:
        return list(json.loads(output)["nftables"])
    except (ValueError, KeyError, TypeError) as error:
        raise ReadError(f"nft: output is not the JSON of libnftables-json(5): {error}") from None


def _items(entries: Iterable[Mapping[str, Any]]) -> List[Item]:
    items: List[Item] = []
    positions: Dict[str, int] = {}
    for entry in entries:
        for what, content in entry.items():
            if what == "metainfo":
                continue
            data = {name: value for name, value in content.items() if name not in ("handle", "index")}
            source = json.dumps({what: data}, sort_keys=True)
            if what == "rule":
                chain = data["chain"]
                positions[chain] = positions.get(chain, 0) + 1
                items.append(FilterRule(BACKEND, _SHOWN_TABLE, chain, positions[chain], _text(data), source))
            else:
                items.append(_object(what, data, source))
    return items


def _object(what: str, data: Mapping[str, Any], source: str) -> FilterObject:
    name = what if what == "table" else f"{what} {data.get('name', '')}"
    rest = {key: value for key, value in data.items() if key not in ("family", "table", "name")}
    definition = ", ".join(f"{key} {_shown(value)}" for key, value in sorted(rest.items()))
    return FilterObject(BACKEND, _SHOWN_TABLE, name, definition, source)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _creation_order(item: FilterObject) -> Tuple[int, str]:
    """The table first, chains last: maps and sets may be spoken of in rules only."""
    return (0 if item.name == "table" else 2 if item.name.startswith("chain ") else 1, item.name)


def _rule_order(item: FilterRule) -> Tuple[str, int]:
    return (item.chain, item.position)


def _rules(chain: Any, rules: Iterable[Rule], comment: str) -> List[Dict[str, Any]]:
    return [{"rule": {**_OURS, "chain": chain, "comment": comment, "expr": _expressions(rule)}} for rule in rules]


def _expressions(rule: Rule) -> List[Dict[str, Any]]:
    expressions = [_address("saddr", rule.source), _address("daddr", rule.destination)]
    if rule.mark is not None:
        expressions.append(_match("==", {"&": [{"meta": {"key": "mark"}}, rule.mark]}, rule.mark))
    return [expression for expression in expressions if expression] + [_verdict(rule.verdict)]


def _address(field: str, match: Optional[Match]) -> Dict[str, Any]:
    if match is None:
        return {}
    payload = {"payload": {"protocol": "ip", "field": field}}
    network = match.network
    value = {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
    return _match("!=" if match.negated else "==", payload, value)


def _match(operator: str, left: Any, right: Any) -> Dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


def _verdict(verdict: str) -> Dict[str, Any]:
    return {verdict: {"flags": "fully-random"} if verdict == MASQUERADE else None}


def _text(rule: Mapping[str, Any]) -> str:
    """A rule as nft would print it, as far as it consists of what ours consist of; anything else as JSON."""
    comment = f' comment "{rule["comment"]}"' if "comment" in rule else ""
    return " ".join(_expression_text(expression) for expression in rule.get("expr", [])) + comment


def _expression_text(expression: Mapping[str, Any]) -> str:
    (name, content), *more = expression.items()
    if not more and name == "match":
        return _match_text(content) or json.dumps(expression, sort_keys=True)
    if not more and content is None:
        return name
    if not more and isinstance(content, dict) and list(content) == ["flags"]:
        flags = content["flags"]
        return f"{name} {flags if isinstance(flags, str) else ','.join(map(str, flags))}"
    return json.dumps(expression, sort_keys=True)


def _match_text(match: Mapping[str, Any]) -> str:
    left, right, operator = match.get("left"), match.get("right"), match.get("op")
    if not isinstance(left, dict) or len(left) != 1:
        return ""
    negation = {"==": "", "!=": "!= "}.get(str(operator))
    payload = left.get("payload")
    if negation is not None and isinstance(payload, dict) and payload.get("protocol") == "ip":
        network = _network_text(right)
        return f"ip {payload['field']} {negation}{network}" if payload.get("field") in _FIELDS and network else ""
    masked = left.get("&")
    if operator != "==" or not isinstance(right, int) or not isinstance(masked, list) or len(masked) != 2:
        return ""
    of_mark = masked[0] == {"meta": {"key": "mark"}} and isinstance(masked[1], int)
    return f"meta mark & {masked[1]:#x} == {right:#x}" if of_mark else ""


def _network_text(value: Any) -> str:
    """nft leaves the length out where it is 32."""
    if isinstance(value, str):
        return f"{value}/32"
    prefix = value.get("prefix") if isinstance(value, dict) else None
    return f"{prefix['addr']}/{prefix['len']}" if isinstance(prefix, dict) else ""
