# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Releases of programs, each unpacked to a directory of its own that nothing touches once it is complete.

A directory of ours holds a mark with the archive's checksum and those of the programs. It is made under another name,
complete and on the disk, and then renamed, so that a service never finds half of a program.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from typing import IO, Any, Callable, ContextManager, Dict, Iterable, Iterator, List, Optional, Sequence

from .._model.errors import ApplyError, ReadError
from .._model.item import State, state_of
from .._model.release import Product, Release
from .._plan.operation import DELETE, Operation
from .files import make_directories
from .runner import Runner

MARK = ".fairlead.json"
# Of directories that are being made, or being removed.
UNFINISHED = ".fairlead-"
_CHUNK = 1 << 20

# Opens a URL for reading; any exception is a reason that is shown to the user.
Fetch = Callable[[str], ContextManager[IO[bytes]]]


class ReleaseAdapter:
    """Speaks for the given directories inside of ``directory``; ``url`` is where new ones come from."""

    def __init__(
        self,
        product: Product,
        directory: str,
        paths: Iterable[str],
        runner: Runner,
        fetch: Optional[Fetch] = None,
        url: str = "",
    ) -> None:
        self.product = product
        self.directory, self.paths, self.runner = directory, sorted(paths), runner
        self.fetch, self.url = fetch, url

    def read(self) -> State:
        found = (_read(path, self.product) for path in self.paths)
        return state_of(release for release in found if release is not None)

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            release = operation.item
            assert isinstance(release, Release)
            try:
                if operation.action == DELETE:
                    self._remove(release.path)
                else:
                    self._install(release)
            except (OSError, EOFError, tarfile.TarError) as error:
                raise ApplyError(release, str(error)) from error
            yield operation

    def _install(self, release: Release) -> None:
        if not release.intact or self.fetch is None:
            raise ApplyError(release, "cannot be brought back")
        remove_unfinished(self.directory)
        make_directories(self.directory)
        made = tempfile.mkdtemp(prefix=UNFINISHED, dir=self.directory)
        try:
            archive = os.path.join(made, "archive")
            _download(self.fetch, self.url, archive, release)
            _unpack(archive, made, release, self.product)
            os.unlink(archive)
            self._try_out(made, release)
            if os.path.lexists(release.path):
                os.rename(release.path, f"{made}-old")
            os.rename(made, release.path)
            _sync(self.directory)
        finally:
            remove_unfinished(self.directory)

    def _try_out(self, made: str, release: Release) -> None:
        status, output, error = self.runner([os.path.join(made, self.product.trial[0]), *self.product.trial[1:]])
        if status != 0:
            reason = error.strip() or output.strip() or f"status {status}"
            raise ApplyError(release, f"the programs in {self.url} do not run on this node: {reason}")

    def _remove(self, path: str) -> None:
        # Under a name that is ours for certain: without its mark a half removed directory would be nobody's.
        gone = os.path.join(self.directory, f"{UNFINISHED}{os.path.basename(path)}")
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(path, gone)
        shutil.rmtree(gone)
        _remove_empty(self.directory)


def releases(directory: str) -> List[str]:
    """Paths of all releases in the directory that are ours."""
    return [path for path in _entries(directory) if os.path.isfile(os.path.join(path, MARK)) and not _unfinished(path)]


def unfinished(directory: str) -> List[str]:
    """What interrupted runs have left."""
    return [path for path in _entries(directory) if _unfinished(path)]


def remove_unfinished(directory: str) -> None:
    paths = unfinished(directory)
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
    if paths:
        _remove_empty(directory)


def _unfinished(path: str) -> bool:
    return os.path.basename(path).startswith(UNFINISHED)


def _entries(directory: str) -> List[str]:
    try:
        return sorted(os.path.join(directory, name) for name in os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove_empty(directory: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def _read(path: str, product: Product) -> Optional[Release]:
    if not os.path.lexists(path):
        return None
    try:
        with open(os.path.join(path, MARK), encoding="utf-8") as stream:
            mark = json.load(stream)
        sums: Dict[str, str] = dict(mark["programs"])
        intact = all(_program_sum(os.path.join(path, name)) == sums.get(name) for name in {*sums, *product.needed})
        return product.item(path, str(mark["archive"]), intact)
    except (OSError, ValueError, KeyError, TypeError):
        raise ReadError(f"{path}: is there, and was not unpacked by role {product.role}; move it away first") from None


def _program_sum(path: str) -> Optional[str]:
    """SHA-256 of a program that everybody may run; None for anything else."""
    try:
        if os.path.islink(path) or os.stat(path).st_mode & 0o7777 != 0o755:
            return None
        with open(path, "rb") as stream:
            return _copy(stream, None)
    except OSError:
        return None


def _copy(source: Any, target: Optional[IO[bytes]]) -> str:
    """Copy to the end; gives the SHA-256 of what went by."""
    digest = hashlib.sha256()
    for chunk in iter(lambda: source.read(_CHUNK), b""):
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
    return digest.hexdigest()


def _download(fetch: Fetch, url: str, path: str, release: Release) -> None:
    try:
        with fetch(url) as source, open(path, "wb") as target:
            found = _copy(source, target)
    except Exception as error:
        raise ApplyError(release, f"{url} cannot be fetched: {error or type(error).__name__}") from error
    if found != release.sha256:
        raise ApplyError(
            release,
            f"{url} has the SHA-256 {found}, not {release.sha256}; it was thrown away. Correct checksum or mirror",
        )


def _unpack(archive: str, directory: str, release: Release, product: Product) -> None:
    """Only the programs, whatever else the archive holds."""
    sums: Dict[str, str] = {}
    with tarfile.open(archive) as members:
        for member in members:
            program = product.program_of(member.name) if member.isfile() else None
            if program is not None:
                sums[program] = _write(os.path.join(directory, program), members.extractfile(member), 0o755)
    missing = [name for name in product.needed if name not in sums]
    if missing:
        raise ApplyError(release, f"the archive holds no {' and no '.join(missing)} inside of {product.place}")
    with tempfile.TemporaryFile() as mark:
        mark.write(json.dumps({"archive": release.sha256, "programs": sums}, indent=1, sort_keys=True).encode() + b"\n")
        mark.seek(0)
        _write(os.path.join(directory, MARK), mark, 0o644)
    os.chmod(directory, 0o755)
    _sync(directory)


def _write(path: str, source: Any, mode: int) -> str:
    with open(path, "wb") as target:
        found = _copy(source, target)
        target.flush()
        os.fchmod(target.fileno(), mode)
        os.fsync(target.fileno())
    return found


def _sync(directory: str) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
