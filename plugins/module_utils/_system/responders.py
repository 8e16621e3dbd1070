# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Probe responders as transient services of systemd: they end by themselves, and nothing of them is on disk."""

from __future__ import annotations

import re
from typing import Iterator, List, Optional, Sequence

from .._model.errors import ApplyError, PrerequisiteError, ReadError, UndoError
from .._model.item import State, state_of
from .._model.reachability import Responder
from .._plan.operation import DELETE, Operation
from .runner import Runner

# Says in a unit's description what the unit is, to be read back.
_DESCRIPTION = re.compile(r"Fairlead probe responder in (?P<netns>\S+) on port (?P<port>\d+)")
_NODE = "node"


class ResponderAdapter:
    """Speaks for the units given. ``command`` starts the probe program, ``lifetime`` is in seconds."""

    def __init__(self, units: Sequence[str], command: Sequence[str], lifetime: int, runner: Runner) -> None:
        self.units = list(units)
        self.command = list(command)
        self.lifetime = lifetime
        self.runner = runner

    def read(self) -> State:
        status, output, error = self.runner(["systemctl", "show", "--property=Id,ActiveState,Description", *self.units])
        if status == 127:
            raise PrerequisiteError("systemctl is missing: probe responders run as services of systemd")
        if status != 0:
            raise ReadError(f"systemctl show: {error.strip() or f'status {status}'}")
        # One block of lines a unit, an empty line between them.
        found = (_responder_of(block) for block in output.strip().split("\n\n"))
        return state_of(responder for responder in found if responder is not None)

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            responder = operation.item
            assert isinstance(responder, Responder)
            if operation.action == DELETE:
                self._stop(responder)
            elif isinstance(operation.previous, Responder):
                self._replace(responder, operation.previous)
            else:
                self._require(responder, self._start(responder))
            yield operation

    def _stop(self, responder: Responder) -> None:
        self._require(responder, ["systemctl", "stop", responder.unit])

    def _replace(self, responder: Responder, previous: Responder) -> None:
        """When the new one does not start, the previous one runs again, for a whole lifetime."""
        self._stop(previous)
        try:
            self._require(responder, self._start(responder))
        except BaseException as cause:
            try:
                self._require(previous, self._start(previous))
            except Exception as error:
                raise UndoError(f"{cause}; and the previous responder could not be started again: {error}") from cause
            raise

    def _start(self, responder: Responder) -> List[str]:
        description = f"Fairlead probe responder in {responder.netns or _NODE} on port {responder.port}"
        properties = [
            f"RuntimeMaxSec={self.lifetime}",
            "CapabilityBoundingSet=",
            "NoNewPrivileges=yes",
            *([f"NetworkNamespacePath={responder.netns}"] if responder.netns else []),
        ]
        return [
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit={responder.unit}",
            f"--description={description}",
            # The program reports when its sockets are there, and systemd-run returns then.
            "--service-type=notify",
            *(f"--property={text}" for text in properties),
            *self.command,
            "serve",
            f"--port={responder.port}",
        ]

    def _require(self, responder: Responder, command: Sequence[str]) -> None:
        status, _output, error = self.runner(command)
        if status != 0:
            _status, log, _error = self.runner(
                ["journalctl", "--no-pager", "--output=cat", "--lines=3", f"--unit={responder.unit}"]
            )
            reason = error.strip() or f"{command[0]} ended with status {status}"
            raise ApplyError(responder, f"{reason} {log.strip()}".strip())


def _responder_of(block: str) -> Optional[Responder]:
    values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    described = _DESCRIPTION.fullmatch(values.get("Description", ""))
    if values.get("ActiveState") not in ("active", "activating") or described is None:
        return None
    netns = described.group("netns")
    return Responder(values["Id"], "" if netns == _NODE else netns, int(described.group("port")))
