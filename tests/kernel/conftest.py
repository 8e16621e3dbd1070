# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""For tests against the kernel: namespaces of their own, and modules run as the processes they are on a node."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import store
from ansible_collections.fairlead.cluster.plugins.module_utils._system import lock
from tests.kernel import guest
from tests.kernel.namespaces import Namespace, Namespaces, remove_abandoned, run_process
from tests.kernel.packet_filters import FILTERS, MULTI, lacking, make_default

MODULES = "ansible_collections.fairlead.cluster.plugins.modules"
HERE = Path(__file__).resolve().parent


class RunModule(Protocol):
    def __call__(
        self,
        name: str,
        args: dict[str, Any],
        *,
        netns: Namespace | None = None,
        check: bool = False,
        diff: bool = False,
        fails: bool = False,
    ) -> dict[str, Any]:
        """The result of module ``name`` (short name) with ``args``, run as a process inside ``netns``.

        The result has key ``failed`` true exactly when ``fails`` is expected; anything else fails the test.
        """


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.kernel)


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers() -> None:
    if os.geteuid() == 0:
        remove_abandoned()


@pytest.fixture
def netns() -> Iterator[Namespaces]:
    """A factory of network namespaces that are gone after the test: ``node = netns("label")``."""
    namespaces = Namespaces()
    try:
        yield namespaces
    finally:
        namespaces.remove()


@pytest.fixture(autouse=True)
def _own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that call the library themselves neither wait for this machine's own runs nor know of them."""
    monkeypatch.setattr(lock, "DIRECTORY", str(tmp_path / "run" / "lock"))
    monkeypatch.setattr(store, "DIRECTORY", str(tmp_path / "own desired"))


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """Where modules under test remember what they applied, instead of /var/lib/fairlead/desired."""
    return tmp_path / "desired"


@pytest.fixture
def run_module(state_dir: Path, root_dir: Path, tmp_path: Path) -> RunModule:
    """Run a module as a real process; see RunModule for the arguments."""

    def run(
        name: str,
        args: dict[str, Any],
        *,
        netns: Namespace | None = None,
        check: bool = False,
        diff: bool = False,
        fails: bool = False,
    ) -> dict[str, Any]:
        internal = {"_ansible_check_mode": check, "_ansible_diff": diff, "_ansible_remote_tmp": str(tmp_path)}
        command = [sys.executable, "-m", f"{MODULES}.{name}"]
        environment = {
            **os.environ,
            "PYTHONPATH": str(root_dir / "collections"),
            "FAIRLEAD_STATE_DIR": str(state_dir / netns.name if netns else state_dir),
            "FAIRLEAD_RUN_DIR": str(tmp_path / "run"),
        }
        done = run_process(
            netns.command(command) if netns else command,
            json.dumps({"ANSIBLE_MODULE_ARGS": {**args, **internal}}),
            environment,
        )
        assert done.stdout.lstrip().startswith("{"), f"module {name} gave no result:\n{done.stdout}{done.stderr}"
        result: dict[str, Any] = json.loads(done.stdout)
        assert bool(result.get("failed")) == fails, f"module {name}: {result.get('msg', result)}\n{done.stderr}"
        return result

    return run


@pytest.fixture
def ipvs() -> None:
    """For tests that need IPVS: in a kernel without it they are left to a guest."""
    if not Path("/proc/net/ip_vs").exists():
        assert guest.INSIDE not in os.environ, "the guest has no IPVS either"
        pytest.skip("this kernel has no IPVS; the test runs in a guest that has it")


@pytest.fixture(params=FILTERS)
def way(request: pytest.FixtureRequest, netns: Namespaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to the packet filter that this kernel has; of iptables, the command is of that kind."""
    name: str = request.param
    reason = lacking(netns("can"), name)
    if reason:
        pytest.skip(f"{reason}; the test runs in a guest that has it")
    if name in MULTI:
        make_default(tmp_path / "bin", name)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return name
