# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""UDP packets between namespaces: an echo server that tells the source address it saw, and a client.

Sizes are those of whole IP packets, and don't-fragment is always set.
"""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.kernel.namespaces import Namespace
from tests.waiting import START_SECONDS

PORT = 7777
#: What is awaited to be answered is asked for again after it; what is not to be answered is given up.
ONE_TRY = 0.5
#: After it a packet of a stream counts as lost. On a busy machine an answer takes seconds.
LOST_SECONDS = 20.0
#: What remains of a stream that is to end: the answer to its last packet.
END_SECONDS = 120.0
# ip(7); the names are missing in the socket module.
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
IPV6_MTU_DISCOVER = 23
HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}
_START = f"""import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
from tests.kernel.packets import main
main(sys.argv[1:])
"""
_PROGRAM = [sys.executable, "-c", _START]


@contextlib.contextmanager
def server(namespace: Namespace, port: int = PORT) -> Iterator[None]:
    """An echo server on all addresses of the namespace."""
    process = namespace.start([*_PROGRAM, "serve", str(port)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


def ask(namespace: Namespace, address: str, size: int = 100, port: int = PORT) -> str | None:
    """The source address that a server at ``address`` sees of us, None when no answer comes however often we ask."""
    return _asked(namespace, address, size, port, START_SECONDS)


def silent(namespace: Namespace, address: str, size: int = 100, port: int = PORT) -> bool:
    """Whether nothing comes back. The server must be known to answer what gets there."""
    return _asked(namespace, address, size, port, ONE_TRY) is None


def _asked(namespace: Namespace, address: str, size: int, port: int, seconds: float) -> str | None:
    done = namespace.run([*_PROGRAM, "ask", address, str(size), str(port), str(seconds)], check=False)
    return done.stdout.strip() or None


@contextlib.contextmanager
def stream(namespace: Namespace, address: str, port: int = PORT) -> Iterator[list[int]]:
    """Packets to a server all the while, one each few milliseconds. After the block the list holds how many were sent
    and how many were answered."""
    process = namespace.start([*_PROGRAM, "stream", address, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    counts: list[int] = []
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield counts
        output, _errors = process.communicate(timeout=END_SECONDS)
        counts += [int(word) for word in output.split()]
    finally:
        process.kill()
        process.communicate()


def _serve(port: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as both_families:
        both_families.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        both_families.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        both_families.bind(("::", port))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            data, peer = both_families.recvfrom(65535)
            with contextlib.suppress(OSError):
                both_families.sendto(peer[0].removeprefix("::ffff:").encode().ljust(len(data)), peer)


def _ask(address: str, size: int, port: int, seconds: float) -> str:
    family = _family(address)
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        if family == socket.AF_INET:
            client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        else:
            client.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DO)
        client.settimeout(ONE_TRY)
        client.connect((address, port))
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                client.send(bytes(size - HEADERS[family]))
                return client.recv(65535).decode().strip()
            if time.monotonic() >= end:
                return ""
            # Errors come at once, and are those of this moment.
            time.sleep(min(ONE_TRY, seconds) / 5)


def _stream(address: str, port: int) -> str:
    """Ends with standard input."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        client.settimeout(LOST_SECONDS)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sent = answered = 0
        while not select.select([sys.stdin], [], [], 0.005)[0]:
            sent += 1
            with contextlib.suppress(OSError):
                client.send(b"%d" % sent)
                answered += len(client.recv(65535)) > 0
        return f"{sent} {answered}"


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def main(words: list[str]) -> None:
    """`serve PORT` prints "ready" and answers until killed; `ask ADDRESS SIZE PORT SECONDS` prints the source that
    was seen; `stream ADDRESS PORT` prints "ready" and at the end two counts."""
    if words[0] == "serve":
        _serve(int(words[1]))
    elif words[0] == "stream":
        sys.stdout.write(_stream(words[1], int(words[2])))
    else:
        sys.stdout.write(_ask(words[1], int(words[2]), int(words[3]), float(words[4])))
