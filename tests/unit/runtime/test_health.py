# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Health checks of load balancers, answered on this machine's loopback address by the process that a node has."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.health_check import (
    HealthCheck,
    health_check_text,
    parse_health_checks,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, IPV6
from tests.waiting import wait_until

SECONDS = 120


def free_port() -> int:
    """One that nobody has over any IP version, and that the kernel gives to nobody who asks for any."""
    while True:
        port = random.randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", port))
            return port


class Node:
    def __init__(self, installed: Path, file: Path) -> None:
        self.installed, self.file = installed, file
        self.log = file.with_suffix(".log")

    def tell(self, *checks: HealthCheck) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(health_check_text(checks))
        os.replace(new, self.file)

    @contextlib.contextmanager
    def responder(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [str(self.installed / "bin/fairlead"), "health", "--file", str(self.file)]
        with self.log.open("w") as log:
            process = subprocess.Popen(command, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def node(installed: Path, tmp_path: Path) -> Node:
    return Node(installed, tmp_path / "health_checks.json")


def ask(port: int, address: str = "127.0.0.1", method: str = "GET") -> tuple[int, dict[str, str], bytes] | None:
    """None where nobody answers."""
    connection = http.client.HTTPConnection(address, port, timeout=SECONDS)
    try:
        connection.request(method, "/healthz")
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    except OSError:
        return None
    finally:
        connection.close()


def status(port: int, address: str = "127.0.0.1") -> int:
    """0 where nobody answers."""
    answer = ask(port, address)
    return answer[0] if answer else 0


def test_load_balancer_learns_of_endpoints_and_of_changes(node: Node) -> None:
    some, none, six = free_port(), free_port(), free_port()
    node.tell(
        HealthCheck("default/web", IPV4, some, 2), HealthCheck("a/b", IPV4, none, 0), HealthCheck("a/c", IPV6, six, 1)
    )
    with node.responder() as process:
        wait_until(lambda: ask(some) and ask(none) and ask(six, "::1"), "load balancers get this answer", SECONDS)
        answer = ask(some)
        assert answer is not None
        code, headers, body = answer
        assert (code, headers["X-Load-Balancing-Endpoint-Weight"]) == (200, "2")
        service = {"namespace": "default", "name": "web"}
        assert json.loads(body) == {"service": service, "localEndpoints": 2, "serviceProxyHealthy": True}
        assert status(none) == 503
        # Each IP version has a count of its own.
        assert ask(six) is None and ask(some, "::1") is None
        others = [ask(some, method=method) for method in ("OPTIONS", "POST", "HEAD")]
        assert [(each[0], bool(each[2])) for each in others if each] == [(200, True), (200, True), (200, False)]
        node.tell(HealthCheck("default/web", IPV4, some, 0))
        wait_until(lambda: status(some) == 503, "load balancers get this answer", SECONDS)
        assert ask(none) is None
        node.file.unlink()
        assert process.wait(SECONDS) == 0
    assert ask(some) is None


def answered_beside_a_silent_one(port: int) -> bool:
    """Whether the silent one was there all the while: its time is up after some seconds."""
    with socket.create_connection(("127.0.0.1", port)) as silent:
        assert status(port) == 200
        silent.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            silent.recv(1)
            return False
        return True


def test_silent_client_holds_up_nobody(node: Node) -> None:
    port = free_port()
    node.tell(HealthCheck("default/web", IPV4, port, 1))
    with node.responder():
        wait_until(lambda: ask(port), "load balancers get this answer", SECONDS)
        wait_until(lambda: answered_beside_a_silent_one(port), "one is answered while a silent one waits", SECONDS)


def test_client_that_takes_its_time_is_left_alone(node: Node) -> None:
    """However often it says another word."""
    port = free_port()
    node.tell(HealthCheck("default/web", IPV4, port, 1))
    with node.responder():
        wait_until(lambda: ask(port), "load balancers get this answer", SECONDS)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(0.5)
            started, ended = time.monotonic(), False
            while not ended:
                assert time.monotonic() - started < SECONDS
                with contextlib.suppress(TimeoutError):
                    client.send(b"x")
                    ended = client.recv(1) == b""


def test_clients_that_come_at_once_and_go_without_a_word(node: Node) -> None:
    """Load balancers that try the port alone, and many of them; the journal has nothing of it."""
    port = free_port()
    node.tell(HealthCheck("default/web", IPV4, port, 1))
    reset = struct.pack("ii", 1, 0)
    with node.responder():
        wait_until(lambda: ask(port), "load balancers get this answer", SECONDS)
        for _time in range(3):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        clients = [socket.create_connection(("127.0.0.1", port), timeout=SECONDS) for _client in range(60)]
        try:
            assert status(port) == 200
        finally:
            for client in clients:
                client.close()
    assert node.log.read_text() == ""


def test_another_version_of_the_runtime_takes_over(node: Node, tmp_path: Path) -> None:
    """It ends when the path it was started by leads elsewhere, and is started anew because the file is there."""
    link, other = tmp_path / "current", tmp_path / "other"
    other.mkdir()
    link.symlink_to(node.installed)
    port = free_port()
    node.tell(HealthCheck("default/web", IPV4, port, 1))
    process = subprocess.Popen([str(link / "bin/fairlead"), "health", "--file", str(node.file)])
    try:
        wait_until(lambda: status(port) == 200, "load balancers get this answer", SECONDS)
        # It looks once a second.
        time.sleep(1.2)
        assert process.poll() is None
        link.unlink()
        link.symlink_to(other)
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.wait()


def test_port_of_somebody_else_is_told_of_once_and_taken_when_it_is_free(node: Node) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port, other = taken.getsockname()[1], free_port()
        node.tell(HealthCheck("default/web", IPV4, port, 1), HealthCheck("a/b", IPV4, other, 1))
        with node.responder():
            wait_until(lambda: ask(other), "load balancers get this answer", SECONDS)
            # Twice as long as it takes to try again.
            time.sleep(2.2)
            taken.close()
            wait_until(lambda: status(port) == 200, "load balancers get this answer", SECONDS)
    assert node.log.read_text().splitlines() == [
        f"fairlead health: default/web: port {port} over IPv4: Address already in use"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "Expecting"),
        ('{"checks": [{"service": "a/b", "family": "ipv4", "port": 0, "endpoints": 1}]}', "checks[0].port"),
        ('{"checks": [{"service": "a/b", "family": "ipv5", "port": 1, "endpoints": 1}]}', "checks[0].family"),
    ],
)
def test_file_that_is_not_understood_ends_it_with_the_reason(node: Node, text: str, problem: str) -> None:
    node.file.write_text(text)
    with node.responder() as process:
        assert process.wait(SECONDS) == 1
    assert problem in node.log.read_text()


def test_nobody_to_answer(node: Node) -> None:
    with node.responder() as process:
        assert process.wait(SECONDS) == 0


def test_text_and_back() -> None:
    checks = [HealthCheck("default/web", IPV4, 30090, 1), HealthCheck("default/web", IPV6, 30090, 0)]
    assert parse_health_checks(health_check_text(checks)) == checks
