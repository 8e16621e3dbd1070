# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Programs from a release archive of their authors, in a directory of their own."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Hashable, Optional, Tuple, Type

from .errors import SpecError
from .item import BaseItem
from .parse import Section


@dataclasses.dataclass(frozen=True)
class Release(BaseItem):
    """``sha256`` is that of the archive; ``intact``: whether the programs are what the archive held."""

    path: str
    sha256: str
    intact: bool = True

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.path,)

    def __str__(self) -> str:
        damaged = "" if self.intact else ", damaged"
        return f"{self.kind} {self.path} from archive sha256 {self.sha256[:12]}{damaged}"


@dataclasses.dataclass(frozen=True)
class Product:
    """What is taken out of an archive. ``directory`` leads to the programs there, None stands for any one name.

    ``needed`` programs have to be in the archive, ``programs`` are those to unpack. ``trial`` is a program and its
    arguments, to see that it runs on the node. ``role`` unpacks it.
    """

    item: Type[Release]
    role: str
    directory: Tuple[Optional[str], ...]
    needed: Tuple[str, ...]
    programs: Tuple[str, ...]
    trial: Tuple[str, ...]
    example: str

    def program_of(self, member: str) -> Optional[str]:
        """The program that a member of the archive is, by the member's name; None for anything else."""
        parts = (member[2:] if member.startswith("./") else member).split("/")
        if len(parts) != len(self.directory) + 1 or parts[-1] not in self.programs or ".." in parts:
            return None
        pairs = zip(parts, self.directory)
        return parts[-1] if all(wanted in (None, part) for part, wanted in pairs) else None

    @property
    def place(self) -> str:
        """Where the programs are in the archive, for people."""
        return "its one directory" if self.directory == (None,) else "/".join(map(str, self.directory))


def parse_release(section: Section, product: Product, directory: str) -> Tuple[Release, str]:
    """Shape: ``release: {version, url, sha256}``; gives the release in ``directory`` and its URL."""
    entry = section.section("release")
    version, url, sha256 = entry.text("version"), entry.text("url"), entry.text("sha256")
    entry.finish()
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.+~-]*", version):
        raise SpecError("release.version", f"must be a version like {product.example}, not {version!r}")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise SpecError("release.sha256", f"must be the SHA-256 of {url}, 64 hexadecimal digits, not {sha256!r}")
    return product.item(os.path.join(directory, f"{version}-{sha256[:12]}"), sha256), url
