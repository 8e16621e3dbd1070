# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""``fairlead health``: answer load balancers that ask whether this node has endpoints of a service, as kube-proxy does
(pkg/proxy/healthcheck/service_health.go). Started by fairlead-health.path."""

from __future__ import annotations

import argparse
import contextlib
import http
import json
import os
import selectors
import socket
import socketserver
import sys
import threading
import time
from typing import Any, Dict, Optional, Sequence, Tuple

from .._model.errors import FairleadError
from .._model.health_check import HealthCheck, parse_health_checks
from .._system.files import HEALTH_CHECKS

# Seconds after which a changed file is seen, and in which a client has to say what it wants.
_PERIOD, _PATIENCE = 1.0, 5.0
# Clients at one time, of all ports; more are turned away. What is read of a request, in bytes.
_CLIENTS, _LONGEST = 256, 65536
_END_OF_HEAD = b"\r\n\r\n"
Place = Tuple[int, int]


def main(arguments: Sequence[str]) -> int:
    """0 when nobody has to be answered any more, or another version of the runtime is to do it; 1 when the file cannot
    be understood."""
    parser = argparse.ArgumentParser(
        prog="fairlead health",
        description="Answer health checks of load balancers, at the ports that services declare for it, until the file "
        "that tells of them is gone: 200 where the node has ready endpoints of a service, 503 where it has none.",
    )
    parser.add_argument("--file", default=HEALTH_CHECKS, help="where module cluster_service tells of them")
    options = parser.parse_args(arguments)
    try:
        Responder(options.file, sys.argv[0]).run()
    except (FairleadError, ValueError, OSError) as error:
        sys.stderr.write(f"fairlead health: {options.file}: {error}\n")
        return 1
    return 0


class Responder:
    """Listens at all addresses of the node. ``program`` is the path that it was started by, which leads to another
    version after an upgrade."""

    def __init__(self, path: str, program: str) -> None:
        self.path, self.program = path, program
        self._version = os.path.realpath(program)
        self._text: Optional[str] = None
        self._ports: Dict[Place, _Port] = {}
        self._refused: Dict[Place, str] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Until there is no file. Raises what reading the file does."""
        renewed = 0.0
        try:
            while True:
                if time.monotonic() - renewed >= _PERIOD:
                    if os.path.realpath(self.program) != self._version or not self._renew():
                        return
                    renewed = time.monotonic()
                for key, _events in self._selector.select(_PERIOD):
                    assert isinstance(key.data, _Port)
                    key.data.handle_request()
        finally:
            for place in list(self._ports):
                self._close(place)

    def _renew(self) -> bool:
        """Listen where the file says; False when it is gone."""
        try:
            with open(self.path, encoding="utf-8") as stream:
                text = stream.read()
        except FileNotFoundError:
            return False
        except OSError:
            # Load balancers are not told the end for what may pass.
            if self._text is None:
                raise
            return True
        if text != self._text or self._refused:
            checks = {(check.version.family, check.port): check for check in parse_health_checks(text)}
            for place in self._ports.keys() - checks.keys():
                self._close(place)
            for place, check in checks.items():
                self._open(place, check)
            self._text = text
        return True

    def _open(self, place: Place, check: HealthCheck) -> None:
        """A port that is taken is tried again, and told of once."""
        problem = self._refused.pop(place, "")
        if place not in self._ports:
            try:
                self._ports[place] = _Port(place)
                self._selector.register(self._ports[place], selectors.EVENT_READ, self._ports[place])
            except OSError as error:
                self._refused[place] = f"{check.service}: port {check.port} over {check.version}: {error.strerror}"
                if self._refused[place] != problem:
                    sys.stderr.write(f"fairlead health: {self._refused[place]}\n")
                return
        self._ports[place].check = check

    def _close(self, place: Place) -> None:
        port = self._ports.pop(place)
        self._selector.unregister(port)
        port.server_close()


class _Port(socketserver.ThreadingTCPServer):
    """One port in one IP version. A slow client holds up nobody."""

    allow_reuse_address = daemon_threads = True
    block_on_close = False
    # Load balancers may ask all at once.
    request_queue_size = 128
    # Never waits: it is asked when there is somebody.
    timeout = 0
    check: HealthCheck
    clients = threading.BoundedSemaphore(_CLIENTS)

    def __init__(self, place: Place) -> None:
        self.address_family = place[0]
        super().__init__(("", place[1]), _Answer)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.clients.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.clients.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.clients.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is nothing to tell of."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Answer(socketserver.BaseRequestHandler):
    """The same for all paths and methods: load balancers ask by GET, HEAD or OPTIONS."""

    request: socket.socket
    server: _Port

    def handle(self) -> None:
        asked = self._head()
        if asked:
            self.request.sendall(_answer(self.server.check, asked.startswith(b"HEAD ")))

    def _head(self) -> bytes:
        """Of the request; empty where none came in time."""
        until, found = time.monotonic() + _PATIENCE, b""
        while _END_OF_HEAD not in found:
            left = until - time.monotonic()
            if left <= 0 or len(found) > _LONGEST:
                return b""
            self.request.settimeout(left)
            with contextlib.suppress(socket.timeout):
                more = self.request.recv(_LONGEST)
                if not more:
                    return b""
                found += more
        return found


def _answer(check: HealthCheck, head_only: bool) -> bytes:
    status = http.HTTPStatus.OK if check.endpoints else http.HTTPStatus.SERVICE_UNAVAILABLE
    namespace, _slash, name = check.service.partition("/")
    found = {"service": {"namespace": namespace, "name": name}, "localEndpoints": check.endpoints}
    body = json.dumps({**found, "serviceProxyHealthy": True})
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        "X-Content-Type-Options: nosniff",
        f"X-Load-Balancing-Endpoint-Weight: {check.endpoints}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "",
        "" if head_only else body,
    ]
    return "\r\n".join(lines).encode()
