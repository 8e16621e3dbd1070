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

from ansible_collections.fairlead.cluster.plugins.module_utils._desired.masquerade import (
    converge,
    converge_and_explain,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import (
    ApplyError,
    PrerequisiteError,
    ReadError,
    SpecError,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.filter_items import nft_name
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, VERSIONS
from ansible_collections.fairlead.cluster.plugins.module_utils._model.masquerade import parse_masquerade
from ansible_collections.fairlead.cluster.plugins.module_utils._system.iptables import Iptables
from ansible_collections.fairlead.cluster.plugins.module_utils._system.nftables import Nftables

DOCUMENT = {"network": "10.244.0.0/16", "subnet": "10.244.1.0/24"}
DOCUMENT6 = {"network6": "fd00:10:244::/48", "subnet6": "fd00:10:244:1::/64"}
DUAL = {**DOCUMENT, **DOCUMENT6}
MISSING = (127, "", "command not found")
NO_TABLE = (1, "", "Error: No such file or directory")
NO_FAMILY = (1, "", "Error: Could not process rule: Operation not supported")
NO_NFTABLES = (1, "", "iptables: Failed to initialize nft: Protocol not supported")
FINE = (0, "", "")


@st.composite
def documents(draw: st.DrawFn) -> dict[str, str]:
    """Networks of any length, of one IP version or of both."""
    document = {}
    for suffix, bits in draw(st.sampled_from([[("", 32)], [("6", 128)], [("", 32), ("6", 128)]])):
        length = draw(st.integers(1, bits))
        number = draw(st.integers(0, 2**bits - 1)) >> (bits - length) << (bits - length)
        address = ipaddress.IPv4Address(number) if bits == 32 else ipaddress.IPv6Address(number)
        document[f"network{suffix}"] = f"{address}/{length}"
        document[f"subnet{suffix}"] = f"{address}/{min(bits, length + draw(st.integers(0, bits)))}"
    return document


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
    """A kernel with nftables that does and prints what it is told the way nft 1.0.6 does."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def __call__(self, args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        if args[0] != "nft":
            return MISSING
        if "list" in args:
            place = tuple(args[-2:])
            listed = [entry for entry in self.entries if _place(entry)[:2] == place]
            return (0, json.dumps({"nftables": [{"metainfo": {}}, *listed]}), "") if listed else NO_TABLE
        if "-c" not in args:
            for command in json.loads(data or "")["nftables"]:
                ((verb, entry),) = command.items()
                getattr(self, verb)(entry)
        return FINE

    def add(self, entry: dict[str, Any]) -> None:
        if "table" not in entry or _place(entry) not in map(_place, self.entries):
            self.entries.append(_printed(entry, len(self.entries)))

    def delete(self, entry: dict[str, Any]) -> None:
        assert _place(entry) in map(_place, self.entries)
        place = _place(entry)
        self.entries = [each for each in self.entries if _place(each)[: len(place)] != place]

    def flush(self, entry: dict[str, Any]) -> None:
        place = _place(entry)
        self.entries = [each for each in self.entries if _place(each)[:-1] != place]


def _place(entry: dict[str, Any]) -> tuple[str, ...]:
    """Family and table, for a chain its name too, for a rule that of its chain and something more."""
    ((what, content),) = entry.items()
    if what == "table":
        return content["family"], content["name"]
    table = (content["family"], content["table"])
    return (*table, content["chain"], "rule") if what == "rule" else (*table, content["name"])


def _printed(entry: dict[str, Any], handle: int) -> dict[str, Any]:
    (what, content), *_rest = entry.items()
    length = 128 if content["family"] == "ip6" else 32

    def without_host_length(data: dict[str, Any]) -> Any:
        prefix = data.get("prefix")
        return prefix["addr"] if isinstance(prefix, dict) and prefix["len"] == length else data

    text = json.dumps({**content, "handle": handle})
    printed: dict[str, Any] = json.loads(text, object_hook=without_host_length)
    return {what: printed}


@given(st.lists(documents(), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_nftables_rules_read_back_as_wanted(found: list[dict[str, str]], masquerade: bool, forward: bool) -> None:
    """Whatever was there before; and nothing is left."""
    kernel = Nft()
    converge({**found[0], "masquerade": masquerade, "forward": forward}, False, kernel)
    for document in found:
        converge(document, False, kernel)
        assert not converge(document, False, kernel).changed
        assert len(kernel.entries) == 11 * sum(key.startswith("network") for key in document)
    converge({**found[-1], "masquerade": masquerade, "forward": forward}, False, kernel)
    converge({"state": "absent"}, False, kernel)
    assert kernel.entries == []


def test_nftables_replaces_both_ip_versions_in_one_transaction_and_only_what_differs() -> None:
    kernel, given_to_nft = Nft(), []

    def runner(args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        if data is not None and "-c" not in args:
            given_to_nft.append(data)
        return kernel(args, data)

    converge(DUAL, False, runner)
    converge({**DUAL, "subnet": "10.244.2.0/24", "subnet6": "fd00:10:244:2::/64"}, False, runner)
    converge({**DUAL, "subnet6": "fd00:10:244:2::/64"}, False, runner)
    both, changed, only_ipv4 = given_to_nft
    assert all(f'"family": "{family}"' in both and f'"family": "{family}"' in changed for family in ("ip", "ip6"))
    # A chain that stays is filled again; its hook, and that of the other chain, stay where they are.
    assert "delete" not in changed and changed.count("flush") == 2 and '"forward"' not in changed
    assert '"family": "ip"' in only_ipv4 and '"family": "ip6"' not in only_ipv4


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


@given(documents())
def test_iptables_rules_read_back_as_wanted(document: dict[str, str]) -> None:
    given_to_restore: dict[str, str] = {}

    def restore(args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        command, _dash, verb = args[0].partition("-")
        if verb == "restore":
            given_to_restore[command] = given_to_restore.get(command, "") + (data or "")
            return FINE
        return 0, given_to_restore.get(command, ""), ""

    backend = Iptables("iptables-nft", {version: f"{nft_name(version)}tables" for version in VERSIONS}, restore)
    for rules in parse_masquerade(document).rules:
        want = backend.wanted(rules)
        for table in (f"{nft_name(rules.version)} nat", f"{nft_name(rules.version)} filter"):
            backend.write(table, {}, {key: item for key, item in want.items() if item.table == table})  # type: ignore[attr-defined]
        assert backend.read(rules.version) == want


ALL_FINE = {
    "nft -j list": NO_TABLE,
    "nft": FINE,
    "iptables --version": (0, "iptables v1.8.9 (nf_tables)", ""),
    "ip6tables --version": (0, "ip6tables v1.8.9 (nf_tables)", ""),
    "iptables": FINE,
    "ip6tables": FINE,
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


NO_IP6TABLES = {words: answer for words, answer in ALL_FINE.items() if not words.startswith("ip6")}
NFT_WITHOUT_IP6 = {"nft -j list table ip6": NO_FAMILY}


@pytest.mark.parametrize(
    ("answers", "document", "backend", "expected"),
    [
        (ALL_FINE, DUAL, "auto", "nftables"),
        (ALL_FINE, DOCUMENT6, "iptables", "iptables-nft"),
        (NO_IP6TABLES, DUAL, "auto", "nftables"),
        (NO_IP6TABLES, DOCUMENT, "iptables", "iptables-nft"),
        # In check mode, a package may still come.
        (NO_IP6TABLES, DUAL, "iptables", "iptables-nft"),
        ({**ALL_FINE, **NFT_WITHOUT_IP6}, DOCUMENT, "auto", "nftables"),
        ({**ALL_FINE, **NFT_WITHOUT_IP6}, DUAL, "auto", "iptables-legacy"),
        # The commands may be of different kinds.
        ({**ALL_FINE, "ip6tables --version": (0, "ip6tables v1.8.9 (legacy)", "")}, DUAL, "iptables", "iptables-nft"),
    ],
)
def test_choice_for_ipv6(
    answers: dict[str, tuple[int, str, str]], document: dict[str, str], backend: str, expected: str
) -> None:
    outcome = converge({**document, "backend": backend}, True, Commands(answers))
    assert {item.backend for item in outcome.after.values()} == {expected}  # type: ignore[attr-defined]


def saved_forward(policy: str, *rules: str) -> tuple[int, str, str]:
    return 0, "\n".join(["*filter", f":FORWARD {policy} [0:0]", *(f"-A FORWARD {rule}" for rule in rules), ""]), ""


DROPS, FOREIGN = saved_forward("DROP"), saved_forward("ACCEPT", "-s 2001:db8::/32 -j DROP")


@pytest.mark.parametrize(
    ("saves", "expected", "reason", "warned"),
    [
        ({"ip6tables-save": DROPS}, "iptables-nft", "its policy is DROP (IPv6)", []),
        ({"ip6tables-legacy-save": DROPS}, "iptables-legacy", "its policy is DROP (IPv6)", []),
        ({"iptables-save": DROPS, "ip6tables-save": DROPS}, "iptables-nft", "(IPv4), its policy is DROP (IPv6)", []),
        ({"ip6tables-legacy-save": FOREIGN}, "iptables-legacy", "rules of others (IPv6)", []),
        # What drops goes before what might.
        ({"iptables-legacy-save": DROPS, "ip6tables-save": FOREIGN}, "iptables-legacy", "is DROP (IPv4)", []),
        # One of two, and a word about the other.
        (
            {"iptables-save": DROPS, "ip6tables-legacy-save": DROPS},
            "iptables-nft",
            "its policy is DROP (IPv4)",
            ["iptables-legacy (IPv6): chain FORWARD"],
        ),
        # That with more of them.
        (
            {"iptables-save": DROPS, "iptables-legacy-save": DROPS, "ip6tables-legacy-save": DROPS},
            "iptables-legacy",
            "(IPv4), its policy is DROP (IPv6)",
            ["iptables-nft: chain FORWARD"],
        ),
    ],
)
def test_choice_by_the_walls_of_both_ip_versions(
    saves: dict[str, tuple[int, str, str]], expected: str, reason: str, warned: list[str]
) -> None:
    legacy = {f"{name}-legacy": FINE for name in ("iptables", "ip6tables")}
    _outcome, choice = converge_and_explain(DUAL, True, Commands({**ALL_FINE, **legacy, **saves}))
    assert choice is not None and choice.backend == expected and reason in choice.reason
    assert [warning[: len(words)] for warning, words in zip(choice.warnings, warned, strict=True)] == warned
    for warning in choice.warnings:
        pods, others = (DOCUMENT6, DOCUMENT) if "(IPv6)" in warning else (DOCUMENT, DOCUMENT6)
        assert list(pods.values())[0] in warning and list(others.values())[0] not in warning


def test_walls_of_an_ip_version_that_is_not_declared_are_nobodys_business() -> None:
    commands = Commands({**ALL_FINE, "ip6tables": DROPS, "ip6tables-legacy": DROPS})
    _outcome, choice = converge_and_explain(DOCUMENT, True, commands)
    assert choice is not None and (choice.backend, choice.warnings) == ("nftables", ())


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
    assert list(map(str, outcome.operations)) == ["- iptables-nft ip filter chain FAIRLEAD-FWD"]


def test_refused_transaction_names_the_item() -> None:
    kernel = Nft()

    def full(args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        return (1, "", "Error: No space left") if list(args) == ["nft", "-j", "-f", "-"] else kernel(args, data)

    with pytest.raises(ApplyError, match="nftables ip fairlead .*No space left"):
        converge(DOCUMENT, False, full)


def test_output_that_is_no_json() -> None:
    with pytest.raises(ReadError, match="not the JSON"):
        Nftables(Commands({"nft": (0, "table ip fairlead {", "")})).read(IPV4)


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
        ({"network": None, "subnet": None}, "network"),
        ({"subnet": None}, "subnet"),
        ({"network6": "fd00:10:244::/48"}, "subnet6"),
        ({"subnet6": "fd00:10:244:1::/64"}, "network6"),
        ({**DOCUMENT6, "network6": "10.244.0.0/16"}, "network6"),
        ({**DOCUMENT6, "network6": "::/0"}, "network6"),
        ({**DOCUMENT6, "subnet6": "fd00:10:245::/64"}, "subnet6"),
        ({**DOCUMENT6, "subnet6": "10.244.1.0/24"}, "subnet6"),
    ],
)
def test_refused_documents(change: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_masquerade({**DOCUMENT, **change})
    assert error.value.path == path
