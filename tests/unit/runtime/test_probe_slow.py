# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Probes of what answers, but takes its time."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

from runtime import probe

DELAY = 0.7


@contextlib.contextmanager
def slow_responder() -> Iterator[int]:
    """Answers one stream at once, and each datagram late; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        port = server.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))
        threading.Thread(target=_answer_stream, args=(server,), daemon=True).start()
        threading.Thread(target=_answer_datagrams, args=(datagrams,), daemon=True).start()
        yield port


def _answer_stream(server: socket.socket) -> None:
    connection, peer = server.accept()
    with connection:
        connection.sendall(json.dumps({"source": peer[0]}).encode() + b"\n")


def _answer_datagrams(datagrams: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            data, peer = datagrams.recvfrom(65535)
            time.sleep(DELAY)
            nonce = data.removeprefix(probe.MAGIC)[:16].decode()
            answer = {"nonce": nonce, "source": peer[0], "size": len(data), "mtu": 65535}
            datagrams.sendto(json.dumps(answer).encode(), peer)


def test_large_packets_get_the_time_that_small_ones_took() -> None:
    with slow_responder() as port:
        found = probe.examine({"name": "slow", "address": "127.0.0.1", "port": port}, timeout=5)
    assert found["reachable"] and found["error"] == ""
    # The loopback's own.
    assert found["path_mtu"] == found["interface_mtu"] is not None
