# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The node runtime itself: one version of its tree in use, the one before kept, its command and its units."""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from .._engine import Combined, Outcome
from .._engine import converge as engine_converge
from .._model.errors import SpecError
from .._model.files import File
from .._model.item import Item, State
from .._model.parse import Section
from .._model.reload import SYSTEMD, DueReload
from .._model.runtime import VERSION, Link, RuntimeTree
from .._plan.operation import DELETE, Operation
from .._plan.reload import with_reloads
from .._plan.runtime import CURRENT, PREVIOUS, WantedRuntime, plan_runtime
from .._system.files import FileAdapter
from .._system.links import LinkAdapter
from .._system.reload import SYSTEMD_RUNS, ReloadAdapter
from .._system.runner import Runner
from .._system.runtime_tree import TreeAdapter
from . import store

COMMAND = "bin/fairlead"
_UNIT = re.compile(r"fairlead[A-Za-z0-9@_.-]*\.(service|timer|path|socket|target)")
_WANTED_BY = re.compile(r"^WantedBy=(\S+)$", re.MULTILINE)
_STATE_DIRECTORIES = ("/var/lib/fairlead/found", "/var/lib/fairlead")


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Document: ``{path, command_path, unit_path, units: [{name, content, enabled}], version?, digest?, archive?}``.

    Without a version everything is removed; ``units`` then says which ones. Raises PrerequisiteError when the version
    has to be installed and no archive is given.
    """
    section = Section(document)
    want, files, links = _parse(section)
    trees = TreeAdapter(want.directory, want.tree, section.text("archive", None))
    section.finish()
    reloads = ReloadAdapter([SYSTEMD], runner)
    adapter = Combined({RuntimeTree.kind: trees, File.kind: files, Link.kind: links, DueReload.kind: reloads})

    def plan(have: State) -> List[Operation]:
        found = {key: item for key, item in have.items() if not isinstance(item, DueReload)}
        return with_reloads(have, plan_runtime(found, want), _services_of)

    if not check:
        _stop_units_that_go(plan(adapter.read()), runner)
    outcome = engine_converge(adapter, plan, check)
    if not check:
        trees.finish()
        if want.tree is None:
            _remove_empty_directories(want.directory)
    return outcome


def _services_of(item: Item) -> List[str]:
    return [SYSTEMD] if isinstance(item, File) else []


def needs_archive(outcome: Outcome) -> bool:
    """Whether a planned outcome (check mode) unpacks a tree."""
    return any(op.action != DELETE and isinstance(op.item, RuntimeTree) for op in outcome.operations)


def _parse(section: Section) -> Tuple[WantedRuntime, FileAdapter, LinkAdapter]:
    directory, command = section.text("path"), section.text("command_path")
    tree = _tree(section)
    files, enabled = _units(section, removing=tree is None)
    links = [Link(command, f"{directory}/{CURRENT}/{COMMAND}"), *enabled]
    want = WantedRuntime(directory, tree, tuple(files), tuple(links)) if tree else WantedRuntime(directory)
    own_links = [f"{directory}/{CURRENT}", f"{directory}/{PREVIOUS}", *(link.path for link in links)]
    return want, FileAdapter(file.path for file in files), LinkAdapter(own_links)


def _tree(section: Section) -> Optional[RuntimeTree]:
    version, digest = section.text("version", None), section.text("digest", None)
    if version is None:
        return None
    if not VERSION.fullmatch(version):
        raise SpecError("version", f"must be a collection version, a dash and 12 hexadecimal digits, not {version!r}")
    if digest is None:
        raise SpecError("digest", "is required with version")
    return RuntimeTree(version, digest)


def _units(section: Section, removing: bool) -> Tuple[List[File], List[Link]]:
    """Unit files, and the links that enable them. A unit to be removed may have been enabled by anybody."""
    files: List[File] = []
    links: List[Link] = []
    directory = section.text("unit_path")
    for unit in section.sections("units", []):
        name, content = unit.text("name"), unit.text("content", "")
        if not _UNIT.fullmatch(name):
            raise SpecError(unit.at("name"), f"must be the name of a unit that starts with fairlead, not {name!r}")
        files.append(File(f"{directory}/{name}", content))
        targets = _WANTED_BY.findall(content) if unit.boolean("enabled", False) or removing else []
        links += [Link(f"{directory}/{target}.wants/{name}", f"{directory}/{name}") for target in targets]
        unit.finish()
    return files, links


def _stop_units_that_go(operations: Sequence[Operation], runner: Runner) -> None:
    """While systemd still knows them. That one does not run is no failure."""
    units = [op.item.path for op in operations if op.action == DELETE and isinstance(op.item, File)]
    if units and os.path.isdir(SYSTEMD_RUNS):
        runner(["systemctl", "stop", *map(os.path.basename, units)])


def _remove_empty_directories(directory: str) -> None:
    for path in (directory, store.DIRECTORY, *_STATE_DIRECTORIES):
        with contextlib.suppress(OSError):
            os.rmdir(path)
