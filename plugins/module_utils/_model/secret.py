# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Values that no text, diff or result may show."""

from __future__ import annotations

from typing import Any

_SHOWN_DIGITS = 12


class Secret:
    """Bytes that show themselves as a fingerprint, whatever they are formatted with. Empty ones stand for none.

    For random keys only: the fingerprint of anything shorter than that could be tried out.
    """

    __slots__ = ("value",)

    def __init__(self, value: bytes = b"") -> None:
        self.value = value

    def __bool__(self) -> bool:
        return bool(self.value)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Secret) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __str__(self) -> str:
        # Most runs have no secret to show, and loading it takes longer than most of their other modules.
        import hashlib

        return f"sha256:{hashlib.sha256(self.value).hexdigest()[:_SHOWN_DIGITS]}" if self.value else ""

    __repr__ = __str__


NO_SECRET = Secret()
