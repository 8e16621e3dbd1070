# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Which versions stay: the wanted one and the one before, whatever was there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import Item, State, state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.runtime import Link, RuntimeTree
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import Operation, outcome_of
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.runtime import WantedRuntime, plan_runtime

VERSIONS = [f"0.{minor}.0-{minor:012x}" for minor in range(4)]
WANTED = RuntimeTree(VERSIONS[0], "a" * 64)
versions = st.sampled_from(VERSIONS)


@st.composite
def nodes(draw: st.DrawFn) -> State:
    """Anything that interrupted runs and curious people may leave."""
    trees = draw(st.lists(versions, unique=True))
    items: list[Item] = [RuntimeTree(version) for version in trees if version != WANTED.version]
    if WANTED.version in trees:
        items.append(RuntimeTree(WANTED.version, draw(st.sampled_from(["a" * 64, "b" * 64]))))
    for name in ("current", "previous"):
        target = draw(st.one_of(st.none(), versions))
        if target is not None:
            items.append(Link(f"/rt/{name}", target))
    return state_of(items)


def plan(have: State, tree: RuntimeTree | None = WANTED) -> list[Operation]:
    return plan_runtime(have, WantedRuntime("/rt", tree))


def target(state: State, name: str) -> str | None:
    link = state.get((Link.kind, f"/rt/{name}"))
    return link.target if isinstance(link, Link) else None


def trees(state: State) -> set[str]:
    return {item.version for item in state.values() if isinstance(item, RuntimeTree)}


@given(nodes())
def test_wanted_version_is_current_and_links_never_dangle(have: State) -> None:
    after = outcome_of(have, plan(have))
    assert target(after, "current") == WANTED.version
    assert after[WANTED.key] == WANTED
    assert trees(after) == {WANTED.version} | ({target(after, "previous")} - {None})


@given(nodes())
def test_version_in_use_before_stays(have: State) -> None:
    was = target(have, "current")
    if was in trees(have) and was != WANTED.version:
        assert target(outcome_of(have, plan(have)), "previous") == was


@given(nodes())
def test_second_plan_is_empty(have: State) -> None:
    assert plan(outcome_of(have, plan(have))) == []


@given(nodes())
def test_current_is_switched_after_its_version_is_there_and_before_others_go(have: State) -> None:
    operations = [str(operation) for operation in plan(have)]
    links = [index for index, text in enumerate(operations) if " link " in text and not text.startswith("-")]
    added = [index for index, text in enumerate(operations) if text[0] in "+~" and " runtime " in text]
    removed = [index for index, text in enumerate(operations) if text.startswith("- runtime")]
    assert added + links + removed == sorted(added + links + removed)


@given(nodes())
def test_nothing_wanted_removes_everything(have: State) -> None:
    assert outcome_of(have, plan(have, None)) == {}
