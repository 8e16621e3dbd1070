# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Proof of connectivity by packets alone: a responder that says what it saw, and a prober that asks it.

Command ``fairlead probe``: ``serve`` answers each TCP connection, and each datagram that asks for it, with the address
it came from and its size. ``run`` reads ``{targets: [{name, address, port}], count, timeout, wait}`` and prints
``{results: [...]}``, see ``examine``. Nothing here knows what the cluster should look like. Standard library only; both
ends are this file.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import errno
import fcntl
import json
import os
import secrets
import selectors
import socket
import statistics
import struct
import sys
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

MAGIC = b"fairlead-probe 1 "
_NONCE_LENGTH = 16
# A request is never smaller than its answer, so that a responder cannot be used to multiply traffic.
REQUEST_LENGTH = 160
# linux/in.h, linux/in6.h: not all of these have names in Python.
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_PROBE = 10, 23, 3
IP_PKTINFO, IPV6_RECVPKTINFO, IPV6_PKTINFO, IPV6_DONTFRAG = 8, 49, 50, 62
IP_MTU, IPV6_MTU = 14, 24
# linux/sockios.h
SIOCGIFADDR, SIOCGIFMTU = 0x8915, 0x8921
# RFC 791 and RFC 8200: what every link of each family carries; header of IP and UDP together.
MTU_LOWEST = {socket.AF_INET: 68, socket.AF_INET6: 1280}
OVERHEAD = {socket.AF_INET: 28, socket.AF_INET6: 48}
MTU_HIGHEST = 65535
# Datagrams may be lost without anything being wrong.
_TRIES = 3
# Seconds for an answer once small ones have come: where large packets vanish silently, each size costs two of these.
# On a slow path, or to a busy machine, so many times as long as the small one took.
_LARGE_TIMEOUT, _LARGE_ROUND_TRIPS = 0.5, 4
# So often a large packet has to be lost, and so often it is sent at most while small ones are not answered either.
_LOST, _BUSY_ROUNDS = 2, 6
_PARALLEL = 16


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="fairlead probe", description="Prove connectivity between nodes and pods.")
    arguments(parser)
    return run(parser.parse_args(words))


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True)
    serve_parser = commands.add_parser("serve", help="answer probes with the source address and size seen")
    serve_parser.add_argument("--port", type=int, required=True, help="TCP and UDP port")
    serve_parser.add_argument("--seconds", type=float, default=0, help="end after this time (default: never)")
    commands.add_parser("run", help="probe the targets given as JSON on standard input")


def run(options: argparse.Namespace) -> int:
    """0 when what was asked for was done, whatever the probes found."""
    if options.action == "serve":
        return serve(options.port, options.seconds)
    print(json.dumps({"results": probe(json.load(sys.stdin))}))
    return 0


# --- the responder


def serve(port: int, seconds: float) -> int:
    """Answer on all addresses until told to end; 1 when the port is taken."""
    selector = selectors.DefaultSelector()
    try:
        for sock, answer in _listeners(port):
            selector.register(sock, selectors.EVENT_READ, answer)
    except OSError as error:
        print(f"port {port}: {error.strerror or error}", file=sys.stderr)
        return 1
    _notify_ready()
    end = time.monotonic() + seconds if seconds else float("inf")
    while time.monotonic() < end:
        for key, _events in selector.select(min(1.0, max(0.0, end - time.monotonic()))):
            # One peer's trouble (gone, unreachable) is not the others'.
            with contextlib.suppress(OSError):
                key.data(key.fileobj)
    return 0


def _listeners(port: int) -> Iterator[Tuple[socket.socket, Any]]:
    for family, wildcard in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            stream = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            if family == socket.AF_INET6:
                return
            raise
        datagram = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            for sock in (stream, datagram):
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            datagram.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        else:
            datagram.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stream.bind((wildcard, port))
        stream.listen(128)
        datagram.bind((wildcard, port))
        yield stream, _answer_stream
        yield datagram, _answer_datagram


def _answer_stream(listener: socket.socket) -> None:
    connection, peer = listener.accept()
    with connection:
        connection.settimeout(1)
        connection.sendall(json.dumps({"source": peer[0]}).encode() + b"\n")


def _answer_datagram(sock: socket.socket) -> None:
    data, ancillary, _flags, peer = sock.recvmsg(MTU_HIGHEST, 256)
    if not data.startswith(MAGIC) or len(data) < REQUEST_LENGTH:
        return
    nonce = data[len(MAGIC) : len(MAGIC) + _NONCE_LENGTH].decode("ascii", "replace")
    asked, reply_from = _asked_address(ancillary)
    answer = {"nonce": nonce, "source": peer[0], "size": len(data), "mtu": mtu_of(sock, asked)}
    text = json.dumps(answer, separators=(",", ":")).encode()
    sock.sendmsg([text[:REQUEST_LENGTH]], reply_from, 0, peer)


def _asked_address(ancillary: Sequence[Tuple[int, int, bytes]]) -> Tuple[str, List[Tuple[int, int, bytes]]]:
    """The address that was asked, and what makes the answer come from it: a node has many, and routing alone would
    choose another one.
    """
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            _index, _local, asked = struct.unpack_from("=I4s4s", data)
            reply_from = struct.pack("=I4s4s", 0, asked, bytes(4))
            return socket.inet_ntop(socket.AF_INET, asked), [(level, kind, reply_from)]
        if (level, kind) == (socket.IPPROTO_IPV6, IPV6_PKTINFO):
            asked, index = struct.unpack_from("=16sI", data)
            link_local = asked[0] == 0xFE and asked[1] & 0xC0 == 0x80
            reply_from = struct.pack("=16sI", asked, index if link_local else 0)
            return socket.inet_ntop(socket.AF_INET6, asked), [(level, kind, reply_from)]
    return "", []


def _notify_ready() -> None:
    """sd_notify(3): tells systemd that the sockets are there."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"READY=1", "\0" + path[1:] if path.startswith("@") else path)


# --- the prober


def probe(request: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """Results in the order of targets. Round trips are measured one after the other, in a quiet process."""
    targets: List[Mapping[str, Any]] = list(request["targets"])
    timeout, count = float(request.get("timeout", 1)), int(request.get("count", 5))
    end = time.monotonic() + float(request.get("wait", 0))
    results: Dict[int, Dict[str, Any]] = {}
    while True:
        open_ones = [index for index in range(len(targets)) if not results.get(index, {}).get("reachable")]
        with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
            found = pool.map(lambda index: examine(targets[index], timeout), open_ones)
            results.update(zip(open_ones, found))
        if all(result["reachable"] for result in results.values()) or time.monotonic() >= end:
            break
        time.sleep(0.5)
    for index, target in enumerate(targets):
        if results[index]["reachable"]:
            results[index]["rtt_ms"] = round_trip(target, timeout, count)
    return [results[index] for index in range(len(targets))]


def examine(target: Mapping[str, Any], timeout: float) -> Dict[str, Any]:
    """``{name, address, reachable, local_address, seen_sources, rtt_ms, path_mtu, interface_mtu, peer_mtu, error}``.

    Reachable means that TCP and UDP both were answered. MTUs in bytes with IP header, None when not found out:
    ``interface_mtu`` of the interface with our address, ``peer_mtu`` of that with the address asked.
    """
    result: Dict[str, Any] = {
        "name": target["name"],
        "address": target["address"],
        "reachable": False,
        "local_address": None,
        "seen_sources": [],
        "rtt_ms": None,
        "path_mtu": None,
        "interface_mtu": None,
        "peer_mtu": None,
        "error": "",
    }
    try:
        seen = [_ask_stream(target, timeout)]
        with _asker(target, timeout) as asker:
            result["local_address"] = asker.local_address
            answer = asker.ask_small()
            seen.append(str(answer["source"]))
            result["peer_mtu"] = answer["mtu"]
            result["interface_mtu"] = asker.interface_mtu()
            result["path_mtu"] = asker.largest(result["interface_mtu"])
        result["seen_sources"] = sorted(set(seen))
        result["reachable"] = True
    except UnansweredError as error:
        result["error"] = str(error)
    return result


def round_trip(target: Mapping[str, Any], timeout: float, count: int) -> Optional[float]:
    """Median of ``count`` small datagrams in milliseconds, None when none came back."""
    samples = []
    with contextlib.suppress(UnansweredError), _asker(target, timeout) as asker:
        for _number in range(count):
            started = time.perf_counter()
            if asker.ask(REQUEST_LENGTH, tries=1) is not None:
                samples.append(time.perf_counter() - started)
    return round(statistics.median(samples) * 1000, 3) if samples else None


class UnansweredError(Exception):
    """Why a target counts as not reachable."""


def _ask_stream(target: Mapping[str, Any], timeout: float) -> str:
    """The source address that the other side saw."""
    try:
        # A lost first packet is sent again after a second.
        stream = socket.create_connection((target["address"], target["port"]), timeout=timeout + 1.5)
        with stream, stream.makefile("rb") as lines:
            return str(json.loads(lines.readline())["source"])
    except (OSError, ValueError, KeyError) as error:
        raise UnansweredError(f"TCP: {_reason(error)}") from error


@contextlib.contextmanager
def _asker(target: Mapping[str, Any], timeout: float) -> Iterator[Asker]:
    family = socket.AF_INET6 if ":" in target["address"] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect((target["address"], target["port"]))
            # PROBE: always "don't fragment", and no regard to a path MTU that the kernel remembers.
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        except OSError as error:
            raise UnansweredError(f"UDP: {_reason(error)}") from error
        yield Asker(sock)


class Asker:
    """Datagrams to one responder over a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.overhead = OVERHEAD[socket.AddressFamily(sock.family)]
        self.local_address: str = sock.getsockname()[0]
        self.round_trip = 0.0
        # Payload lengths: of each request, by its nonce; and of those of which one came whole, however late we heard.
        self._sent: Dict[str, int] = {}
        self._arrived: Set[int] = set()

    def ask_small(self) -> Dict[str, Any]:
        answer = self.ask(REQUEST_LENGTH)
        if answer is None:
            raise UnansweredError(f"UDP: no answer within {self.sock.gettimeout():g} s, asked {_TRIES} times")
        return answer

    def ask(self, length: int, tries: int = _TRIES) -> Optional[Dict[str, Any]]:
        """Send a payload of ``length`` bytes. None when it was too large for the path, or got no answer."""
        for _try in range(tries):
            nonce = secrets.token_hex(_NONCE_LENGTH // 2)
            self._sent[nonce] = length
            try:
                started = time.monotonic()
                self.sock.send((MAGIC + nonce.encode()).ljust(length, b"\0"))
                answer = self._answer_to(nonce)
                self.round_trip = max(self.round_trip, time.monotonic() - started)
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    return None
                if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPERM):
                    raise UnansweredError(f"UDP: {_reason(error)}") from error
                continue
            if answer["size"] == length:
                return answer
        return None

    def _answer_to(self, nonce: str) -> Dict[str, Any]:
        """The next answer that belongs to the request; late ones to earlier requests are taken note of."""
        while True:
            with contextlib.suppress(ValueError):
                answer = json.loads(self.sock.recv(4096))
                if not isinstance(answer, dict):
                    continue
                length = self._sent.get(str(answer.get("nonce")))
                if length is not None and answer.get("size") == length:
                    self._arrived.add(length)
                if answer.get("nonce") == nonce:
                    return answer

    def interface_mtu(self) -> int:
        """MTU of the interface that packets to the target leave by: what the whole path should carry."""
        mtu = mtu_of(self.sock, self.local_address)
        if mtu is not None:
            return mtu
        if self.sock.family == socket.AF_INET6:
            return self.sock.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)
        return self.sock.getsockopt(socket.IPPROTO_IP, IP_MTU)

    def largest(self, full: int) -> Optional[int]:
        """Size of the largest packet that arrives unfragmented, at most ``full``."""
        enough = max(_LARGE_TIMEOUT, _LARGE_ROUND_TRIPS * self.round_trip)
        self.sock.settimeout(min(self.sock.gettimeout() or enough, enough))
        if self._passes(full):
            return full
        low = max(MTU_LOWEST[socket.AddressFamily(self.sock.family)], REQUEST_LENGTH + self.overhead)
        if not self._passes(low):
            return None
        while full - low > 1:
            middle = (low + full) // 2
            low, full = (middle, full) if self._passes(middle) else (low, middle)
        return low

    def _passes(self, size: int) -> bool:
        """Whether packets of this size arrive. UnansweredError when small ones do not any more either."""
        length, lost = size - self.overhead, 0
        for _round in range(_BUSY_ROUNDS):
            if self.ask(length, tries=1) is not None:
                return True
            # Silence tells of the size only where a small one, sent next, is answered: else somebody is busy.
            small = self.ask(REQUEST_LENGTH, tries=1)
            if length in self._arrived:
                return True
            lost += small is not None
            if lost == _LOST:
                return False
        raise UnansweredError("UDP: answers have stopped while the path MTU was looked for")


def mtu_of(sock: socket.socket, address: str) -> Optional[int]:
    """MTU of the interface that has the address, None when none has."""
    for _index, name in socket.if_nameindex():
        if address in _addresses(sock, name):
            return min(_interface_value(sock, SIOCGIFMTU, name), MTU_HIGHEST)
    return None


def _addresses(sock: socket.socket, interface: str) -> List[str]:
    if sock.family == socket.AF_INET6:
        return _ipv6_addresses(interface)
    with contextlib.suppress(OSError):
        raw = fcntl.ioctl(sock.fileno(), SIOCGIFADDR, struct.pack("=16s240x", interface.encode()))
        return [socket.inet_ntop(socket.AF_INET, raw[20:24])]
    return []


def _ipv6_addresses(interface: str) -> List[str]:
    """/proc/net/if_inet6: address in hexadecimal, index, prefix length, scope, flags, name."""
    with open("/proc/net/if_inet6", encoding="ascii") as stream:
        rows = [line.split() for line in stream]
    return [socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0])) for row in rows if row[5] == interface]


def _interface_value(sock: socket.socket, request: int, interface: str) -> int:
    raw = fcntl.ioctl(sock.fileno(), request, struct.pack("=16s240x", interface.encode()))
    return int(struct.unpack_from("=i", raw, 16)[0])


def _reason(error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return "no answer in time"
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return "the answer is not a responder's"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
