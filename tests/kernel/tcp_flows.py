# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Connections between namespaces: servers that tell their name, a client that asks, and one that downloads slowly."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.kernel.namespaces import Namespace

PORT = 8080
#: A download comes in pieces, so many a second.
PIECE, PER_SECOND = b"x" * 1000, 10
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "sctp": 132}
_NAME_SIZE = 16
#: Guests on a busy machine take seconds.
ANSWER_SECONDS, PIECE_SECONDS, DOWNLOAD_SECONDS = 30.0, 10.0, 120.0
_START = f"""import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
from tests.kernel.tcp_flows import main
main(sys.argv[1:])
"""
_PROGRAM = [sys.executable, "-c", _START]


@contextlib.contextmanager
def server(namespace: Namespace, name: str, protocol: str = "tcp", port: int = PORT) -> Iterator[None]:
    """Tells its name on all addresses of the namespace, and sends what is asked for."""
    process = namespace.start([*_PROGRAM, "serve", name, protocol, str(port)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


def ask(
    namespace: Namespace,
    address: str,
    port: int = 80,
    times: int = 1,
    protocol: str = "tcp",
    source: str = "",
    wait: float = ANSWER_SECONDS,
) -> list[str]:
    """Names of the servers that one connection after the other leads to, "" where none answers."""
    words = ["ask", address, str(port), str(times), protocol, source, str(wait)]
    return namespace.out([*_PROGRAM, *words]).split("\n")[:-1]


class Download:
    """A connection on which ``seconds`` of data come. ``server`` is the name of where it comes from."""

    def __init__(self, namespace: Namespace, address: str, seconds: float, port: int = 80) -> None:
        words = ["download", address, str(port), str(int(seconds * PER_SECOND))]
        self.process = namespace.start([*_PROGRAM, *words], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.server = self.process.stdout.readline().strip()

    def result(self, timeout: float = DOWNLOAD_SECONDS) -> str:
        """ "complete", or the number of pieces that came before it broke off."""
        return self.process.communicate(timeout=timeout)[0].strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def _serve(name: str, protocol: str, port: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM, _PROTOCOLS[protocol]) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", port))
        listener.listen(64)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _peer = listener.accept()
            threading.Thread(target=_answer, args=(connection, name), daemon=True).start()


def _answer(connection: socket.socket, name: str) -> None:
    with connection, contextlib.suppress(OSError):
        connection.sendall(name.encode().ljust(_NAME_SIZE))
        for _number in range(int(connection.recv(_NAME_SIZE) or b"0")):
            connection.sendall(PIECE)
            time.sleep(1 / PER_SECOND)


def _ask(address: str, port: int, times: int, protocol: str, source: str, wait: float) -> None:
    for _number in range(times):
        with contextlib.suppress(OSError), _socket(address, protocol) as client:
            client.settimeout(wait)
            if source:
                client.bind((source, 0))
            client.connect((address, port))
            name = client.recv(_NAME_SIZE).decode().strip()
            client.sendall(b"0")
            sys.stdout.write(name)
        sys.stdout.write("\n")


def _download(address: str, port: int, pieces: int) -> None:
    with _socket(address, "tcp") as client:
        client.settimeout(ANSWER_SECONDS)
        client.connect((address, port))
        sys.stdout.write(client.recv(_NAME_SIZE).decode().strip() + "\n")
        sys.stdout.flush()
        client.sendall(str(pieces).encode())
        client.settimeout(PIECE_SECONDS)
        received = 0
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                received += len(data)
    complete = received == pieces * len(PIECE)
    sys.stdout.write("complete" if complete else str(received // len(PIECE)))


def _socket(address: str, protocol: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM, _PROTOCOLS[protocol])


def main(words: list[str]) -> None:
    """`serve NAME PROTOCOL PORT`,
    `ask ADDRESS PORT TIMES PROTOCOL SOURCE SECONDS` or `download ADDRESS PORT PIECES`."""
    if words[0] == "serve":
        _serve(words[1], words[2], int(words[3]))
    elif words[0] == "ask":
        _ask(words[1], int(words[2]), int(words[3]), words[4], words[5], float(words[6]))
    else:
        _download(words[1], int(words[2]), int(words[3]))
