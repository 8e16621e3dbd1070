# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What modules return: whole for what people look at, bounded for thousands."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from ansible_collections.fairlead.cluster.plugins.module_utils._ansible import items_of, result_of
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Outcome
from ansible_collections.fairlead.cluster.plugins.module_utils._model.datapath import LinkUp, Neighbor, Route
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import State, state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import difference

MANY = 1000


def state(peers: int) -> State:
    """The device's state and two objects for each peer, in an order of no meaning."""
    gateways = [f"10.{number >> 8}.{number & 255}.0" for number in reversed(range(peers))]
    neighbors = [Neighbor("flannel.1", gateway, "02:00:00:00:00:01") for gateway in gateways]
    routes = [Route(f"{gateway}/24", gateway, "flannel.1") for gateway in gateways]
    return state_of([*routes, LinkUp("flannel.1"), *neighbors])


def result(have: State, want: State) -> dict[str, Any]:
    module: Any = SimpleNamespace(_diff=False)
    return result_of(module, Outcome(have, want, difference(have, want)), "overlay network")


def test_a_short_result_is_whole() -> None:
    have, want = state(10), state(100)
    found = result(have, want)
    assert "left_out" not in found
    assert (found["before"], found["after"]) == (items_of(have), items_of(want))
    assert found["operations"] == [str(operation) for operation in difference(have, want)]


def test_a_long_result_has_the_first_of_each_kind_and_numbers() -> None:
    have, want = state(101), state(MANY)
    found = result(have, want)
    every = items_of(want)
    for kind, shown in (("neighbor", 100), ("route", 100), ("link_up", 1)):
        expected = [item for item in every if item["kind"] == kind][:shown]
        assert [item for item in found["after"] if item["kind"] == kind] == expected
    assert found["left_out"] == {
        "before": {"neighbor": 1, "route": 1},
        "after": {"neighbor": MANY - 100, "route": MANY - 100},
        "operations": {"neighbor": MANY - 201, "route": MANY - 201},
    }


def test_operations_keep_their_order() -> None:
    have, want = state(0), state(MANY)
    every = [str(operation) for operation in difference(have, want)]
    shown = result(have, want)["operations"]
    assert shown == [line for line in every if line in set(shown)]
    assert sum(line.startswith("+ route") for line in shown) == 100


def test_size_does_not_grow_with_the_cluster() -> None:
    sizes = [len(json.dumps(result({}, state(peers)))) for peers in (MANY, 2 * MANY)]
    assert sizes[1] - sizes[0] < 100
