# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Sysctls of a network namespace, seen from outside the module, and what is left when they are given up."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces

MODULE = "kernel_settings"
FORWARD, FILTER, PORTS = "net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter", "net.ipv4.ip_local_reserved_ports"
AS_FOUND = {FORWARD: "0", FILTER: "0", PORTS: ""}


class Node:
    """A namespace, and the files that the module keeps for it."""

    def __init__(self, netns: Namespace, directory: Path, run_module: RunModule) -> None:
        self.netns = netns
        self.paths = {name: directory / name for name in ("modules_file", "sysctl_file", "found_file")}
        self.run_module = run_module

    def run(self, check: bool = False, diff: bool = False, fails: bool = False, **args: Any) -> dict[str, Any]:
        paths = {name: str(path) for name, path in self.paths.items()}
        return self.run_module(MODULE, {**paths, **args}, netns=self.netns, check=check, diff=diff, fails=fails)

    def values(self) -> dict[str, str]:
        names = list(AS_FOUND)
        files = [f"/proc/sys/{name.replace('.', '/')}" for name in names]
        return {name: self.netns.out(["cat", path]).strip() for name, path in zip(names, files, strict=True)}

    def files(self) -> dict[str, str]:
        return {name: path.read_text() for name, path in self.paths.items() if path.exists()}


@pytest.fixture
def node(netns: Namespaces, tmp_path: Path, run_module: RunModule) -> Node:
    made = Node(netns("ks"), tmp_path, run_module)
    for name, value in AS_FOUND.items():
        made.netns.run(["sh", "-c", f"echo '{value}' > /proc/sys/{name.replace('.', '/')}"])
    assert made.values() == AS_FOUND
    return made


def steps(node: Node, after: dict[str, str], **args: Any) -> None:
    """Check mode and for real, each twice: what is announced is what happens, and only once."""
    before, files = node.values(), node.files()
    announced = node.run(check=True, **args)
    assert node.run(check=True, **args)["operations"] == announced["operations"]
    assert (node.values(), node.files()) == (before, files)
    done = node.run(**args)
    assert node.values() == after
    again = node.run(**args)
    assert node.values() == after
    assert (announced["changed"], done["changed"], again["changed"]) == (True, True, False)
    assert announced["operations"] == done["operations"]
    assert announced["after"] == done["after"]


def test_twelve_steps(node: Node) -> None:
    steps(node, {FORWARD: "1", FILTER: "2", PORTS: ""}, sysctls={FORWARD: 1, FILTER: "2"})
    assert json.loads(node.files()["found_file"]) == {FORWARD: "0", FILTER: "0"}
    assert node.files()["sysctl_file"].splitlines()[1:] == [f"{FORWARD} = 1", f"{FILTER} = 2"]
    steps(node, {FORWARD: "1", FILTER: "0", PORTS: "30000-32767"}, sysctls={FORWARD: 1, PORTS: "32767,30000-32766"})
    assert json.loads(node.files()["found_file"]) == {FORWARD: "0", PORTS: ""}
    steps(node, AS_FOUND, state="absent")
    assert node.files() == {}
    assert not node.run(state="absent")["changed"]
    assert not node.run(state="absent", check=True)["changed"]


def test_value_that_holds_already_is_not_given_back_later(node: Node) -> None:
    node.run(sysctls={FORWARD: 0})
    assert "found_file" not in node.files()
    node.netns.run(["sh", "-c", f"echo 1 > /proc/sys/{FORWARD.replace('.', '/')}"])
    assert node.run(sysctls={FORWARD: 0})["changed"]
    assert node.values()[FORWARD] == "0"


def test_drift_is_repaired_and_the_first_value_remembered(node: Node) -> None:
    node.run(sysctls={FILTER: 2})
    node.netns.run(["sh", "-c", f"echo 1 > /proc/sys/{FILTER.replace('.', '/')}"])
    assert node.run(sysctls={FILTER: 2})["operations"] == [f"~ sysctl {FILTER} = 2 (was sysctl {FILTER} = 1)"]
    node.run(state="absent")
    assert node.values()[FILTER] == "0"


def test_optional_key_that_the_kernel_lacks_is_only_written_for_boot(node: Node) -> None:
    node.run(sysctls={FORWARD: 1}, optional_sysctls={"net.ipv4.flt_no_such_key": 7, FILTER: 2})
    assert node.values()[FILTER] == "2"
    assert "-net.ipv4.flt_no_such_key = 7" in node.files()["sysctl_file"].splitlines()


def test_key_that_the_kernel_lacks_is_refused_before_any_change(node: Node) -> None:
    result = node.run(sysctls={FORWARD: 1, "net.ipv4.flt_no_such_key": 7}, fails=True)
    assert "sysctl net.ipv4.flt_no_such_key: this kernel has no such parameter" in result["msg"]
    assert (node.values(), node.files()) == (AS_FOUND, {})


def test_value_that_the_kernel_refuses_undoes_the_others(node: Node) -> None:
    result = node.run(sysctls={FORWARD: 1, PORTS: "70000"}, fails=True)
    assert f"sysctl {PORTS} = 70000: the kernel refuses this value" in result["msg"]
    assert (node.values(), node.files()) == (AS_FOUND, {})


def test_module_that_does_not_exist_is_refused_before_any_change(node: Node) -> None:
    for check in (True, False):
        result = node.run(modules=["flt_no_such_module"], sysctls={FORWARD: 1}, check=check, fails=True)
        assert "kernel module flt_no_such_module" in result["msg"]
    assert (node.values(), node.files()) == (AS_FOUND, {})


def test_module_that_is_there_is_declared_for_boot(node: Node) -> None:
    present = sorted(path.name for path in Path("/sys/module").iterdir())[0]
    result = node.run(modules=[present])
    assert node.files()["modules_file"].splitlines()[1:] == [present]
    assert [operation for operation in result["operations"] if "kernel module" in operation] == []


def test_read_only_proc_sys(node: Node, root_dir: Path, tmp_path: Path) -> None:
    """As in a container: fine when the values hold already, else refused before any change, in check mode too."""

    def run_read_only(value: int, check: bool) -> dict[str, Any]:
        paths = {name: str(path) for name, path in node.paths.items()}
        internal = {"_ansible_check_mode": check, "_ansible_remote_tmp": str(tmp_path)}
        arguments = {"ANSIBLE_MODULE_ARGS": {**paths, "sysctls": {FORWARD: value}, **internal}}
        script = (
            "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && "
            f"PYTHONPATH={root_dir}/collections FAIRLEAD_STATE_DIR={tmp_path}/state "
            f"exec {sys.executable} -m ansible_collections.fairlead.cluster.plugins.modules.{MODULE}"
        )
        done = node.netns.run(["sh", "-c", script], check=False, data=json.dumps(arguments))
        return dict(json.loads(done.stdout))

    for check in (True, False):
        refused = run_read_only(1, check)
        assert refused["failed"]
        assert "/proc/sys/net/ipv4/ip_forward is '0' and read-only here" in refused["msg"]
    assert (node.values(), node.files()) == (AS_FOUND, {})
    assert not run_read_only(0, check=False).get("failed")
    assert "sysctl_file" in node.files()


def test_state_is_remembered_for_boot_and_forgotten(node: Node, state_dir: Path) -> None:
    saved = state_dir / node.netns.name / "kernel_settings.json"
    node.run(sysctls={FORWARD: 1}, check=True)
    assert not saved.exists()
    node.run(sysctls={FORWARD: 1})
    assert json.loads(saved.read_text())["sysctls"] == {FORWARD: 1}
    node.run(state="absent")
    assert not saved.exists()


def test_each_purpose_is_remembered_by_itself(node: Node, state_dir: Path) -> None:
    """The settings of services made the node's own ones be forgotten."""
    node.run(sysctls={FORWARD: 1})
    node.run(purpose="services", sysctls={}, **{name: f"{path}-services" for name, path in node.paths.items()})
    saved = {path.stem for path in (state_dir / node.netns.name).glob("*.json")}
    assert saved == {"kernel_settings", "services_kernel"}
    assert json.loads((state_dir / node.netns.name / "kernel_settings.json").read_text())["sysctls"] == {FORWARD: 1}


def test_found_values_that_cannot_be_read_are_not_thrown_away(node: Node) -> None:
    node.paths["found_file"].write_text("{")
    result = node.run(sysctls={FORWARD: 1}, fails=True)
    assert "found_file: not readable" in result["msg"]
    assert node.paths["found_file"].read_text() == "{"
    assert node.values() == AS_FOUND
