# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Several adapters as one, so that operations on different kinds of objects stand or fall together."""

from __future__ import annotations

from typing import Iterator, Mapping, Sequence

from .._engine import Adapter
from .._model.item import State
from .._plan.operation import Operation


class Dispatch:
    """``adapters`` maps the kind of an item to the adapter that speaks for it. Operations keep their order."""

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        self.adapters = adapters

    def read(self) -> State:
        state: State = {}
        for adapter in self.adapters.values():
            state.update(adapter.read())
        return state

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            yield from self.adapters[operation.item.kind].apply([operation])
