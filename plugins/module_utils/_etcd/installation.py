# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Unit, configuration and programs of the etcd member on this node: written only where nobody else's etcd is.

What is to be written carries a mark, and only what carries it is ever written over or removed.
"""

from __future__ import annotations

import dataclasses
import os
import pwd
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from .._engine import Adapter, Combined, Outcome, together
from .._engine import converge as engine_converge
from .._model.errors import ApplyError, FairleadError, PrerequisiteError, SpecError
from .._model.etcd import (
    BANNER,
    DATA_DIR,
    ENVIRONMENT_FILE,
    FOREIGN,
    OUTDATED,
    PRODUCT,
    UNIT,
    EtcdRelease,
    EtcdService,
)
from .._model.files import File, parse_files
from .._model.item import Item, state_of
from .._model.parse import Section
from .._model.release import parse_release
from .._plan.operation import Operation, difference
from .._system import releases
from .._system.files import FileAdapter, make_directories
from .._system.runner import Runner
from . import memory
from .member import describe_foreign_data
from .service import EtcdServiceAdapter, is_ours, unit_path

RELEASES = "/opt/etcd"
ACCEPT, DEFER, REFUSE = "accept", "defer", "refuse"


class ForeignError(FairleadError):
    """Another etcd is where ours would be."""


@dataclasses.dataclass(frozen=True)
class Installed:
    """``deferred``: files were left as they are, because the program of the new ones is not there yet."""

    outcome: Outcome
    deferred: bool


@dataclasses.dataclass(frozen=True)
class Uninstalled:
    """``left``: paths of files that are there and are not ours."""

    outcome: Outcome
    left: List[str]


class _Files(FileAdapter):
    """Directories that are missing are made readable for everybody, whatever the umask: etcd runs under an account."""

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            assert isinstance(operation.item, File)
            try:
                make_directories(os.path.dirname(operation.item.path))
            except OSError as error:
                raise ApplyError(operation.item, str(error)) from error
            yield from super().apply([operation])


def present(document: Mapping[str, Any], check: bool, runner: Runner, fetch: releases.Fetch) -> Installed:
    """Programs, then the files that lead to them; all or nothing.

    Raises ForeignError, or PrerequisiteError for a program that is not there, with nothing done.
    """
    section = Section(document)
    unit, files = section.text("unit", UNIT), _parse_own_files(document)
    _refuse_foreign(section, unit, files, runner)
    if _is_deferred(section, unit):
        return Installed(Outcome({}, {}, []), True)
    wanted: List[Item] = list(files)
    adapters: Dict[str, Adapter] = {File.kind: _Files(file.path for file in files)}
    if document.get("release"):
        directory = section.text("release_directory", RELEASES)
        item, url = parse_release(section, PRODUCT, directory)
        adapters[EtcdRelease.kind] = releases.ReleaseAdapter(PRODUCT, directory, [item.path], runner, fetch, url)
        wanted.append(item)
    want, ranks = state_of(wanted), {EtcdRelease.kind: 0, File.kind: 1}
    return Installed(engine_converge(Combined(adapters), lambda have: difference(have, want, ranks), check), False)


def absent(document: Mapping[str, Any], check: bool, runner: Runner) -> Uninstalled:
    """Files and releases of ours are gone, and systemd knows of it."""
    section = Section(document)
    paths = [file.path for file in parse_files(document.get("files"))]
    left = [path for path in paths if not is_ours(path)]
    directory = section.text("release_directory", RELEASES)
    files = FileAdapter(path for path in paths if path not in left)
    unpacked = releases.ReleaseAdapter(PRODUCT, directory, releases.releases(directory), runner)
    outcomes = [engine_converge(adapter, lambda have: difference(have, {}), check) for adapter in (files, unpacked)]
    if not check:
        releases.remove_unfinished(directory)
        _reload(section.text("unit", UNIT), runner)
    return Uninstalled(together(*outcomes), left)


def _parse_own_files(document: Mapping[str, Any]) -> List[File]:
    files = parse_files(document.get("files"))
    for index, file in enumerate(files):
        if BANNER not in file.content:
            raise SpecError(f"files[{index}].content", f"must hold {BANNER!r}, by which it is known to be ours later")
    return files


def _refuse_foreign(section: Section, unit: str, files: Sequence[File], runner: Runner) -> None:
    """Nothing here may be another etcd's: neither the service, nor a file in the place of one of ours, nor data."""
    environment_file = section.text("environment_file", ENVIRONMENT_FILE)
    service = EtcdServiceAdapter(unit, environment_file, runner).read()[(EtcdService.kind, unit)]
    assert isinstance(service, EtcdService)
    problems = [
        f"{file.path} is there, and was not made by role etcd; move it away" for file in files if not is_ours(file.path)
    ]
    if service.configuration == FOREIGN:
        problems.append(f"{unit} runs an etcd that is not ours; to give it up: systemctl disable --now {unit}")
    data = memory.foreign_data(section.text("data_dir", DATA_DIR))
    if data:
        problems.append(describe_foreign_data(data))
    if problems:
        raise ForeignError(f"another etcd is on this node, and nothing of it was changed: {'. '.join(problems)}")


def _is_deferred(section: Section, unit: str) -> bool:
    """Whether files are left alone, so that no unit of ours leads to a program that is not there yet."""
    program, policy = section.text("program", None), section.text("missing_program", ACCEPT)
    there = program is None or (os.path.isfile(program) and os.access(program, os.X_OK))
    if policy == REFUSE:
        _refuse_missing(program, there, section.text("account", None))
    return policy == DEFER and not there and os.path.lexists(unit_path(unit))


def _refuse_missing(program: Optional[str], there: bool, account: Optional[str]) -> None:
    if not there:
        raise PrerequisiteError(
            f"{program} is missing, and role etcd is told not to install it (etcd_install_method: none). "
            f"Install etcd by other means, or say in etcd_bin_dir where it is"
        )
    try:
        if account is not None:
            pwd.getpwnam(account)
    except KeyError:
        raise PrerequisiteError(
            f"account {account} is missing, under which etcd runs: make it, as by "
            f"useradd --system --user-group --shell /usr/sbin/nologin {account}"
        ) from None


def _reload(unit: str, runner: Runner) -> None:
    """Have systemd forget a unit file that is gone; also one that an interrupted run removed."""
    service = EtcdServiceAdapter(unit, ENVIRONMENT_FILE, runner).read()[(EtcdService.kind, unit)]
    assert isinstance(service, EtcdService)
    if service.unit_file == OUTDATED:
        status, output, error = runner(["systemctl", "daemon-reload"])
        if status != 0:
            raise ApplyError(unit, f"systemctl daemon-reload: {error.strip() or output.strip() or f'status {status}'}")
