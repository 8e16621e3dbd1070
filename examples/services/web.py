# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A web server that says which pod it is in and whom it sees: "POD CLIENT". /download?N takes N seconds."""

from __future__ import annotations

import http.server
import socket
import sys
import time

PORT = 8080
_TICK = 0.25


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        client = self.client_address[0].replace("::ffff:", "")
        line = f"{sys.argv[1]} {client}\n".encode()
        path, _mark, seconds = self.path.partition("?")
        lines = int(float(seconds) / _TICK) if path == "/download" else 1
        self.send_response(200)
        self.send_header("Content-Length", str(lines * len(line)))
        self.end_headers()
        for number in range(lines):
            if number:
                time.sleep(_TICK)
            self.wfile.write(line)

    def log_message(self, *_arguments: object) -> None:
        """Nobody reads it."""


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 64


if __name__ == "__main__":
    Server(("::", PORT), Handler).serve_forever()
