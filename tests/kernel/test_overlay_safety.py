# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What a run of overlay_network refuses or waits for, so that nobody is locked out and no two runs meet."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespaces
from tests.kernel.overlay_nodes import document, dual_document, lone_node, snapshot
from tests.waiting import has_open, wait_until

MODULE = "overlay_network"
HOLD = """
import sys
from ansible_collections.fairlead.cluster.plugins.module_utils._system.lock import exclusive
with exclusive("overlay_network"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("check", [True, False], ids=["check mode", "real"])
@pytest.mark.parametrize(
    ("connection", "subnet"),
    [
        ("10.244.3.50 51000 192.0.2.1 22", "10.244.3.0/24"),
        ("::ffff:10.244.3.50 51000 ::ffff:192.0.2.1 22", "10.244.3.0/24"),
        ("fd00:10:244:3::50 51000 2001:db8::1 22", "fd00:10:244:3::/64"),
    ],
    ids=["ipv4", "mapped ipv4", "ipv6"],
)
def test_route_over_the_controller_s_address_is_refused(
    netns: Namespaces,
    run_module: RunModule,
    monkeypatch: pytest.MonkeyPatch,
    connection: str,
    subnet: str,
    check: bool,
) -> None:
    node = lone_node(netns)
    before = snapshot(node)
    monkeypatch.setenv("SSH_CONNECTION", connection)
    message = run_module(MODULE, dual_document(1, 2, 3), netns=node, check=check, fails=True)["msg"]
    address = connection.split()[0].removeprefix("::ffff:")
    assert message.startswith(f"peers: n3: its subnet {subnet} holds {address}, from where this connection comes")
    assert snapshot(node) == before
    run_module(MODULE, dual_document(1, 2), netns=node, check=check)


@pytest.fixture
def held(tmp_path: Path, root_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another run, which is changing the overlay until its standard input ends."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(root_dir / "collections"),
        "FAIRLEAD_RUN_DIR": str(tmp_path / "run"),
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD], env=environment, **pipes, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_run_waits_for_the_first(
    netns: Namespaces, run_module: RunModule, held: subprocess.Popen[str], tmp_path: Path
) -> None:
    node, lock = lone_node(netns), tmp_path / "run/lock/overlay_network"

    def is_waited_for() -> bool:
        pids = {int(path.name) for path in Path("/proc").glob("[0-9]*")}
        return any(has_open(pid, lock) for pid in pids - {held.pid})

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(run_module, MODULE, document(1, 2), netns=node)
        try:
            wait_until(lambda: is_waited_for() or run.done(), "the module has the file of the lock open")
            # Long enough for one that did not wait.
            time.sleep(1)
            assert not run.done() and "flannel.1" not in node.out("ip -br link")
        finally:
            assert held.stdin is not None
            held.stdin.close()
        assert run.result()["changed"]
    assert "flannel.1" in node.out("ip -br link")
