# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Who drops forwarded packets, read from what iptables-save and nft print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, IPV6, VERSIONS, IpVersion
from ansible_collections.fairlead.cluster.plugins.module_utils._system.forwarding import (
    dropping_chains,
    drops_all,
    forward_chain,
)

DOCKER = """# Warning: iptables-legacy tables present
*nat
:POSTROUTING ACCEPT [0:0]
-A FORWARD -j DROP
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [12:720]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -m comment --comment "fairlead forward" -j FAIRLEAD-FWD
-A DOCKER-USER -j RETURN
COMMIT
"""


def saved(*rules: str, policy: str = "ACCEPT") -> str:
    return "\n".join(["*filter", f":FORWARD {policy} [0:0]", *(f"-A FORWARD {rule}" for rule in rules), "COMMIT", ""])


def test_forward_is_that_of_table_filter() -> None:
    chain = forward_chain(DOCKER)
    assert (chain.policy, len(chain.rules)) == ("DROP", 2)
    assert chain.foreign and chain.drops == "its policy is DROP"


@pytest.mark.parametrize(
    ("text", "foreign", "drops"),
    [
        ("", False, False),
        (saved(), False, False),
        (saved("-j FAIRLEAD-FWD", "-s 10.0.0.0/8 -g FAIRLEAD-FWD"), False, False),
        (saved("-j FAIRLEAD-FWD-2"), True, False),
        (saved("-s 10.0.0.0/8 -j DROP"), True, False),
        (saved("-m conntrack --ctstate INVALID -j DROP"), True, False),
        (saved("-j REJECT --reject-with icmp-host-prohibited"), True, True),
        (saved(policy="DROP"), False, True),
    ],
)
def test_what_counts_as_rules_of_others_and_as_a_wall(text: str, foreign: bool, drops: bool) -> None:
    chain = forward_chain(text)
    assert (chain.foreign, bool(chain.drops)) == (foreign, drops)


@pytest.mark.parametrize(
    ("rule", "all_packets"),
    [
        ("-j DROP", True),
        ("-j REJECT", True),
        ("-j REJECT --reject-with icmp6-adm-prohibited", True),
        ('-m comment --comment "the rest -i eth0" -j REJECT --reject-with icmp-port-unreachable', True),
        ("-m comment --comment rest -j DROP", True),
        ("-i eth0 -j DROP", False),
        ("! -i eth0 -j DROP", False),
        ('-m comment --comment "-j DROP" -j ACCEPT', False),
        ('-m comment --comment "a" -s 10.0.0.0/8 -m comment --comment "b" -j DROP', False),
        ("-j DROP-LATER", False),
    ],
)
def test_rules_that_no_packet_gets_past(rule: str, all_packets: bool) -> None:
    assert drops_all(rule) == all_packets


def listing(*entries: dict[str, Any]) -> tuple[int, str, str]:
    return 0, json.dumps({"nftables": [{"metainfo": {}}, *entries]}), ""


def chain(name: str, family: str = "inet", **more: Any) -> dict[str, Any]:
    return {"chain": {"family": family, "table": "fw", "name": name, "handle": 1, **more}}


def rule(*expressions: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "fw", "chain": "c", "expr": list(expressions)}}


STATE = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}
REJECT = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}


@pytest.mark.parametrize(
    ("found", "rules", "expected"),
    [
        (chain("f", hook="forward", policy="drop"), [], ["chain f of table inet fw (policy drop)"]),
        (chain("f", family="ip6", hook="forward", policy="drop"), [], []),
        (chain("f", hook="input", policy="drop"), [], []),
        (chain("f"), [], []),
        (chain("f", hook="forward", policy="accept"), [rule(STATE, {"drop": None})], []),
        (
            chain("f", hook="forward", policy="accept"),
            [rule(STATE, {"accept": None}), rule({"counter": {"packets": 0}}, REJECT)],
            ["chain f of table inet fw (a rule that does reject with everything)"],
        ),
    ],
)
def test_chains_of_nftables(found: dict[str, Any], rules: list[dict[str, Any]], expected: list[str]) -> None:
    def nft(args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        return listing(found) if list(args) == ["nft", "-j", "list", "chains"] else listing(found, *rules)

    assert list(map(str, dropping_chains(nft, [IPV4]))) == expected


@pytest.mark.parametrize(
    ("family", "seen_by"), [("ip", [IPV4]), ("ip6", [IPV6]), ("inet", [IPV4, IPV6]), ("bridge", [])]
)
def test_chains_drop_packets_of_their_ip_versions(family: str, seen_by: list[IpVersion]) -> None:
    answer = listing(chain("f", family=family, hook="forward", policy="drop"))
    for wanted in ([IPV4], [IPV6], VERSIONS):
        found = dropping_chains(lambda args, data=None: answer, wanted)
        assert [each.versions for each in found] == ([tuple(seen_by)] if set(wanted) & set(seen_by) else [])


@pytest.mark.parametrize("family", ["ip", "ip6", "inet"])
def test_chain_that_iptables_shows_too(family: str) -> None:
    answer = listing({"chain": {**chain("FORWARD", family, hook="forward", policy="drop")["chain"], "table": "filter"}})
    (found,) = dropping_chains(lambda args, data=None: answer, VERSIONS)
    assert found.of_iptables == (family != "inet")


@pytest.mark.parametrize("answer", [(127, "", "not found"), (1, "", "Operation not supported"), (0, "no JSON", "")])
def test_without_a_listing_there_is_nothing_to_tell(answer: tuple[int, str, str]) -> None:
    assert dropping_chains(lambda args, data=None: answer, VERSIONS) == []
