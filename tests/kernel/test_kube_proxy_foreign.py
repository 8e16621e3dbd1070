# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A kube-proxy that somebody else runs on the node, as a process without a unit: in a pod, it looks like this."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespaces
from tests.unit.model.test_kube_proxy_wrong import SOUND
from tests.waiting import wait_until

#: Of a systemd that has no kube-proxy.
SYSTEMCTL = """#!/bin/sh
printf '%s\\n' LoadState=not-found ActiveState=inactive UnitFileState= MainPID=0
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Called as kube-proxy is."""
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(SYSTEMCTL)
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:{os.environ['PATH']}")
    return Path(shutil.copy("/bin/sleep", tmp_path / "kube-proxy"))


def test_it_is_refused_by_its_process_and_only_where_it_is(
    netns: Namespaces, run_module: RunModule, program: Path, tmp_path: Path
) -> None:
    node, other = netns("node"), netns("other")
    files = {f"kube_proxy_{name}": str(tmp_path / name) for name in ("ca_file", "cert_file", "key_file")}
    for path in files.values():
        Path(path).touch()
    directory = tmp_path / "etc"
    arguments: dict[str, Any] = {"variables": {**SOUND, **files}, "program": str(program), "directory": str(directory)}
    process = node.start([str(program), "600"])
    try:
        running = Path("/proc", str(process.pid), "exe")
        wait_until(lambda: running.readlink() == program, "the process runs the program", 10, every=0.05)
        assert run_module("kube_proxy", arguments, netns=other, check=True)["changed"]
        for check in (True, False):
            failed = run_module("kube_proxy", arguments, netns=node, check=check, fails=True)
            assert failed["error_type"] == "ForeignError"
            assert f"process {process.pid} ({program}) runs here" in failed["msg"]
        assert not directory.exists() and process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert run_module("kube_proxy", arguments, netns=node, check=True)["changed"]
