# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Installing the node runtime: by the module alone with an archive at hand, and by the task as a playbook runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.plugin_utils.runtime_tree import Tree, build
from tests.kernel.conftest import RunModule

MODULE = "node_runtime"
UNIT = "fairlead-flt.service"


def some_tree(number: int) -> Tree:
    return Tree(
        f"0.{number}.0",
        {
            "bin/fairlead": ("0755", b"#!/bin/sh\n"),
            "lib/fairlead/__init__.py": ("0644", f"NUMBER = {number}\n".encode()),
            f"units/{UNIT}": ("0644", b"[Install]\nWantedBy=multi-user.target\n"),
        },
    )


class Node:
    """A directory that stands for a node's file system."""

    def __init__(self, directory: Path, run_module: RunModule) -> None:
        self.directory = directory
        self.run_module = run_module
        self.path = directory / "opt"
        self.paths = {
            "path": str(self.path),
            "command_path": str(directory / "bin" / "fairlead"),
            "unit_path": str(directory / "units"),
        }

    def arguments(self, tree: Tree, *, archive: bool = True) -> dict[str, Any]:
        units = [{"name": name, "content": text, "enabled": True} for name, text in tree.units.items()]
        packed = self.directory / f"{tree.version}.tar.gz"
        packed.write_bytes(tree.archive())
        given = {"archive": str(packed)} if archive else {}
        return {**self.paths, "version": tree.version, "digest": tree.digest, "units": units, **given}

    def install(self, tree: Tree, **options: Any) -> dict[str, Any]:
        return self.run_module(MODULE, self.arguments(tree), **options)

    def versions(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir() if not path.is_symlink())

    def links(self) -> dict[str, str]:
        return {path.name: os.readlink(path) for path in self.path.iterdir() if path.is_symlink()}

    def snapshot(self) -> dict[str, Any]:
        """Every file and link below the three places, compiled files apart."""
        found: dict[str, Any] = {}
        for top in ("opt", "bin", "units"):
            for folder, folders, names in os.walk(self.directory / top):
                folders[:] = [name for name in folders if name != "__pycache__"]
                for path in (Path(folder, name) for name in [*folders, *names]):
                    if path.is_symlink():
                        found[str(path)] = os.readlink(path)
                    elif path.is_file():
                        found[str(path)] = (path.stat().st_mode, path.read_bytes())
        return found


@pytest.fixture
def node(tmp_path: Path, run_module: RunModule) -> Node:
    return Node(tmp_path, run_module)


def steps(node: Node, arguments: dict[str, Any]) -> None:
    """Check mode and for real, each twice: what is announced is what happens, and only once."""
    before = node.snapshot()
    announced = node.run_module(MODULE, arguments, check=True)
    assert node.run_module(MODULE, arguments, check=True)["operations"] == announced["operations"]
    assert node.snapshot() == before
    done = node.run_module(MODULE, arguments)
    after = node.snapshot()
    again = node.run_module(MODULE, arguments)
    assert node.snapshot() == after
    assert (announced["changed"], done["changed"], again["changed"]) == (True, True, False)
    assert announced["operations"] == done["operations"]
    assert announced["after"] == done["after"]


def test_twelve_steps(node: Node) -> None:
    first, second = some_tree(1), some_tree(2)
    steps(node, node.arguments(first))
    assert (node.versions(), node.links()) == ([first.version], {"current": first.version})
    steps(node, node.arguments(second))
    assert node.links() == {"current": second.version, "previous": first.version}
    absent = {**node.paths, "units": node.arguments(second)["units"], "state": "absent"}
    steps(node, absent)
    assert (node.snapshot(), node.path.exists()) == ({}, False)
    assert not node.run_module(MODULE, absent)["changed"]
    assert not node.run_module(MODULE, absent, check=True)["changed"]


def test_command_and_unit_lead_into_the_current_version(node: Node) -> None:
    node.install(some_tree(1))
    node.install(some_tree(2))
    command = Path(node.paths["command_path"])
    assert command.resolve() == node.path / some_tree(2).version / "bin" / "fairlead"
    assert os.access(command, os.X_OK)
    unit = Path(node.paths["unit_path"], UNIT)
    assert Path(node.paths["unit_path"], "multi-user.target.wants", UNIT).resolve() == unit
    assert unit.read_text() == some_tree(2).units[UNIT]


def test_only_the_version_before_is_kept(node: Node) -> None:
    trees = [some_tree(number) for number in range(4)]
    for tree in trees:
        node.install(tree)
    assert node.versions() == [trees[2].version, trees[3].version]
    assert node.links() == {"current": trees[3].version, "previous": trees[2].version}
    node.install(trees[2])
    assert node.links() == {"current": trees[2].version, "previous": trees[3].version}


def test_directories_that_are_not_ours_stay(node: Node) -> None:
    (node.path / "mine").mkdir(parents=True)
    node.install(some_tree(1))
    node.install(some_tree(2))
    node.run_module(MODULE, {**node.paths, "state": "absent"})
    assert [path.name for path in node.path.iterdir()] == ["mine"]


def test_damaged_version_is_replaced(node: Node) -> None:
    tree = some_tree(1)
    node.install(tree)
    whole = node.snapshot()
    (node.path / tree.version / "lib" / "fairlead" / "__init__.py").write_text("NUMBER = 666\n")
    assert node.install(tree, check=True)["changed"]
    assert node.install(tree)["changed"]
    assert node.snapshot() == whole
    assert node.versions() == [tree.version]


def test_leftovers_of_a_killed_run_are_no_obstacle(node: Node) -> None:
    tree = some_tree(1)
    for leftover in (f".new-{tree.version}", f".removed-{tree.version}"):
        (node.path / leftover / "lib").mkdir(parents=True)
        (node.path / leftover / "lib" / "junk").write_text("")
    node.install(tree)
    assert node.versions() == [tree.version]
    assert node.install(tree)["changed"] is False


def test_archive_of_another_tree_changes_nothing(node: Node) -> None:
    first, second = some_tree(1), some_tree(2)
    node.install(first)
    before = node.snapshot()
    wrong = {**node.arguments(second), "archive": node.arguments(some_tree(3))["archive"]}
    assert "holds another tree" in node.run_module(MODULE, wrong, fails=True)["msg"]
    assert {path: what for path, what in node.snapshot().items() if "/.new-" not in path} == before


def test_failure_after_the_switch_puts_the_old_version_back(node: Node) -> None:
    first, second = some_tree(1), some_tree(2)
    node.install(first)
    before = node.snapshot()
    blocked = {**node.arguments(second), "command_path": str(node.directory / "file" / "fairlead")}
    (node.directory / "file").write_text("in the place of a directory")
    node.run_module(MODULE, blocked, fails=True)
    assert node.links() == {"current": first.version}
    assert {path: what for path, what in node.snapshot().items() if "/.removed-" not in path} == before
    assert node.install(second)["changed"]
    assert node.versions() == sorted([first.version, second.version])


def test_without_archive_the_module_only_asks_for_it(node: Node) -> None:
    arguments = node.arguments(some_tree(1), archive=False)
    result = node.run_module(MODULE, arguments)
    assert (result["changed"], result["archive_needed"]) == (False, True)
    assert node.snapshot() == {}
    announced = node.run_module(MODULE, arguments, check=True)
    assert announced["changed"]
    assert "archive_needed" not in announced


def test_code_is_compiled_for_the_path_it_runs_from(node: Node) -> None:
    tree = some_tree(1)
    node.install(tree)
    package = node.path / tree.version / "lib" / "fairlead"
    assert len(list((package / "__pycache__").glob("__init__.*.pyc"))) == 1
    assert str(package / "__init__.py").encode() in next((package / "__pycache__").iterdir()).read_bytes()


def ansible_environment(directory: Path) -> dict[str, str]:
    """Ansible with a configuration and local files of its own."""
    config = directory / "ansible.cfg"
    config.write_text(f"[defaults]\nlocal_tmp={directory / 'local'}\nnocolor=true\n[galaxy]\nserver_list=\n")
    own = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return {**own, "ANSIBLE_CONFIG": str(config), "FAIRLEAD_RUN_DIR": str(directory / "run")}


class Playbook:
    """The task as users write it, against this machine, with the runtime in a directory of the test."""

    def __init__(self, node: Node, root_dir: Path) -> None:
        self.node = node
        self.root_dir = root_dir
        self.path = node.directory / "play.yml"
        self.environment = ansible_environment(node.directory)

    def run(self, *options: str, collections: Path | None = None, **arguments: str) -> tuple[int, str]:
        task = {"fairlead.cluster.node_runtime": {**self.node.paths, **arguments}}
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}
        self.path.write_text(json.dumps([play]))
        environment = {
            **self.environment,
            "ANSIBLE_COLLECTIONS_PATH": str(collections or self.root_dir / "collections"),
            "ANSIBLE_REMOTE_TEMP": str(self.node.directory / "remote"),
        }
        program = Path(sys.executable).with_name("ansible-playbook")
        command = [str(program), str(self.path), "-e", f"ansible_python_interpreter={sys.executable}", *options]
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def changes(self, *options: str, **arguments: Any) -> bool:
        status, output = self.run(*options, **arguments)
        assert status == 0, output
        return "changed=1" in output


@pytest.fixture
def playbook(node: Node, root_dir: Path) -> Playbook:
    return Playbook(node, root_dir)


@pytest.mark.slow
def test_task_installs_the_real_runtime_once_and_repairs_it(playbook: Playbook, root_dir: Path) -> None:
    node, tree = playbook.node, build(root_dir)
    assert playbook.changes("--check", "--diff")
    assert node.snapshot() == {}
    assert playbook.changes()
    assert not playbook.changes("--check")
    assert not playbook.changes()
    assert node.links() == {"current": tree.version}
    status = subprocess.run([node.paths["command_path"], "--help"], capture_output=True, text=True, check=True)
    assert "restore" in status.stdout
    shutil.rmtree(node.path / tree.version / "lib" / "pyroute2" / "netlink")
    assert playbook.changes()
    assert not playbook.changes()
    assert sorted(os.listdir(node.directory / "remote")) == [], "temporary files stay on the node"
    assert playbook.changes(state="absent")
    assert node.snapshot() == {}


@pytest.mark.slow
def test_task_works_from_an_installed_artefact(playbook: Playbook, root_dir: Path, tmp_path: Path) -> None:
    galaxy = Path(sys.executable).with_name("ansible-galaxy")
    environment = ansible_environment(tmp_path)
    build_it = [str(galaxy), "collection", "build", "--output-path", str(tmp_path / "built"), str(root_dir)]
    subprocess.run(build_it, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    (archive,) = (tmp_path / "built").iterdir()
    collections = tmp_path / "collections"
    install = [str(galaxy), "collection", "install", "--offline", "--collections-path", str(collections), str(archive)]
    subprocess.run(install, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert playbook.changes(collections=collections)
    assert playbook.node.links() == {"current": build(root_dir).version}


def test_task_refuses_options_it_fills_in_itself(playbook: Playbook) -> None:
    status, output = playbook.run(version="1.0.0-0123456789ab")
    assert status != 0
    assert "version" in output
