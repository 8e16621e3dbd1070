# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What load balancers are told while services change."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.files import File
from ansible_collections.fairlead.cluster.plugins.module_utils._model.health_check import (
    HealthCheck,
    health_check_text,
    parse_health_checks,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, IPV6
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.health_check import plan_health_checks
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import DELETE, Operation, outcome_of

PATH = "/run/fairlead/health_checks.json"
Counts = dict[str, int]


def checks(counts: Counts) -> list[HealthCheck]:
    """By names that end with the IP version where it is 6."""
    versions = {True: IPV6, False: IPV4}
    return [HealthCheck(name, versions[name.endswith("6")], 30000, count) for name, count in counts.items()]


def counts(operations: Sequence[Operation]) -> Counts | None:
    """What the file says after the last operation; None where it is gone."""
    if operations[-1].action == DELETE:
        return None
    file = operations[-1].item
    assert isinstance(file, File)
    return {each.service: each.endpoints for each in parse_health_checks(file.content)}


@pytest.mark.parametrize(
    ("have", "want", "first", "last"),
    [
        ({}, {"a": 1}, [], {"a": 1}),
        ({"a": 1}, {}, None, []),
        ({"a": 1}, {"a": 1}, [], []),
        ({"a": 2}, {"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [], {"a": 2}),
        ({"a": 0}, {"a": 1, "b": 1}, [], {"a": 1, "b": 1}),
        ({"a": 2, "b": 1}, {"a": 1, "c": 1}, {"a": 1}, {"a": 1, "c": 1}),
        ({"a": 2}, {"b": 1}, {}, {"b": 1}),
        ({"a": 2}, {"a": 1, "a6": 3}, {"a": 1}, {"a": 1, "a6": 3}),
    ],
)
def test_gains_are_told_last_and_losses_first(
    have: Counts, want: Counts, first: Counts | list[int] | None, last: Counts | list[int]
) -> None:
    state = state_of([File(PATH, health_check_text(checks(have)))] if have else [])
    told = plan_health_checks(state, PATH, checks(want))
    found = [counts(operations) if operations else [] for operations in told]
    assert found == [first, last]
    after = outcome_of(state, [*told.first, *told.last])
    assert plan_health_checks(after, PATH, checks(want)) == ([], [])


def test_file_of_somebody_else_says_nothing() -> None:
    told = plan_health_checks(state_of([File(PATH, "?")]), PATH, checks({"a": 1}))
    assert (counts(told.first), counts(told.last)) == ({}, {"a": 1})
