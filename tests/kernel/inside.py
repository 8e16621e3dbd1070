# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Connections from the test into a network namespace."""

from __future__ import annotations

import concurrent.futures
import ctypes
import http.client
import os
import socket
from pathlib import Path

from tests.kernel.namespaces import NETNS_DIR, Namespace

# linux/sched.h
_CLONE_NEWNET = 0x40000000


def connected(namespace: Namespace, address: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection as made by a process inside; it goes on working outside. Raises OSError."""
    # A thread can enter a namespace alone, and this one ends there.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(_connect, NETNS_DIR / namespace.name, (address, port), timeout).result()


def get(namespace: Namespace, address: str, port: int, path: str, timeout: float = 10) -> tuple[int, str]:
    """Status and text of an HTTP answer. Raises OSError and http.client.HTTPException."""
    connection = http.client.HTTPConnection(address, port)
    connection.sock = connected(namespace, address, port, timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def _connect(namespace: Path, to: tuple[str, int], timeout: float) -> socket.socket:
    handle = os.open(namespace, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    finally:
        os.close(handle)
    return socket.create_connection(to, timeout)
