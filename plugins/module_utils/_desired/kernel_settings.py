# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel modules and sysctls: in force now, and at each boot through modules-load.d and sysctl.d.

The value that a sysctl had before the first change is kept in a file of ours. A key that is no longer declared gets
it back, so that an empty document leaves the node as found (modules stay loaded: others may use them by now).

A device that forwards IPv6 packets takes no router advertisements, unless told to, and the kernel drops the default
routes that came with them at once. So where forwarding is turned on, devices that took advertisements are told to go
on, before it is, and get their setting back after it is off again.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Tuple

from .._engine import Combined, Outcome, together
from .._engine import converge as engine_converge
from .._model.errors import ReadError
from .._model.files import File
from .._model.item import State, state_of
from .._model.kernel import (
    ALWAYS,
    AS_HOST,
    IPV6_FORWARDING,
    KernelModule,
    KernelSettings,
    Sysctl,
    accept_ra,
    is_accept_ra,
    parse_kernel_settings,
    writing_order,
)
from .._plan.operation import DELETE, Operation, difference
from .._system.files import FileAdapter
from .._system.kernel_modules import ModuleAdapter, require_loadable
from .._system.runner import Runner
from .._system.sysctl import SysctlAdapter, devices_with_routers, require_known, require_writable

_BANNER = "# Managed by Fairlead; changes here are overwritten.\n"


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Document: see ``parse_kernel_settings``. Nothing is changed before all that can be known holds."""
    settings = parse_kernel_settings(document)
    require_loadable(settings.modules)
    parameters = _Parameters(settings)
    parameters.require_changeable()
    modules = _load_modules(settings, check, runner)
    parameters.require_known(modules_pending=check and modules.changed)
    return together(modules, parameters.converge(check))


def _load_modules(settings: KernelSettings, check: bool, runner: Runner) -> Outcome:
    want = state_of(KernelModule(name) for name in settings.modules)
    return engine_converge(ModuleAdapter(settings.modules, runner), lambda have: difference(have, want), check)


class _Parameters:
    """Sysctls and files: what is wanted follows from the declared settings and the state that is read."""

    def __init__(self, settings: KernelSettings) -> None:
        self.settings = settings
        files = FileAdapter([settings.modules_file, settings.sysctl_file, settings.found_file])
        found = self._found_before(files.read())
        self.kept_routers = _kept_routers(settings, found)
        names = {*settings.sysctls, *settings.optional, *found, *self.kept_routers}
        self.adapter = Combined({Sysctl.kind: SysctlAdapter(names), File.kind: files})

    def converge(self, check: bool) -> Outcome:
        return engine_converge(self.adapter, self.plan, check)

    def require_changeable(self) -> None:
        for operation in self.plan(self.adapter.read()):
            if isinstance(operation.item, Sysctl):
                require_writable(operation.item)

    def require_known(self, modules_pending: bool) -> None:
        """In check mode a key may be one that a module brings which is not loaded yet."""
        if not modules_pending:
            for name in self.settings.sysctls:
                require_known(name)

    def plan(self, have: State) -> List[Operation]:
        values = self._values(have)
        files = self._files(self._found(have, values))
        operations = difference(have, state_of([*values, *files]))
        return sorted((operation for operation in operations if not _gives_up(operation)), key=_order)

    def _values(self, have: State) -> List[Sysctl]:
        settings = self.settings
        present = {item.name for item in have.values() if isinstance(item, Sysctl)}
        lenient = {**self._found_before(have), **self.kept_routers, **settings.optional}
        values = {name: value for name, value in lenient.items() if name in present}
        return [Sysctl(name, value) for name, value in {**values, **settings.sysctls}.items()]

    def _found(self, have: State, values: List[Sysctl]) -> Dict[str, str]:
        """The values from before us of all declared keys: those known already, and those about to be replaced."""
        replaced = [have[item.key] for item in values if have.get(item.key, item) != item]
        found = {item.name: item.value for item in replaced if isinstance(item, Sysctl)}
        declared = {*self.settings.sysctls, *self.settings.optional, *self.kept_routers}
        return {name: value for name, value in {**found, **self._found_before(have)}.items() if name in declared}

    def _found_before(self, have: State) -> Dict[str, str]:
        path = self.settings.found_file
        file = have.get((File.kind, path))
        if not isinstance(file, File):
            return {}
        try:
            return {str(name): str(value) for name, value in json.loads(file.content).items()}
        except (ValueError, AttributeError) as error:
            raise ReadError(f"{path}: not readable ({error}); remove it to forget the values from before") from None

    def _files(self, found: Dict[str, str]) -> List[File]:
        settings = self.settings
        files = []
        if settings.modules:
            files.append(File(settings.modules_file, _BANNER + "".join(f"{name}\n" for name in settings.modules)))
        if settings.sysctls or settings.optional:
            files.append(File(settings.sysctl_file, _BANNER + _sysctl_lines(settings, self.kept_routers)))
        if found:
            text = json.dumps(found, indent=1, sort_keys=True) + "\n"
            files.append(File(settings.found_file, text, "0600"))
        return files


def _kept_routers(settings: KernelSettings, found: Mapping[str, str]) -> Dict[str, str]:
    """Parameters that let devices go on taking router advertisements: those set by an earlier run, and those due now.
    What is declared for a device wins."""
    if settings.sysctls.get(IPV6_FORWARDING, "0") == "0":
        return {}
    before = [name for name, value in found.items() if is_accept_ra(name) and value == AS_HOST]
    names = sorted({*before, *map(accept_ra, devices_with_routers())})
    return {name: ALWAYS for name in names if name not in settings.sysctls and name not in settings.optional}


def _sysctl_lines(settings: KernelSettings, kept_routers: Mapping[str, str]) -> str:
    """Format: sysctl.d(5). A leading dash makes a key that the kernel lacks no failure at boot."""
    first = [f"-{name} = {value}\n" for name, value in kept_routers.items()]
    lines = [f"{name} = {value}\n" for name, value in settings.sysctls.items()]
    return "".join(first + lines + [f"-{name} = {value}\n" for name, value in settings.optional.items()])


def _gives_up(operation: Operation) -> bool:
    """A parameter that is neither declared nor has a value to get back stays as it is."""
    return operation.action == DELETE and isinstance(operation.item, Sysctl)


def _order(operation: Operation) -> Tuple[Any, ...]:
    """Files before parameters: a run that is killed between them has not lost the found values. Removals last. Among
    parameters, what keeps router advertisements before forwarding is turned on, and what ends it after it is off."""
    item = operation.item
    if isinstance(item, Sysctl):
        keeps_routers = is_accept_ra(item.name) and item.value == ALWAYS
        return (1, not keeps_routers, *writing_order(item.name))
    return (2 if operation.action == DELETE else 0, True, True, str(item.key))
