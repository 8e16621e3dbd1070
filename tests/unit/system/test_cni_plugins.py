# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Calling plugins: order, environment, input and errors, as the CNI specification has them. No program is started."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.cni import ConfList
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import PrerequisiteError
from ansible_collections.fairlead.cluster.plugins.module_utils._system.cni import PluginError, Plugins, Target

TARGET = Target("pod", "/run/netns/pod", "eth0", {"portMappings": [{"hostPort": 1}], "mac": "x"})
FIRST = {"type": "first", "mtu": 1450, "ipam": {"type": "addresses"}}
SECOND = {"type": "second", "capabilities": {"portMappings": True, "mac": False}}
LIST = ConfList("net", "1.0.0", (FIRST, SECOND))


class Calls:
    """A runner that answers for plugins and remembers what they were given."""

    def __init__(self, **failures: tuple[int, str]) -> None:
        self.failures = failures
        self.seen: list[tuple[str, str]] = []
        self.environments: list[dict[str, str]] = []
        self.inputs: list[dict[str, Any]] = []

    def __call__(self, args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        assert args[0] == "env"
        name = Path(args[-1]).name
        environment = dict(word.split("=", 1) for word in args[1:-1])
        command = environment["CNI_COMMAND"]
        self.seen.append((command, name))
        self.environments.append(environment)
        self.inputs.append(json.loads(data or ""))
        if f"{name}_{command}" in self.failures:
            status, output = self.failures[f"{name}_{command}"]
            return status, output, "on stderr"
        if command == "VERSION":
            return 0, json.dumps({"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}), ""
        return 0, json.dumps({"cniVersion": "1.0.0", "by": name}) if command == "ADD" else "", ""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("first", "second", "addresses"):
        program = tmp_path / name
        program.touch()
        program.chmod(0o755)
    return tmp_path


def test_add_passes_each_result_on(directory: Path) -> None:
    calls = Calls()
    result = Plugins(calls, [str(directory)]).add(LIST, TARGET)
    assert calls.seen == [("ADD", "first"), ("ADD", "second")]
    assert result == {"cniVersion": "1.0.0", "by": "second"}
    assert calls.inputs[0] == {"type": "first", "mtu": 1450, "ipam": {"type": "addresses"}, "name": "net",
                               "cniVersion": "1.0.0"}  # fmt: skip
    assert calls.inputs[1]["prevResult"] == {"cniVersion": "1.0.0", "by": "first"}


def test_plugins_get_only_capabilities_that_they_declare(directory: Path) -> None:
    calls = Calls()
    Plugins(calls, [str(directory)]).add(LIST, TARGET)
    assert "runtimeConfig" not in calls.inputs[0]
    assert calls.inputs[1]["runtimeConfig"] == {"portMappings": [{"hostPort": 1}]}
    assert "capabilities" not in calls.inputs[1]


def test_environment_is_that_of_the_specification(directory: Path) -> None:
    calls = Calls()
    Plugins(calls, ["/nowhere", str(directory)]).add(LIST, TARGET)
    environment = calls.environments[0]
    assert {"/usr/sbin", "/sbin"} <= set(environment.pop("PATH").split(":"))
    assert environment == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "pod",
        "CNI_NETNS": "/run/netns/pod",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": f"/nowhere:{directory}",
    }


def test_delete_goes_backwards_with_the_result_of_add(directory: Path) -> None:
    calls = Calls()
    Plugins(calls, [str(directory)]).delete(LIST, TARGET, {"by": "second"})
    assert calls.seen == [("DEL", "second"), ("DEL", "first")]
    assert [given["prevResult"] for given in calls.inputs] == [{"by": "second"}] * 2


def test_delete_of_an_old_version_gets_no_result(directory: Path) -> None:
    calls = Calls()
    Plugins(calls, [str(directory)]).delete(ConfList("net", "0.3.1", (FIRST,)), TARGET, {"by": "first"})
    assert "prevResult" not in calls.inputs[0]


def test_failing_add_is_taken_back(directory: Path) -> None:
    answer = json.dumps({"cniVersion": "1.0.0", "code": 7, "msg": "bad range", "details": "10.0.0.0/33"})
    calls = Calls(second_ADD=(1, answer))
    with pytest.raises(PluginError) as refused:
        Plugins(calls, [str(directory)]).add(LIST, TARGET)
    assert calls.seen == [("ADD", "first"), ("ADD", "second"), ("DEL", "second"), ("DEL", "first")]
    assert refused.value.code == 7
    assert str(refused.value) == (
        "CNI plugin second: ADD failed (code 7, invalid network configuration): bad range; 10.0.0.0/33"
    )


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("", "ADD failed: on stderr"),
        ("panic: oops", "ADD failed: on stderr panic: oops"),
        ('{"code": 11, "msg": "locked"}', "(code 11, busy, try again later): locked"),
        ('{"code": 999, "msg": "own"}', "(code 999, an error of its own): own"),
    ],
)
def test_errors_say_which_plugin_and_what(directory: Path, output: str, words: str) -> None:
    with pytest.raises(PluginError) as refused:
        Plugins(Calls(first_ADD=(1, output)), [str(directory)]).add(LIST, TARGET)
    assert words in str(refused.value) and "CNI plugin first" in str(refused.value)


def test_answer_that_is_no_json_is_an_error(directory: Path) -> None:
    with pytest.raises(PluginError, match="no JSON mapping"):
        Plugins(Calls(first_ADD=(0, "hello")), [str(directory)]).add(LIST, TARGET)


def test_check_is_not_asked_where_it_is_forbidden_or_unknown(directory: Path) -> None:
    calls = Calls()
    plugins = Plugins(calls, [str(directory)])
    plugins.check(ConfList("net", "1.0.0", (FIRST,), disable_check=True), TARGET, {})
    plugins.check(ConfList("net", "0.3.1", (FIRST,)), TARGET, {})
    assert calls.seen == []
    plugins.check(LIST, TARGET, {"by": "second"})
    assert calls.seen == [("CHECK", "first"), ("CHECK", "second")]


@pytest.mark.parametrize(
    ("address", "family", "passes"), [("10.1.1.2/24", 6, True), ("10.1.1.2/24", 4, False), ("fd00::2/64", 6, False)]
)
def test_check_of_portmap_may_miss_the_family_that_the_container_lacks(
    tmp_path: Path, address: str, family: int, passes: bool
) -> None:
    (tmp_path / "portmap").touch(mode=0o755)
    answer = json.dumps(
        {"code": 999, "msg": f"could not check ipv{family} dnat: chain CNI-DN-1 not found in table nat"}
    )
    plugins = Plugins(Calls(portmap_CHECK=(1, answer)), [str(tmp_path)])
    conflist = ConfList("net", "1.0.0", ({"type": "portmap"},))
    with contextlib.nullcontext() if passes else pytest.raises(PluginError, match="could not check"):
        plugins.check(conflist, TARGET, {"ips": [{"address": address}]})


def test_missing_program_is_named_with_what_to_do(directory: Path) -> None:
    (directory / "second").unlink()
    plugins = Plugins(Calls(), [str(directory)])
    with pytest.raises(PrerequisiteError, match="CNI plugin second is in none of .*apply role"):
        plugins.add(LIST, TARGET)
    assert plugins.problems(LIST) == [f"CNI plugins second: in none of {directory}"]


def test_versions_are_asked_of_every_program(directory: Path) -> None:
    calls = Calls()
    plugins = Plugins(calls, [str(directory)])
    assert plugins.problems(LIST) == []
    assert sorted(calls.seen) == [("VERSION", "addresses"), ("VERSION", "first"), ("VERSION", "second")]
    newer = plugins.problems(ConfList("net", "1.1.0", (FIRST,)))
    assert newer[0] == "CNI plugin first does not support cniVersion 1.1.0; it has 0.4.0, 1.0.0"
