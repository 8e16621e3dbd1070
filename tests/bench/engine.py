# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The engine alone, measured inside the network namespace it is started in: desired state in memory to verified kernel.

``python -m tests.bench.engine PEERS`` prints a JSON mapping of case to seconds, and the number of objects.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from ansible_collections.fairlead.cluster.plugins.module_utils._engine import converge
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay import (
    Underlay,
    parse_overlay,
    wanted_items,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink.overlay import OverlayAdapter
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.overlay import Wanted, plan_overlay
from tests.bench.peers import DEVICE, UNDERLAY, document


def step(wanted: Wanted) -> Callable[[], int]:
    """Converges to what is wanted; the number of operations."""
    keys = [key for key in wanted.items if key[0] in ("route", "nexthop")]
    adapter = OverlayAdapter([DEVICE], keys, True)
    return lambda: len(converge(adapter, lambda have: plan_overlay(have, wanted)).operations)


def wanted(peers: int) -> Wanted:
    overlay = parse_overlay(document(peers))
    return Wanted(state_of(wanted_items(overlay, [Underlay(UNDERLAY, 1500)], 0, True)), overlay.networks)


def main(peers: int) -> None:
    fewer, more = wanted(peers), wanted(peers + 1)
    # The objects of both, the device, its address, that it is up.
    expected = {"apply": 4 * peers + 3, "noop": 0, "add_one": 4, "remove_one": 4, "teardown": 4 * peers + 3}
    steps = {
        "apply": step(fewer),
        "noop": step(fewer),
        "add_one": step(more),
        "remove_one": step(fewer),
        "teardown": step(Wanted({})),
    }
    seconds = {}
    for case, run in steps.items():
        start = time.perf_counter()
        operations = run()
        seconds[case] = time.perf_counter() - start
        assert operations == expected[case], f"{case}: {operations} operations instead of {expected[case]}"
    print(json.dumps({"seconds": seconds, "objects": len(fewer.items)}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
