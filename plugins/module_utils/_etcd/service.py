# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The service that runs etcd on this node, through systemctl, and the configuration its process was started with."""

from __future__ import annotations

import dataclasses
import os
import shlex
from typing import Callable, Dict, Iterator, List, Optional, Sequence

from .._model.errors import ApplyError, PrerequisiteError, ReadError, UndoError
from .._model.etcd import ABSENT, BANNER, CURRENT, FOREIGN, OUTDATED, EtcdService
from .._model.item import State, state_of
from .._plan.operation import Operation
from .._system.files import read_file
from .._system.runner import Runner

# What a service's process still is until it becomes the service's program: systemd, from 255 on its executor.
_NOT_YET = ("systemd", "systemd-executor")
# In the environment of every etcd that runs from our files: digest of the unit file.
OUR_MARK = "FAIRLEAD_ETCD_UNIT"
# Without effect once a member has data, so a change of these asks for no restart.
_BOOTSTRAP = "ETCD_INITIAL_"
_PROPERTIES = ("LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload", "MainPID", "FragmentPath")
# Where units of ours are, and take precedence over those of packages.
UNIT_DIRECTORY = "/etc/systemd/system"
# Commands that others may follow; reading the unit file anew needs no way back.
_INVERSES = {"enable": "disable", "disable": "enable"}
_UP = ("active", "activating", "reloading")


class EtcdServiceAdapter:
    """``process`` gives environment and program of a process; tests put another one in."""

    def __init__(
        self,
        unit: str,
        environment_file: str,
        runner: Runner,
        process: Optional[Callable[[int], Optional[Process]]] = None,
    ) -> None:
        self.unit, self.environment_file, self.runner = unit, environment_file, runner
        self.process = process or read_process

    def read(self) -> State:
        shown = self._show()
        running = shown.get("ActiveState") in _UP
        configuration = self._configuration(shown) if running else CURRENT
        return state_of(
            [
                EtcdService(
                    unit=self.unit,
                    unit_file=self._unit_file(shown),
                    enabled=shown.get("UnitFileState") == "enabled",
                    running=running,
                    configuration=configuration,
                )
            ]
        )

    def main_pid(self) -> int:
        """0 when no process runs."""
        return int(self._show().get("MainPID") or 0)

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            service, previous = operation.item, operation.previous
            assert isinstance(service, EtcdService)
            assert isinstance(previous, EtcdService), "the service is always there, at least as absent"
            self._carry_out(service, list(_commands(service, previous)))
            yield operation

    def _carry_out(self, service: EtcdService, commands: Sequence[List[str]]) -> None:
        """All commands, or none: when one fails, those before it are taken back."""
        for at, command in enumerate(commands):
            try:
                self._systemctl(service, *command)
            except BaseException as error:
                self._take_back(service, commands[:at], error)
                raise

    def _take_back(self, service: EtcdService, commands: Sequence[List[str]], cause: BaseException) -> None:
        for verb, *arguments in reversed(commands):
            try:
                if verb in _INVERSES:
                    self._systemctl(service, _INVERSES[verb], *arguments)
            except Exception as error:
                raise UndoError(f"{cause}; and systemctl {verb} could not be taken back: {error}") from cause

    def _systemctl(self, service: EtcdService, *arguments: str) -> None:
        status, output, error = self.runner(["systemctl", *arguments])
        if status != 0:
            reason = error.strip() or output.strip() or f"status {status}"
            raise ApplyError(service, f"systemctl {' '.join(arguments)}: {reason}")

    def _show(self) -> Dict[str, str]:
        status, output, error = self.runner(["systemctl", "show", f"--property={','.join(_PROPERTIES)}", self.unit])
        if status == 127:
            raise PrerequisiteError("systemctl is missing: etcd runs as a service of systemd")
        if status != 0:
            raise ReadError(f"systemctl show {self.unit}: {error.strip() or f'status {status}'}")
        return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)

    def _unit_file(self, shown: Dict[str, str]) -> str:
        loaded = shown.get("FragmentPath", "") if shown.get("LoadState") == "loaded" else ""
        path = unit_path(self.unit)
        if not os.path.lexists(path):
            path = loaded
        if shown.get("LoadState") != "loaded" and not path:
            return ABSENT
        if path and not is_ours(path):
            return FOREIGN
        return CURRENT if loaded == path and shown.get("NeedDaemonReload") != "yes" else OUTDATED

    def _configuration(self, shown: Dict[str, str]) -> str:
        pid = int(shown.get("MainPID") or 0)
        process = self.process(pid) if pid else None
        if process is None or os.path.basename(process.program) in _NOT_YET:
            # Between two attempts to start, or in the middle of one: it takes what is in the file.
            return CURRENT if self._unit_file(shown) != FOREIGN else FOREIGN
        if OUR_MARK not in process.environment:
            return FOREIGN
        if process.program.endswith(" (deleted)"):
            return OUTDATED
        file = read_file(self.environment_file)
        wanted = parse_environment(file.content) if file is not None else {}
        return CURRENT if _relevant(process.environment) == _relevant(wanted) else OUTDATED


@dataclasses.dataclass(frozen=True)
class Process:
    environment: Dict[str, str]
    program: str


def read_process(pid: int) -> Optional[Process]:
    """None when the process is gone by now."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            entries = stream.read().decode("utf-8", "replace").split("\0")
        return Process(dict(entry.split("=", 1) for entry in entries if "=" in entry), os.readlink(f"/proc/{pid}/exe"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def unit_path(unit: str) -> str:
    return os.path.join(UNIT_DIRECTORY, unit)


def is_ours(path: str) -> bool:
    """Whether a file has the mark of ours. One that is gone is nobody else's."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return BANNER in stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


def parse_environment(text: str) -> Dict[str, str]:
    """Assignments of an environment file of systemd, as far as role etcd uses its syntax."""
    words: List[str] = []
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith(("#", ";")):
            words += shlex.split(line)
    return dict(word.split("=", 1) for word in words if "=" in word)


def _relevant(environment: Dict[str, str]) -> Dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(("ETCD_", "FAIRLEAD_")) and not name.startswith(_BOOTSTRAP)
    }


def _commands(service: EtcdService, previous: EtcdService) -> Iterator[List[str]]:
    """What leads from the previous state to the other one, in this order."""
    if service.unit_file == CURRENT != previous.unit_file:
        yield ["daemon-reload"]
    if service.enabled != previous.enabled:
        yield ["enable" if service.enabled else "disable", service.unit]
    if service.running and not previous.running:
        # No member becomes ready before a majority has started: nobody waits here.
        yield ["start", "--no-block", service.unit]
    elif previous.running and not service.running:
        yield ["stop", service.unit]
    elif service.running and (service.configuration, previous.configuration) == (CURRENT, OUTDATED):
        yield ["restart", "--no-block", service.unit]
