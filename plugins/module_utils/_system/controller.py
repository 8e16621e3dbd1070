# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""From where this run is steered: the far end of the SSH connection that it came over."""

from __future__ import annotations

import ipaddress
import os
from typing import Optional

from .._model.parse import Address

# Bounds the way up from process to parent; a chain of shells, sudo and Python is no longer than a dozen.
_GENERATIONS = 32


def controller_address() -> Optional[Address]:
    """None for a run that did not come over SSH. The variable is looked for upwards, since sudo takes it away."""
    pid = os.getpid()
    for _generation in range(_GENERATIONS):
        found = _client(_read(f"/proc/{pid}/environ"))
        if found is not None:
            return found
        parent = _parent(pid)
        if parent <= 1:
            return None
        pid = parent
    return None


def _client(environment: bytes) -> Optional[Address]:
    for entry in environment.split(b"\0"):
        name, _equals, value = entry.partition(b"=")
        if name == b"SSH_CONNECTION":
            try:
                address = ipaddress.ip_address(value.decode().split()[0].partition("%")[0])
                return getattr(address, "ipv4_mapped", None) or address
            except (ValueError, IndexError):
                return None
    return None


def _parent(pid: int) -> int:
    # The name in brackets may hold anything, so the fields are counted from its end.
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""
