# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The one path: plan, apply, verify, and the way back when something refuses or lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Combined, Outcome, converge, together
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError, UndoError, VerifyError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import BaseItem, Item, State, state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import Operation, difference, outcome_of


@dataclasses.dataclass(frozen=True)
class Lamp(BaseItem):
    kind: ClassVar[str] = "lamp"
    name: str
    watts: int = 5

    @property
    def identity(self) -> tuple[Hashable, ...]:
        return (self.name,)

    def __str__(self) -> str:
        return f"lamp {self.name} {self.watts}"


@dataclasses.dataclass(frozen=True)
class Switch(Lamp):
    kind: ClassVar[str] = "switch"


class House:
    """A state in memory. ``refuses`` are lines of operations that fail, ``ignores`` those that pretend to work."""

    def __init__(self, items: Sequence[Item] = (), refuses: Sequence[str] = (), ignores: Sequence[str] = ()) -> None:
        self.state = state_of(items)
        self.refuses = refuses
        self.ignores = ignores
        self.log: list[str] = []

    def read(self) -> State:
        return dict(self.state)

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            line = str(operation)
            self.log.append(line)
            if line in self.refuses:
                raise ApplyError(operation.item, "refused")
            if line not in self.ignores:
                self.state = outcome_of(self.state, [operation])
            yield operation


def toward(*items: Item) -> Callable[[State], list[Operation]]:
    want = state_of(items)
    return lambda have: difference(have, want)


def test_converge_applies_what_is_missing_and_says_so() -> None:
    house = House([Lamp("hall")])
    outcome = converge(house, toward(Lamp("hall"), Lamp("attic")))
    assert outcome.changed
    assert list(map(str, outcome.operations)) == ["+ lamp attic 5"]
    assert outcome.before == state_of([Lamp("hall")])
    assert outcome.after == house.state == state_of([Lamp("hall"), Lamp("attic")])


def test_second_run_applies_nothing() -> None:
    house = House()
    converge(house, toward(Lamp("hall")))
    house.log.clear()
    assert not converge(house, toward(Lamp("hall"))).changed
    assert house.log == []


def test_check_mode_foretells_the_run_and_touches_nothing() -> None:
    house, plan = House([Lamp("old"), Lamp("hall", 1)]), toward(Lamp("hall", 2), Lamp("new"))
    foretold = converge(house, plan, check=True)
    assert house.log == []
    assert converge(house, plan) == foretold


def test_refusal_undoes_what_was_done_in_reverse() -> None:
    house = House([Lamp("hall", 1)], refuses=["+ lamp poisoned 5"])
    ranks_last = toward(Lamp("attic"), Lamp("hall", 2), Lamp("poisoned"))
    with pytest.raises(ApplyError, match="lamp poisoned 5: refused"):
        converge(house, ranks_last)
    assert house.state == state_of([Lamp("hall", 1)])
    assert house.log[-2:] == ["~ lamp hall 1 (was lamp hall 2)", "- lamp attic 5"]


@given(st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1), st.data())
def test_any_single_refusal_leaves_the_state_as_it_was(names: list[str], data: st.DataObject) -> None:
    poisoned = data.draw(st.sampled_from(names))
    before = [Lamp("a", 1), Lamp("z", 1)]
    house = House(before, refuses=[f"+ lamp {poisoned} 5", f"~ lamp {poisoned} 5 (was lamp {poisoned} 1)"])
    with pytest.raises(ApplyError):
        converge(house, toward(*map(Lamp, names)))
    assert house.state == state_of(before)


def test_adapter_that_pretends_is_found_out_and_undone() -> None:
    house = House(ignores=["+ lamp attic 5"])
    with pytest.raises(VerifyError, match=r"still wants: \+ lamp attic 5$"):
        converge(house, toward(Lamp("attic"), Lamp("hall")))
    assert house.state == {}


def test_verify_error_stays_short() -> None:
    lamps = [Lamp(str(number)) for number in range(9)]
    house = House(ignores=[f"+ {lamp}" for lamp in lamps])
    with pytest.raises(VerifyError, match="and 4 more$"):
        converge(house, toward(*lamps))


def test_failure_of_the_way_back_is_told_with_its_cause() -> None:
    house = House(refuses=["+ lamp poisoned 5", "- lamp attic 5"])
    with pytest.raises(
        UndoError, match=r"lamp poisoned 5: refused; and 1 of .* back: - lamp attic 5: .*refused"
    ) as error:
        converge(house, toward(Lamp("attic"), Lamp("poisoned")))
    assert isinstance(error.value.__cause__, ApplyError)


def test_way_back_goes_on_after_a_failure_and_names_all_that_is_left() -> None:
    house = House(refuses=["+ lamp poisoned 5", "- lamp b 5", "- lamp d 5"])
    with pytest.raises(UndoError, match=r"2 of the 4 .*: - lamp d 5: .*; - lamp b 5: "):
        converge(house, toward(*map(Lamp, "abcd"), Lamp("poisoned")))
    assert house.state == state_of([Lamp("b"), Lamp("d")])


def test_way_back_that_fails_in_another_way_does_not_hide_the_cause() -> None:
    class Full(House):
        def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
            for operation in super().apply(operations):
                if str(operation) == "- lamp b 5":
                    raise OSError(28, "No space left on device")
                yield operation

    house = Full(refuses=["+ lamp poisoned 5"])
    with pytest.raises(UndoError, match=r"lamp poisoned 5: refused; and .* - lamp b 5: .*No space left") as error:
        converge(house, toward(Lamp("a"), Lamp("b"), Lamp("poisoned")))
    assert isinstance(error.value.__cause__, ApplyError)
    assert Lamp("a").key not in house.state


def test_interruption_undoes_too() -> None:
    class Interrupted(House):
        def read(self) -> State:
            if self.log:
                raise KeyboardInterrupt
            return super().read()

    house = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        converge(house, toward(Lamp("attic")))
    assert house.state == {}


def test_combined_adapter_hands_each_kind_to_its_own_in_order() -> None:
    lamps, switches = House(), House()
    both = Combined({"lamp": lamps, "switch": switches})
    outcome = converge(both, toward(Lamp("hall"), Switch("hall")))
    assert outcome.after == state_of([Lamp("hall"), Switch("hall")])
    assert lamps.log == ["+ lamp hall 5"]
    assert switches.log == ["+ lamp hall 5"]


def test_combined_adapter_undoes_across_kinds() -> None:
    lamps, switches = House(), House(refuses=["+ lamp hall 5"])
    with pytest.raises(ApplyError):
        converge(Combined({"lamp": lamps, "switch": switches}), toward(Lamp("attic"), Switch("hall")))
    assert lamps.state == {}


def test_together_is_one_outcome_in_order() -> None:
    first = Outcome({}, state_of([Lamp("a")]), [Operation("add", Lamp("a"))])
    second = Outcome(state_of([Lamp("b")]), {}, [Operation("delete", Lamp("b"))])
    both = together(first, second)
    assert list(map(str, both.operations)) == ["+ lamp a 5", "- lamp b 5"]
    assert (both.before, both.after) == (state_of([Lamp("b")]), state_of([Lamp("a")]))
