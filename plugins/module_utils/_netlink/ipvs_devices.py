# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Dummy devices of virtual services with their addresses, which are there without IPVS too."""

from __future__ import annotations

import itertools
from typing import Callable, Dict, Iterable, Iterator, Sequence

from .._model.datapath import DeviceAddress
from .._model.errors import PrerequisiteError, ReadError
from .._model.ipvs import DummyDevice
from .._model.item import State
from .._plan.operation import DELETE, Operation
from . import dummy
from .bulk import absent, apply_many, refusal
from .rtnetlink import RefusedError, Rtnetlink, interface_index


class DeviceAdapter:
    """Speaks for dummy devices of the given names with their addresses. Where a name of ``earlier`` is that of another
    kind of interface by now, it is left alone."""

    def __init__(self, devices: Iterable[str], earlier: Iterable[str] = ()) -> None:
        self._devices = [name for name in dict.fromkeys(devices) if name]
        self._earlier = frozenset(earlier)

    def read(self) -> State:
        """Raises PrerequisiteError for a device of another kind."""
        state: State = {}
        try:
            with Rtnetlink() as netlink:
                self._read(netlink, state)
        except (RefusedError, OSError) as error:
            raise ReadError(f"devices with addresses of virtual services: {error}") from error
        return state

    def _read(self, netlink: Rtnetlink, state: State) -> None:
        found: Dict[int, str] = {}
        for name in self._devices:
            try:
                if dummy.is_dummy(netlink, name):
                    found[interface_index(name)] = name
                    state[DummyDevice(name).key] = DummyDevice(name)
                    continue
            except RefusedError as error:
                if absent(error):
                    continue
                raise
            if name not in self._earlier:
                raise PrerequisiteError(
                    f"interface {name} is there and is no dummy device, so not ours; remove it, or name another one"
                )
        if found:
            for address in dummy.addresses(netlink, found):
                state[address.key] = address

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        with Rtnetlink() as netlink:
            for kind, run in itertools.groupby(operations, lambda operation: operation.item.kind):
                if kind == DeviceAddress.kind:
                    yield from apply_many(netlink, run, dummy.message)
                else:
                    yield from one_by_one(run, lambda each: _carry_out(netlink, each))


def one_by_one(operations: Iterable[Operation], carry_out: Callable[[Operation], None]) -> Iterator[Operation]:
    """Each operation when it happened. Raises ApplyError at the first refusal."""
    for operation in operations:
        try:
            carry_out(operation)
        except (RefusedError, OSError) as error:
            raise refusal(operation, error) from error
        yield operation


def _carry_out(netlink: Rtnetlink, operation: Operation) -> None:
    device = operation.item
    assert isinstance(device, DummyDevice)
    (dummy.delete if operation.action == DELETE else dummy.add)(netlink, device)
