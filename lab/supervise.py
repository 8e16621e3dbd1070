# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m lab.supervise LAB NODE``: the one process that boots a node and boots it again when it asks for it.

It records itself and each boot in the node's directory and ends when the node is switched off.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

from lab import cgroup, container, processes, state, uml

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def main(name: str, node: str) -> int:
    lab = state.load(name)
    if lab is None or node not in lab.nodes:
        print(f"no node {node} in lab {name}")
        return 1
    home = lab.node_dir(node)
    me = processes.process(os.getpid())
    assert me is not None
    state.write_json(home / "supervisor.json", {"pid": me.pid, "start": me.start})
    cgroup.join(lab.netns, node)
    kind = container if lab.kind == "container" else uml
    kind.prepare(lab, node)
    boots = 0
    while True:
        boots += 1
        kind.plug(lab, node)
        code = _boot(lab, node, kind.command(lab, node), kind.environment(), boots)
        print(f"boot {boots} ended with {code}", flush=True)
        if code != kind.REBOOT_CODE:
            return code


def _boot(lab: state.Lab, node: str, command: list[str], extra: dict[str, str], boots: int) -> int:
    environment = {**os.environ, **extra}
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, preexec_fn=_die_with_parent)
    found = processes.process(child.pid)
    if found:
        record = {"pid": found.pid, "start": found.start, "boots": boots, "since": time.time()}
        state.write_json(lab.node_dir(node) / "boot.json", record)
    return child.wait()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
