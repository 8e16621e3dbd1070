# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The configuration files by which container runtimes learn of a network."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence

from .._engine import Adapter, Combined, Outcome, together
from .._engine import converge as engine_converge
from .._model.cni import LOOPBACK_NAME, ConfList, Remains, bridge_plugins, load_conflist, loopback_list
from .._model.cni_attachment import Attachment
from .._model.cni_options import parse_conflist
from .._model.errors import PrerequisiteError, SpecError
from .._model.files import File
from .._model.item import State, state_of
from .._model.parse import Section
from .._plan.operation import DELETE, Operation, difference
from .._system.cni import Plugins
from .._system.cni_attachments import AttachedAdapter, Attacher, configuration_files
from .._system.cni_cache import ResultCache
from .._system.cni_remains import RemainsAdapter, reservations
from .._system.files import FileAdapter, read_file
from .._system.runner import Runner
from . import store

KIND = "cni_network"
PLUGIN_DIRECTORIES = ("/usr/lib/cni", "/opt/cni/bin")
_LOOPBACK_FILE = "99-loopback.conflist"
_DEFAULT_PATH = "/etc/cni/net.d/10-fairlead.conflist"


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Document: ``{networks: [{state?, path?, name?, cni_version?, disable_check?, plugins? | bridge?, loopback?,
    plugin_dirs?, detach?, cache_dir?}]}``.

    In check mode plugins that are missing are no error: an earlier step that was not carried out may bring them.
    """
    networks = [_Network(section) for section in Section(document).sections("networks")]
    if not check:
        problems = [problem for network in networks for problem in network.problems(runner)]
        if problems:
            raise PrerequisiteError("; ".join(problems))
    return together(*(network.converge(check, runner) for network in networks))


def plugin_problems(document: Mapping[str, Any], runner: Runner) -> List[str]:
    """Why the node's plugins cannot carry the networks, one line each."""
    networks = [_Network(section) for section in Section(document).sections("networks")]
    return [problem for network in networks for problem in network.problems(runner)]


def shadows(path: str) -> List[str]:
    """Files that runtimes take before ours: they use the first one in the directory."""
    directory, name = os.path.split(path)
    return [os.path.join(directory, other) for other in configuration_files(directory) if other < name]


def merged(saved: Optional[Mapping[str, Any]], document: Mapping[str, Any]) -> Dict[str, Any]:
    """What to remember: the networks of ``document`` and those saved for other files; absent ones are left out."""
    networks = {_path_of(network): network for network in (saved or {}).get("networks", [])}
    networks.update({_path_of(network): network for network in document["networks"]})
    return {"networks": [network for network in networks.values() if network.get("state", "present") == "present"]}


def _path_of(network: Mapping[str, Any]) -> str:
    return str(network.get("path") or _DEFAULT_PATH)


class _Network:
    """One entry of a document, parsed. Raises SpecError."""

    def __init__(self, section: Section) -> None:
        self.present = section.text("state", "present", ("present", "absent")) == "present"
        self.path = section.text("path", _DEFAULT_PATH)
        if not (self.path.startswith("/") and self.path.endswith(".conflist")):
            raise SpecError("path", f"must be absolute and end in .conflist, as runtimes expect, not {self.path!r}")
        self.plugin_dirs = section.list("plugin_dirs", list(PLUGIN_DIRECTORIES))
        self.loopback = section.boolean("loopback", True)
        self.detach = section.boolean("detach", False)
        self.cache_dir = section.text("cache_dir", "/var/lib/cni")
        version = section.text("cni_version", "1.0.0")
        plugins = _plugins_of(section) if self.present else [{"type": "loopback"}]
        self.conflist = parse_conflist(
            {
                "name": section.text("name", "fairlead"),
                "cni_version": version,
                "disable_check": section.boolean("disable_check", False),
                "plugins": plugins,
            }
        )
        section.get("bridge", None)
        section.get("plugins", None)
        section.finish()
        if self.loopback and self.conflist.name == LOOPBACK_NAME:
            raise SpecError("name", f"must not be {LOOPBACK_NAME!r}: that is the name of the loopback network")

    @property
    def loopback_path(self) -> str:
        return os.path.join(os.path.dirname(self.path), _LOOPBACK_FILE)

    def lists(self) -> Dict[str, ConfList]:
        lists = {self.path: self.conflist}
        if self.loopback:
            lists[self.loopback_path] = loopback_list(self.conflist.cni_version)
        return lists

    def problems(self, runner: Runner) -> List[str]:
        if not self.present:
            return []
        plugins = Plugins(runner, self.plugin_dirs)
        every = tuple(plugin for conflist in self.lists().values() for plugin in conflist.plugins)
        return plugins.problems(dataclasses.replace(self.conflist, plugins=every))

    def written(self) -> Optional[ConfList]:
        """What the file says now; where it is gone or broken, what was saved of it."""
        file = read_file(self.path)
        with contextlib.suppress(SpecError):
            if file is not None:
                return load_conflist(file.content, self.path)
        saved = (store.load(KIND) or {}).get("networks", [])
        return next((_Network(Section(network)).conflist for network in saved if _path_of(network) == self.path), None)

    def converge(self, check: bool, runner: Runner) -> Outcome:
        lists = self.lists()
        files = FileAdapter(lists)
        if self.present:
            want = state_of(File(path, conflist.text) for path, conflist in lists.items())
            return engine_converge(files, lambda have: difference(have, want), check)
        conflist = self.written()
        attacher = Attacher(Plugins(runner, self.plugin_dirs), ResultCache(self.cache_dir), runner)
        attached = attacher.cache.of_network(conflist.name) if conflist is not None else []
        if conflist is not None and not self.detach:
            _refuse_in_use(conflist, attached)
        adapters: Dict[str, Adapter] = {
            Attachment.kind: AttachedAdapter(conflist.name if conflist is not None else "", attacher),
            Remains.kind: RemainsAdapter(conflist, runner, attached, self.detach),
            File.kind: files,
        }
        outcome = engine_converge(Combined(adapters), self._plan_absent, check)
        if not check:
            self._remove_empty_directories()
        return outcome

    def _remove_empty_directories(self) -> None:
        configuration = os.path.dirname(self.path)
        kept = (os.path.join(self.cache_dir, "networks"), os.path.join(self.cache_dir, "results"), self.cache_dir)
        for directory in (*kept, configuration, os.path.dirname(configuration)):
            with contextlib.suppress(OSError):
                os.rmdir(directory)

    def _plan_absent(self, have: State) -> List[Operation]:
        """Who uses what goes before it. The files come last: they tell an interrupted run's successor what else there
        is. The one of the network is ours by its name, the loopback file only when it says what we write, as runtimes
        bring one too.
        """
        users = [item for item in have.values() if isinstance(item, Attachment)]
        remains = [item for item in have.values() if isinstance(item, Remains)]
        files = [item for item in have.values() if isinstance(item, File)]
        ours = [file for file in files if file.path == self.path or _is_loopback(file)]
        return [Operation(DELETE, item) for item in (*users, *remains, *reversed(ours))]


def _refuse_in_use(conflist: ConfList, attached: Sequence[Attachment]) -> None:
    users = [f"{attachment.container_id} {attachment.ifname}" for attachment in attached]
    held = [address for directory in conflist.reservation_directories() for address in reservations(directory)]
    if users or held:
        what = f"attached: {', '.join(users)}" if users else f"addresses held: {', '.join(held)}"
        raise PrerequisiteError(f"network {conflist.name} is in use ({what}); detach first, or set detach")


def _plugins_of(section: Section) -> List[Any]:
    short, plugins = section.get("bridge", None), section.get("plugins", None)
    if (short is None) == (plugins is None):
        raise SpecError("plugins", "give either plugins or bridge")
    if short is not None:
        return bridge_plugins(Section(short, "bridge"))
    return section.list("plugins")


def _is_loopback(file: File) -> bool:
    try:
        conflist = load_conflist(file.content, file.path)
    except SpecError:
        return False
    return file.content == loopback_list(conflist.cni_version).text
