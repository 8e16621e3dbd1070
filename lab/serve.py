# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What a lab offers its nodes over HTTP at the gateway address: the package mirror and the files directory."""

from __future__ import annotations

import sys
import time

from lab import network, processes, spawn, state
from lab.errors import LabError
from lab.processes import Process
from lab.state import Lab

PORT = 80
_START_SECONDS = 120


def serve(lab: Lab) -> None:
    """Start the server unless it runs; a changed mirror is offered at once either way."""
    _link(lab)
    known = state.read_json(lab.dir / "http.json")
    if known and Process(**known).alive:
        return
    child = spawn.detached(
        [sys.executable, "-m", "http.server", str(PORT), "--bind", lab.gateway,
         "--directory", str(lab.dir / "www"), "--protocol", "HTTP/1.1"],
        lab_dir=lab.dir, log=lab.dir / "http.log", namespace=network.namespace(lab.netns),
    )  # fmt: skip
    found = processes.process(child.pid)
    if found:
        state.write_json(lab.dir / "http.json", {"pid": found.pid, "start": found.start})
    deadline = time.monotonic() + _START_SECONDS
    while not _listens(lab):
        if child.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"the mirror's HTTP server does not start; see {lab.dir / 'http.log'}")
        time.sleep(0.02)


def _link(lab: Lab) -> None:
    served, files = lab.dir / "www", lab.dir / "files"
    files.mkdir(exist_ok=True)
    served.mkdir(exist_ok=True)
    for name, target in (("debian", lab.mirror), ("files", str(files))):
        fresh = served / f".{name}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(served / name)


def _listens(lab: Lab) -> bool:
    try:
        network.connect(lab.netns, lab.gateway, PORT, 1).close()
    except OSError:
        return False
    return True
