# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Plans: they lead from any state to any other, their inverses lead back, and their order is that of the ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import BaseItem, State, state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import (
    ADD,
    DELETE,
    REPLACE,
    Operation,
    difference,
    outcome_of,
)


@dataclasses.dataclass(frozen=True)
class Thing(BaseItem):
    kind: ClassVar[str] = "thing"
    name: str
    value: int

    @property
    def identity(self) -> tuple[Hashable, ...]:
        return (self.name,)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}={self.value}"


@dataclasses.dataclass(frozen=True)
class Base(Thing):
    kind: ClassVar[str] = "base"


STATES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2)).flatmap(
    lambda values: st.sampled_from([Thing, Base]).map(lambda kind: state_of(kind(*pair) for pair in values.items()))
)
RANKS = {"base": 1, "thing": 2}


@given(STATES, STATES)
def test_difference_leads_from_any_state_to_any_other(have: State, want: State) -> None:
    operations = difference(have, want, RANKS)
    assert outcome_of(have, operations) == want
    assert not difference(want, want, RANKS)


@given(STATES, STATES)
def test_inverses_in_reverse_lead_back_from_every_point(have: State, want: State) -> None:
    operations = difference(have, want, RANKS)
    for done in range(len(operations) + 1):
        there = outcome_of(have, operations[:done])
        assert outcome_of(there, [operation.inverse() for operation in reversed(operations[:done])]) == have


@given(STATES, STATES)
def test_each_object_is_touched_once(have: State, want: State) -> None:
    keys = [operation.item.key for operation in difference(have, want)]
    assert len(keys) == len(set(keys))


def test_base_comes_before_what_stands_on_it_and_goes_after_it() -> None:
    state = state_of([Thing("t", 1), Base("b", 1)])
    assert [operation.item.kind for operation in difference({}, state, RANKS)] == ["base", "thing"]
    assert [operation.item.kind for operation in difference(state, {}, RANKS)] == ["thing", "base"]


def test_new_things_come_before_old_ones_go() -> None:
    operations = difference(state_of([Base("old", 1)]), state_of([Thing("new", 1)]), RANKS)
    assert [operation.action for operation in operations] == [ADD, DELETE]


def test_line_of_an_operation() -> None:
    assert str(Operation(ADD, Thing("a", 1))) == "+ thing a=1"
    assert str(Operation(DELETE, Thing("a", 1))) == "- thing a=1"
    assert str(Operation(REPLACE, Thing("a", 2), Thing("a", 1))) == "~ thing a=2 (was thing a=1)"


def test_outcome_of_leaves_the_state_it_started_from() -> None:
    have = state_of([Thing("a", 1)])
    outcome_of(have, [Operation(DELETE, Thing("a", 1))])
    assert list(have.values()) == [Thing("a", 1)]
