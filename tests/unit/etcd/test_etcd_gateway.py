# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Fail-over between endpoints and the meaning of answers, against small HTTP servers on loopback."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._etcd.gateway import (
    Gateway,
    RefusedError,
    UndeterminedError,
    UnreachableError,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.etcd import Access

Answer = tuple[int, str]
Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start an endpoint that gives these answers one after the other, and then the last one again and again."""
    servers: list[ThreadingHTTPServer] = []

    def start(*answers: Answer, close: bool = False) -> str:
        left = list(answers)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802
                self.rfile.read(int(self.headers["Content-Length"]))
                status, body = left.pop(0) if len(left) > 1 else left[0]
                if not status:
                    # Carried out, for all anybody knows; nothing is said.
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())
                self.close_connection = close

            def log_message(self, *_words: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def gateway(*endpoints: str) -> Gateway:
    return Gateway(Access(tuple(endpoints), timeout=20))


GOOD = (200, '{"header": {"revision": "7"}}')
NO_LEADER = (503, json.dumps({"error": "etcdserver: no leader", "code": 14, "message": "etcdserver: no leader"}))
TIMED_OUT = (504, json.dumps({"code": 4, "message": "context deadline exceeded"}))
# Releases from 3.6 on have no "error" any more.
NO_SPACE = (429, json.dumps({"code": 8, "message": "etcdserver: mvcc: database space exceeded", "details": []}))
PROXY = (502, "<html>Bad Gateway</html>")
DEAD = "http://127.0.0.1:1"
GONE = (0, "")


@pytest.mark.parametrize("failure", [NO_LEADER, TIMED_OUT, PROXY, (200, "no json"), (200, "[]")])
def test_endpoint_that_cannot_serve_is_passed_over(serve: Serve, failure: Answer) -> None:
    assert gateway(DEAD, serve(failure), serve(GOOD)).post("kv/range", {}) == {"header": {"revision": "7"}}


def test_endpoint_that_never_answers_is_passed_over_in_time(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        client = Gateway(Access((url, serve(GOOD)), timeout=3))
        assert client.post("kv/range", {}) == {"header": {"revision": "7"}}
        assert time.monotonic() - started < 60
        with pytest.raises(UndeterminedError, match=f"{url}: no answer in time"):
            Gateway(Access((url,), timeout=1)).post("kv/txn", {})


def test_endpoint_that_worked_is_asked_first_next_time(serve: Serve) -> None:
    bad, good = serve(NO_LEADER, GOOD), serve((200, '{"from": "good"}'))
    client = gateway(bad, good)
    assert client.post("kv/range", {}) == {"from": "good"}
    assert client.post("kv/range", {}) == {"from": "good"}


def test_refusal_is_final_and_says_why(serve: Serve) -> None:
    with pytest.raises(RefusedError, match="database space exceeded") as caught:
        gateway(serve(NO_SPACE), serve(GOOD)).post("kv/put", {})
    assert caught.value.code == 8


@pytest.mark.parametrize("lost", [TIMED_OUT, PROXY, GONE])
def test_refusal_after_a_lost_answer_says_nothing_of_the_first_attempt(serve: Serve, lost: Answer) -> None:
    with pytest.raises(UndeterminedError, match="database space exceeded.*after a first answer was lost"):
        gateway(serve(lost), serve(NO_SPACE)).post("kv/txn", {})


def test_refusal_after_an_endpoint_that_is_dead_is_final(serve: Serve) -> None:
    with pytest.raises(RefusedError):
        gateway(DEAD, serve(NO_SPACE)).post("kv/txn", {})


def test_refused_read_is_final_whatever_was_before(serve: Serve) -> None:
    with pytest.raises(RefusedError):
        gateway(serve(TIMED_OUT), serve(NO_SPACE)).post("kv/range", {})


@pytest.mark.parametrize(("path", "unknown"), [("kv/txn", True), ("kv/range", False)])
def test_write_without_any_answer_is_undetermined(serve: Serve, path: str, unknown: bool) -> None:
    with pytest.raises(UnreachableError) as caught:
        gateway(DEAD, serve(GONE)).post(path, {})
    assert isinstance(caught.value, UndeterminedError) is unknown


def test_write_that_reached_nobody_is_not_undetermined() -> None:
    with pytest.raises(UnreachableError) as caught:
        gateway(DEAD).post("kv/txn", {})
    assert not isinstance(caught.value, UndeterminedError)
    assert caught.value.strangers == ()


def test_all_failures_are_listed(serve: Serve) -> None:
    leaderless = serve(NO_LEADER)
    with pytest.raises(UnreachableError) as caught:
        gateway(DEAD, leaderless).post("kv/range", {})
    assert f"{DEAD}: [Errno 111] Connection refused" in str(caught.value)
    assert f"{leaderless}: etcdserver: no leader" in str(caught.value)


def test_connection_that_etcd_closed_meanwhile_is_no_failure(serve: Serve) -> None:
    client = gateway(serve(GOOD, close=True))
    for _time in range(3):
        assert client.post("kv/range", {}) == {"header": {"revision": "7"}}
