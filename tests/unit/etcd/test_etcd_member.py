# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""When a member may start, when it may be restarted, and what is refused, with systemd and the cluster played."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._etcd import cluster, member, service
from ansible_collections.fairlead.cluster.plugins.module_utils._etcd.gateway import RefusedError, UnreachableError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import (
    PrerequisiteError,
    ReadError,
    SpecError,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.etcd import BANNER
from tests.unit.etcd.member_node import PROCESS, Node, refused


def test_very_first_start_says_that_the_cluster_is_new(node: Node) -> None:
    assert not node.start().stale
    assert node.commands == ["enable etcd.service", "start --no-block etcd.service"]
    assert node.bootstrap.read_text() == "ETCD_INITIAL_CLUSTER_STATE=new\n"
    assert json.loads(node.memory.read_text())["stage"] == "starting"


def test_health_ends_the_bootstrap_and_is_remembered_once(node: Node) -> None:
    node.start()
    node.cluster()
    assert node.healthy()
    assert json.loads(node.memory.read_text())["stage"] == "member"
    assert not node.bootstrap.exists()
    node.write_data()
    assert not node.start().outcome.changed
    assert not node.healthy()


def test_check_mode_predicts_the_first_start_and_waits_for_nothing(node: Node) -> None:
    node.shown = {"LoadState": "not-found", "ActiveState": "inactive"}
    assert [operation.item.kind for operation in node.start(check=True).outcome.operations] == [
        "file",
        "file",
        "etcd_service",
    ]
    assert node.healthy(check=True)
    assert (node.commands, node.memory.exists(), node.bootstrap.exists()) == ([], False, False)


def test_stopped_member_starts_on_its_data_without_a_word_about_new(node: Node) -> None:
    node.write_data()
    node.remember("member")
    node.start()
    assert node.commands == ["enable etcd.service", "start --no-block etcd.service"]
    assert not node.bootstrap.exists()


def test_first_start_that_was_interrupted_goes_on(node: Node) -> None:
    node.remember("starting")
    node.start()
    assert node.bootstrap.exists()
    assert node.commands[-1] == "start --no-block etcd.service"


def test_changed_unit_file_is_loaded_first(node: Node) -> None:
    node.shown["NeedDaemonReload"] = "yes"
    node.start()
    assert node.commands == ["daemon-reload", "enable etcd.service", "start --no-block etcd.service"]


def test_member_whose_data_is_gone_is_not_started(node: Node) -> None:
    node.remember("member")
    assert "member m1 has existed" in refused(node)


def test_member_that_others_have_seen_running_is_not_started_empty(node: Node) -> None:
    node.cluster()
    assert "know m1 as a member that has been running (id m1)" in refused(node)


def test_member_is_not_started_beside_a_cluster_without_it(node: Node) -> None:
    node.members = [node.status("m2"), node.status("m3")]
    assert "run a cluster without m1" in refused(node)


def test_late_founding_member_starts_when_the_others_run_already(node: Node) -> None:
    node.members = [node.status("m1", client_urls=()), node.status("m2"), node.status("m3")]
    node.start()
    assert node.bootstrap.exists()


def test_data_of_another_etcd_is_not_taken_over(node: Node) -> None:
    node.write_data()
    assert "holds data of an etcd that was not started from here" in refused(node)


def test_etcd_that_is_not_ours_is_not_touched(node: Node) -> None:
    node.run()
    node.process = service.Process({"ETCD_NAME": "default"}, "/usr/bin/etcd")
    assert "runs an etcd that is not ours" in refused(node)
    assert not node.remove().outcome.changed


def test_refused_start_takes_back_what_was_written(node: Node) -> None:
    node.fails = "start"
    with pytest.raises(service.ApplyError, match="Unit is masked"):
        node.start()
    assert (node.memory.exists(), node.bootstrap.exists()) == (False, False)
    assert node.shown["UnitFileState"] == "disabled"


def test_refused_stop_leaves_the_service_enabled(node: Node) -> None:
    node.run()
    node.shown["UnitFileState"] = "enabled"
    node.fails = "stop"
    with pytest.raises(service.ApplyError, match="Unit is masked"):
        node.remove()
    assert node.shown["UnitFileState"] == "enabled"


@pytest.mark.parametrize(
    ("environment", "stale"),
    [
        ({}, False),
        ({"ETCD_NAME": "other"}, True),
        ({"FAIRLEAD_ETCD_UNIT": "2"}, True),
        ({"ETCD_DEBUG": "true"}, True),
        ({"ETCD_INITIAL_CLUSTER": "other"}, False),
        ({"PATH": "/bin"}, False),
    ],
)
def test_member_is_stale_when_its_process_has_other_settings(
    node: Node, environment: dict[str, str], stale: bool
) -> None:
    node.write_data()
    node.remember("member")
    node.run(**environment)
    assert node.start().stale is stale


def test_member_whose_program_was_replaced_is_stale(node: Node) -> None:
    node.run()
    node.process = service.Process(PROCESS, "/usr/bin/etcd (deleted)")
    assert node.start().stale


@pytest.mark.parametrize("program", ["/usr/lib/systemd/systemd", "/usr/lib/systemd/systemd-executor"])
def test_member_that_is_just_being_started_is_not_taken_for_another_etcd(node: Node, program: str) -> None:
    """Until it becomes etcd, the service's process is systemd's, with systemd's environment."""
    node.write_data()
    node.remember("member")
    node.run()
    node.shown["ActiveState"] = "activating"
    node.process = service.Process({"PATH": "/bin"}, program)
    assert not node.start().stale


def test_restart_of_a_current_member_does_nothing_and_asks_nobody(node: Node) -> None:
    node.run()
    assert not node.restart()
    assert node.commands == []


def test_stale_member_of_a_healthy_cluster_is_restarted(node: Node) -> None:
    node.run(ETCD_NAME="old")
    node.cluster()
    assert node.restart(check=True)
    assert node.commands == []
    assert node.restart()
    assert node.commands == ["restart --no-block etcd.service"]
    assert not node.restart()


@pytest.mark.parametrize(
    ("size", "dead", "allowed"),
    [
        (1, [], True),
        (2, [], True),
        (2, [2], False),
        (3, [2], False),
        (3, [2, 3], False),
        (4, [2], False),
        (5, [2], True),
        (5, [2, 3], False),
    ],
)
def test_restart_is_refused_when_the_majority_would_be_lost(
    node: Node, size: int, dead: list[int], allowed: bool
) -> None:
    node.names = [f"m{number}" for number in range(1, size + 1)]
    node.run(ETCD_NAME="old")
    node.cluster(*[f"m{number}" for number in dead])
    if allowed:
        assert node.restart()
        return
    with pytest.raises(cluster.UnhealthyError, match="m1 is not restarted.*m2 \\(is dead\\)"):
        node.restart()
    assert node.commands == []


def test_learners_do_not_count_for_the_majority(node: Node) -> None:
    node.run(ETCD_NAME="old")
    node.members = [node.status("m1"), node.status("m2", healthy=False), node.status("m3", learner=True)]
    with pytest.raises(cluster.UnhealthyError, match="only 0 of the 1"):
        node.restart()


def test_member_that_is_of_no_use_as_it_is_may_be_restarted(node: Node) -> None:
    node.run(ETCD_NAME="old")
    node.cluster("m1", "m2")
    with pytest.raises(cluster.UnhealthyError, match="etcd is not healthy after 0 s: m1: is dead"):
        node.restart()
    assert node.commands == ["restart --no-block etcd.service"]


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        (["m1", "m2"], "m3 (https://192.0.2.3:2380) is declared but no member"),
        (["m1", "m2", "m3", "m4"], "m4 (https://192.0.2.4:2380) is a member but not declared"),
    ],
)
def test_members_must_be_the_declared_ones(node: Node, members: list[str], problem: str) -> None:
    node.run()
    node.members = [node.status(name) for name in members]
    with pytest.raises(cluster.UnhealthyError) as caught:
        node.healthy()
    assert problem in str(caught.value)


def test_member_under_another_name_is_told(node: Node) -> None:
    node.run()
    node.members = [node.status("m1"), node.status("m2"), dataclasses.replace(node.status("m3"), name="default")]
    with pytest.raises(cluster.UnhealthyError, match="the member at https://192.0.2.3:2380 is called default, not m3"):
        node.healthy()


def test_others_may_be_dead_while_the_own_member_is_healthy(node: Node) -> None:
    node.run()
    node.cluster("m3")
    assert node.healthy()


def test_unit_of_ours_that_systemd_has_not_read_yet_is_loaded_first(node: Node) -> None:
    """Its directory takes precedence, but systemd goes on with a package's unit until it is told to look."""
    node.shown["FragmentPath"] = "/lib/systemd/system/etcd.service"
    node.unit.write_text(f"# {BANNER}\n")
    node.start()
    assert node.commands[0] == "daemon-reload"


@pytest.mark.parametrize(
    "answer",
    [
        UnreachableError("no answer", ["https://192.0.2.2:2379: its certificate is not valid here: self-signed"]),
        RefusedError("/v3/cluster/member/list", 7, "its certificate is not valid here: not for me"),
    ],
)
def test_members_that_cannot_be_understood_are_not_taken_for_nobody(
    node: Node, monkeypatch: pytest.MonkeyPatch, answer: Exception
) -> None:
    def listed(_access: object) -> None:
        raise answer

    monkeypatch.setattr(member, "list_members", listed)
    problem = refused(node)
    assert "Starting here could found a second cluster" in problem
    assert "its certificate is not valid here" in problem


def test_missing_tls_files_stop_the_first_start_and_not_its_prediction(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(_access: object) -> None:
        raise PrerequisiteError("the TLS files for etcd cannot be used")

    monkeypatch.setattr(member, "list_members", listed)
    with pytest.raises(PrerequisiteError):
        node.start()
    assert node.commands == []
    assert node.start(check=True).outcome.changed


def test_memory_that_cannot_be_read_counts_as_none(node: Node) -> None:
    node.write_data()
    node.memory.write_text("{")
    assert "holds data of an etcd that was not started from here" in refused(node)


def test_systemctl_that_fails_is_an_error(node: Node) -> None:
    with pytest.raises(ReadError, match="Failed to connect to bus"):
        member.start(node.document(), False, lambda args, data=None: (1, "", "Failed to connect to bus"))


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"name": "m9"}, "name"),
        ({"members": []}, "members"),
        ({"members": [{"name": "m1", "address": "host"}]}, "members[0].address"),
        ({"members": [{"name": "m1", "address": "192.0.2.1"}] * 2}, "members[1].name"),
        ({"client_port": 0}, "client_port"),
        ({"token": None}, "token"),
    ],
)
def test_broken_declaration_is_refused_with_its_path(node: Node, changes: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as caught:
        member.start(node.document(**changes), False, node.systemctl)
    assert caught.value.path == path
