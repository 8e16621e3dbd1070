# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The command on a node, run as the process it is, with kinds of documents made for the test."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.plugin_utils.runtime_tree import Tree
from tests.waiting import has_open, wait_until

# Converges a text file, or fails in the way that the document asks for.
KIND = """
import os
from .._engine import converge as engine_converge
from .._model.errors import ApplyError, PrerequisiteError
from .._model.files import File
from .._model.item import state_of
from .._plan.operation import difference
from .._system.files import FileAdapter

def converge(document, check, runner):
    if document.get("needs") and not os.path.exists(document["needs"]):
        raise PrerequisiteError(f"{document['needs']}: is not there yet")
    if document.get("refuse"):
        raise ApplyError("thing", "refused")
    if document.get("crash"):
        raise ZeroDivisionError
    if document.get("command"):
        print("ran", runner(document["command"], "hello"))
    want = state_of([File(document["path"], "wanted\\n")])
    return engine_converge(FileAdapter([document["path"]]), lambda have: difference(have, want), check)
"""


class Node:
    def __init__(self, installed: Path, directory: Path) -> None:
        self.installed = installed
        self.directory = directory
        (directory / "desired").mkdir()

    def save(self, kind: str, *, known: bool = True, **document: object) -> Path:
        """A document of ``kind``; returns the file that applying it writes."""
        path = self.directory / f"{kind}.txt"
        saved = self.directory / "desired" / f"{kind}.json"
        saved.write_text(json.dumps({"path": str(path), **document}))
        if known:
            (self.installed / "lib" / "fairlead" / "_desired" / f"{kind}.py").write_text(KIND)
        return path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        names = {"FAIRLEAD_STATE_DIR": "desired", "FAIRLEAD_RUN_DIR": "run"}
        environment = {**os.environ, **{name: str(self.directory / part) for name, part in names.items()}}
        command = [sys.executable, "-I", str(self.installed / "bin" / "fairlead"), *arguments]
        return subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/"
        )

    @contextlib.contextmanager
    def meeting_another_run(self, kind: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """The command, which waits as long as the block lasts."""
        lock = self.directory / "run" / "lock" / kind
        lock.parent.mkdir(parents=True)
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            process = self.start(*arguments)
            try:
                wait_until(lambda: has_open(process.pid, lock), "the command waits for the lock")
                yield process
            except BaseException:
                process.kill()
                process.communicate()
                raise

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _none = process.communicate(timeout=300)
        return process.returncode, output


@pytest.fixture
def node(installed: Path, tmp_path: Path) -> Node:
    return Node(installed, tmp_path)


def test_restore_applies_every_document_in_order(node: Node) -> None:
    paths = [node.save(kind) for kind in ("zebra", "masquerade", "overlay_network", "kernel_settings", "aardvark")]
    status, output = node.run("restore")
    assert status == 0
    assert [path.read_text() for path in paths] == ["wanted\n"] * 5
    order = re.findall(r"^(\w+): restored, 1 changes$", output, re.MULTILINE)
    assert order == ["kernel_settings", "overlay_network", "masquerade", "aardvark", "zebra"]


def test_restore_with_nothing_saved_is_a_success(node: Node) -> None:
    assert node.run("restore") == (0, "")


@pytest.mark.parametrize(
    ("trouble", "line"),
    [
        ({"refuse": True}, "bad: failed: thing: refused"),
        ({"crash": True}, "ZeroDivisionError"),
        ({"needs": "/nonexistent"}, "bad: failed: /nonexistent: is not there yet"),
    ],
)
def test_restore_goes_on_after_a_kind_that_fails(node: Node, trouble: dict[str, object], line: str) -> None:
    bad, good = node.save("bad", **trouble), node.save("good")
    status, output = node.run("restore", "--wait", "0.1")
    assert status == 1
    assert line in output
    assert "restored 1 of 2; failed: bad" in output
    assert (bad.exists(), good.read_text()) == (False, "wanted\n")


def test_restore_names_a_document_that_is_damaged_or_of_an_unknown_kind(node: Node) -> None:
    node.save("alien", known=False)
    (node.directory / "desired" / "broken.json").write_text('{"path": ')
    started = time.monotonic()
    status, output = node.run("restore", "--wait", "300")
    assert status == 1
    assert "alien: failed:" in output
    assert "knows no such kind" in output
    assert re.search(r"broken: failed: .*broken.json: not readable as JSON", output)
    assert time.monotonic() - started < 300, "neither gets better by waiting"


def test_restore_waits_for_what_the_network_rests_on(node: Node) -> None:
    path = node.save("late", needs=str(node.directory / "interface"))
    process = node.start("restore", "--wait", "300")
    try:
        assert process.stdout is not None
        assert "late: waiting:" in process.stdout.readline()
        assert not path.exists()
        (node.directory / "interface").touch()
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
        process.communicate()
    assert path.read_text() == "wanted\n"


def test_restore_applies_what_another_run_saved_meanwhile(node: Node) -> None:
    before = node.save("kind")
    with node.meeting_another_run("kind", "restore") as process:
        after = node.directory / "after.txt"
        node.save("kind", path=str(after))
    output, _none = process.communicate(timeout=300)
    assert (process.returncode, before.exists(), after.read_text()) == (0, False, "wanted\n"), output


def test_restore_leaves_what_another_run_forgot_meanwhile(node: Node) -> None:
    path = node.save("kind")
    with node.meeting_another_run("kind", "restore") as process:
        (node.directory / "desired" / "kind.json").unlink()
    output, _none = process.communicate(timeout=300)
    assert (process.returncode, output, path.exists()) == (0, "", False)


def test_leases_are_not_the_business_of_restore_and_verify(node: Node) -> None:
    path = node.save("overlay_lease")
    assert node.run("restore") == (0, "")
    assert node.run("verify") == (0, "no drift: nothing saved\n")
    assert not path.exists()


def test_verify_tells_drift_and_changes_nothing(node: Node) -> None:
    path = node.save("thing")
    assert node.run("restore")[0] == 0
    assert node.run("verify") == (0, "no drift: thing\n")
    path.write_text("drifted\n")
    status, output = node.run("verify")
    assert status == 1
    assert output.startswith(f"thing: ~ file {path}")
    assert path.read_text() == "drifted\n"


def test_verify_counts_what_cannot_be_compared_as_a_difference(node: Node) -> None:
    node.save("bad", refuse=True)
    assert node.run("verify") == (1, "bad: cannot be compared: thing: refused\n")


def test_status_shows_version_and_differences(node: Node, tree: Tree) -> None:
    node.save("one")
    node.run("restore")
    node.save("two")
    status, output = node.run("status")
    lines = output.splitlines()
    assert (status, lines[0]) == (0, f"fairlead {tree.version}")
    assert re.fullmatch(r"one +saved \S+ \S+ +as saved", lines[1])
    assert re.fullmatch(r"two +saved \S+ \S+ +1 differences", lines[2])


def test_commands_of_the_library_run_through_the_runner(node: Node) -> None:
    node.save("first", command=["cat"])
    node.save("second", command=["/nonexistent/command"])
    _status, output = node.run("restore")
    assert "ran (0, 'hello', '')" in output
    assert "ran (127, '', '/nonexistent/command: command not found')" in output


@pytest.mark.parametrize(("arguments", "status"), [((), 2), (("restart",), 2), (("--help",), 0)])
def test_usage_lists_the_commands(node: Node, arguments: tuple[str, ...], status: int) -> None:
    found, output = node.run(*arguments)
    assert found == status
    assert {"restore", "verify", "status", "renew", "probe"} <= set(re.findall(r"^  (\w+) ", output, re.MULTILINE))


@pytest.mark.parametrize("command", ["restore", "verify", "status", "renew", "probe"])
def test_every_command_explains_itself(node: Node, command: str) -> None:
    status, output = node.run(command, "--help")
    assert status == 0
    assert output.startswith(f"usage: fairlead {command}")
