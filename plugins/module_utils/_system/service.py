# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A service through systemctl. Its unit file carries a mark, and an assignment that its process inherits: by this a
process is known that was started from an older configuration."""

from __future__ import annotations

import os
import time
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from .._model.errors import ApplyError, PrerequisiteError, ReadError
from .._model.item import State, state_of
from .._model.service import ABSENT, CURRENT, FOREIGN, OUTDATED, Service
from .._plan.operation import Operation
from .runner import Runner

_PROPERTIES = ("LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload", "MainPID", "FragmentPath")
# Of commands that others may follow; reading the unit file anew needs no way back.
_INVERSES = {"enable": "disable", "disable": "enable"}
# How often systemd is asked when it says nothing, and seconds in between.
_ATTEMPTS, _PAUSE = 5, 1
_UP = ("active", "activating", "reloading")
# Where units of ours are, and take precedence over those of packages. Tests say another place.
UNIT_DIRECTORY = os.environ.get("FAIRLEAD_UNIT_DIR") or "/etc/systemd/system"


class ServiceAdapter:
    """``banner`` is in every unit file of ours, ``mark`` names the assignment, ``wanted`` is its present value."""

    def __init__(self, unit: str, banner: str, mark: str, wanted: str, runner: Runner) -> None:
        self.unit, self.banner, self.mark, self.wanted, self.runner = unit, banner, mark, wanted, runner

    def read(self) -> State:
        shown = self._show()
        running = shown.get("ActiveState") in _UP
        service = Service(
            unit=self.unit,
            unit_file=self._unit_file(shown),
            enabled=shown.get("UnitFileState") == "enabled",
            running=running,
            configuration=self._configuration(shown) if running else CURRENT,
        )
        return state_of([service])

    def main_pid(self) -> int:
        """0 when no process runs."""
        return int(self._show().get("MainPID") or 0)

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            service, previous = operation.item, operation.previous
            assert isinstance(service, Service)
            assert isinstance(previous, Service), "the service is always there, at least as absent"
            self._carry_out(service, list(_commands(service, previous)))
            yield operation

    def _carry_out(self, service: Service, commands: Sequence[List[str]]) -> None:
        """All commands, or none: when one fails, those before it are taken back."""
        for at, command in enumerate(commands):
            try:
                self._systemctl(service, *command)
            except BaseException:
                for verb, *arguments in reversed(commands[:at]):
                    if verb in _INVERSES:
                        self.runner(["systemctl", _INVERSES[verb], *arguments])
                raise

    def _systemctl(self, service: Service, *arguments: str) -> None:
        status, output, error = self.runner(["systemctl", *arguments])
        if status != 0:
            reason = error.strip() or output.strip() or f"status {status}"
            raise ApplyError(service, f"systemctl {' '.join(arguments)}: {reason}")

    def _show(self) -> Dict[str, str]:
        for _attempt in range(_ATTEMPTS):
            words = ["systemctl", "show", f"--property={','.join(_PROPERTIES)}", self.unit]
            status, output, error = self.runner(words)
            if status == 127:
                raise PrerequisiteError(f"systemctl is missing: {self.unit} is a service of systemd")
            if status != 0:
                raise ReadError(f"systemctl show {self.unit}: {error.strip() or f'status {status}'}")
            shown = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
            # Seen on a slow machine while systemd read its units anew: nothing, with status 0.
            if shown.get("LoadState"):
                return shown
            time.sleep(_PAUSE)
        raise ReadError(f"systemctl show {self.unit}: says nothing; is systemd busy?")

    def _unit_file(self, shown: Dict[str, str]) -> str:
        loaded = shown.get("FragmentPath", "") if shown.get("LoadState") == "loaded" else ""
        path = unit_path(self.unit)
        if not os.path.lexists(path):
            path = loaded
        if not path:
            return ABSENT
        if not is_ours(path, self.banner):
            return FOREIGN
        return CURRENT if loaded == path and shown.get("NeedDaemonReload") != "yes" else OUTDATED

    def _configuration(self, shown: Dict[str, str]) -> str:
        if self._unit_file(shown) == FOREIGN:
            return FOREIGN
        process = _process(int(shown.get("MainPID") or 0))
        # Between two attempts to start it takes what systemd has read.
        if process is None:
            return CURRENT if self._unit_file(shown) == CURRENT else OUTDATED
        program, environment = process
        replaced = program.endswith(" (deleted)")
        return CURRENT if environment.get(self.mark) == self.wanted and not replaced else OUTDATED


def unit_path(unit: str) -> str:
    return os.path.join(UNIT_DIRECTORY, unit)


def is_ours(path: str, banner: str) -> bool:
    """Whether a file has the mark of ours. One that is gone is nobody else's."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return banner in stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


def _process(pid: int) -> Optional[Tuple[str, Dict[str, str]]]:
    """Program and environment; None without a process, and for one that has not become the service's program yet."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            entries = stream.read().decode("utf-8", "replace").split("\0")
        program = os.readlink(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # From version 255 on, systemd starts services by a program of its own.
    if os.path.basename(program) in ("systemd", "systemd-executor"):
        return None
    return program, dict(entry.split("=", 1) for entry in entries if "=" in entry)


def _commands(service: Service, previous: Service) -> Iterator[List[str]]:
    """What leads from the previous state to the other one, in this order."""
    if service.unit_file == CURRENT != previous.unit_file:
        yield ["daemon-reload"]
    if service.enabled != previous.enabled:
        yield ["enable" if service.enabled else "disable", service.unit]
    if service.running and not previous.running:
        yield ["start", service.unit]
    elif previous.running and not service.running:
        yield ["stop", service.unit]
    elif service.running and (service.configuration, previous.configuration) == (CURRENT, OUTDATED):
        yield ["restart", service.unit]
