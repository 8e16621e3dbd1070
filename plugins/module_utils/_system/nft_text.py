# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Rules of nftables as nft prints them, from their JSON (libnftables-json(5)), as far as ours have such parts; anything
else stays JSON. Unlike nft, the length of a network is always told, and marks have no leading zeros."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Mapping, Optional

from .._model.filter_items import nft_name
from .._model.ip_version import VERSIONS

# Length of an address by the name of its IP version.
_LENGTHS = {nft_name(version): version.bits for version in VERSIONS}
_ADDRESSES = ("saddr", "daddr")
_NEGATIONS = {"==": "", "in": "", "!=": "!= "}
# What a rejection says where nothing is told.
_USUAL_REJECTIONS = ({"type": "icmp", "expr": "port-unreachable"}, {"type": "icmpv6", "expr": "port-unreachable"})
# Of the JSON of one thing, the name of which is the key.
_Text = Callable[[Any], Optional[str]]


def rule_text(rule: Mapping[str, Any]) -> str:
    comment = f' comment "{rule["comment"]}"' if "comment" in rule else ""
    return " ".join(map(_statement, rule.get("expr", []))) + comment


def _statement(statement: Mapping[str, Any]) -> str:
    (name, content), *more = statement.items()
    text = None if more else name if content is None else _STATEMENTS[name](content) if name in _STATEMENTS else None
    return json.dumps(statement, sort_keys=True) if text is None else text


def _match(match: Any) -> Optional[str]:
    left, right, negation = match.get("left"), match.get("right"), _NEGATIONS.get(str(match.get("op")))
    key, value = _expression(left), _value(left, right)
    if key is None or value is None or negation is None:
        return None
    # A comparison of bits is written out.
    return f"{key} {negation or '== '}{value}" if isinstance(left, dict) and "&" in left else f"{key} {negation}{value}"


def _mangle(mangle: Any) -> Optional[str]:
    key, value = _expression(mangle.get("key")), _expression(mangle.get("value"))
    return None if key is None or value is None else f"{key} set {value}"


def _reject(reject: Any) -> Optional[str]:
    return "reject" if reject in _USUAL_REJECTIONS else None


def _masquerade(masquerade: Any) -> Optional[str]:
    if list(masquerade) != ["flags"]:
        return None
    flags = masquerade["flags"]
    return f"masquerade {flags if isinstance(flags, str) else ','.join(map(str, flags))}"


_STATEMENTS: Dict[str, _Text] = {"match": _match, "mangle": _mangle, "reject": _reject, "masquerade": _masquerade}


def _expression(expression: Any) -> Optional[str]:
    """What is compared or set. Numbers are marks."""
    if isinstance(expression, int):
        return f"{expression:#x}"
    if not isinstance(expression, dict) or len(expression) != 1:
        return None
    ((name, content),) = expression.items()
    return _EXPRESSIONS[name](content) if name in _EXPRESSIONS else None


def _payload(payload: Any) -> Optional[str]:
    return f"{payload['protocol']} {payload['field']}" if sorted(payload) == ["field", "protocol"] else None


def _key_of(name: str) -> _Text:
    return lambda content: f"{name} {content['key']}" if list(content) == ["key"] else None


def _joined(sign: str) -> _Text:
    def text(parts: Any) -> Optional[str]:
        texts = [_expression(part) for part in parts]
        known = [each for each in texts if each is not None]
        return f" {sign} ".join(known) if len(known) == len(texts) else None

    return text


_EXPRESSIONS: Dict[str, _Text] = {
    "payload": _payload,
    "meta": _key_of("meta"),
    "ct": _key_of("ct"),
    "concat": _joined("."),
    "&": _joined("&"),
    "|": _joined("|"),
}


def _value(left: Any, right: Any) -> Optional[str]:
    """What something is compared with."""
    if isinstance(right, str) and right.startswith("@"):
        return right
    payload = left.get("payload") if isinstance(left, dict) else None
    if isinstance(payload, dict) and payload.get("protocol") in _LENGTHS and payload.get("field") in _ADDRESSES:
        return _network(right, _LENGTHS[payload["protocol"]])
    if isinstance(right, dict) and list(right) == ["set"]:
        return _words(right["set"])
    if isinstance(right, int):
        return f"{right:#x}" if isinstance(left, dict) and "&" in left else str(right)
    return right if isinstance(right, str) else None


def _network(value: Any, length: int) -> Optional[str]:
    """nft leaves the length out where it is that of an address."""
    if isinstance(value, str):
        return f"{value}/{length}"
    prefix = value.get("prefix") if isinstance(value, dict) else None
    return f"{prefix['addr']}/{prefix['len']}" if isinstance(prefix, dict) else None


def _words(values: List[Any]) -> Optional[str]:
    return f"{{ {', '.join(values)} }}" if all(isinstance(each, str) for each in values) else None
