# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The engine alone, measured inside the network namespace it is started in: desired state in memory to verified kernel.

``python -m tests.bench.engine PEERS FAMILY`` prints a JSON mapping of case to seconds, and the number of objects.
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
from tests.bench.peers import FAMILIES, UNDERLAY, document


def step(wanted: Wanted, family: str) -> Callable[[], int]:
    """Converges to what is wanted; the number of operations."""
    keys = [key for key in wanted.items if key[0] in ("route", "nexthop")]
    adapter = OverlayAdapter([half.device for half in FAMILIES[family]], keys, True)
    return lambda: len(converge(adapter, lambda have: plan_overlay(have, wanted)).operations)


def wanted(peers: int, family: str) -> Wanted:
    overlay = parse_overlay(document(peers, family))
    underlays = [Underlay(UNDERLAY, 1500)] * len(overlay.families)
    return Wanted(state_of(wanted_items(overlay, underlays, 0, True)), overlay.networks)


def main(peers: int, family: str) -> None:
    fewer, more = wanted(peers, family), wanted(peers + 1, family)
    every, one = len(fewer.items), len(more.items) - len(fewer.items)
    expected = {"apply": every, "noop": 0, "add_one": one, "remove_one": one, "teardown": every}
    wants = {"apply": fewer, "noop": fewer, "add_one": more, "remove_one": fewer, "teardown": Wanted({})}
    seconds = {}
    for case, want in wants.items():
        run = step(want, family)
        start = time.perf_counter()
        operations = run()
        seconds[case] = time.perf_counter() - start
        assert operations == expected[case], f"{case}: {operations} operations instead of {expected[case]}"
    print(json.dumps({"seconds": seconds, "objects": every}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
