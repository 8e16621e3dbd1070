# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Who answers in a namespace, and whom it sees: servers and clients on sockets of namespaces, held by this process.

No process is started for any of it: in an emulated kernel each takes a second.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import errno
import os
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from tests.kernel.namespaces import NETNS_DIR, Namespace

PORT = 8080
REFUSED, SILENT, UNREACHABLE = "refused", "silent", "unreachable"
TYPES = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),
}
#: Seconds within which an answer comes, on a busy machine and through an emulated kernel too.
PATIENCE = 30.0
# Between one client and the next. A guest's kernel keeps track of no more than some thousand connections, and drops the
# packets of another one.
_PAUSE = 0.05
# linux/sched.h
_CLONE_NEWNET = 0x40000000
Result = TypeVar("Result")


def within(namespace: Namespace, work: Callable[[], Result]) -> Result:
    """What ``work`` gives in a namespace. Sockets that it makes stay there."""

    def enter() -> Result:
        handle = os.open(NETNS_DIR / namespace.name, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"cannot enter {namespace.name}")
        finally:
            os.close(handle)
        return work()

    # A thread can enter a namespace alone, and this one ends there.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(enter).result()


def has_sctp() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, *TYPES["sctp"]):
        return True
    return False


class Servers:
    """Tell their name and the address that they see, "p1 10.244.1.2", until the end of the block."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def add(self, namespace: Namespace, name: str, protocol: str = "tcp", port: int = PORT) -> None:
        """At all addresses of the namespace."""
        listener = within(namespace, lambda: _listener(protocol, port))
        self._selector.register(listener, selectors.EVENT_READ, (name, protocol))

    def __enter__(self) -> Servers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            for key, _events in self._selector.select(0.1):
                with contextlib.suppress(OSError):
                    _answer(key.fileobj, *key.data)  # type: ignore[arg-type]


def ask(
    namespace: Namespace, address: str, port: int = 80, protocol: str = "tcp", source: str = "", wait: float = PATIENCE
) -> str:
    """What a server says, REFUSED, UNREACHABLE, or SILENT after ``wait`` seconds."""
    return within(namespace, lambda: _ask(address, port, protocol, source, wait))


def spread(namespace: Namespace, address: str, port: int = 80, protocol: str = "tcp", times: int = 2) -> list[str]:
    """Answers to one client after the other, sorted."""
    return within(namespace, lambda: sorted(_ask(address, port, protocol, "", PATIENCE) for _time in range(times)))


def burst(namespace: Namespace, address: str, port: int, count: int) -> None:
    """Packets of one UDP client, none of which waits for an answer."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((address, port))
            for _packet in range(count):
                client.send(b"?")

    within(namespace, send)


def _listener(protocol: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6, *TYPES[protocol])
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if protocol != "udp":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", port))
    if protocol != "udp":
        listener.listen(64)
    return listener


def _answer(listener: socket.socket, name: str, protocol: str) -> None:
    if protocol == "udp":
        _data, peer = listener.recvfrom(100)
        listener.sendto(_text(name, peer), peer)
        return
    connection, peer = listener.accept()
    with connection:
        connection.sendall(_text(name, peer))


def _text(name: str, peer: tuple[str, int]) -> bytes:
    return f"{name} {peer[0].removeprefix('::ffff:')}".encode()


def _ask(address: str, port: int, protocol: str, source: str, wait: float) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, *TYPES[protocol]) as client:
        client.settimeout(wait)
        try:
            if source:
                client.bind((source, 0))
            client.connect((address, port))
            if protocol == "udp":
                client.send(b"?")
            return client.recv(100).decode()
        except (ConnectionRefusedError, PermissionError):
            # The second one where the packet filter of the client's own namespace refuses a UDP packet.
            return REFUSED
        except TimeoutError:
            return SILENT
        except OSError as error:
            if error.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                raise
            return UNREACHABLE


def echo(namespace: Namespace, address: str, wait: float = PATIENCE) -> bool:
    """Whether a ping is answered."""
    return within(namespace, lambda: _echo(address, wait))


def _echo(address: str, wait: float) -> bool:
    six = ":" in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    # RFC 792, RFC 4443: type, code, checksum (of IPv6 by the kernel), identifier, number.
    request = bytes((128, 0, 0, 0, 0, 7, 0, 1)) if six else bytes((8, 0, 0xF7, 0xF7, 0, 7, 0, 1))
    with socket.socket(family, socket.SOCK_RAW, protocol) as client:
        client.settimeout(wait)
        client.connect((address, 0))
        client.send(request)
        with contextlib.suppress(TimeoutError):
            while True:
                message = client.recv(1000)[0 if six else 20 :]
                if message[0] == (129 if six else 0) and message[4:8] == request[4:8]:
                    return True
    return False


@contextlib.contextmanager
def asking(namespace: Namespace, address: str, port: int = 80, protocol: str = "tcp") -> Iterator[list[str]]:
    """One client after the other all the while; the list gains their answers."""
    answers: list[str] = []
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(_PAUSE):
            answers.append(_ask(address, port, protocol, "", PATIENCE))

    thread = threading.Thread(target=within, args=(namespace, work), daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()
