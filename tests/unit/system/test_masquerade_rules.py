# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Rules as the packet filters print them, and the choice of a backend, against commands that only pretend."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._desired.masquerade import converge
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import (
    ApplyError,
    PrerequisiteError,
    ReadError,
    SpecError,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.masquerade import parse_masquerade
from ansible_collections.fairlead.cluster.plugins.module_utils._system.iptables import Iptables
from ansible_collections.fairlead.cluster.plugins.module_utils._system.nftables import Nftables

DOCUMENT = {"network": "10.244.0.0/16", "subnet": "10.244.1.0/24"}
MISSING = (127, "", "command not found")
NO_TABLE = (1, "", "Error: No such file or directory")
NO_FAMILY = (1, "", "Error: Could not process rule: Operation not supported")
NO_NFTABLES = (1, "", "iptables: Failed to initialize nft: Protocol not supported")
FINE = (0, "", "")
NETWORKS = st.builds(
    lambda number, length: ipaddress.ip_network((number >> (32 - length) << (32 - length), length)),
    st.integers(0, 2**32 - 1),
    st.integers(1, 32),
)


class Commands:
    """A runner. Answers go by the longest key that a command starts with; anything else is missing."""

    def __init__(self, answers: dict[str, tuple[int, str, str]]) -> None:
        self.answers = answers
        self.started: list[str] = []

    def __call__(self, args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        words = " ".join(args)
        self.started.append(words)
        fitting = [start for start in self.answers if words.startswith(start)]
        return self.answers[max(fitting, key=len)] if fitting else MISSING


class Nft:
    """A kernel with nftables that prints what it was given the way nft 1.0.6 does."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def __call__(self, args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        if args[0] != "nft":
            return MISSING
        if "list" in args:
            return (0, json.dumps({"nftables": [{"metainfo": {}}, *self.entries]}), "") if self.entries else NO_TABLE
        added = [command["add"] for command in json.loads(data or "")["nftables"] if "add" in command]
        if "-c" not in args:
            self.entries = [_printed(entry, handle) for handle, entry in enumerate(added[1:], 1)]
        return FINE


def _printed(entry: dict[str, Any], handle: int) -> dict[str, Any]:
    (what, content), *_rest = entry.items()
    text = json.dumps({**content, "handle": handle})
    printed: dict[str, Any] = json.loads(text, object_hook=_without_host_length)
    return {what: printed}


def _without_host_length(data: dict[str, Any]) -> Any:
    prefix = data.get("prefix")
    return prefix["addr"] if isinstance(prefix, dict) and prefix["len"] == 32 else data


@given(NETWORKS, st.integers(0, 32))
def test_nftables_rules_read_back_as_wanted(network: ipaddress.IPv4Network, longer: int) -> None:
    subnet = f"{network.network_address}/{min(32, network.prefixlen + longer)}"
    kernel = Nft()
    document = {"network": str(network), "subnet": subnet}
    assert converge(document, False, kernel).changed
    assert not converge(document, False, kernel).changed


def test_unknown_parts_of_an_nftables_rule_are_kept_for_undo() -> None:
    kernel = Nft()
    converge(DOCUMENT, False, kernel)
    counter = {"counter": {"packets": 0, "bytes": 0}}
    kernel.entries.append(
        {"rule": {"family": "ip", "table": "fairlead", "chain": "forward", "handle": 99, "expr": [counter]}}
    )
    outcome = converge(DOCUMENT, True, kernel)
    (operation,) = outcome.operations
    assert str(operation) == '- nftables ip fairlead forward 3: {"counter": {"bytes": 0, "packets": 0}}'
    assert json.loads(operation.item.source)["rule"]["expr"] == [counter]  # type: ignore[attr-defined]


@given(NETWORKS, st.integers(0, 32))
def test_iptables_rules_read_back_as_wanted(network: ipaddress.IPv4Network, longer: int) -> None:
    subnet = f"{network.network_address}/{min(32, network.prefixlen + longer)}"
    spec = parse_masquerade({"network": str(network), "subnet": subnet})
    given_to_restore: list[str] = []

    def restore(args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        if args[0].endswith("-restore"):
            given_to_restore.append(data or "")
            return FINE
        return 0, "".join(given_to_restore), ""

    backend = Iptables("iptables", "iptables-nft", restore)
    want = backend.wanted(spec)
    for table in ("nat", "filter"):
        backend.write(table, {}, {key: item for key, item in want.items() if item.table == table})  # type: ignore[attr-defined]
    assert backend.read() == want


ALL_FINE = {
    "nft -j list": NO_TABLE,
    "nft": FINE,
    "iptables --version": (0, "iptables v1.8.9 (nf_tables)", ""),
    "iptables": FINE,
}
# Linux for user mode: nf_tables without family ip; iptables-nft lists there, but cannot write.
NO_FAMILY_IP = {
    **ALL_FINE,
    "nft": NO_FAMILY,
    "iptables-restore": (4, "", "TABLE_ADD failed (Operation not supported): table nat"),
}
NOTHING_OF_NFTABLES = {
    "nft": (3, "", "mnl.c:60: Unable to initialize Netlink socket: Protocol not supported"),
    "iptables-legacy": FINE,
    "iptables": NO_NFTABLES,
}
BEFORE_1_8 = {"iptables --version": (0, "iptables v1.6.1", ""), "iptables": FINE}


@pytest.mark.parametrize(
    ("answers", "backend", "check", "expected"),
    [
        (ALL_FINE, "auto", True, "nftables"),
        (ALL_FINE, "nftables", True, "nftables"),
        (ALL_FINE, "iptables", True, "iptables-nft"),
        (NO_FAMILY_IP, "auto", True, "iptables-legacy"),
        (NO_FAMILY_IP, "iptables", True, "iptables-legacy"),
        (NOTHING_OF_NFTABLES, "auto", True, "iptables-legacy"),
        (NOTHING_OF_NFTABLES, "iptables", True, "iptables-legacy"),
        (BEFORE_1_8, "auto", True, "iptables-legacy"),
        ({}, "auto", True, "nftables"),
        ({}, "iptables", True, "iptables-nft"),
        ({"nft -j list": NO_TABLE, "nft": NO_FAMILY}, "auto", True, "iptables-nft"),
    ],
)
def test_choice(answers: dict[str, tuple[int, str, str]], backend: str, check: bool, expected: str) -> None:
    outcome = converge({**DOCUMENT, "backend": backend}, check, Commands(answers))
    assert {item.backend for item in outcome.after.values()} == {expected}  # type: ignore[attr-defined]


def test_legacy_table_is_not_made_where_nftables_works() -> None:
    commands = Commands(ALL_FINE)
    converge(DOCUMENT, True, commands)
    assert not [words for words in commands.started if "-t nat" in words]


NFT_MISSING = "nftables: command nft is missing (package nftables)"
IPTABLES_MISSING = "iptables-legacy: command iptables-legacy-save is missing (package iptables)"
NO_KERNEL = {"nft": NO_FAMILY, "iptables": NO_NFTABLES, "iptables-legacy": MISSING}


@pytest.mark.parametrize(
    ("answers", "backend", "words"),
    [
        ({}, "auto", [NFT_MISSING, IPTABLES_MISSING, "install nftables or iptables"]),
        ({}, "nftables", [NFT_MISSING, "choose backend iptables or auto"]),
        ({}, "iptables", [IPTABLES_MISSING, "choose backend nftables or auto"]),
        (NO_KERNEL, "auto", ["nftables: the kernel does not do", "Operation not supported", IPTABLES_MISSING]),
        (NO_KERNEL, "iptables", ["iptables-nft: the kernel does not do", "Protocol not supported", IPTABLES_MISSING]),
    ],
)
def test_refusal_names_what_is_missing(
    answers: dict[str, tuple[int, str, str]], backend: str, words: list[str]
) -> None:
    commands = Commands(answers)
    with pytest.raises(PrerequisiteError) as error:
        converge({**DOCUMENT, "backend": backend}, False, commands)
    message = str(error.value)
    assert message.startswith(f"backend {backend} does not work here: ")
    assert [word for word in words if word not in message] == []
    assert not [words for words in commands.started if "-restore" in words or words == "nft -j -f -"]


@pytest.mark.parametrize("command", ["nft -j list", "iptables-save"])
def test_unreadable_rules_are_no_absent_rules(command: str) -> None:
    commands = Commands({**ALL_FINE, command: (1, "", "Operation not permitted (you must be root)")})
    for document in (DOCUMENT, {"state": "absent"}):
        with pytest.raises(ReadError, match="you must be root"):
            converge(document, False, commands)


def test_table_that_nft_changed_is_not_for_iptables() -> None:
    incompatible = (0, "# Table `nat' is incompatible, use 'nft' tool.\n", "")
    foreign = {"nft list table ip nat": (0, "table ip nat {\n\tchain other {\n\t}\n}", "")}
    commands = Commands({**NO_FAMILY_IP, **foreign, "iptables-save": incompatible, "iptables-legacy": MISSING})
    with pytest.raises(PrerequisiteError, match="cannot work with table nat"):
        converge(DOCUMENT, False, commands)
    assert not converge({"state": "absent"}, False, commands).changed


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (
            (0, "table ip nat {\n\tchain FAIRLEAD-POSTRTG {\n\t}\n}", ""),
            "our chain FAIRLEAD-POSTRTG is in it; see 'nft",
        ),
        ((1, "", "Operation not permitted"), "nft list table ip nat: Operation not permitted"),
        (MISSING, "cannot be told; install package nftables"),
    ],
)
def test_chains_of_ours_in_a_table_that_nft_changed_are_not_overlooked(
    listed: tuple[int, str, str], words: str
) -> None:
    incompatible = (0, "# Table `nat' is incompatible, use 'nft' tool.\n", "")
    commands = Commands({**ALL_FINE, "nft list table ip nat": listed, "iptables-save": incompatible})
    for document in (DOCUMENT, {"state": "absent"}):
        with pytest.raises(ReadError, match=words):
            converge(document, False, commands)


def test_chains_of_ours_beside_a_table_that_nft_changed_are_found() -> None:
    saved = "# Table `nat' is incompatible, use 'nft' tool.\n*filter\n:FAIRLEAD-FWD - [0:0]\nCOMMIT\n"
    commands = Commands({**ALL_FINE, "iptables-save": (0, saved, "")})
    outcome = converge({"state": "absent"}, True, commands)
    assert list(map(str, outcome.operations)) == ["- iptables-nft filter chain FAIRLEAD-FWD"]


def test_refused_transaction_names_the_item() -> None:
    kernel = Nft()

    def full(args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        return (1, "", "Error: No space left") if list(args) == ["nft", "-j", "-f", "-"] else kernel(args, data)

    with pytest.raises(ApplyError, match="nftables ip fairlead .*No space left"):
        converge(DOCUMENT, False, full)


def test_output_that_is_no_json() -> None:
    with pytest.raises(ReadError, match="not the JSON"):
        Nftables(Commands({"nft": (0, "table ip fairlead {", "")})).read()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"network": "10.244.0.0"}, "network"),
        ({"network": "fd00::/64"}, "network"),
        ({"network": "0.0.0.0/0"}, "network"),
        ({"network": None}, "network"),
        ({"subnet": "10.245.0.0/24"}, "subnet"),
        ({"subnet": "10.244.1.1/24"}, "subnet"),
        ({"backend": "ipfw"}, "backend"),
        ({"masquerade": "yes"}, "masquerade"),
        ({"state": "gone"}, "state"),
        ({"sbnet": "10.244.1.0/24"}, "sbnet"),
    ],
)
def test_refused_documents(change: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_masquerade({**DOCUMENT, **change})
    assert error.value.path == path
