# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Key and certificate files. Items say what is in them; the content itself never leaves this adapter in a result."""

from __future__ import annotations

import hashlib
from typing import Dict, Iterable, Iterator, Optional, Sequence, Set, Tuple, Union

from .._model.errors import ApplyError
from .._model.files import File
from .._model.item import Item, State, state_of
from .._model.pki import Certificate, PrivateKey, Subject
from .._plan.operation import DELETE, Operation
from .._plan.pki import UNREADABLE
from .._system.files import make_directories, read_file, remove_file, write_file
from . import x509
from .record import Record


class PemFiles:
    """Speaks for exactly the given paths. What is to be written is handed in before, by ``key`` and ``certificate``.

    What is written is noted in ``directory``, which is made with ``directory_mode`` when it is missing.
    """

    def __init__(
        self,
        key_paths: Iterable[str],
        certificate_paths: Iterable[str],
        directory: str = "",
        directory_mode: int = 0o755,
    ) -> None:
        self.key_paths = sorted(set(key_paths))
        self.certificate_paths = sorted(set(certificate_paths))
        self.directory, self.directory_mode = directory, directory_mode
        self._contents: Dict[Item, str] = {}
        self._found: Set[Tuple[str, str]] = set()

    def key(self, path: str, content: str, owner: str = "root", group: str = "root") -> PrivateKey:
        """A key file as it shall be."""
        item = _key_item(File(path, content, "0600", owner, group))
        self._contents[item] = content
        return item

    def certificate(self, path: str, content: str) -> Certificate:
        """A certificate file as it shall be."""
        item = _certificate_item(File(path, content))
        self._contents[item] = content
        return item

    def content(self, item: Optional[Item]) -> str:
        """PEM text of a file that was read or handed in; empty for none."""
        return self._contents.get(item, "") if item is not None else ""

    def read(self) -> State:
        keys = [_key_item(file) for file in self._files(self.key_paths)]
        certificates = [_certificate_item(file) for file in self._files(self.certificate_paths)]
        return state_of([*keys, *certificates])

    def _files(self, paths: Iterable[str]) -> Iterator[File]:
        for path in paths:
            file = read_file(path)
            if file is not None:
                decode = _key_item if path in self.key_paths else _certificate_item
                self._contents[decode(file)] = file.content
                self._found.add((path, file.content))
                yield file

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        self._prepare(operations)
        for operation in operations:
            item = _file_item(operation)
            try:
                if operation.action == DELETE:
                    remove_file(item.path)
                else:
                    write_file(File(item.path, self._contents[item], item.mode, item.owner, item.group))
            except (OSError, KeyError) as error:
                raise ApplyError(item, str(error)) from error
            yield operation

    def _prepare(self, operations: Sequence[Operation]) -> None:
        """The directory, and the note of what is ours: not what was there before and only gets its rights, or itself
        back when a run is undone."""
        items = [_file_item(operation) for operation in operations if operation.action != DELETE]
        contents = {item.path: self._contents[item] for item in items}
        ours = {path: content for path, content in contents.items() if (path, content) not in self._found}
        if not ours:
            return
        try:
            make_directories(self.directory, self.directory_mode)
            Record(self.directory).add(ours)
        except OSError as error:
            raise ApplyError(items[0], str(error)) from error


def _file_item(operation: Operation) -> Union[PrivateKey, Certificate]:
    item = operation.item
    assert isinstance(item, (PrivateKey, Certificate))
    return item


def _key_item(file: File) -> PrivateKey:
    try:
        public = x509.public_of_key(file.content)
    except (x509.PemError, UnicodeError):
        public = UNREADABLE
    return PrivateKey(file.path, public, file.mode, file.owner, file.group)


def _certificate_item(file: File) -> Certificate:
    try:
        subject: Optional[Subject] = x509.subject_of(file.content)
        fingerprint, public = x509.fingerprint_of(file.content), x509.public_of(file.content)
        not_before, not_after = (moment.isoformat() for moment in x509.validity_of(file.content))
    except x509.PemError:
        fingerprint = hashlib.sha256(file.content.encode("utf-8", "surrogateescape")).hexdigest()
        subject, public, not_before, not_after = None, "", "", ""
    rights = (file.mode, file.owner, file.group)
    return Certificate(file.path, fingerprint, public, subject, not_before, not_after, *rights)
