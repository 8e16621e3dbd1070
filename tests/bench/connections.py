# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""How long it takes a client to connect through a virtual service, and to the server behind it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.kernel.namespaces import Namespace

CONNECTIONS = 500
NODE, SERVER, PORT = "192.0.2.1", "192.0.2.2", 8080
ADDRESS, SERVICE_PORT = "10.127.0.1", 80
_CLIENT = """
import socket, sys, time
def connect():
    with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as one:
        one.recv(1)
connect()
started = time.perf_counter()
for _ in range(int(sys.argv[3])):
    connect()
print((time.perf_counter() - started) / int(sys.argv[3]))
"""
_SERVER = f"""
import socket
with socket.create_server(("{SERVER}", {PORT}), backlog=128) as listening:
    print("ready", flush=True)
    while True:
        one, _peer = listening.accept()
        one.sendall(b"x")
        one.close()
"""


@contextmanager
def server(node: Namespace) -> Iterator[None]:
    """A server in a namespace beside the node, which has the address of the service in front of it."""
    beside = Namespace("server")
    try:
        node.run(f"ip link add bench type veth peer name eth0 netns {beside.name}")
        node.run(f"ip address add {NODE}/24 dev bench")
        node.run("ip link set bench up")
        node.run(f"ip address add {ADDRESS}/32 dev lo")
        beside.run(f"ip address add {SERVER}/24 dev eth0")
        beside.run("ip link set eth0 up")
        beside.run(f"ip route add default via {NODE}")
        process = beside.start([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield
    finally:
        beside.remove()


def seconds_of_one(node: Namespace, address: str, port: int) -> float:
    """Of one connection, on average."""
    return float(node.out([sys.executable, "-c", _CLIENT, address, str(port), str(CONNECTIONS)]))
