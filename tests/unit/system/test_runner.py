# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of modules: nothing of what they say gets lost, whatever AnsibleModule.run_command makes of their pipes."""

from __future__ import annotations

import selectors
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

from ansible_collections.fairlead.cluster.plugins.module_utils._system.runner import Runner, module_runner


@pytest.fixture
def runner() -> Iterator[Runner]:
    with patch_module_args({}):
        yield module_runner(AnsibleModule({}))


def test_output_error_and_status_are_those_of_the_command(runner: Runner) -> None:
    assert runner(["sh", "-c", "echo said; echo wrong >&2; exit 3"]) == (3, "said\n", "wrong\n")


def test_a_command_reads_its_input(runner: Runner) -> None:
    data = "one\r\ntwo \udce4\n"
    assert runner(["cat"], data) == (0, data, "")


def test_without_input_there_is_nothing_to_read(runner: Runner) -> None:
    assert runner(["cat"]) == (0, "", "")


def test_a_command_that_does_not_read_its_input_fails_by_its_own_words(runner: Runner) -> None:
    status, _output, error = runner(["sh", "-c", "echo no >&2; exit 2"], "x" * 1_000_000)
    assert (status, error) == (2, "no\n")


def test_a_command_that_does_not_exist(runner: Runner) -> None:
    assert runner(["no-such-command"])[0] == 127


def test_output_written_in_the_moment_before_the_end_is_not_lost(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """run_command waits for a second, gets nothing, and then finds the process at its end: the command wrote and ended
    in between. Here the first wait is made to end like that."""
    started: list[subprocess.Popen[Any]] = []
    popen, select = subprocess.Popen, selectors.PollSelector.select

    def remembered(*args: Any, **options: Any) -> subprocess.Popen[Any]:
        started.append(popen(*args, **options))
        return started[-1]

    def late(self: selectors.PollSelector, timeout: float | None = None) -> list[Any]:
        if started[-1].returncode is None:
            started[-1].wait()
            return []
        return select(self, timeout)

    monkeypatch.setattr(subprocess, "Popen", remembered)
    monkeypatch.setattr(selectors.PollSelector, "select", late)
    assert runner(["sh", "-c", "echo said; echo wrong >&2"]) == (0, "said\n", "wrong\n")
