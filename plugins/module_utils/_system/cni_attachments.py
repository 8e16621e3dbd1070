# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""One attachment of one network namespace on the node: found by what ADD left behind, changed through the plugins."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from typing import Iterator, List, Mapping, Optional, Sequence

from .._model.cni import ConfList, load_conflist
from .._model.cni_attachment import Attachment, Namespace, Wish
from .._model.errors import ApplyError, FairleadError, PrerequisiteError, ReadError, SpecError, UndoError
from .._model.item import Item, State, state_of
from .._plan.operation import DELETE, REPLACE, Operation
from .cni import PluginError, Plugins, Target
from .cni_cache import ResultCache
from .files import make_directories
from .runner import Runner

# Marks of the namespaces made here. Not kept over a reboot, as namespaces are not.
MARKS = "/run/fairlead/netns"
_CONF_SUFFIXES = (".conflist", ".conf", ".json")


def find_conflist(network: str, directory: str) -> Optional[ConfList]:
    """The network's list: from its file when ``network`` is a path, else the first file of the directory that names
    it, in the order of libcni. None when there is none. Raises SpecError for a broken file given by path.
    """
    if network.startswith("/"):
        return _read_conflist(network)
    for name in configuration_files(directory):
        try:
            conflist = _read_conflist(os.path.join(directory, name))
        except SpecError:
            continue
        if conflist is not None and conflist.name == network:
            return conflist
    return None


def configuration_files(directory: str) -> List[str]:
    """Names of the files in which libcni looks for networks, in its order."""
    try:
        return sorted(name for name in os.listdir(directory) if name.endswith(_CONF_SUFFIXES))
    except FileNotFoundError:
        return []


def _read_conflist(path: str) -> Optional[ConfList]:
    try:
        with open(path, encoding="utf-8") as stream:
            return load_conflist(stream.read(), path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReadError(f"{path}: {error.strerror}") from error


class Attacher:
    """Attaches and detaches through the plugins, and keeps the results."""

    def __init__(self, plugins: Plugins, cache: ResultCache, runner: Runner) -> None:
        self.plugins = plugins
        self.cache = cache
        self.runner = runner

    def attach(self, attachment: Attachment) -> None:
        if not is_namespace(attachment.netns):
            raise PrerequisiteError(f"{attachment.netns}: no network namespace; start what makes it, or give a name")
        if self.interface_there(attachment.netns, attachment.ifname):
            # The plugin would refuse too, but the DEL that must follow its refusal takes the other's interface down.
            raise ApplyError(attachment, f"{attachment.ifname} is there already, made by others; choose another ifname")
        result = self.plugins.add(attachment.conflist, _target(attachment))
        try:
            self.cache.save(dataclasses.replace(attachment, result=json.dumps(result), problem=""))
        except BaseException as error:
            # Nobody could detach what no result is kept of.
            with contextlib.suppress(FairleadError):
                self.plugins.delete(attachment.conflist, _target(attachment), result)
            if isinstance(error, OSError):
                raise ApplyError(attachment, f"the result of ADD cannot be kept: {error}") from error
            raise

    def replace(self, attachment: Attachment, previous: Attachment) -> None:
        """When attaching fails, what worked before is attached again; its addresses may be others then."""
        self.detach(previous)
        try:
            self.attach(attachment)
        except BaseException as error:
            if not previous.problem:
                self._restore(previous, error)
            raise

    def _restore(self, previous: Attachment, cause: BaseException) -> None:
        try:
            self.attach(previous)
        except Exception as error:
            raise UndoError(f"{cause}; and {previous} could not be attached again: {error}") from cause

    def detach(self, attachment: Attachment) -> None:
        result = json.loads(attachment.result) if attachment.result else None
        try:
            self.plugins.delete(attachment.conflist, _target(attachment), result)
        except PluginError as error:
            raise ApplyError(attachment, str(error)) from error
        self.cache.forget(attachment)

    def interface_there(self, netns: str, ifname: str) -> bool:
        """Whether a namespace has an interface that somebody made; every namespace has ``lo`` by itself."""
        if ifname == "lo" or not is_namespace(netns):
            return False
        status, _output, _error = self.runner(["nsenter", f"--net={netns}", "ip", "link", "show", "dev", ifname])
        return status == 0


class AttachedAdapter:
    """Speaks for everything attached to a network, by the results that are kept."""

    def __init__(self, network: str, attacher: Attacher) -> None:
        self.network = network
        self.attacher = attacher

    def read(self) -> State:
        return state_of(self.attacher.cache.of_network(self.network))

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            attachment = operation.item
            assert isinstance(attachment, Attachment)
            if operation.action == DELETE:
                self.attacher.detach(attachment)
            else:
                self.attacher.attach(attachment)
            yield operation


class AttachmentAdapter:
    """Speaks for the wish's namespace and its one attachment to ``network``.

    ``conflist`` is the network as configured now, None when it is not; the cached one goes before it.
    """

    def __init__(self, wish: Wish, network: str, conflist: Optional[ConfList], runner: Runner) -> None:
        self.wish = wish
        self.network = network
        self.conflist = conflist
        self.runner = runner
        self.plugins = Plugins(runner, wish.plugin_dirs)
        self.cache = ResultCache(wish.cache_dir)
        self.attacher = Attacher(self.plugins, self.cache, runner)

    def read(self) -> State:
        items: List[Item] = []
        name = self.wish.namespace
        if name and is_namespace(self.wish.netns):
            items.append(Namespace(name, self._marked()))
        attachment = self._attachment()
        return state_of([*items, attachment] if attachment else items)

    def _attachment(self) -> Optional[Attachment]:
        found = self.cache.load(self.network, self.wish.container_id, self.wish.ifname)
        if found is None:
            return self._leftover()
        found = dataclasses.replace(found, netns=found.netns or self.wish.netns)
        return dataclasses.replace(found, problem=self._problem(found))

    def _problem(self, attachment: Attachment) -> str:
        if not is_namespace(attachment.netns):
            return f"network namespace {attachment.netns} is gone"
        try:
            self.plugins.check(attachment.conflist, _target(attachment), json.loads(attachment.result))
        except FairleadError as error:
            return str(error)
        return ""

    def _leftover(self) -> Optional[Attachment]:
        """What an ADD left that was killed before its result was kept: it would make the next ADD fail."""
        if self.conflist is None:
            return None
        wish = self.wish
        reserved = reservation_of(self.conflist, wish.container_id, wish.ifname)
        if reserved is None and not self._interface_is_ours():
            return None
        what = f"address {reserved} is reserved" if reserved else f"{wish.ifname} is there"
        config = self.conflist.text
        problem = f"{what}, but no result of ADD was kept"
        return Attachment(self.network, wish.container_id, wish.ifname, wish.netns, config, problem=problem)

    def _interface_is_ours(self) -> bool:
        """Only in a namespace made here, and when no other network's result speaks for the interface."""
        if not self._marked() or self.cache.speaks_for(self.wish.container_id, self.wish.ifname):
            return False
        return self.attacher.interface_there(self.wish.netns, self.wish.ifname)

    def _marked(self) -> bool:
        return bool(self.wish.namespace) and os.path.exists(os.path.join(MARKS, self.wish.namespace))

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            try:
                self._carry_out(operation)
            except OSError as error:
                raise ApplyError(operation.item, str(error)) from error
            yield operation

    def _carry_out(self, operation: Operation) -> None:
        if isinstance(operation.item, Namespace):
            self._apply_namespace(operation.action, operation.item)
        elif isinstance(operation.item, Attachment):
            self._apply_attachment(operation.action, operation.item, operation.previous)

    def _apply_namespace(self, action: str, namespace: Namespace) -> None:
        mark = os.path.join(MARKS, namespace.name)
        if action == DELETE:
            self._ip_netns("delete", namespace)
            _remove(mark)
            return
        if os.path.lexists(self.wish.netns):
            # The empty file of a namespace that died with its mount; adding would fail on it.
            self._ip_netns("delete", namespace)
        # The mark first: a namespace made in a run that is killed right after it would never be removed.
        make_directories(MARKS)
        with open(mark, "w", encoding="utf-8"):
            pass
        self._ip_netns("add", namespace)

    def _ip_netns(self, verb: str, namespace: Namespace) -> None:
        status, _output, error = self.runner(["ip", "netns", verb, namespace.name])
        if status != 0:
            raise ApplyError(namespace, error.strip() or f"ip netns {verb} ended with status {status}")

    def _apply_attachment(self, action: str, attachment: Attachment, previous: Optional[Item]) -> None:
        if action == DELETE:
            self.attacher.detach(attachment)
        elif action == REPLACE and isinstance(previous, Attachment):
            self.attacher.replace(attachment, previous)
        else:
            self.attacher.attach(attachment)


def _target(attachment: Attachment) -> Target:
    arguments: Mapping[str, object] = json.loads(attachment.capability_args)
    return Target(attachment.container_id, attachment.netns, attachment.ifname, arguments)


def reservation_of(conflist: ConfList, container_id: str, ifname: str) -> Optional[str]:
    """The address that host-local holds for an interface; its files hold the container id and the interface's name."""
    for directory in conflist.reservation_directories():
        for name in _listed(directory):
            try:
                with open(os.path.join(directory, name), encoding="utf-8", newline="") as stream:
                    words = stream.read().split()
            except (OSError, UnicodeDecodeError):
                continue
            if words == [container_id, ifname]:
                return name
    return None


def is_namespace(path: str) -> bool:
    """Whether a path leads to a live network namespace, not to the empty file that a dead one leaves."""
    try:
        # All namespaces are files of the one nsfs of the kernel.
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def _listed(directory: str) -> List[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
