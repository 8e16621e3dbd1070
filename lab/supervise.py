# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m lab.supervise LAB NODE``: the one process that boots a node, and boots it again when the node asks.

It records itself and each boot in the node's directory, and ends when the node is switched off.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

from lab import cgroup, container, processes, state, uml

#: How a boot ends that asks for another one: EXIT_FORCE_RESTART of systemd-nspawn --keep-unit.
REBOOT_CODE = 133


def main(name: str, node: str) -> int:
    lab = state.load(name)
    if lab is None or node not in lab.nodes:
        print(f"no node {node} in lab {name}")
        return 1
    home = lab.node_dir(node)
    # Held while this process lives: an interrupted `up` that is run again starts no second one.
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    me = processes.process(os.getpid())
    assert me is not None
    state.write_json(home / "supervisor.json", {"pid": me.pid, "start": me.start})
    cgroup.join(lab.netns, node)
    kind = container if lab.kind == "container" else uml
    kind.prepare(lab, node)
    code, boots = REBOOT_CODE, 0
    (home / "boot.json").unlink(missing_ok=True)
    while code == REBOOT_CODE:
        boots += 1
        kind.plug(lab, node)
        child = kind.boot(lab, node)
        found = processes.process(child.pid)
        if found:
            record = {"pid": found.pid, "start": found.start, "boots": boots, "since": time.time()}
            state.write_json(home / "boot.json", record)
        code = child.wait()
        print(f"boot {boots} ended with {code}", flush=True)
        processes.kill(one for one in cgroup.members(lab.netns, node) if one != me)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
