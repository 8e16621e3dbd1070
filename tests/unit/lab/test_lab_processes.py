# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Only the process that was recorded is ever signalled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import processes
from lab.processes import Process


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "60"], env={**os.environ, processes.MARK: str(tmp_path)})
    yield child
    child.kill()
    child.wait()


def test_recycled_id_is_not_killed(sleeper: subprocess.Popen[bytes]) -> None:
    real = processes.process(sleeper.pid)
    assert real is not None
    other = Process(real.pid, real.start - 1)
    assert not other.alive
    assert processes.kill([other], timeout=0.2) == []
    assert sleeper.poll() is None


def test_killed_process_is_gone_when_kill_returns(sleeper: subprocess.Popen[bytes]) -> None:
    real = processes.process(sleeper.pid)
    assert real is not None
    assert processes.kill([real]) == []
    assert not real.alive


def test_own_process_is_never_killed() -> None:
    me = processes.process(os.getpid())
    assert me is not None
    assert processes.kill([me], timeout=0.2) == []


def test_marked_processes_are_found_by_the_exact_directory(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert [one.pid for one in processes.marked(tmp_path)] == [sleeper.pid]
    assert processes.marked(tmp_path.parent) == []
    assert processes.marked(Path(f"{tmp_path}-2")) == []


def test_children_are_listed(sleeper: subprocess.Popen[bytes]) -> None:
    assert sleeper.pid in [one.pid for one in processes.children(os.getpid())]
