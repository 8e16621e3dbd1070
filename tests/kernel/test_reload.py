# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Services that have to be told of changed files, by modules that are killed or fail between the two.

Modules run in a mount namespace whose /run is a directory of the test, with a systemctl that writes down its words.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.plugin_utils.runtime_tree import Tree
from tests.kernel.conftest import MODULES

UNIT = "fairlead-flt.service"
LIVES, DIES, FAILS = "exit 0", "kill -9 $PPID", "echo 'Access denied' >&2; exit 1"


class Node:
    """A directory that stands for a node: /run, files, and what systemctl was told."""

    def __init__(self, directory: Path, root: Path) -> None:
        self.directory, self.root = directory, root
        self.run_dir = directory / "run"
        (self.run_dir / "systemd" / "system").mkdir(parents=True)
        (directory / "bin").mkdir()
        self.systemctl(LIVES)

    def systemctl(self, end: str) -> None:
        """How systemctl ends, after its words are written down."""
        path = self.directory / "bin" / "systemctl"
        path.write_text(f'#!/bin/sh\necho "$*" >> {self.directory}/told\n{end}\n')
        path.chmod(0o755)

    def told(self) -> list[str]:
        """The words since the last call."""
        path = self.directory / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def module(self, name: str, args: dict[str, Any], check: bool = False) -> dict[str, Any] | None:
        """The result, None when the module was killed."""
        internal = {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": str(self.directory)}
        inside = f"mount --bind {self.run_dir} /run && exec {sys.executable} -m {MODULES}.{name}"
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", inside],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": {**args, **internal}}),
            env={
                **os.environ,
                "PATH": f"{self.directory}/bin:{os.environ['PATH']}",
                "PYTHONPATH": str(self.root / "collections"),
                "FAIRLEAD_STATE_DIR": str(self.directory / "desired"),
            },
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if done.returncode == -signal.SIGKILL:
            return None
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def notes(self) -> list[str]:
        return sorted(path.name for path in self.run_dir.glob("fairlead/reload/*"))


@pytest.fixture
def node(tmp_path: Path, root_dir: Path) -> Node:
    return Node(tmp_path, root_dir)


def some_files(node: Node, content: str = "new\n") -> dict[str, Any]:
    link, network = node.directory / "a.link", node.directory / "b.network"
    return {
        "files": [
            {"path": str(link), "content": content, "reload": ["udev"]},
            {"path": str(network), "content": content, "reload": ["networkd", "systemd"]},
            {"path": str(node.directory / "other"), "content": content},
        ]
    }


RELOADS = [
    "try-reload-or-restart systemd-network[d].service",
    "daemon-reload",
    "try-reload-or-restart systemd-udev[d].service",
]


def test_changed_files_are_told_of_once(node: Node) -> None:
    announced = node.module("managed_files", some_files(node), check=True)
    assert (node.told(), node.notes()) == ([], [])
    done = node.module("managed_files", some_files(node))
    assert announced is not None and done is not None
    assert announced["operations"] == done["operations"]
    assert node.told() == RELOADS
    again = node.module("managed_files", some_files(node))
    assert again is not None and not again["changed"]
    assert (node.told(), node.notes()) == ([], [])


def test_only_readers_of_changed_files_are_told(node: Node) -> None:
    node.module("managed_files", some_files(node))
    node.told()
    args = some_files(node)
    args["files"][0]["content"] = "other\n"
    node.module("managed_files", args)
    assert node.told() == RELOADS[2:]
    args["files"][2]["content"] = "other\n"
    node.module("managed_files", args)
    assert node.told() == []
    node.module("managed_files", {**args, "state": "absent"})
    assert node.told() == RELOADS


def test_next_run_tells_what_a_killed_one_did_not(node: Node) -> None:
    node.systemctl(DIES)
    assert node.module("managed_files", some_files(node)) is None
    assert (node.directory / "a.link").read_text() == "new\n"
    node.systemctl(LIVES)
    node.told()
    announced = node.module("managed_files", some_files(node), check=True)
    assert announced is not None and announced["changed"] and node.told() == []
    assert [entry["before"] for entry in announced["diff"]] == [
        "due reload of networkd\n", "due reload of systemd\n", "due reload of udev\n"
    ]  # fmt: skip
    done = node.module("managed_files", some_files(node))
    assert done is not None and done["changed"] and done["changed_paths"] == []
    assert node.told() == RELOADS
    again = node.module("managed_files", some_files(node))
    assert again is not None and not again["changed"] and node.told() == []


def test_removal_that_was_killed_is_told_of_later(node: Node) -> None:
    node.module("managed_files", some_files(node))
    node.systemctl(DIES)
    assert node.module("managed_files", {**some_files(node), "state": "absent"}) is None
    node.systemctl(LIVES)
    node.told()
    done = node.module("managed_files", {**some_files(node), "state": "absent"})
    assert done is not None and done["changed"] and node.told() == RELOADS


def test_reload_that_fails_takes_the_files_back_and_is_tried_again(node: Node) -> None:
    node.module("managed_files", some_files(node, "old\n"))
    node.told()
    node.systemctl(FAILS)
    result = node.module("managed_files", some_files(node))
    assert result is not None and result["failed"]
    assert "due reload of networkd: systemctl try-reload-or-restart" in result["msg"]
    assert "Access denied" in result["msg"]
    assert (node.directory / "a.link").read_text() == "old\n"
    node.systemctl(LIVES)
    node.told()
    done = node.module("managed_files", some_files(node, "old\n"))
    assert done is not None and done["changed"] and node.told() == RELOADS


def test_without_systemd_nothing_is_told(node: Node) -> None:
    (node.run_dir / "systemd" / "system").rmdir()
    done = node.module("managed_files", some_files(node))
    assert done is not None and done["changed"]
    assert (node.told(), node.notes()) == ([], [])


def test_unknown_service_is_refused(node: Node) -> None:
    args = some_files(node)
    args["files"][0]["reload"] = ["apache"]
    result = node.module("managed_files", args)
    assert result is not None and result["failed"] and "apache" in result["msg"]
    assert not (node.directory / "a.link").exists()


def runtime(node: Node, text: str) -> dict[str, Any]:
    tree = Tree("0.1.0", {"bin/fairlead": ("0755", b"#!/bin/sh\n"), f"units/{UNIT}": ("0644", text.encode())})
    archive = node.directory / "tree.tar.gz"
    archive.write_bytes(tree.archive())
    units = [{"name": name, "content": content, "enabled": True} for name, content in tree.units.items()]
    return {**places(node), "version": tree.version, "digest": tree.digest, "units": units, "archive": str(archive)}


def places(node: Node) -> dict[str, str]:
    top = node.directory
    return {"path": f"{top}/opt", "command_path": f"{top}/sbin/fairlead", "unit_path": f"{top}/units"}


def test_units_of_a_killed_install_are_read_by_the_next_run(node: Node) -> None:
    args = runtime(node, "[Install]\nWantedBy=multi-user.target\n")
    node.systemctl(DIES)
    assert node.module("node_runtime", args) is None
    assert (node.directory / "units" / UNIT).exists()
    node.systemctl(LIVES)
    node.told()
    done = node.module("node_runtime", args)
    assert done is not None and done["changed"] and node.told() == ["daemon-reload"]
    again = node.module("node_runtime", args)
    assert again is not None and not again["changed"] and node.told() == []


def test_units_that_go_are_stopped_before_and_forgotten_after(node: Node) -> None:
    args = runtime(node, "[Install]\nWantedBy=multi-user.target\n")
    node.module("node_runtime", args)
    node.told()
    absent = {**places(node), "units": args["units"], "state": "absent"}
    stub = (
        f"case $1 in stop) ls {shlex.quote(str(node.directory / 'units'))} >> {node.directory}/told;; *) {DIES};; esac"
    )
    node.systemctl(stub)
    assert node.module("node_runtime", absent) is None
    assert node.told()[:2] == [f"stop {UNIT}", UNIT]
    node.systemctl(LIVES)
    done = node.module("node_runtime", absent)
    assert done is not None and done["changed"] and node.told() == ["daemon-reload"]
    again = node.module("node_runtime", absent)
    assert again is not None and not again["changed"] and node.told() == []
