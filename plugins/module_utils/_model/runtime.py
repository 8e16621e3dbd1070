# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The node runtime as declared state: versioned trees, the links that choose one, and units of systemd."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import ClassVar, Hashable, Mapping, Tuple

from .item import BaseItem

# Version of the collection and the start of the tree's digest. Other directories are not ours.
VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]*-[0-9a-f]{12}")
NOT_EXAMINED = ""


@dataclasses.dataclass(frozen=True)
class RuntimeTree(BaseItem):
    """A version of the runtime in a directory of that name. ``digest`` as of ``tree_digest``, of the wanted version
    only; others have ``NOT_EXAMINED``."""

    kind: ClassVar[str] = "runtime_tree"
    version: str
    digest: str = NOT_EXAMINED

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.version,)

    def __str__(self) -> str:
        return f"runtime {self.version}" + (f" sha256 {self.digest[:12]}" if self.digest else "")


@dataclasses.dataclass(frozen=True)
class Link(BaseItem):
    """A symbolic link: absolute path, and its target as written."""

    kind: ClassVar[str] = "link"
    path: str
    target: str

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.path,)

    def __str__(self) -> str:
        return f"link {self.path} -> {self.target}"


def tree_digest(files: Mapping[str, Tuple[str, str]]) -> str:
    """SHA-256 over a tree's files: relative path to (octal mode, SHA-256 of the content, or what is there instead)."""
    lines = [f"{mode} {digest} {path}\n" for path, (mode, digest) in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
