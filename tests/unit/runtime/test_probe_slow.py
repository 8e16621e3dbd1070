# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Probes of what answers, but takes its time."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runtime import probe

DELAY = 0.7


#: Whether the next datagram is answered. May take its time.
Manner = Callable[[bytes], bool]


def late(_data: bytes) -> bool:
    time.sleep(DELAY)
    return True


class Stalls:
    """Answers small datagrams until a large one comes, and nothing for ``seconds`` from then on; later all, those that
    came meanwhile too unless they are ``forgotten``."""

    def __init__(self, seconds: float, forgotten: bool) -> None:
        self.seconds, self.forgotten, self.until = seconds, forgotten, 0.0

    def __call__(self, data: bytes) -> bool:
        if not self.until and len(data) > probe.REQUEST_LENGTH:
            self.until = time.monotonic() + self.seconds
        left = self.until - time.monotonic()
        if left > 0 and not self.forgotten:
            time.sleep(left)
        return left <= 0 or not self.forgotten


@contextlib.contextmanager
def responder(manner: Manner) -> Iterator[int]:
    """Answers one stream at once, and datagrams in a manner of its own; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        port = server.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))
        threading.Thread(target=_answer_stream, args=(server,), daemon=True).start()
        threading.Thread(target=_answer_datagrams, args=(datagrams, manner), daemon=True).start()
        yield port


def _answer_stream(server: socket.socket) -> None:
    connection, peer = server.accept()
    with connection:
        connection.sendall(json.dumps({"source": peer[0]}).encode() + b"\n")


def _answer_datagrams(datagrams: socket.socket, manner: Manner) -> None:
    with contextlib.suppress(OSError):
        while True:
            data, peer = datagrams.recvfrom(65535)
            if not manner(data):
                continue
            nonce = data.removeprefix(probe.MAGIC)[:16].decode()
            answer = {"nonce": nonce, "source": peer[0], "size": len(data), "mtu": 65535}
            datagrams.sendto(json.dumps(answer).encode(), peer)


def test_large_packets_get_the_time_that_small_ones_took() -> None:
    assert_whole(examined(late))


@pytest.mark.parametrize("forgotten", [False, True])
def test_stall_is_not_taken_for_a_small_path_mtu(forgotten: bool) -> None:
    """Two large ones in a row get no answer in time; nor does a small one."""
    assert_whole(examined(Stalls(2.6 * probe._LARGE_TIMEOUT, forgotten)))


def test_answers_that_stop_for_good_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_LARGE_TIMEOUT", 0.05)
    found = examined(Stalls(600, forgotten=True))
    assert not found["reachable"] and found["path_mtu"] is None
    assert found["error"] == "UDP: answers have stopped while the path MTU was looked for"


def examined(manner: Manner) -> dict[str, Any]:
    with responder(manner) as port:
        return probe.examine({"name": "slow", "address": "127.0.0.1", "port": port}, timeout=5)


def assert_whole(found: dict[str, Any]) -> None:
    assert found["reachable"] and found["error"] == ""
    # The loopback's own.
    assert found["path_mtu"] == found["interface_mtu"] is not None
