# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""When load balancers are told of endpoints: of those that come when services work, of those that go before they go."""

from __future__ import annotations

import contextlib
from typing import List, NamedTuple, Sequence

from .._model.errors import FairleadError
from .._model.files import File
from .._model.health_check import HealthCheck, health_check_text, parse_health_checks
from .._model.item import State
from .operation import ADD, DELETE, REPLACE, Operation


class Told(NamedTuple):
    """Operations on the file before everything else changes, and after it."""

    first: List[Operation]
    last: List[Operation]


def plan_health_checks(have: State, path: str, checks: Sequence[HealthCheck]) -> Told:
    """``have`` may hold the file at ``path``. There is none where nobody is to be answered."""
    found = have.get((File.kind, path))
    assert found is None or isinstance(found, File)
    if not checks:
        return Told([Operation(DELETE, found)] if found else [], [])
    wanted = File(path, health_check_text(checks))
    if found is None:
        return Told([], [Operation(ADD, wanted)])
    meanwhile = File(path, health_check_text(_in_both(_checks_of(found), checks)))
    return Told(_change(found, meanwhile), _change(meanwhile, wanted))


def _change(old: File, new: File) -> List[Operation]:
    return [] if old == new else [Operation(REPLACE, new, old)]


def _in_both(old: Sequence[HealthCheck], new: Sequence[HealthCheck]) -> List[HealthCheck]:
    """What is true before and after."""
    before = {each._replace(endpoints=0): each.endpoints for each in old}
    kept = [(each, before.get(each._replace(endpoints=0))) for each in new]
    return [each._replace(endpoints=min(each.endpoints, count)) for each, count in kept if count is not None]


def _checks_of(file: File) -> Sequence[HealthCheck]:
    """Nothing for what somebody else wrote."""
    with contextlib.suppress(FairleadError, ValueError):
        return parse_health_checks(file.content)
    return []
