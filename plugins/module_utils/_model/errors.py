# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Every failure a user may see. Each message names the item and what is wrong with it."""

from __future__ import annotations


class FairleadError(Exception):
    """Base of all errors this library raises on purpose."""


class SpecError(FairleadError):
    """A declared value is missing, malformed or contradicts another one.

    ``path`` locates the item in the user's input, for example ``nodes[2].address``.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class PrerequisiteError(FairleadError):
    """The node lacks something that the declared state needs (a kernel feature, a command, an interface)."""


class ReadError(FairleadError):
    """The present state could not be read, so nothing was changed."""


class ApplyError(FairleadError):
    """An operation was refused. ``item`` is the one-line form of the object it was about."""

    def __init__(self, item: object, reason: str) -> None:
        super().__init__(f"{item}: {reason}")
        self.item = str(item)
        self.reason = reason


class VerifyError(FairleadError):
    """All operations were accepted, but reading again shows that the state is not the wanted one."""


class UndoError(FairleadError):
    """An apply failed and so did the way back: the node is in neither state."""
