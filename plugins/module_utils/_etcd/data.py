# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The data of the member on this node: only ever removed, and only what is remembered as ours."""

from __future__ import annotations

import os
import shutil
from typing import Iterator, Optional, Sequence

from .._model.errors import ApplyError
from .._model.etcd import EtcdData
from .._model.item import State, state_of
from .._plan.operation import DELETE, Operation


class DataAdapter:
    """Speaks for one directory, or for none."""

    def __init__(self, path: Optional[str]) -> None:
        self.path = path

    def read(self) -> State:
        there = self.path is not None and os.path.lexists(self.path)
        return state_of([EtcdData(self.path)] if there and self.path is not None else [])

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            if operation.action != DELETE:
                raise ApplyError(operation.item, "cannot be brought back")
            assert isinstance(operation.item, EtcdData)
            try:
                _remove(operation.item.path)
            except OSError as error:
                raise ApplyError(operation.item, str(error)) from error
            yield operation


def _remove(path: str) -> None:
    """Gone from the disk too when this returns: what is remembered of it is removed after that only."""
    shutil.rmtree(path)
    handle = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
