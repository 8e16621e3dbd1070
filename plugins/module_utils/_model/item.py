# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The unit of every plan: one object of the node (a route, a file, a lease) in canonical form."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Dict, Hashable, Iterable, Protocol, Tuple

Key = Tuple[Hashable, ...]


class Item(Protocol):
    """What plans and results ask of an item, whether it is a ``BaseItem`` or one of the tuples of ``datapath``."""

    kind: ClassVar[str]

    @property
    def key(self) -> Key: ...

    @property
    def compared(self) -> Hashable:
        """What makes two versions of the object equal. Asked for only when they differ at all."""

    def to_dict(self) -> Dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class BaseItem:
    """Base of nearly all objects that a plan handles. Equality is equality of the canonical forms.

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

    @property
    def compared(self) -> Hashable:
        return self

    def to_dict(self) -> Dict[str, Any]:
        """Plain data for results: the fields by name, and the kind."""
        return {"kind": self.kind, **dataclasses.asdict(self)}


State = Dict[Key, Item]


def same(one: object, other: Item) -> bool:
    """Whether an object, or None, is already what the other one is."""
    return one == other or (type(one) is type(other) and one.compared == other.compared)


def state_of(items: Iterable[Item]) -> State:
    """Items by key; a later item replaces an earlier one with the same key."""
    return {item.key: item for item in items}
