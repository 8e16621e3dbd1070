# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Responders as services: what systemd is asked and told, and how its answers are read. No service is started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired.reachability import converge
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import (
    ApplyError,
    PrerequisiteError,
    UndoError,
)

POD, NODE = "fairlead-probe-pod.service", "fairlead-probe-node.service"
COMMAND = ["/opt/fairlead/current/bin/fairlead", "probe"]


class Systemd:
    """A runner that keeps services as systemd does: by unit, with their description."""

    def __init__(self, refuses: str = "", port: str = "") -> None:
        self.services: dict[str, str] = {}
        self.started: list[list[str]] = []
        self.refuses = refuses
        self.refused_port = port

    def __call__(self, args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        words = list(args)
        if words[:2] == ["systemctl", "show"]:
            return 0, "\n".join(map(self._shown, words[3:])), ""
        if words[:2] == ["systemctl", "stop"]:
            del self.services[words[2]]
            return 0, "", ""
        if words[0] == "journalctl":
            return 0, "port 9931: Address already in use\n", ""
        assert words[0] == "systemd-run"
        options = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
        if options["unit"] == self.refuses or words[-1] == f"--port={self.refused_port}":
            return 1, "", "Job failed.\n"
        self.services[options["unit"]] = options["description"]
        self.started.append(words)
        return 0, "", ""

    def _shown(self, unit: str) -> str:
        state = "active" if unit in self.services else "inactive"
        return f"Id={unit}\nDescription={self.services.get(unit, unit)}\nActiveState={state}\n"


def document(state: str = "listening", **changes: Any) -> dict[str, Any]:
    return {"state": state, "netns": "pod", "port": 9931, "command": COMMAND, "lifetime": 600, **changes}


def test_both_responders_are_started_and_found_again() -> None:
    systemd = Systemd()
    assert converge(document(), False, systemd).changed
    assert set(systemd.services) == {POD, NODE}
    assert not converge(document(), False, systemd).changed


def test_pods_responder_runs_in_the_pods_namespace_and_for_a_limited_time() -> None:
    systemd = Systemd()
    converge(document(), False, systemd)
    [pod] = [words for words in systemd.started if f"--unit={POD}" in words]
    [node] = [words for words in systemd.started if f"--unit={NODE}" in words]
    assert "--property=NetworkNamespacePath=/run/netns/pod" in pod
    assert not any("NetworkNamespacePath" in word for word in node)
    assert "--property=RuntimeMaxSec=600" in pod
    assert pod[-4:] == [*COMMAND, "serve", "--port=9931"]


def test_check_mode_starts_nothing() -> None:
    systemd = Systemd()
    assert converge(document(), True, systemd).changed
    assert systemd.services == {}


def test_other_port_or_namespace_replaces_the_responder() -> None:
    systemd = Systemd()
    converge(document(), False, systemd)
    outcome = converge(document(netns="/proc/7/ns/net"), False, systemd)
    assert [str(operation)[0] for operation in outcome.operations] == ["~"]
    assert "/proc/7/ns/net" in systemd.services[POD]


def test_absent_stops_what_runs_and_nothing_else() -> None:
    systemd = Systemd()
    converge(document(netns=None), False, systemd)
    assert set(systemd.services) == {NODE}
    assert converge(document("absent"), False, systemd).changed
    assert systemd.services == {}
    assert not converge(document("absent"), False, systemd).changed


def test_failing_start_tells_the_reason_and_takes_the_other_back() -> None:
    systemd = Systemd(refuses=POD)
    with pytest.raises(ApplyError, match="Job failed. port 9931: Address already in use"):
        converge(document(), False, systemd)
    assert systemd.services == {}


def test_failing_replacement_leaves_the_previous_responders_running() -> None:
    systemd = Systemd(port="9932")
    converge(document(), False, systemd)
    before = dict(systemd.services)
    with pytest.raises(ApplyError, match="Address already in use"):
        converge(document(port=9932), False, systemd)
    assert systemd.services == before


def test_responders_that_cannot_be_started_again_are_told() -> None:
    systemd = Systemd(port="9932")
    converge(document(), False, systemd)
    systemd.refuses = NODE
    with pytest.raises(UndoError, match="previous responder could not be started again"):
        converge(document(port=9932), False, systemd)


def test_node_without_systemd_is_named() -> None:
    with pytest.raises(PrerequisiteError, match="systemctl is missing"):
        converge(document(), False, lambda args, data=None: (127, "", ""))
