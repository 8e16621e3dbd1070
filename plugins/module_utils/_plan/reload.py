# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""When services are told to read changed files: in the same run, or in the next one when this one is cut off."""

from __future__ import annotations

from typing import Callable, Iterable, List

from .._model.item import Item, State
from .._model.reload import DueReload
from .operation import ADD, DELETE, Operation


def with_reloads(
    have: State, operations: Iterable[Operation], services_of: Callable[[Item], Iterable[str]]
) -> List[Operation]:
    """The operations, between noting the reloads they ask for and doing these and those noted before.

    ``services_of`` gives the services that read an item. Taken back in reverse, this tells the services once more,
    after the files are as they were.
    """
    changes = list(operations)
    noted = {item.service for item in have.values() if isinstance(item, DueReload)}
    asked = {service for operation in changes for service in services_of(operation.item)}
    return [
        *(Operation(ADD, DueReload(service)) for service in sorted(asked - noted)),
        *changes,
        *(Operation(DELETE, DueReload(service)) for service in sorted(asked | noted)),
    ]
