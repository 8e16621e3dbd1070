# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Two runs on one node do not change the same kind of state at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._system import lock

HOLD = """
import sys, time
from ansible_collections.fairlead.cluster.plugins.module_utils._system.lock import exclusive
with exclusive("overlay_network"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts another process that holds the lock."""
    monkeypatch.setattr(lock, "DIRECTORY", str(tmp_path / "lock"))
    environment = {**os.environ, "FAIRLEAD_RUN_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", HOLD], env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_second_run_is_told_who_holds_it(hold: Callable[[], subprocess.Popen[str]]) -> None:
    other = hold()
    with pytest.raises(lock.LockedError) as refusal, lock.exclusive("overlay_network", wait=0.3):
        raise AssertionError("two runs hold it")
    assert f"overlay_network: another run, process {other.pid}, is changing it" in str(refusal.value)


def test_other_kinds_are_free(hold: Callable[[], subprocess.Popen[str]]) -> None:
    hold()
    with lock.exclusive("masquerade", wait=0):
        pass


def test_second_run_waits_for_the_end_of_the_first(hold: Callable[[], subprocess.Popen[str]]) -> None:
    other = hold()
    with pytest.raises(lock.LockedError), lock.exclusive("overlay_network", wait=0):
        raise AssertionError("two runs hold it")
    # A killed run leaves its file behind, but not the lock.
    killer = ["sh", "-c", f"sleep 0.5; kill -{int(signal.SIGKILL)} {other.pid}"]
    with subprocess.Popen(killer), lock.exclusive("overlay_network", wait=60):
        assert other.wait(timeout=60) == -signal.SIGKILL


def test_part_of_a_run_may_ask_again(hold: Callable[[], subprocess.Popen[str]]) -> None:
    with lock.exclusive("masquerade", wait=0):
        with lock.exclusive("masquerade", wait=0):
            pass
        script = "from ansible_collections.fairlead.cluster.plugins.module_utils._system.lock import exclusive\n"
        script += "exclusive('masquerade', wait=0).__enter__()"
        path = {"PYTHONPATH": os.pathsep.join(sys.path), "FAIRLEAD_RUN_DIR": str(Path(lock.DIRECTORY).parent)}
        other = subprocess.run([sys.executable, "-c", script], env=path, capture_output=True, text=True, check=False)
        assert f"process {os.getpid()}, is changing it" in other.stderr
    with lock.exclusive("masquerade", wait=0):
        pass


def test_check_mode_waits_for_nobody(hold: Callable[[], subprocess.Popen[str]]) -> None:
    hold()
    with lock.exclusive("overlay_network", check=True, wait=0):
        pass


def test_released_lock_can_be_taken_again(hold: Callable[[], subprocess.Popen[str]]) -> None:
    for _time in range(2):
        with lock.exclusive("overlay_network", wait=0):
            pass
