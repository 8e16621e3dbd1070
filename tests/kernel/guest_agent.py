# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Runs inside a guest: executes the commands that come over TCP, a connection for each.

A request is one line of JSON with ``command`` (list of words), ``data`` (standard input or null) and ``timeout``
(seconds); the answer is one line with ``status``, ``stdout``, ``stderr``. Uses nothing but the standard library.
"""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
from typing import Any

TIMED_OUT = 124


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline()
        if line:
            self.wfile.write(json.dumps(answer(json.loads(line))).encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            request["command"],
            input=request["data"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=request["timeout"],
            check=False,
        )
    except OSError as error:
        return {"status": 127, "stdout": "", "stderr": str(error)}
    except subprocess.TimeoutExpired:
        return {"status": TIMED_OUT, "stdout": "", "stderr": f"not done after {request['timeout']} s"}
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


if __name__ == "__main__":
    with Server((sys.argv[1], int(sys.argv[2])), Handler) as server:
        server.serve_forever()
