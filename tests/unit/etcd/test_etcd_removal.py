# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What is taken away with a member: only what is ours, and so that an interrupted run is finished by the next."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._etcd import data, member, service
from tests.unit.etcd.member_node import Node, refused


def test_absent_stops_disables_removes_the_data_and_forgets(node: Node) -> None:
    node.write_data()
    node.remember("member")
    node.run(ETCD_NAME="old")
    node.shown["UnitFileState"] = "enabled"
    assert node.remove(check=True).outcome.changed
    assert (node.commands, (node.data / "member").exists(), node.memory.exists()) == ([], True, True)
    removed = node.remove()
    assert (removed.outcome.changed, removed.data_dir, removed.left) == (True, str(node.data), [])
    assert node.commands == ["disable etcd.service", "stop etcd.service"]
    assert not (node.data / "member").exists()
    assert not node.memory.exists()
    again = node.remove()
    assert (again.outcome.changed, again.data_dir) == (False, None)


def test_interrupted_removal_of_the_data_is_finished_by_the_next_run(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed with the log gone and the rest there: what is left must still be known as ours."""
    node.write_data()
    (node.data / "member" / "snap").mkdir()
    node.remember("member")

    def killed(path: str) -> None:
        shutil.rmtree(Path(path) / "wal")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(data, "_remove", killed)
        with pytest.raises(KeyboardInterrupt):
            node.remove()
    assert node.memory.exists()
    assert node.remove().data_dir == str(node.data)
    assert (list(node.data.iterdir()), node.memory.exists()) == ([], False)


def test_absent_leaves_data_and_unit_of_another_etcd_and_says_so(node: Node) -> None:
    node.write_data()
    node.foreign_unit(enabled=True)
    node.run()
    node.process = service.Process({"ETCD_NAME": "default"}, "/usr/bin/etcd")
    removed = node.remove()
    assert not removed.outcome.changed
    assert removed.left == ["etcd.service", str(node.data / "member")]
    assert (node.commands, (node.data / "member" / "wal").exists()) == ([], True)


@pytest.mark.parametrize("loaded", [True, False])
def test_stopped_unit_of_somebody_else_is_neither_disabled_nor_started(node: Node, loaded: bool) -> None:
    node.foreign_unit(enabled=True)
    if not loaded:
        node.shown["LoadState"] = "not-found"
    assert not node.remove().outcome.changed
    assert "etcd.service is not ours" in refused(node)


def test_member_between_two_attempts_to_start_is_foreign_when_its_unit_is(node: Node) -> None:
    node.foreign_unit(enabled=True)
    node.shown["ActiveState"] = "activating"
    assert "runs an etcd that is not ours" in refused(node)
    assert not node.remove().outcome.changed


def test_data_that_another_process_has_taken_over_is_not_removed(node: Node) -> None:
    node.write_data()
    node.remember("member")
    with (node.data / "member" / "wal" / "0-0.wal").open() as held:
        with pytest.raises(member.DataInUseError, match=f"in use by process {os.getpid()}"):
            node.remove()
        assert held.readable()
    assert (node.commands, node.memory.exists(), (node.data / "member" / "wal").exists()) == ([], True, True)
