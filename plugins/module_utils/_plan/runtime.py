# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Which versions of the node runtime stay, and where the links lead."""

from __future__ import annotations

import dataclasses
from typing import List, Optional, Tuple

from .._model.files import File
from .._model.item import Item, State, state_of
from .._model.runtime import Link, RuntimeTree
from .operation import Operation, difference

CURRENT, PREVIOUS = "current", "previous"
# A link is switched when what it leads to is there, and removed before what it leads to goes.
_RANKS = {RuntimeTree.kind: 0, File.kind: 1, Link.kind: 2}


@dataclasses.dataclass(frozen=True)
class WantedRuntime:
    """The version wanted under ``directory`` (None: no version at all), with the files and links that belong to it."""

    directory: str
    tree: Optional[RuntimeTree] = None
    files: Tuple[File, ...] = ()
    links: Tuple[Link, ...] = ()


def plan_runtime(have: State, want: WantedRuntime) -> List[Operation]:
    """Operations to the wanted version. The version that was current before stays too; older ones go."""
    return difference(have, state_of(_wanted_items(have, want)), _RANKS)


def _wanted_items(have: State, want: WantedRuntime) -> List[Item]:
    if want.tree is None:
        return []
    items: List[Item] = [want.tree, Link(f"{want.directory}/{CURRENT}", want.tree.version), *want.files, *want.links]
    previous = _previous(have, want.directory, want.tree.version)
    if previous is not None:
        items += [previous, Link(f"{want.directory}/{PREVIOUS}", previous.version)]
    return items


def _previous(have: State, directory: str, wanted: str) -> Optional[RuntimeTree]:
    """What ``current`` leads to when that is another version, else what ``previous`` leads to; only if it exists."""
    for name in (CURRENT, PREVIOUS):
        link = have.get((Link.kind, f"{directory}/{name}"))
        if isinstance(link, Link) and link.target != wanted:
            tree = have.get((RuntimeTree.kind, link.target))
            if isinstance(tree, RuntimeTree):
                return tree
    return None
