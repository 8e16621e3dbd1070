# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Small text files and links as declared state."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, ClassVar, Dict, Hashable, List, Tuple

from .errors import SpecError
from .item import BaseItem
from .parse import Section, unique


@dataclasses.dataclass(frozen=True)
class File(BaseItem):
    """A regular file: absolute path, whole content, octal mode as a string ("0644"), owner and group by name."""

    kind: ClassVar[str] = "file"
    path: str
    content: str
    mode: str = "0644"
    owner: str = "root"
    group: str = "root"

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.path,)

    @property
    def data(self) -> bytes:
        """The content as it is on disk; bytes that are not UTF-8 are surrogates in ``content``."""
        return self.content.encode("utf-8", "surrogateescape")

    def to_dict(self) -> Dict[str, Any]:
        """``size`` in bytes and ``sha256`` stand for the content, which may be long or secret."""
        fields = {key: value for key, value in super().to_dict().items() if key != "content"}
        return {**fields, "size": len(self.data), "sha256": hashlib.sha256(self.data).hexdigest()}

    def __str__(self) -> str:
        digest = hashlib.sha256(self.data).hexdigest()[:12]
        return f"file {self.path} {self.mode} {self.owner}:{self.group} {len(self.data)} bytes sha256 {digest}"


def parse_files(data: object, path: str = "files") -> List[File]:
    """Shape: ``[{path, content, mode?, owner?, group?}]``. Raises SpecError naming the entry."""
    files = [_parse_file(section) for section in Section({path: data}).sections(path)]
    unique({f"{path}[{index}].path": file.path for index, file in enumerate(files)}, "path")
    return files


def _parse_file(section: Section) -> File:
    file = File(
        path=section.text("path"),
        content=section.text("content", ""),
        mode=section.text("mode", "0644"),
        owner=section.text("owner", "root"),
        group=section.text("group", "root"),
    )
    section.finish()
    if not file.path.startswith("/"):
        raise SpecError(section.at("path"), f"must be absolute, not {file.path!r}")
    if not (len(file.mode) == 4 and all(digit in "01234567" for digit in file.mode)):
        raise SpecError(section.at("mode"), f"must be four octal digits like '0644', not {file.mode!r}")
    return file
