# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Reloads around operations: noted before, done after, and the same when all of it is taken back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.files import File
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import Item, state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.reload import SERVICES, DueReload
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import (
    ADD,
    DELETE,
    difference,
    outcome_of,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.reload import with_reloads

SETS = st.sets(st.sampled_from(SERVICES))
READERS = st.dictionaries(st.sampled_from(["/a", "/b", "/c"]), SETS)


@given(READERS, SETS)
def test_every_change_lies_between_note_and_reload(readers: dict[str, set[str]], noted: set[str]) -> None:
    have = state_of(DueReload(service) for service in noted)
    changes = difference({}, state_of(File(path, "x") for path in readers))

    def services_of(item: Item) -> set[str]:
        assert isinstance(item, File)
        return readers[item.path]

    operations = with_reloads(have, changes, services_of)
    asked = noted.union(*readers.values())
    reloads = [(op.action, op.item.service) for op in operations if isinstance(op.item, DueReload)]
    assert sorted(service for action, service in reloads if action == ADD) == sorted(asked - noted)
    assert sorted(service for action, service in reloads if action == DELETE) == sorted(asked)
    kinds = [op.item.kind + op.action for op in operations]
    order = [DueReload.kind + ADD, File.kind + ADD, DueReload.kind + DELETE]
    assert kinds == sorted(kinds, key=order.index)
    after = outcome_of(have, operations)
    assert (
        with_reloads(after, difference({k: v for k, v in after.items() if isinstance(v, File)}, after), services_of)
        == []
    )
