# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Services when something fails: undo, killed runs, start-up, and what `fairlead verify` tells."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import cluster_service, store
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Adapter, Combined
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError
from ansible_collections.fairlead.cluster.plugins.module_utils._system.runtime_tree import unpack
from ansible_collections.fairlead.cluster.plugins.plugin_utils.runtime_tree import build
from tests.kernel.ipvs_nodes import foreign, lone_node
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.service_site import ABSENT, DEVICE, Args, apply_to, document, everywhere, operations, snapshot
from tests.kernel.test_overlay_killed import Deadly, KilledError
from tests.kernel.test_overlay_undo import Poisoned

pytestmark = pytest.mark.usefixtures("ipvs")
#: A failure is tried at so many positions, spread over all operations.
POSITIONS = 5


@pytest.fixture
def node(netns: Namespaces) -> Namespace:
    return lone_node(netns)


def one(way: str) -> Args:
    return document(way, *everywhere("web", 80))


def other(way: str) -> Args:
    return document(way, *everywhere("web", 80, (2,), externalTrafficPolicy="Local"), *everywhere("more", 82))


def wrapped(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Adapter], Any]) -> None:
    monkeypatch.setattr(cluster_service, "Combined", lambda adapters: wrap(Combined(adapters)))


def positions(count: int) -> list[int]:
    return sorted({count * each // POSITIONS for each in range(POSITIONS)} | {count - 1})


@pytest.mark.parametrize("start", ["bare", "other services"])
def test_failure_at_any_operation_is_taken_back(
    start: str, way: str, node: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(node, ["-A -t 10.96.9.9:80 -s rr"])
    if start != "bare":
        apply_to(tmp_path, node, one(way))
    before = snapshot(node)
    planned = len(operations(apply_to(tmp_path, node, other(way), check=True)))
    assert planned > 40
    for position in positions(planned):
        with monkeypatch.context() as patch:
            wrapped(patch, lambda inner, at=position: Poisoned(inner, at))
            with pytest.raises(ApplyError, match="poisoned"):
                apply_to(tmp_path, node, other(way))
        assert snapshot(node) == before, f"after {position} of {planned} operations"
    assert not list((tmp_path / node.name).glob("*.unfinished"))


def killed(directory: Path, node: Namespace, args: Args, position: int) -> None:
    """Run until an operation, then be gone."""
    note = store._note
    notes: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        wrapped(patch, lambda inner: Deadly(inner, position))
        patch.setattr("ansible_collections.fairlead.cluster.plugins.module_utils._engine._undo", lambda *_: None)
        # A killed process takes no note back either.
        patch.setattr(store, "_note", lambda kind, entries: notes.append(entries) or note(kind, notes[0]))
        with pytest.raises(KilledError), contextlib.nullcontext():
            apply_to(directory, node, args)


def test_what_a_killed_run_made_goes_unless_it_is_wanted(way: str, node: Namespace, tmp_path: Path) -> None:
    bare = snapshot(node)
    apply_to(tmp_path, node, one(way))
    wanted = snapshot(node)
    planned = len(operations(apply_to(tmp_path, node, other(way), check=True)))
    for position in positions(planned):
        killed(tmp_path, node, other(way), position)
        apply_to(tmp_path, node, one(way))
        assert snapshot(node) == wanted, f"after {position} of {planned} operations"
    killed(tmp_path, node, other(way), planned - 2)
    apply_to(tmp_path, node, ABSENT)
    assert snapshot(node) == bare


def test_removal_that_is_killed_is_ended_by_the_next_one(way: str, node: Namespace, tmp_path: Path) -> None:
    bare = snapshot(node)
    apply_to(tmp_path, node, one(way))
    planned = len(operations(apply_to(tmp_path, node, ABSENT, check=True)))
    killed(tmp_path, node, ABSENT, planned // 2)
    apply_to(tmp_path, node, ABSENT)
    assert snapshot(node) == bare


def test_at_boot_everything_comes_back_and_verify_tells_what_is_missing(
    way: str, node: Namespace, netns: Namespaces, tmp_path: Path, root_dir: Path
) -> None:
    tree = build(root_dir)
    (tmp_path / "tree.tar.gz").write_bytes(tree.archive())
    unpack(str(tmp_path / "tree.tar.gz"), str(tmp_path / "tree"))
    booted = lone_node(netns)

    def fairlead(command: str) -> tuple[int, str]:
        setting = [f"FAIRLEAD_STATE_DIR={tmp_path / node.name}", f"FAIRLEAD_RUN_DIR={tmp_path / 'run'}"]
        program = str(tmp_path / "tree" / "bin" / "fairlead")
        done = booted.run(
            ["env", *setting, f"PATH={os.environ['PATH']}", sys.executable, "-I", program, command], check=False
        )
        return done.returncode, done.stdout + done.stderr

    apply_to(tmp_path, node, one(way))
    wanted = snapshot(node)
    # Before the node's own address is there.
    booted.run("ip address delete 192.0.2.1/24 dev eth0")
    assert fairlead("restore")[0] == 0
    booted.run("ip address add 192.0.2.1/24 dev eth0")
    assert snapshot(booted) == wanted
    # What comes with the first pod is no drift, and gets its node ports by the next run of the module.
    booted.run("ip address add 10.244.1.1/24 dev eth0")
    assert fairlead("verify") == (0, "no drift: cluster_service\n")
    booted.run("ip address delete 10.244.1.1/24 dev eth0")
    booted.run("ipvsadm -d -t 10.96.0.80:80 -r 10.244.2.2:8080")
    booted.run(f"ip address delete 10.96.0.80/32 dev {DEVICE}")
    nft = way == "nftables"
    booted.run("nft delete element ip fairlead-services cluster { 10.96.0.80 . tcp . 80 }" if nft else
               "ipset del FAIRLEAD-CLUSTER 10.96.0.80,tcp:80")  # fmt: skip
    status, output = fairlead("verify")
    assert status == 1
    assert "+ real server 10.244.2.2:8080 of tcp 10.96.0.80:80 masquerade weight 1" in output
    assert f"+ address 10.96.0.80/32 dev {DEVICE}" in output
    place = "nftables ip fairlead-services set cluster" if nft else "ipset sets set FAIRLEAD-CLUSTER"
    assert f"+ {place}: 10.96.0.80,tcp:80" in output
    assert fairlead("restore")[0] == 0
    assert snapshot(booted) == wanted
