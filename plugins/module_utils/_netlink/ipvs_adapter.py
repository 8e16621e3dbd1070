# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services of a node with all that belongs to them: reads them, and carries out operations on them."""

from __future__ import annotations

import errno
import itertools
import time
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Set

from .._model.errors import ApplyError, PrerequisiteError, ReadError
from .._model.ipvs import DummyDevice, RealServer, Timeouts, VirtualService
from .._model.item import Item, Key, State
from .._plan.operation import ADD, DELETE, Operation
from .bulk import absent, apply_many
from .ipvs import Ipvs, replacing
from .ipvs_devices import DeviceAdapter, one_by_one
from .ipvs_table import read_table
from .rtnetlink import Message, RefusedError, Rtnetlink

_IPVS = frozenset({VirtualService.kind, RealServer.kind})
# A connection whose first packet came before the weight was 0 is established by then, or never is.
_HANDSHAKE_SECONDS = 1.0
_POLL_SECONDS = 0.25
_HINTS = {
    (VirtualService.kind, errno.ENOENT): "the kernel has no such scheduler or engine and cannot load its module",
    (VirtualService.kind, errno.EPROTONOSUPPORT): "the kernel's IPVS does not do this protocol",
    (VirtualService.kind, errno.EAFNOSUPPORT): "the kernel's IPVS does not do this IP version",
    (DummyDevice.kind, errno.EOPNOTSUPP): "the kernel has no dummy devices and cannot load their module (dummy)",
}


class IpvsAdapter:
    """Speaks for all services of the network namespace with their real servers, for the time-outs, and for dummy
    devices of the given names with their addresses.

    Of services in ``thorough``, thresholds and tunnels are known whatever the number of services. A real server that is
    removed with weight 0 while it has connections gets up to ``drain`` seconds to end them. Where a name of
    ``earlier`` is that of another kind of interface by now, it is left alone.
    """

    def __init__(
        self, devices: Iterable[str], thorough: Iterable[str] = (), drain: float = 0, earlier: Iterable[str] = ()
    ) -> None:
        self._devices = DeviceAdapter(devices, earlier)
        self._thorough = frozenset(thorough)
        self._drain = drain

    def read(self) -> State:
        """Raises PrerequisiteError where the kernel has no IPVS."""
        try:
            with Ipvs() as ipvs:
                state = read_table(ipvs, self._thorough)
                timeouts = ipvs.timeouts()
            state[timeouts.key] = timeouts
        except RefusedError as error:
            if error.code == errno.ENOENT:
                raise PrerequisiteError("the kernel has no IPVS: its module ip_vs is not loaded") from error
            raise ReadError(f"the kernel's virtual services: {error}") from error
        except OSError as error:
            raise ReadError(f"the kernel's virtual services: {error}") from error
        state.update(self._devices.read())
        return state

    def read_again(self, operations: Sequence[Operation]) -> Optional[Dict[Key, Optional[Item]]]:
        """Asks for the services of the operations and their servers alone."""
        if any(operation.item.kind not in _IPVS for operation in operations):
            return None
        found: Dict[Key, Optional[Item]] = dict.fromkeys(operation.item.key for operation in operations)
        with Ipvs() as ipvs:
            for name in {str(key[1]) for key in found}:
                service = ipvs.service(name)
                items: List[Item] = [service, *ipvs.servers(name)] if service is not None else []
                found.update((item.key, item) for item in items if item.key in found)
        return found

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        with Ipvs() as ipvs:
            started = time.monotonic()
            for way, run in itertools.groupby(operations, _way_to_send):
                chunk = list(run)
                if way == "drained":
                    self._wait(ipvs, chunk, started)
                try:
                    yield from self._send(ipvs, way, chunk)
                except ApplyError as error:
                    raise _explained(error) from error

    def _send(self, ipvs: Ipvs, way: str, chunk: List[Operation]) -> Iterator[Operation]:
        if way in ("put", "taken", "drained"):
            # What is to be undone may be there already, half of it.
            yield from apply_many(ipvs.netlink, chunk, ipvs.message, _is_settled)
        elif way == Timeouts.kind:
            yield from one_by_one(chunk, lambda each: _set_timeouts(ipvs, each))
        else:
            yield from self._devices.apply(chunk)

    def _wait(self, ipvs: Ipvs, operations: Sequence[Operation], started: float) -> None:
        """Until none of the servers has an established connection, at most as long as it may take."""
        left: Set[Key] = {operation.item.key for operation in operations}
        deadline = started + self._drain
        time.sleep(max(0.0, min(started + _HANDSHAKE_SECONDS, deadline) - time.monotonic()))
        while left:
            services = {str(key[1]) for key in left}
            busy = {server.key for service in services for server in ipvs.servers(service) if server.active}
            left &= busy
            if not left or time.monotonic() >= deadline:
                return
            time.sleep(_POLL_SECONDS)


def _way_to_send(operation: Operation) -> str:
    """What goes together, in one bulk."""
    item = operation.item
    if item.kind not in _IPVS:
        return item.kind
    if operation.action != DELETE:
        return "put"
    drained = isinstance(item, RealServer) and item.weight == 0 and (item.active or item.inactive)
    return "drained" if drained else "taken"


def _is_settled(netlink: Rtnetlink, operation: Operation, message: Message, refused: RefusedError) -> bool:
    """Whether a refused operation needs no more, or no longer."""
    if operation.action == DELETE:
        return absent(refused)
    if operation.action == ADD and refused.code == errno.EEXIST:
        try:
            netlink.change(*replacing(message))
        except RefusedError:
            return False
        return True
    return False


def _set_timeouts(ipvs: Ipvs, operation: Operation) -> None:
    assert isinstance(operation.item, Timeouts)
    ipvs.set_timeouts(operation.item)


def _explained(error: ApplyError) -> ApplyError:
    cause = error.__cause__
    for (kind, code), hint in _HINTS.items():
        if isinstance(cause, RefusedError) and cause.code == code and error.item.startswith(kind.replace("_", " ")):
            return ApplyError(error.item, f"{error.reason}: {hint}")
    return error
