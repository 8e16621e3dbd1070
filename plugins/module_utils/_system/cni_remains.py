# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What the plugins of a network leave behind when its last pod is gone. Nothing in use is ever taken for a remain."""

from __future__ import annotations

import ipaddress
import json
import os
from typing import Any, Iterator, List, Optional, Sequence

from .._model.cni import ConfList, Remains
from .._model.cni_attachment import Attachment
from .._model.errors import ApplyError
from .._model.item import State, state_of
from .._plan.operation import DELETE, Operation
from .runner import Runner

BRIDGE, BOOKKEEPING = "bridge", "address bookkeeping"
_LOCK, _LAST_GIVEN = "lock", "last_reserved_ip."


class RemainsAdapter:
    """Speaks for the bridge and the bookkeeping of ``conflist``, None has neither, as far as nothing uses them.

    ``going`` are attachments that an earlier step takes away. With ``forced``, reserved addresses are no use by
    themselves: the files outlive a reboot.
    """

    def __init__(
        self, conflist: Optional[ConfList], runner: Runner, going: Sequence[Attachment] = (), forced: bool = False
    ) -> None:
        self.conflist = conflist
        self.runner = runner
        self.going = going
        self.forced = forced

    def read(self) -> State:
        if self.conflist is None:
            return {}
        bridges = [Remains(BRIDGE, name) for name in self.conflist.bridges() if self._is_idle(name)]
        directories = [name for name in self.conflist.reservation_directories() if os.path.isdir(name)]
        idle = [Remains(BOOKKEEPING, name) for name in directories if self.forced or not reservations(name)]
        return state_of([*bridges, *idle])

    def _is_idle(self, bridge: str) -> bool:
        """A bridge of ours: no ports that stay, and no address but a gateway's of the network."""
        device = self._ip("-j", "-d", "address", "show", "dev", bridge)
        if not device or device[0].get("linkinfo", {}).get("info_kind") != "bridge":
            return False
        ports = {str(port["ifname"]) for port in self._ip("-j", "link", "show", "master", bridge)}
        addresses = [entry["local"] for entry in device[0].get("addr_info", []) if entry.get("scope") == "global"]
        return ports <= set(self._going_ports()) and all(map(self._of_network, addresses))

    def _going_ports(self) -> Iterator[str]:
        """The node's ends of the attachments' interfaces."""
        for attachment in self.going:
            for interface in json.loads(attachment.result or "{}").get("interfaces") or []:
                if not interface.get("sandbox"):
                    yield str(interface["name"])

    def _of_network(self, address: str) -> bool:
        assert self.conflist is not None
        return any(ipaddress.ip_address(address) in subnet for subnet in self.conflist.subnets())

    def _ip(self, *words: str) -> List[Any]:
        status, output, _error = self.runner(["ip", *words])
        return [entry for entry in json.loads(output or "[]") if entry] if status == 0 else []

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            remains = operation.item
            assert isinstance(remains, Remains)
            # Nothing brings them back but the plugins' next ADD, which does it when it is needed.
            if operation.action == DELETE:
                self._remove(remains)
            yield operation

    def _remove(self, remains: Remains) -> None:
        if remains.what == BRIDGE:
            status, _output, error = self.runner(["ip", "link", "delete", "dev", remains.name])
            if status != 0:
                raise ApplyError(remains, error.strip() or f"ip link delete ended with status {status}")
            return
        try:
            for name in os.listdir(remains.name):
                os.unlink(os.path.join(remains.name, name))
            os.rmdir(remains.name)
        except OSError as error:
            raise ApplyError(remains, str(error)) from error


def reservations(directory: str) -> List[str]:
    """Addresses that host-local holds: its files but for its lock and its marks."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(name for name in names if name != _LOCK and not name.startswith(_LAST_GIVEN))
