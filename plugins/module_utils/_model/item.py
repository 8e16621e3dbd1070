# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The unit of every plan: one object of the node (a route, a file, a lease) in canonical form."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Dict, Hashable, Iterable, Tuple

Key = Tuple[Hashable, ...]


@dataclasses.dataclass(frozen=True)
class Item:
    """Base of all objects a plan handles. Equality is equality of the canonical forms.

    Subclasses are frozen dataclasses, set ``kind`` and give an ``identity``: two items with the same key are two
    versions of the same object. ``__str__`` is the one line a user sees in operations and diffs.
    """

    kind: ClassVar[str] = ""

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        """The fields that make the object the same object when the others change."""
        raise NotImplementedError

    @property
    def key(self) -> Key:
        return (self.kind, *self.identity)

    def to_dict(self) -> Dict[str, Any]:
        """Plain data for results: the fields by name, and the kind."""
        return {"kind": self.kind, **dataclasses.asdict(self)}


State = Dict[Key, Item]


def state_of(items: Iterable[Item]) -> State:
    """Items by key; a later item replaces an earlier one with the same key."""
    return {item.key: item for item in items}
