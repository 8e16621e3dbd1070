# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The private key of this node for WireGuard: made once, and kept for life."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import Iterator, List, Optional, Sequence, Tuple

from .._engine import Outcome
from .._engine import converge as engine_converge
from .._model.errors import ApplyError, SpecError
from .._model.files import File
from .._model.item import State, state_of
from .._model.secret import Secret
from .._model.wireguard import KEY_LENGTH, clamped, shown
from .._model.wireguard_key import MODE, WireguardKey
from .._netlink.wireguard import opened
from .._pki.x25519 import public_key_of
from .._plan.operation import ADD, DELETE, REPLACE, Operation
from .._system.files import read_file, remove_file, write_file
from .._system.lock import exclusive
from .._system.wireguard_key import read_key

KIND = "wireguard_key"
DIRECTORY = "/etc/fairlead/"
# Machines from one image may have one host name and one machine-id, but each boot is another.
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def converge(path: str, present: bool, check: bool) -> Tuple[Outcome, Optional[str]]:
    """The outcome, and the public key; None after removal. With ``check`` a key that would be made has a stand-in,
    which no key belongs to. Either way raises PrerequisiteError where the kernel has no WireGuard, ReadError for a file
    that holds no key."""
    if not path.startswith("/"):
        raise SpecError("path", f"must be absolute, not {path!r}")
    adapter = KeyAdapter(path, present)
    if check:
        outcome = engine_converge(adapter, lambda have: plan(have, path, present), True)
        if any(operation.action == ADD for operation in outcome.operations):
            # As for a new key, and with the same error.
            with opened():
                pass
    else:
        with exclusive(KIND):
            outcome = engine_converge(adapter, lambda have: plan(have, path, present), False)
    found = [item for item in outcome.after.values() if isinstance(item, WireguardKey)]
    return outcome, (found[0].public_key or stand_in(path)) if found else None


def stand_in(path: str) -> str:
    """Differs between hosts, as keys do, also where they have one host name."""
    boot = read_file(_BOOT_ID)
    identity = f"{os.uname().nodename} {boot.content if boot is not None else ''} {path}"
    return shown(hashlib.sha256(identity.encode()).digest())


def plan(have: State, path: str, present: bool) -> List[Operation]:
    """A key that is there stays, whatever it is. One in our directory gets its file's rights put right, and goes when
    it is not wanted any more; one elsewhere is the operator's, who may need it for more than this."""
    found = have.get((WireguardKey.kind, path))
    if found is None:
        return [Operation(ADD, WireguardKey(path, None))] if present else []
    if not path.startswith(DIRECTORY):
        return []
    if not present:
        return [Operation(DELETE, found)]
    assert isinstance(found, WireguardKey)
    want = dataclasses.replace(found, mode=MODE, owner="root")
    return [] if want == found else [Operation(REPLACE, want, found)]


class KeyAdapter:
    """Speaks for one file. Without ``with_public`` nobody asks for the public key, which takes WireGuard."""

    def __init__(self, path: str, with_public: bool) -> None:
        self.path = path
        self.with_public = with_public

    def read(self) -> State:
        file, secret = read_file(self.path), read_key(self.path)
        if file is None or secret is None:
            return {}
        public = public_key_of(secret) if self.with_public else None
        return state_of([WireguardKey(self.path, public, file.mode, file.owner, secret)])

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            key = operation.item
            assert isinstance(key, WireguardKey)
            try:
                if operation.action == DELETE:
                    remove_file(key.path)
                else:
                    self._write(key)
            except OSError as error:
                raise ApplyError(key, str(error)) from error
            yield operation

    def _write(self, key: WireguardKey) -> None:
        secret = key.private_key or Secret(clamped(os.urandom(KEY_LENGTH)))
        # Asked before anything is written: without WireGuard in the kernel there is no use for a key.
        with opened():
            write_file(File(key.path, shown(secret.value) + "\n", key.mode, key.owner))
