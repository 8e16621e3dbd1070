# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The documents that modules saved on this node, and applying them."""

from __future__ import annotations

import importlib
import os
from typing import Any, List

from .._desired import store
from .._engine import Outcome, collector_paused
from .._model.errors import FairleadError, PrerequisiteError
from .._system.lock import exclusive
from . import runner

# What others rest on comes first; kinds not named here follow by name.
ORDER = (
    "kernel_settings",
    "services_kernel",
    "kube_proxy_kernel",
    "overlay_network",
    "masquerade",
    "cluster_service",
    "ipvs_service",
)
# Leases live in etcd, not on the node: command ``renew`` keeps them.
NOT_OF_THIS_NODE = ("overlay_lease",)


def saved_kinds(directory: str = store.DIRECTORY) -> List[str]:
    """Kinds that are to be applied at boot and compared with the node, in the order of applying."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    kinds = {name[: -len(".json")] for name in names if name.endswith(".json")}
    return sorted(kinds - set(NOT_OF_THIS_NODE), key=_position)


def _position(kind: str) -> tuple[int, str]:
    return (ORDER.index(kind) if kind in ORDER else len(ORDER), kind)


def converge(kind: str, check: bool, directory: str = store.DIRECTORY) -> Outcome:
    """Apply the saved document of a kind; with ``check`` only say what that would take. Raises FairleadError, of which
    NothingSavedError where another run has forgotten it meanwhile."""
    with collector_paused(), exclusive(kind, check):
        # What is saved may be newer than it was before another run ended.
        document = store.load(kind, directory)
        if document is None:
            raise NothingSavedError(f"{kind}: nothing is saved in {store.path_of(kind, directory)}")
        outcome: Outcome = _module(kind, directory).converge(document, check, runner.run)
        if not check:
            store.finish(kind)
        return outcome


def _module(kind: str, directory: str) -> Any:
    try:
        return importlib.import_module(f"{store.__package__}.{kind}")
    except ModuleNotFoundError as error:
        if error.name != f"{store.__package__}.{kind}":
            raise
        raise UnknownKindError(
            f"{store.path_of(kind, directory)}: this version of the runtime knows no such kind; "
            f"run the playbook again, or remove the file"
        ) from None


class NothingSavedError(FairleadError):
    """There is no document of a kind."""


class UnknownKindError(PrerequisiteError):
    """A document that a newer or older version of the collection left."""
