# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Module masquerade against the packet filters of the kernel, seen by nft and iptables-save from outside."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.packet_filters import (
    FILTERS,
    MULTI,
    V4,
    Filter,
    everything,
    lacking,
    make_default,
    saved,
    stub,
)

BASE = V4.args
UseIptables = Callable[[str], Path]


@pytest.fixture
def use_iptables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseIptables:
    """Make commands iptables and ip6tables the given kind; returns the directory that comes first in PATH."""

    def use(name: str) -> Path:
        directory = tmp_path / "bin"
        make_default(directory, name)
        return directory

    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return use


@pytest.fixture(params=FILTERS)
def packet_filter(request: pytest.FixtureRequest, use_iptables: UseIptables, netns: Namespaces) -> Filter:
    name: str = request.param
    reason = lacking(netns("can"), name)
    if reason:
        pytest.skip(reason)
    if name in MULTI:
        use_iptables(name)
    return Filter(name)


def test_matrix(packet_filter: Filter, run_module: RunModule, netns: Namespaces) -> None:
    """Create, modify, delete: each in check mode and for real, each again; deletion of what is absent."""
    node = netns("node")
    create, modify = packet_filter.args, {**packet_filter.args, "forward": False}
    stages: list[tuple[dict[str, Any], bool, dict[str, bool]]] = [
        (create, True, {"masquerade": False, "forward": False}),
        (modify, True, {}),
        ({"state": "absent"}, True, {"forward": False}),
    ]
    for args, changes, chains_before in stages:
        for _again in range(2):
            predicted = run_module("masquerade", args, netns=node, check=True, diff=True)
            assert predicted["changed"] and packet_filter.holds(node, **chains_before)
        applied = run_module("masquerade", args, netns=node, diff=True)
        assert applied["changed"] == changes
        assert [applied[key] for key in ("before", "after", "operations")] == [
            predicted[key] for key in ("before", "after", "operations")
        ]
        assert applied["diff"] == predicted["diff"]
        for check in (False, True):
            assert not run_module("masquerade", args, netns=node, check=check)["changed"]
        chains = {"masquerade": args is not stages[-1][0], "forward": args is create}
        assert packet_filter.holds(node, **chains)
    assert not run_module("masquerade", {"state": "absent"}, netns=node)["changed"]


def test_diff_has_one_line_a_rule(packet_filter: Filter, run_module: RunModule, netns: Namespaces) -> None:
    result = run_module("masquerade", packet_filter.args, netns=netns("node"), diff=True)
    lines = [line for line in result["diff"]["after"].splitlines() if line.startswith(packet_filter.name)]
    verdicts = [line for line in lines if 'comment "fairlead' in line and not re.search(r"-j FAIRLEAD", line)]
    assert len(verdicts) == 8
    assert result["diff"]["before"] == ""


@pytest.mark.parametrize("chains", [{"masquerade": False}, {"forward": False}, {"masquerade": False, "forward": False}])
def test_chain_left_out(
    packet_filter: Filter, chains: dict[str, bool], run_module: RunModule, netns: Namespaces
) -> None:
    node = netns("node")
    run_module("masquerade", packet_filter.args, netns=node)
    run_module("masquerade", {**packet_filter.args, **chains}, netns=node)
    assert packet_filter.holds(node, **chains)


def test_document_is_remembered_and_forgotten(run_module: RunModule, netns: Namespaces, state_dir: Path) -> None:
    node = netns("node")
    path = state_dir / node.name / "masquerade.json"
    run_module("masquerade", BASE, netns=node, check=True)
    assert not path.exists()
    run_module("masquerade", BASE, netns=node)
    document = json.loads(path.read_text())
    assert {key: document[key] for key in ("network", "subnet", "backend")} == {**BASE, "backend": "auto"}
    assert document.pop("remembered") == "nftables"
    assert not run_module("masquerade", document, netns=node)["changed"]
    run_module("masquerade", {"state": "absent"}, netns=node)
    assert not path.exists()


def foreign_rules(node: Namespace) -> None:
    node.run(["nft", "add table ip other"])
    node.run(["nft", "add chain ip other postrouting { type nat hook postrouting priority 90; }"])
    node.run(["nft", 'add rule ip other postrouting ip saddr 10.244.9.0/24 return comment "fairlead masquerade"'])
    node.run(["nft", "add table inet fairlead"])
    for command in ("iptables-nft", "iptables-legacy"):
        node.run(f"{command} -t nat -N OTHER")
        node.run(f"{command} -t nat -A OTHER -s 10.1.0.0/16 -j MASQUERADE")
        node.run(f"{command} -t nat -A POSTROUTING -j OTHER")
        node.run(f"{command} -A FORWARD -s 10.9.0.0/16 -m comment --comment FAIRLEADER -j DROP")
        node.run(f"{command} -N FAIRLEAD-FWD-2")


def test_rules_of_others_stay(packet_filter: Filter, run_module: RunModule, netns: Namespaces) -> None:
    node = netns("node")
    foreign_rules(node)
    before = everything(node)
    run_module("masquerade", packet_filter.args, netns=node)
    with_ours = everything(node)
    assert with_ours != before
    assert not [line for line in before if line not in with_ours]
    if packet_filter.name != "nftables":
        for parent, chain in (("POSTROUTING", "FAIRLEAD-POSTRTG"), ("FORWARD", "FAIRLEAD-FWD")):
            rules = [line for line in saved(node, packet_filter.name) if line.startswith(f"-A {parent} ")]
            assert len(rules) == 2 and rules[-1].endswith(f"-j {chain}")
    run_module("masquerade", {"state": "absent"}, netns=node)
    assert everything(node) == before


NFT_DRIFT = [
    "flush chain ip fairlead postrouting",
    "delete table ip fairlead",
    "add rule ip fairlead postrouting ip saddr 10.0.0.0/8 masquerade",
    "insert rule ip fairlead forward tcp dport 22 counter drop",
    "add chain ip fairlead extra",
    "add set ip fairlead extra { type ipv4_addr; elements = { 10.0.0.1 }; }",
    "add chain ip fairlead forward { policy drop; }",
    "add table ip fairlead { flags dormant; }",
]
IPTABLES_DRIFT = [
    "-t nat -F FAIRLEAD-POSTRTG",
    "-t nat -D FAIRLEAD-POSTRTG 2",
    "-t nat -I FAIRLEAD-POSTRTG -s 10.0.0.0/8 -j MASQUERADE",
    "-R FAIRLEAD-FWD 1 -s 10.0.0.0/8 -j ACCEPT",
    '-A FORWARD -m comment --comment "fairlead forward" -j FAIRLEAD-FWD',
    "-I FORWARD -s 10.3.0.0/16 -j FAIRLEAD-FWD",
    "-A INPUT -j FAIRLEAD-FWD",
    "-F FORWARD",
    "-t nat -D POSTROUTING 1",
]


def drift_commands(packet_filter: Filter) -> list[list[str]]:
    if packet_filter.name == "nftables":
        return [["nft", change] for change in NFT_DRIFT]
    quoted = re.compile(r'"([^"]*)"|(\S+)')
    split = [[a or b for a, b in quoted.findall(change)] for change in IPTABLES_DRIFT]
    return [[packet_filter.name, *words] for words in split]


def test_drift_is_repaired(packet_filter: Filter, run_module: RunModule, netns: Namespaces) -> None:
    node = netns("node")
    run_module("masquerade", packet_filter.args, netns=node)
    for command in drift_commands(packet_filter):
        node.run(command)
        assert run_module("masquerade", packet_filter.args, netns=node)["changed"], command
        assert packet_filter.holds(node), command
    assert not run_module("masquerade", packet_filter.args, netns=node)["changed"]


def test_absent_removes_changed_rules(packet_filter: Filter, run_module: RunModule, netns: Namespaces) -> None:
    node = netns("node")
    run_module("masquerade", packet_filter.args, netns=node)
    for command in drift_commands(packet_filter)[4:7]:
        node.run(command)
    run_module("masquerade", {"state": "absent"}, netns=node)
    assert packet_filter.ours(node) == []


@pytest.mark.parametrize("old", FILTERS)
@pytest.mark.parametrize("new", FILTERS)
def test_switch_of_backend(
    old: str, new: str, run_module: RunModule, netns: Namespaces, use_iptables: UseIptables
) -> None:
    """Between the kinds of iptables nothing is switched while both work: it stays with the one that has the rules."""
    node = netns("node")
    for name in (old, new):
        use_iptables(name if name in MULTI else "iptables-legacy")
        result = run_module("masquerade", Filter(name).args, netns=node)
    moved = old.split("-")[0] != new.split("-")[0]
    assert result["changed"] == moved
    if moved:
        signs = [line[0] for line in result["operations"] if "/" not in line.split()[2]]
        assert signs == sorted(signs)
    assert [name for name in FILTERS if Filter(name).ours(node)] == [new if moved else old]
    assert Filter(new if moved else old).holds(node)
    automatic = run_module("masquerade", {**BASE, "backend": "auto"}, netns=node)
    assert [line for line in automatic["operations"] if line.split()[1] != "file"] == []


def test_rules_in_all_backends_end_in_one(run_module: RunModule, netns: Namespaces) -> None:
    node = netns("node")
    for name in MULTI:
        node.run(f"{name} -N FAIRLEAD-FWD")
        node.run(f"{name} -A FORWARD -j FAIRLEAD-FWD")
    node.run(["nft", "add table ip fairlead"])
    run_module("masquerade", BASE, netns=node)
    assert Filter("nftables").holds(node)
    assert [Filter(name).ours(node) for name in MULTI] == [[], []]


def test_auto_takes_nftables(run_module: RunModule, netns: Namespaces) -> None:
    node = netns("node")
    run_module("masquerade", BASE, netns=node)
    assert Filter("nftables").holds(node)
    assert saved(node, "iptables-legacy") == []
    assert "table ip nat" not in node.out("nft list ruleset")


# What nft says on kernels without family ip; listing works there.
NO_FAMILY_IP = """case "$*" in
*list*) echo 'Error: No such file or directory' >&2;;
*) cat > /dev/null; echo 'Error: Could not process rule: Operation not supported' >&2;;
esac
exit 1"""


@pytest.mark.parametrize("check", [True, False])
def test_kernel_without_nftables(
    check: bool, run_module: RunModule, netns: Namespaces, use_iptables: UseIptables
) -> None:
    node = netns("node")
    directory = use_iptables("iptables-nft")
    stub(directory, "nft", NO_FAMILY_IP)
    real = shutil.which(MULTI["iptables-nft"])
    refusal = "cat > /dev/null; echo 'TABLE_ADD failed (Operation not supported): table nat' >&2; exit 4"
    stub(directory, "iptables-restore", refusal)
    stub(directory, "iptables", f'case "$*" in *-S*|*--version*) exec {real} iptables "$@";; esac; exit 4')
    result = run_module("masquerade", BASE, netns=node, check=check)
    assert {item["backend"] for item in result["after"] if item["kind"] != "file"} == {"iptables-legacy"}
    assert Filter("iptables-legacy").holds(node, masquerade=not check, forward=not check)
    run_module("masquerade", {"state": "absent"}, netns=node)
    message = run_module("masquerade", {**BASE, "backend": "nftables"}, netns=node, check=check, fails=True)["msg"]
    assert "Operation not supported" in message and "choose backend iptables" in message


COMMANDS = ["nft", *(f"{name}{suffix}" for name in ("iptables", *MULTI) for suffix in ("", "-save", "-restore"))]


@pytest.mark.parametrize(("backend", "predicted"), [("auto", "nftables"), ("iptables", "iptables-nft")])
def test_fresh_node_without_commands(
    backend: str, predicted: str, run_module: RunModule, netns: Namespaces, use_iptables: UseIptables
) -> None:
    node = netns("node")
    before = everything(node)
    directory = use_iptables("iptables-nft")
    for command in COMMANDS:
        stub(directory, command, "exit 127")
    args = {**BASE, "backend": backend}
    result = run_module("masquerade", args, netns=node, check=True)
    rules = [item for item in result["after"] if item["kind"] == "filter_rule"]
    assert {item["backend"] for item in rules} == {predicted} and len(rules) >= 8
    message = run_module("masquerade", args, netns=node, fails=True)["msg"]
    assert "missing" in message and "install" in message
    assert not run_module("masquerade", {"state": "absent"}, netns=node)["changed"]
    for command in COMMANDS:
        (directory / command).unlink()
    assert everything(node) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "10.244.0.0/33"}, "network: must be a network"),
        ({"network": "10.244.0.1/16"}, "network: 10.244.0.1/16 has host bits set"),
        ({"network": "fd00::/64"}, "network: must be an IPv4 network"),
        ({"network": "0.0.0.0/0"}, "network: must not be all addresses"),
        ({"subnet": "10.245.1.0/24"}, "subnet: 10.245.1.0/24 is not inside network 10.244.0.0/16"),
        ({"subnet": "10.0.0.0/8"}, "subnet: 10.0.0.0/8 is not inside"),
        ({"subnet": None}, "subnet"),
        ({"backend": "ipfw"}, "backend"),
    ],
)
def test_bad_input_changes_nothing(
    change: dict[str, Any], message: str, run_module: RunModule, netns: Namespaces, state_dir: Path
) -> None:
    node = netns("node")
    run_module("masquerade", BASE, netns=node)
    before, document = everything(node), (state_dir / node.name / "masquerade.json").read_bytes()
    for check in (True, False):
        result = run_module("masquerade", {**BASE, **change}, netns=node, check=check, fails=True)
        assert message in result["msg"]
    assert everything(node) == before
    assert (state_dir / node.name / "masquerade.json").read_bytes() == document


def poison_restore(directory: Path, words: str) -> Path:
    """Have iptables-restore (legacy) refuse input with the given words; returns the file with all input it got."""
    real = shutil.which(MULTI["iptables-legacy"])
    calls = directory / "calls"
    script = f"""text=$(cat)
echo "$text" >> {calls}
case "$text" in *"{words}"*) echo 'no memory' >&2; exit 1;; esac
echo "$text" | {real} iptables-restore "$@"
"""
    stub(directory, "iptables-restore", script)
    return calls


@pytest.mark.parametrize("old", ["nftables", None])
def test_failure_is_undone(
    old: str | None, run_module: RunModule, netns: Namespaces, use_iptables: UseIptables, state_dir: Path
) -> None:
    """The second of two tables is refused: the first one goes back, the old backend keeps its rules."""
    node = netns("node")
    directory = use_iptables("iptables-legacy")
    if old:
        run_module("masquerade", {**BASE, "backend": old}, netns=node)
    calls = poison_restore(directory, "FAIRLEAD-POSTRTG")
    node.run("iptables-legacy -A FORWARD -s 10.9.0.0/16 -j DROP")
    node.run("iptables-legacy -t nat -L")
    before = everything(node)
    result = run_module("masquerade", {**BASE, "backend": "iptables"}, netns=node, fails=True)
    assert "no memory" in result["msg"] and result["error_type"] == "ApplyError"
    assert ":FAIRLEAD-FWD" in calls.read_text() and "-X FAIRLEAD-FWD" in calls.read_text()
    assert everything(node) == before
    assert (state_dir / node.name / "masquerade.json").exists() == bool(old)


def test_failed_removal_brings_the_rules_back(
    run_module: RunModule, netns: Namespaces, use_iptables: UseIptables
) -> None:
    node = netns("node")
    directory = use_iptables("iptables-legacy")
    legacy = Filter("iptables-legacy")
    run_module("masquerade", legacy.args, netns=node)
    poison_restore(directory, "-X FAIRLEAD-FWD")
    run_module("masquerade", {"state": "absent"}, netns=node, fails=True)
    assert legacy.holds(node)
