# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Declared documents with mistakes in them, each with the paths that an error may name.

A test lists the leaves of a correct document with their kinds; what is wrong for a kind is known here. One to three
mistakes are in each drawn document: whichever is found first must be one of those that were made.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

Document = dict[str, Any]
NO_TEXT = (7, 0, True, 1.5, [], {}, ["x"])
NO_MAC = ("02:00", "02:00:00:00:00:0g", "02-00-00-00-00-01", "0200.0000.0001", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff")
NO_ADDRESS = (
    "192.0.2",
    "192.0.2.256",
    "192.0.2.1/24",
    "host",
    "fd00::1",
    "::ffff:192.0.2.1",
    "192.0.2.1 ",
    "10.244.7.7",
)
NO_NETWORK = ("10.244.0.0", "10.244.0.1/16", "10.244.0.0/33", "10.244.0.0/x", "fd00::/48", "10.244.0/16", "/16", "x")
NO_ADDRESS6 = (
    "2001:db8::g",
    "2001:db8::1/64",
    "host",
    "192.0.2.1",
    "::ffff:192.0.2.1",
    "fe80::1",
    "ff02::1",
    "::1",
    "::",
)
NO_NETWORK6 = ("fd00:10:244::", "fd00:10:244::1/48", "fd00::/129", "fd00:10:244::/x", "10.244.0.0/16", "/48", "x")
NO_NAME = ("", "Upper", "under_score", "-x", "x-", "a..b", "x" * 254, "x" * 64, "ä", "a b", "a\n")
WRONG: dict[str, tuple[Any, ...]] = {
    "text": NO_TEXT,
    "name": (*NO_TEXT, *NO_NAME),
    "address": (*NO_TEXT, "", *NO_ADDRESS),
    "network": (*NO_TEXT, "", *NO_NETWORK),
    "subnet": (*NO_TEXT, *NO_NETWORK, "10.99.1.0/24", "10.244.0.0/16", "10.244.1.0/31"),
    "address6": (*NO_TEXT, "", *NO_ADDRESS6, "fd00:10:244:7::7"),
    "network6": (*NO_TEXT, "", *NO_NETWORK6),
    "subnet6": (*NO_TEXT, *NO_NETWORK6, "fd00:99::/64", "fd00:10:244::/48", "fd00:10:244:1::/127"),
    "mac": (*NO_TEXT, *NO_MAC),
    "boolean": (0, 1, "yes", "", [], {}, 1.5),
    "list": (7, True, "x", {}, {"a": 1}),
    "section": (7, True, "x", [], ["x"]),
}


class Mistake(NamedTuple):
    """``make`` changes a document; ``path`` is where the error is to be seen."""

    path: str
    make: Callable[[Document], None]


def integer(low: int, high: int) -> tuple[Any, ...]:
    """Wrong values for a number of this range."""
    return (low - 1, high + 1, -(2**40), 2**70, "7", "", 1.5, True, False, [], {})


def mistakes(
    leaves: Mapping[str, str | Sequence[Any]], sections: Sequence[str] = (), required: Sequence[str] = ()
) -> Iterator[Mistake]:
    """``leaves`` maps a path to its kind, or to values that are wrong there; ``sections`` take no unknown keys."""
    for path, kind in leaves.items():
        for value in WRONG[kind] if isinstance(kind, str) else kind:
            yield setting(path, value)
    for path in required:
        yield setting(path, None)
    for path in sections:
        yield setting(f"{path}.colour" if path else "colour", "red")


def setting(path: str, value: Any, seen_at: str | None = None) -> Mistake:
    """A value put in the place of a path like ``nodes[2].address``."""
    steps: list[str | int] = [int(word) if word.isdigit() else word for word in re.findall(r"\w+", path)]

    def make(document: Document) -> None:
        place: Any = document
        for step in steps[:-1]:
            place = place[step]
        place[steps[-1]] = copy.deepcopy(value)

    return Mistake(seen_at or path, make)


def copying(source: str, target: str) -> Mistake:
    """The value of one path at another one too, where it must not be a second time."""

    def make(document: Document) -> None:
        value: Any = document
        for step in re.findall(r"\w+", source):
            value = value[int(step) if step.isdigit() else step]
        setting(target, value).make(document)

    return Mistake(target, make)


@st.composite
def corrupted(draw: st.DrawFn, base: Document, made: Sequence[Mistake]) -> tuple[Document, set[str]]:
    """A document with mistakes, and their paths."""
    document, paths = copy.deepcopy(base), set()
    for mistake in draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique_by=lambda made: made.path)):
        try:
            mistake.make(document)
        except (KeyError, IndexError, TypeError, AttributeError):
            # An earlier mistake took away the place for this one.
            continue
        paths.add(mistake.path)
    return document, paths
