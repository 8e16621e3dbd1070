# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Two streams of UDP packets at once: in one, each packet opens a flow of its own, so that rules are asked about it
anew; the other one is a single flow that lasts. What the echo server of ``packets`` saw is counted."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.kernel.namespaces import Namespace
from tests.kernel.packets import END_SECONDS, LOST_SECONDS, PORT

LOST = "lost"
PAUSE = 0.001
#: Packets of each stream: it goes on for as long as that takes.
LEAST = 101
_START = f"""import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
from tests.kernel.fresh_flows import stream
stream(sys.argv[1], int(sys.argv[2]))
"""


@dataclasses.dataclass
class Seen:
    """How often the server saw which source address; LOST counts packets without an answer."""

    lasting: dict[str, int] = dataclasses.field(default_factory=dict)
    fresh: dict[str, int] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def flows(namespace: Namespace, address: str, port: int = PORT) -> Iterator[Seen]:
    """Packets all the while; the counts are there after the block."""
    command = [sys.executable, "-c", _START, address, str(port)]
    process = namespace.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    seen = Seen()
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield seen
        output, _errors = process.communicate(timeout=END_SECONDS)
        counts = json.loads(output)
        seen.lasting, seen.fresh = counts["lasting"], counts["fresh"]
    finally:
        process.kill()
        process.communicate()


def stream(address: str, port: int) -> None:
    """Prints "ready", and the counts when standard input ends."""
    end = threading.Event()
    counts: dict[str, collections.Counter[str]] = {"lasting": collections.Counter(), "fresh": collections.Counter()}
    streams = [threading.Thread(target=_ask, args=(address, port, kind, counts[kind], end)) for kind in counts]
    for each in streams:
        each.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    end.set()
    for each in streams:
        each.join()
    sys.stdout.write(json.dumps(counts))


def _ask(address: str, port: int, kind: str, counts: collections.Counter[str], end: threading.Event) -> None:
    client = _client(address, port)
    while not end.wait(PAUSE) or counts.total() < LEAST:
        counts[_seen(client)] += 1
        if kind == "fresh":
            client.close()
            client = _client(address, port)
    client.close()


def _client(address: str, port: int) -> socket.socket:
    client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(LOST_SECONDS)
    client.connect((address, port))
    return client


def _seen(client: socket.socket) -> str:
    try:
        client.send(bytes(64))
        return client.recv(65535).decode().strip()
    except OSError:
        return LOST
