# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Reloads of services that are due: kept as empty files, so that a run which is cut off leaves word to the next."""

from __future__ import annotations

import os
from typing import Iterable, Iterator, Sequence

from .._model.errors import ApplyError
from .._model.item import State, state_of
from .._model.reload import NETWORK_MANAGER, NETWORKD, SYSTEMD, UDEV, DueReload
from .._plan.operation import DELETE, Operation
from .files import RUN_DIRECTORY, make_directories, remove_file
from .runner import Runner

# Gone after a boot, and so is every reload that was due: services read all their files when they start.
DIRECTORY = os.path.join(RUN_DIRECTORY, "reload")
# There when systemd is the init of this machine (sd_booted(3)). Without it, nothing runs that could be reloaded.
SYSTEMD_RUNS = "/run/systemd/system"
_TRY = ("try-reload-or-restart",)
# A pattern only matches units that are loaded, so those which this node does not have are no failure.
_ARGUMENTS = {
    SYSTEMD: ("daemon-reload",),
    UDEV: (*_TRY, "systemd-udev[d].service"),
    NETWORKD: (*_TRY, "systemd-network[d].service"),
    NETWORK_MANAGER: (*_TRY, "NetworkManage[r].service"),
}


class ReloadAdapter:
    """Speaks for the given services."""

    def __init__(self, services: Iterable[str], runner: Runner) -> None:
        self.services = sorted(set(services))
        self.runner = runner

    def read(self) -> State:
        return state_of(DueReload(service) for service in self.services if os.path.exists(_note(service)))

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            due = operation.item
            assert isinstance(due, DueReload)
            try:
                if operation.action == DELETE:
                    self._reload(due)
                    remove_file(_note(due.service))
                else:
                    make_directories(DIRECTORY)
                    with open(_note(due.service), "wb"):
                        pass
            except OSError as error:
                raise ApplyError(due, str(error)) from error
            yield operation

    def _reload(self, due: DueReload) -> None:
        if not os.path.isdir(SYSTEMD_RUNS):
            return
        command = ["systemctl", *_ARGUMENTS[due.service]]
        status, output, error = self.runner(command)
        if status != 0:
            raise ApplyError(due, f"{' '.join(command)}: {error.strip() or output.strip() or f'status {status}'}")


def _note(service: str) -> str:
    return os.path.join(DIRECTORY, service)
