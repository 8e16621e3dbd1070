# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Module masquerade with IPv4, IPv6 and both: one backend for both halves, each half of its own, others untouched."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired.masquerade import converge
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.packet_filters import (
    FILTERS,
    HALVES,
    MULTI,
    V4,
    V6,
    Filter,
    Half,
    arranged,
    everything,
    lacking,
    make_default,
    places,
    stub,
)

ABSENT = {"state": "absent"}


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that comes first in PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


@pytest.fixture(params=FILTERS)
def packet_filter(request: pytest.FixtureRequest, commands: Path, netns: Namespaces) -> Filter:
    name: str = request.param
    reason = lacking(netns("can"), name)
    if reason:
        pytest.skip(reason)
    if name in MULTI:
        make_default(commands, name)
    return Filter(name)


def foreign(node: Namespace, kinds: Iterable[str] = MULTI) -> None:
    """What Docker, ufw and a firewall of nftables leave on a node, as far as it could be taken for ours."""
    for half, address in ((V4, "172.17.0.0/16"), (V6, "fd00:17::/64")):
        for kind in kinds:
            command = half.command(kind)
            prefix = "ufw" if half is V4 else "ufw6"
            for rule in (
                f"-t nat -A POSTROUTING -s {address} ! -o docker0 -j MASQUERADE",
                "-N DOCKER-USER",
                f"-N {prefix}-before-forward",
                "-P FORWARD DROP",
                "-A FORWARD -j DOCKER-USER",
                f"-A FORWARD -j {prefix}-before-forward",
                "-A DOCKER-USER -j RETURN",
                f"-A {prefix}-before-forward -s {half.network} -j ACCEPT",
                "-A FORWARD -m comment --comment FAIRLEAD -i docker0 -j ACCEPT",
                "-N FAIRLEAD-FWD-2",
            ):
                node.run([command, *rule.split()])
        node.run(["nft", f"add table {half.family} other"])
        node.run(["nft", f"add chain {half.family} other postrouting {{ type nat hook postrouting priority 90; }}"])
        node.run(["nft", f"add rule {half.family} other postrouting {half.family} saddr {address} masquerade"])
    node.run(["nft", "add table inet fairlead"])
    node.run(["nft", "add chain inet fairlead forward { type filter hook forward priority 0; }"])


def test_halves_come_and_go_beside_rules_of_others(
    packet_filter: Filter, run_module: RunModule, netns: Namespaces
) -> None:
    """Each half is there exactly when it is declared, and says so before; all that is not ours stays as it is."""
    node = netns("node")
    foreign(node)
    before = everything(node)
    for halves in ((V6,), (V4, V6), (V4,), (V6,), ()):
        args = packet_filter.args_for(*halves) if halves else ABSENT
        unchanged = everything(node)
        predicted = run_module("masquerade", args, netns=node, check=True)
        assert predicted["changed"] and everything(node) == unchanged
        applied = run_module("masquerade", args, netns=node)
        assert [applied[key] for key in ("before", "after", "operations")] == [
            predicted[key] for key in ("before", "after", "operations")
        ]
        assert packet_filter.holds_just(node, halves)
        assert set(before) - set(everything(node)) == set()
        assert [places(node, half) for half in halves] == [[packet_filter.name]] * len(halves)
        assert not run_module("masquerade", args, netns=node)["changed"]
    assert everything(node) == before


def test_one_half_leaves_the_other_alone(packet_filter: Filter, run_module: RunModule, netns: Namespaces) -> None:
    """Nothing is said of IPv4 when IPv6 joins it, leaves it or has changed; handles of its rules stay the same."""
    node = netns("node")
    run_module("masquerade", packet_filter.args_for(V4), netns=node)

    def handles() -> str:
        return "".join(node.run(f"nft -a list table ip {name}", check=False).stdout for name in ("fairlead", "nat"))

    as_it_was = handles()
    changes: list[tuple[tuple[Half, ...], dict[str, Any]]] = [
        ((V4, V6), {}),
        ((V4, V6), {"subnet6": "fd00:10:244:2::/64"}),
        ((V4,), {}),
    ]
    for halves, more in changes:
        result = run_module("masquerade", {**packet_filter.args_for(*halves), **more}, netns=node)
        lines = [line for line in result["operations"] if line.split()[1] != "file"]
        assert lines and [line for line in lines if line.split()[2] != "ip6"] == []
        assert handles() == as_it_was
    assert packet_filter.holds_just(node, (V4,))


DRIFT = {
    "nftables": [
        ["nft", "flush chain ip6 fairlead postrouting"],
        ["nft", "delete table ip6 fairlead"],
        ["nft", "add rule ip6 fairlead forward ip6 saddr 2001:db8::/32 counter drop"],
        ["nft", "add set ip6 fairlead extra { type ipv6_addr; elements = { 2001:db8::1 }; }"],
        ["nft", "add chain ip6 fairlead forward { policy drop; }"],
    ],
    "iptables": [
        ["-t", "nat", "-F", "FAIRLEAD-POSTRTG"],
        ["-R", "FAIRLEAD-FWD", "1", "-s", "2001:db8::/32", "-j", "ACCEPT"],
        ["-I", "FORWARD", "-s", "2001:db8::/32", "-j", "FAIRLEAD-FWD"],
        ["-A", "INPUT", "-j", "FAIRLEAD-FWD"],
        ["-t", "nat", "-D", "POSTROUTING", "1"],
    ],
}


def test_drift_of_ipv6_is_repaired(packet_filter: Filter, run_module: RunModule, netns: Namespaces) -> None:
    node = netns("node")
    args = packet_filter.args_for(V4, V6)
    run_module("masquerade", args, netns=node)
    start = [] if packet_filter.name == "nftables" else [V6.command(packet_filter.name)]
    for words in DRIFT[packet_filter.name.split("-")[0]]:
        node.run([*start, *words])
        assert run_module("masquerade", args, netns=node)["changed"], words
        assert packet_filter.holds_just(node, HALVES), words
    assert not run_module("masquerade", args, netns=node)["changed"]


@pytest.mark.parametrize(
    ("network", "subnet"),
    [
        ("2001:db8:0:0:1::/80", "2001:db8::1:0:0:0/96"),
        ("::ffff:0:0/96", "::ffff:10.0.0.0/104"),
        ("::/8", "::10.1.2.0/120"),
        ("2001:db8::8000:0:0:0/65", "2001:db8::8000:0:0:1/128"),
    ],
)
def test_networks_read_back_as_they_were_written(
    network: str, subnet: str, packet_filter: Filter, run_module: RunModule, netns: Namespaces
) -> None:
    node = netns("node")
    args = {"network6": network, "subnet6": subnet, "backend": packet_filter.args["backend"]}
    run_module("masquerade", args, netns=node)
    assert not run_module("masquerade", args, netns=node)["changed"]


IP6TABLES = [f"ip6tables{kind}{suffix}" for kind in ("", "-nft", "-legacy") for suffix in ("", "-save", "-restore")]


def test_missing_ip6tables_matters_for_ipv6_only(
    commands: Path, run_module: RunModule, netns: Namespaces, state_dir: Path
) -> None:
    node = netns("node")
    make_default(commands, "iptables-nft")
    for command in IP6TABLES:
        stub(commands, command, "exit 127")
    of_iptables = Filter("iptables-nft")
    run_module("masquerade", of_iptables.args_for(V4), netns=node)
    document = (state_dir / node.name / "masquerade.json").read_bytes()
    refused = run_module("masquerade", of_iptables.args_for(V4, V6), netns=node, fails=True)
    assert refused["error_type"] == "PrerequisiteError"
    assert "iptables-nft (IPv6): command ip6tables-nft-save is missing (package iptables)" in refused["msg"]
    assert "choose backend nftables or auto" in refused["msg"]
    assert of_iptables.holds(node) and (state_dir / node.name / "masquerade.json").read_bytes() == document
    # With a choice, both halves go where both work.
    result = run_module("masquerade", {**V4.args, **V6.args}, netns=node)
    assert result["backend"] == "nftables"
    for command in IP6TABLES:
        (commands / command).unlink()
    assert [places(node, half) for half in HALVES] == [["nftables"]] * 2


def test_ip6tables_of_another_kind_is_not_taken(commands: Path, run_module: RunModule, netns: Namespaces) -> None:
    """Debian lets the two commands be switched one by one."""
    node = netns("node")
    make_default(commands, "iptables-nft", [V4])
    make_default(commands, "iptables-legacy", [V6])
    result = run_module("masquerade", Filter("iptables-nft").args_for(V4, V6), netns=node)
    assert result["backend"] == "iptables-nft"
    assert [places(node, half) for half in HALVES] == [["iptables-nft"]] * 2


def test_kernel_without_ipv6_filters_keeps_ipv4(commands: Path, run_module: RunModule, netns: Namespaces) -> None:
    """nft and ip6tables say that they cannot; IPv4 alone works all the same, and so does removal."""
    node = netns("node")
    stub(
        commands,
        "nft",
        f"""case "$*" in *ip6*) echo 'Error: Could not process rule: Operation not supported' >&2; exit 1;; esac
case "$*" in *'-f -') text=$(cat);; esac
case "$text" in *ip6*) echo 'Error: Could not process rule: Operation not supported' >&2; exit 1;; esac
echo "$text" | exec {shutil.which("nft")} "$@" """,
    )
    for command in IP6TABLES:
        stub(commands, command, 'echo "can\'t initialize ip6tables table: Table does not exist" >&2; exit 3')
    nftables = Filter("nftables")
    assert run_module("masquerade", nftables.args_for(V4), netns=node)["changed"]
    message = run_module("masquerade", {**V4.args, **V6.args}, netns=node, fails=True)["msg"]
    assert "nftables (IPv6): the kernel does not do what nft needs: Error: Could not process rule" in message
    assert not run_module("masquerade", nftables.args_for(V4), netns=node)["changed"]
    (commands / "nft").rename(commands / "nft-stub")
    assert nftables.holds_just(node, (V4,))
    (commands / "nft-stub").rename(commands / "nft")
    assert run_module("masquerade", ABSENT, netns=node)["changed"]


class Poisoned:
    """Runs commands in a namespace; the transaction with the given number is refused without being tried."""

    def __init__(self, node: Namespace, position: int) -> None:
        self.node, self.position, self.writes = node, position, 0

    def __call__(self, args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        # Neither the trial of nft nor that of iptables-restore leaves anything.
        if data is not None and "-c" not in args and "PROBE" not in data:
            self.writes += 1
            if self.writes == self.position:
                return 1, "", "no memory"
        done = self.node.run(list(args), check=False, data=data)
        return done.returncode, done.stdout, done.stderr


#: That it takes to bring or remove both halves.
TRANSACTIONS = {"nftables": 1, "iptables-nft": 4, "iptables-legacy": 4, None: 0}


def poison_everywhere(node: Namespace, document: dict[str, Any]) -> int:
    """Refuse each transaction in turn: all others are undone. The number of transactions it takes without that."""
    before = arranged(node)
    for position in range(1, 20):
        poisoned = Poisoned(node, position)
        try:
            outcome = converge(document, False, poisoned)
        except ApplyError as error:
            assert "no memory" in str(error)
            assert arranged(node) == before
        else:
            assert outcome.changed and poisoned.writes == position - 1
            return poisoned.writes
    raise AssertionError("every transaction was refused")


MOVES = [(new, old) for new in FILTERS for old in [*FILTERS, None] if new != old]


@pytest.mark.parametrize(("packet_filter", "old"), MOVES, indirect=["packet_filter"])
def test_failure_at_any_position_is_undone(
    old: str | None, packet_filter: Filter, commands: Path, netns: Namespaces
) -> None:
    """From one backend to another (or from none), IPv6 alone, both, and nothing."""
    node = netns("node")
    name, both = packet_filter.name, packet_filter.args_for(V4, V6)
    if old:
        make_default(commands, old if old in MULTI else name)
        converge(Filter(old).args_for(V4, V6), False, Poisoned(node, 0))
        assert [places(node, half) for half in HALVES] == [[old]] * 2
        make_default(commands, name if name in MULTI else old)
    # Rules of others draw ours from one kind of iptables to the other.
    foreign(node, [name] if name in MULTI else [])
    assert poison_everywhere(node, both) == TRANSACTIONS[name] + TRANSACTIONS[old]
    assert [places(node, half) for half in HALVES] == [[name]] * 2 and packet_filter.holds_just(node, HALVES)
    of_one_half = 1 if name == "nftables" else TRANSACTIONS[name] // 2
    for halves in ((V6,), HALVES, (V4,), HALVES):
        assert poison_everywhere(node, packet_filter.args_for(*halves)) == of_one_half
        assert packet_filter.holds_just(node, halves)
    assert poison_everywhere(node, ABSENT) == TRANSACTIONS[name]
    assert packet_filter.holds_just(node, ())
