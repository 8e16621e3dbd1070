# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services when something fails: undo at every position, killed runs, refusals of the kernel, start-up."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import ipvs_service, store
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Adapter, Outcome
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError, VerifyError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import State
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import Operation
from ansible_collections.fairlead.cluster.plugins.module_utils._system.runtime_tree import unpack
from ansible_collections.fairlead.cluster.plugins.plugin_utils.runtime_tree import build
from tests.kernel.ipvs_nodes import (
    DELETED,
    DEVICE,
    Args,
    apply_to,
    foreign,
    lone_node,
    saved,
    server,
    service,
    snapshot,
    table,
    web,
)
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.test_overlay_killed import Deadly, KilledError
from tests.kernel.test_overlay_undo import Poisoned

pytestmark = pytest.mark.usefixtures("ipvs")

ONE: Args = {
    "services": [
        web(1, 2, scheduler="wlc"),
        service("10.96.0.81", 443, server("10.244.1.1", connections_max=9, connections_min=3)),
        service("fd00:96::80", 53, server("fd00:244::1"), protocol="udp", persistence=60, persistence_netmask=64),
        {"mark": 7, "servers": [server("10.244.1.1", forwarding="tunnel", tunnel={"type": "gre"})]},
    ],
    "device": "svc0",
}
OTHER: Args = {
    "services": [
        web(2, 3, scheduler="sh", flags=["port"]),
        service("fd00:96::80", 53, server("fd00:244::1", forwarding="direct"), protocol="udp"),
        {"mark": 7, "family": "ipv6"},
        service("10.96.0.82", 80),
    ],
    "timeouts": {"tcp": 1000},
}


@pytest.fixture
def node(netns: Namespaces) -> Namespace:
    return lone_node(netns)


@pytest.mark.parametrize("start", [None, ONE])
def test_failure_at_any_operation_is_taken_back(
    start: Args | None, node: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(node, ["-A -t 10.96.9.9:80 -s wlc", "-a -t 10.96.9.9:80 -r 10.244.9.9:80 -g -w 7"])
    if start is not None:
        apply_to(tmp_path, node, start)
    before, plain = snapshot(node), ipvs_service.IpvsAdapter
    position, planned = 0, 1
    while position < planned:
        made: list[Poisoned] = []

        def poison(*arguments: Any, at: int = position, made: list[Poisoned] = made) -> Poisoned:
            made.append(Poisoned(plain(*arguments), at))
            return made[0]

        monkeypatch.setattr(ipvs_service, "IpvsAdapter", poison)
        with pytest.raises(ApplyError, match="poisoned"):
            apply_to(tmp_path, node, OTHER)
        assert snapshot(node) == before, f"after {position} operations"
        planned, position = made[0].planned, position + 1
    assert planned >= (12 if start is None else 18)
    assert not list((tmp_path / node.name).glob("*.unfinished"))


def test_scheduler_that_the_kernel_refuses_at_any_position(
    node: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the module's file lies: the refusal names the service, and nothing of the run stays."""
    apply_to(tmp_path, node, ONE)
    before = snapshot(node)
    monkeypatch.setattr(ipvs_service.Run, "_modules", lambda _self: Outcome({}, {}, []))
    plain = [service(f"10.96.1.{number}", 80, "10.244.1.1") for number in range(1, 5)]
    for position in range(5):
        services = [*plain[:position], service("10.96.1.9", 80, scheduler="twos"), *plain[position:]]
        refused = r"^virtual service tcp 10\.96\.1\.9:80 scheduler twos: cannot add: .*kernel has no such scheduler"
        with pytest.raises(ApplyError, match=refused):
            apply_to(tmp_path, node, {"services": services})
        assert snapshot(node) == before, position
    changed = [{**each, "scheduler": "twos"} if "mark" in each else each for each in ONE["services"]]
    with pytest.raises(ApplyError, match="virtual service mark 7 scheduler twos: cannot replace"):
        apply_to(tmp_path, node, {**ONE, "services": changed})
    assert snapshot(node) == before


def test_address_that_the_kernel_refuses(node: Namespace, tmp_path: Path) -> None:
    apply_to(tmp_path, node, {"services": [web(1)]})
    node.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"])
    node.run(["sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6"])
    before = snapshot(node)
    for device in (DEVICE, "svc0"):
        services = [web(2), service("10.96.0.81"), service("fd00:96::80")]
        with pytest.raises(ApplyError, match=f"address fd00:96::80/128 dev {device}: cannot add: "):
            apply_to(tmp_path, node, {"services": services, "device": device})
        assert snapshot(node) == before, device


class Forgetful:
    """An adapter that says it did everything, and left one operation out."""

    def __init__(self, inner: Adapter, position: int) -> None:
        self.inner, self.position = inner, position

    def read(self) -> State:
        return self.inner.read()

    def read_again(self, operations: Sequence[Operation]) -> Any:
        return self.inner.read_again(operations)  # type: ignore[attr-defined]

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        position, self.position = self.position, -1
        yield from self.inner.apply([each for number, each in enumerate(operations) if number != position])
        if 0 <= position < len(operations):
            yield operations[position]


@pytest.mark.parametrize("few", [True, False])
def test_what_the_kernel_did_not_do_is_noticed(
    few: bool, node: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = range(2, 4) if few else range(2, 80)
    apply_to(tmp_path, node, {"services": [web(1)]})
    before, plain = snapshot(node), ipvs_service.IpvsAdapter
    monkeypatch.setattr(ipvs_service, "IpvsAdapter", lambda *parts: Forgetful(plain(*parts), 1))
    with pytest.raises(VerifyError, match=r"still wants: \+ real server 10\.244\.1\.3:8080 of tcp 10\.96\.0\.80:80"):
        apply_to(tmp_path, node, {"services": [web(1, *numbers)]})
    assert snapshot(node) == before


def killed(directory: Path, node: Namespace, args: Args, position: int) -> bool:
    """Run until an operation, then be gone. Whether the run was that long."""
    plain, note = ipvs_service.IpvsAdapter, store._note
    notes: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ipvs_service, "IpvsAdapter", lambda *parts: Deadly(plain(*parts), position))
        patch.setattr("ansible_collections.fairlead.cluster.plugins.module_utils._engine._undo", lambda *_: None)
        # A killed process takes no note back either.
        patch.setattr(store, "_note", lambda kind, entries: notes.append(entries) or note(kind, notes[0]))
        with contextlib.suppress(KilledError):
            apply_to(directory, node, args)
            return False
    return True


def test_what_a_killed_run_made_goes_unless_it_is_wanted(node: Namespace, tmp_path: Path) -> None:
    bare = snapshot(node)
    second: Args = {"services": [web(1), service("10.96.0.90", 80)]}
    apply_to(tmp_path, node, second)
    wanted = snapshot(node)
    position = 0
    while killed(tmp_path, node, OTHER, position):
        apply_to(tmp_path, node, second)
        assert snapshot(node) == wanted, f"after {position} operations"
        position += 1
    assert position > 8
    apply_to(tmp_path, node, DELETED)
    assert snapshot(node) == bare


@pytest.mark.parametrize("state", ["merged", "replaced", "deleted"])
def test_what_a_killed_run_made_is_not_forgotten_by_states_that_leave_it(
    state: str, node: Namespace, tmp_path: Path
) -> None:
    """They leave it alone, and it stays known, so that state overridden removes it later."""
    bare = snapshot(node)
    apply_to(tmp_path, node, {"services": [web(1)]})
    assert killed(tmp_path, node, {"services": [service("10.96.0.90", 80, "10.244.1.9")], "state": "merged"}, 2)
    apply_to(tmp_path, node, {"services": [service("10.96.0.91", 80)], "state": state})
    assert "-A -t 10.96.0.90:80 -s rr" in table(node)
    assert not list((tmp_path / node.name).glob("*.unfinished"))
    apply_to(tmp_path, node, DELETED)
    assert snapshot(node) == bare


def test_run_that_was_taken_back_is_not_remembered(
    node: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a service of somebody else would be taken for ours later."""
    plain = ipvs_service.IpvsAdapter
    with monkeypatch.context() as patch, pytest.raises(ApplyError):
        patch.setattr(ipvs_service, "IpvsAdapter", lambda *parts: Poisoned(plain(*parts), 2))
        apply_to(tmp_path, node, {"services": [web(1)]})
    foreign(node, ["-A -t 10.96.0.80:80 -s rr"])
    before = snapshot(node)
    apply_to(tmp_path, node, DELETED)
    assert snapshot(node) == before


def test_at_boot_everything_comes_back_and_verify_tells_what_is_missing(
    node: Namespace, netns: Namespaces, tmp_path: Path, root_dir: Path
) -> None:
    tree = build(root_dir)
    (tmp_path / "tree.tar.gz").write_bytes(tree.archive())
    unpack(str(tmp_path / "tree.tar.gz"), str(tmp_path / "tree"))
    booted = lone_node(netns)

    def fairlead(command: str) -> tuple[int, str]:
        setting = [f"FAIRLEAD_STATE_DIR={saved(tmp_path, node).parent}", f"FAIRLEAD_RUN_DIR={tmp_path / 'run'}"]
        words = ["env", *setting, sys.executable, "-I", str(tmp_path / "tree" / "bin" / "fairlead"), command]
        done = booted.run(words, check=False)
        return done.returncode, done.stdout + done.stderr

    apply_to(tmp_path, node, ONE)
    wanted = snapshot(node)
    assert fairlead("restore")[0] == 0
    assert snapshot(booted) == wanted
    assert fairlead("verify") == (0, "no drift: ipvs_service\n")
    booted.run("ipvsadm -d -t 10.96.0.80:80 -r 10.244.1.2:8080")
    booted.run("ip address delete 10.96.0.81/32 dev svc0")
    status, output = fairlead("verify")
    assert status == 1
    assert "+ real server 10.244.1.2:8080 of tcp 10.96.0.80:80 masquerade weight 1" in output
    assert "+ address 10.96.0.81/32 dev svc0" in output
    assert fairlead("restore")[0] == 0
    assert snapshot(booted) == wanted
