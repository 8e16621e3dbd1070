# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Waiting until nodes answer over SSH, with a countdown to look at."""

from __future__ import annotations

import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lab import network, power, ssh
from lab.errors import LabError
from lab.state import Lab

#: Four User-mode Linux nodes need half a minute on two cores; a busy machine many times that. Whoever is off is not
#: waited for.
WAIT_SECONDS = 600
_SHOW_SECONDS = 5
_LOG_LINES = 8


def wait(lab: Lab, nodes: Collection[str], started: float) -> None:
    """Print a line for each node as it answers; LabError with the end of its console for one that does not.

    Nodes that are cut off the LAN cannot answer and are not waited for.
    :param started: monotonic time from which the seconds are counted.
    """
    deadline = started + WAIT_SECONDS
    nodes = [node for node in nodes if not network.is_cut(lab, node)]
    with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as pool:
        jobs = {node: pool.submit(_answers_until, lab, node, deadline) for node in nodes}
        _show(lab, jobs, started, deadline)
    silent = [node for node, job in jobs.items() if not job.result()]
    if silent:
        consoles = "\n".join(_console(lab.node_dir(node) / "console.log") for node in silent)
        raise LabError(f"no SSH answer from {', '.join(silent)}. The end of each console:\n{consoles}")


def _show(lab: Lab, jobs: dict[str, Future[bool]], started: float, deadline: float) -> None:
    waiting, shown = dict(jobs), time.monotonic()
    while waiting:
        now = time.monotonic()
        for node in [node for node, job in waiting.items() if job.done()]:
            if waiting.pop(node).result():
                print(f"  {node:<12} {lab.nodes[node]:<15} answers after {now - started:.1f} s", flush=True)
        if waiting and now - shown >= _SHOW_SECONDS:
            shown = now
            print(f"  waiting for {', '.join(sorted(waiting))}: {deadline - now:.0f} s left", flush=True)
        time.sleep(0.02)


def _answers_until(lab: Lab, node: str, deadline: float) -> bool:
    while time.monotonic() < deadline:
        if ssh.answers(lab, node):
            return True
        if not power.power(lab, node).on:
            return False
        time.sleep(0.1)
    return False


def _console(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"{log}:", *(f"    {line}" for line in lines[-_LOG_LINES:])])
