# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What we wrote into a directory, so that a reset can tell our files from those of others."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Dict, List, Mapping

from .._model.errors import ReadError
from .._model.files import File
from .._system.files import read_file, write_file

# Begins like the temporary files of `write_file`: whatever has this at the front of its name is ours.
PREFIX = ".fairlead-"
NAME = f"{PREFIX}files"


class Record:
    """The file in ``directory`` that holds the SHA-256 of everything we ever wrote, by path.

    Names are relative to the directory, so that a directory that is moved or restored takes its record along. A digest
    is there before its file is, which makes the record complete after a kill too.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.path = os.path.join(directory, NAME)

    def read(self) -> Dict[str, List[str]]:
        """Digests by absolute path. Raises ReadError."""
        file = read_file(self.path)
        if file is None:
            return {}
        try:
            files = json.loads(file.content)["files"]
            return {os.path.join(self.directory, name): list(map(str, digests)) for name, digests in files.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReadError(f"{self.path}: is not the record of files that it should be; move it away first") from error

    def add(self, contents: Mapping[str, str]) -> None:
        """Note contents that are about to be written, by absolute path."""
        known = self.read()
        new = {path: digest_of(content) for path, content in contents.items()}
        if all(digest in known.get(path, []) for path, digest in new.items()):
            return
        for path, digest in new.items():
            known[path] = sorted({*known.get(path, []), digest})
        files = {self._name(path): digests for path, digests in sorted(known.items())}
        write_file(File(self.path, json.dumps({"files": files}, indent=1) + "\n", "0600"))

    def _name(self, path: str) -> str:
        inside = os.path.dirname(path) == os.path.normpath(self.directory)
        return os.path.basename(path) if inside else path


def digest_of(content: str) -> str:
    """SHA-256 of a file's content as ``read_file`` gives it."""
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()
