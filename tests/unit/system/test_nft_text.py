# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Rules of nftables as text, from their JSON."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._system.nft_text import rule_text

PLACE = [
    {"payload": {"protocol": "ip", "field": "daddr"}},
    {"meta": {"key": "l4proto"}},
    {"payload": {"protocol": "th", "field": "dport"}},
]
SOURCE = {"payload": {"protocol": "ip", "field": "saddr"}}
MARK = {"meta": {"key": "mark"}}


def match(operator: str, left: Any, right: Any) -> dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (match("==", {"concat": PLACE}, "@cluster"), "ip daddr . meta l4proto . th dport @cluster"),
        (match("!=", {"concat": PLACE}, "@known"), "ip daddr . meta l4proto . th dport != @known"),
        (match("==", SOURCE, "@addresses"), "ip saddr @addresses"),
        (match("==", SOURCE, "192.0.2.1"), "ip saddr 192.0.2.1/32"),
        (match("!=", SOURCE, {"prefix": {"addr": "10.244.0.0", "len": 16}}), "ip saddr != 10.244.0.0/16"),
        (match("in", {"ct": {"key": "state"}}, "new"), "ct state new"),
        (match("==", {"meta": {"key": "l4proto"}}, {"set": ["tcp", "udp"]}), "meta l4proto { tcp, udp }"),
        (match("==", {"payload": {"protocol": "tcp", "field": "dport"}}, 80), "tcp dport 80"),
        (match("==", {"&": [MARK, 0x4000]}, 0x4000), "meta mark & 0x4000 == 0x4000"),
        (match("!=", {"&": [MARK, 0x4000]}, 0), "meta mark & 0x4000 != 0x0"),
        ({"mangle": {"key": MARK, "value": {"|": [MARK, 0x1000]}}}, "meta mark set meta mark | 0x1000"),
        ({"mangle": {"key": MARK, "value": {"&": [MARK, 0xFFFFEFFF]}}}, "meta mark set meta mark & 0xffffefff"),
        ({"masquerade": {"flags": "fully-random"}}, "masquerade fully-random"),
        ({"masquerade": {"flags": ["fully-random", "persistent"]}}, "masquerade fully-random,persistent"),
        ({"masquerade": None}, "masquerade"),
        ({"drop": None}, "drop"),
        ({"return": None}, "return"),
        ({"reject": {"type": "icmp", "expr": "port-unreachable"}}, "reject"),
        ({"reject": {"type": "icmpv6", "expr": "port-unreachable"}}, "reject"),
    ],
)
def test_as_nft_prints_it(statement: dict[str, Any], text: str) -> None:
    assert rule_text({"expr": [statement]}) == text


def test_statements_and_comment_in_a_row() -> None:
    rule = {"expr": [match("==", SOURCE, "@addresses"), {"accept": None}], "comment": "fairlead services"}
    assert rule_text(rule) == 'ip saddr @addresses accept comment "fairlead services"'
    assert rule_text({"comment": "nothing"}) == ' comment "nothing"'


@pytest.mark.parametrize(
    "statement",
    [
        {"counter": {"packets": 1, "bytes": 2}},
        {"reject": {"type": "tcp reset"}},
        {"masquerade": {"port": 7}},
        {"mangle": {"key": MARK, "value": {"map": {"key": MARK, "data": "@m"}}}},
        match("==", {"concat": [MARK, {"fib": {"result": "type", "flags": "daddr"}}]}, "@m"),
        match("<", SOURCE, "192.0.2.1"),
        match("==", SOURCE, {"range": ["192.0.2.1", "192.0.2.9"]}),
        match("==", {"exthdr": {"name": "frag"}}, True),
        match("==", {"meta": {"key": "l4proto"}}, {"set": [{"range": [1, 6]}]}),
        {"accept": None, "drop": None},
    ],
)
def test_anything_else_stays_json_and_differs_from_others(statement: dict[str, Any]) -> None:
    assert rule_text({"expr": [statement]}).startswith("{") and rule_text({"expr": [statement]}).endswith("}")
