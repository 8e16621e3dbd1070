# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""``fairlead health``: answer load balancers that ask whether this node has endpoints of a service, as kube-proxy does
(pkg/proxy/healthcheck/service_health.go). Started by fairlead-health.path."""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import socketserver
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Dict, Optional, Sequence, Tuple

from .._desired.cluster_service import HEALTH_CHECKS
from .._model.errors import FairleadError
from .._model.health_check import HealthCheck, parse_health_checks

# Seconds after which a changed file is seen, and after which a client that says nothing is left alone.
_PERIOD, _PATIENCE = 1.0, 5.0
_OK, _UNAVAILABLE = 200, 503
Place = Tuple[int, int]


def main(arguments: Sequence[str]) -> int:
    """0 when nobody has to be answered any more; 1 when the file cannot be understood."""
    parser = argparse.ArgumentParser(
        prog="fairlead health",
        description="Answer health checks of load balancers, at the ports that services declare for it, until the file "
        "that tells of them is gone: 200 where the node has ready endpoints of a service, 503 where it has none.",
    )
    parser.add_argument("--file", default=HEALTH_CHECKS, help="where module cluster_service tells of them")
    options = parser.parse_args(arguments)
    try:
        Responder(options.file).run()
    except (FairleadError, ValueError, OSError) as error:
        sys.stderr.write(f"fairlead health: {options.file}: {error}\n")
        return 1
    return 0


class Responder:
    """Listens at all addresses of the node."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._text: Optional[str] = None
        self._ports: Dict[Place, _Port] = {}
        self._refused: Dict[Place, str] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Until there is no file. Raises what reading the file does."""
        try:
            while self._renew():
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


class _Port(socketserver.ThreadingMixIn, HTTPServer):
    """One port in one IP version. A slow client holds up nobody."""

    daemon_threads = True
    block_on_close = False
    # Never waits: it is asked when there is somebody.
    timeout = 0
    check: HealthCheck

    def __init__(self, place: Place) -> None:
        self.address_family = place[0]
        super().__init__(("", place[1]), _Answer)

    def server_bind(self) -> None:
        """Without the look-up of a name that HTTPServer makes."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        socketserver.TCPServer.server_bind(self)


class _Answer(BaseHTTPRequestHandler):
    """The same for all paths and methods: load balancers ask by GET, HEAD or OPTIONS."""

    timeout = _PATIENCE
    server: _Port

    def do_GET(self) -> None:
        check = self.server.check
        namespace, _slash, name = check.service.partition("/")
        found = {"service": {"namespace": namespace, "name": name}, "localEndpoints": check.endpoints}
        body = json.dumps({**found, "serviceProxyHealthy": True}).encode()
        self.send_response(_OK if check.endpoints else _UNAVAILABLE)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Load-Balancing-Endpoint-Weight", str(check.endpoints))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_OPTIONS(self) -> None:
        self.do_GET()

    def log_message(self, *_args: object) -> None:
        """Nothing: load balancers ask all the time."""
