# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""User and password: when the gateway logs in, how often, and that nobody gets to see the password."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._etcd.gateway import (
    Gateway,
    LoginError,
    RefusedError,
    UndeterminedError,
    UnreachableError,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.etcd import Access, parse_access

PASSWORD = 'ten "green" bottles'
Refusal = tuple[int, int, str]
# HTTP status, code and words as etcd gives them.
NO_USER: Refusal = (400, 3, "etcdserver: user name is empty")
OLD_TOKEN: Refusal = (401, 16, "etcdserver: invalid auth token")
OLD_REVISION: Refusal = (400, 3, "etcdserver: revision of auth store is old")
WRONG: Refusal = (400, 3, "etcdserver: authentication failed, invalid user ID or password")
DISABLED: Refusal = (400, 9, "etcdserver: authentication is not enabled")
DENIED: Refusal = (403, 7, "etcdserver: permission denied")
LEADERLESS: Refusal = (503, 14, "etcdserver: no leader")


class Member:
    """An endpoint that knows user ``flannel``. ``calls`` has the path and the token of each request."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str | None]] = []
        self.logins = 0
        self.enabled = True
        # Refusals of requests with a valid token, and of logins, to come.
        self.refusals: list[Refusal] = []
        self.login_refusals: list[Refusal] = []
        # Without an answer to the next request, which was carried out for all anybody knows.
        self.mute = False

    @property
    def token(self) -> str:
        return f"token-{self.logins}"

    def answer(self, path: str, token: str | None, body: dict[str, Any]) -> Refusal | dict[str, Any]:
        self.calls.append((path, token))
        if path == "/v3/auth/authenticate":
            return self._log_in(body)
        if self.enabled and token is None:
            return NO_USER
        if self.enabled and token != self.token:
            return OLD_TOKEN
        return self.refusals.pop(0) if self.refusals else {"ok": True}

    def _log_in(self, body: dict[str, Any]) -> Refusal | dict[str, Any]:
        if self.login_refusals:
            return self.login_refusals.pop(0)
        if not self.enabled:
            return DISABLED
        if body != {"name": "flannel", "password": PASSWORD}:
            return WRONG
        self.logins += 1
        return {"token": self.token}


class Endpoints:
    def __init__(self) -> None:
        self.servers: list[ThreadingHTTPServer] = []

    def serve(self, member: Member) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                found = member.answer(self.path, self.headers["Authorization"], body)
                if member.mute:
                    self.close_connection = True
                    return
                status, data = 200, found
                if isinstance(found, tuple):
                    status, data = found[0], {"code": found[1], "message": found[2]}
                text = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_words: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    made = Endpoints()
    yield made
    for server in made.servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def member() -> Member:
    return Member()


@pytest.fixture
def client(endpoints: Endpoints, member: Member) -> Gateway:
    return gateway(endpoints.serve(member))


def gateway(*urls: str, password: str = PASSWORD, timeout: float = 20) -> Gateway:
    return Gateway(Access(urls, timeout=timeout, username="flannel", password=password))


def test_it_logs_in_once_when_etcd_asks_and_sends_the_bare_token(client: Gateway, member: Member) -> None:
    assert [client.post("kv/range", {}) for _time in range(3)] == [{"ok": True}] * 3
    assert member.calls == [
        ("/v3/kv/range", None),
        ("/v3/auth/authenticate", None),
        *[("/v3/kv/range", "token-1")] * 3,
    ]


def test_nobody_logs_in_where_nobody_asks(client: Gateway, member: Member) -> None:
    member.enabled = False
    client.post("kv/range", {})
    assert member.calls == [("/v3/kv/range", None)]


def test_token_that_ran_out_is_renewed(client: Gateway, member: Member) -> None:
    client.post("kv/range", {})
    member.logins += 1
    assert client.post("kv/txn", {}) == {"ok": True}
    assert [token for path, token in member.calls if path == "/v3/kv/txn"] == ["token-1", "token-3"]


@pytest.mark.parametrize("refusal", [OLD_TOKEN, OLD_REVISION, NO_USER])
def test_token_is_renewed_once_and_no_more(client: Gateway, member: Member, refusal: Refusal) -> None:
    client.post("kv/range", {})
    member.refusals = [refusal]
    assert client.post("kv/txn", {}) == {"ok": True}
    member.refusals = [refusal] * 2
    with pytest.raises(RefusedError, match=refusal[2]):
        client.post("kv/txn", {})
    assert member.logins == 3


def test_authentication_that_was_disabled_meanwhile_is_no_error(client: Gateway, member: Member) -> None:
    def disable(body: dict[str, Any]) -> Refusal:
        member.enabled = False
        return DISABLED

    member._log_in = disable  # type: ignore[method-assign]
    assert client.post("kv/range", {}) == {"ok": True}


def test_wrong_password_is_final_and_is_not_shown(endpoints: Endpoints, member: Member) -> None:
    other = Member()
    client = gateway(endpoints.serve(member), endpoints.serve(other), password="wrong-one")
    with pytest.raises(
        LoginError, match="does not let user flannel in: .*invalid user ID or password; correct"
    ) as caught:
        client.post("kv/range", {})
    assert other.calls == []
    shown = f"{caught.value} {caught.value.__cause__} {client.access!r}"
    assert "wrong-one" not in shown


def test_missing_permission_is_no_reason_to_log_in_again(client: Gateway, member: Member) -> None:
    client.post("kv/range", {})
    member.refusals = [DENIED]
    with pytest.raises(RefusedError, match="permission denied"):
        client.post("kv/txn", {})
    assert member.logins == 1


def test_permission_denied_to_nobody_is_asked_for_again_as_a_user(client: Gateway, member: Member) -> None:
    """Newer releases say so of calls that older ones allow to everybody."""
    member.enabled = False
    member.refusals = [DENIED]

    def grant(body: dict[str, Any]) -> dict[str, Any]:
        member.enabled, member.logins = True, 1
        return {"token": "token-1"}

    member._log_in = grant  # type: ignore[method-assign]
    assert client.post("cluster/member/list", {}) == {"ok": True}


def test_user_that_etcd_asks_for_and_nobody_gave(endpoints: Endpoints, member: Member) -> None:
    with pytest.raises(LoginError, match="user name is empty.*give username and password"):
        Gateway(Access((endpoints.serve(member),), timeout=2)).post("kv/range", {})


def test_login_is_tried_at_the_next_endpoint_too(endpoints: Endpoints, member: Member) -> None:
    lost = Member()
    lost.login_refusals = [LEADERLESS]
    client = gateway(endpoints.serve(lost), endpoints.serve(member))
    assert client.post("kv/range", {}) == {"ok": True}
    assert ("/v3/auth/authenticate", None) in lost.calls
    assert member.logins == 1


def test_login_where_nobody_has_a_leader_is_not_final(client: Gateway, member: Member) -> None:
    member.login_refusals = [LEADERLESS]
    with pytest.raises(UnreachableError, match="no leader") as caught:
        client.post("kv/txn", {})
    assert not isinstance(caught.value, UndeterminedError)


def test_write_that_was_lost_before_a_failed_login_stays_undetermined(endpoints: Endpoints, member: Member) -> None:
    silent = Member()
    silent.mute = True
    member.login_refusals = [WRONG]
    with pytest.raises(UndeterminedError, match="after a first answer was lost"):
        gateway(endpoints.serve(silent), endpoints.serve(member), timeout=3).post("kv/txn", {})


URL = {"endpoints": ["https://192.0.2.11:2379"]}


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"password": PASSWORD}, "username"),
        ({"username": "", "password": PASSWORD}, "username"),
        ({"username": ["x"], "password": PASSWORD}, "username"),
        ({"username": "flannel"}, "password"),
        ({"username": "flannel", "password": ""}, "password"),
        ({"username": "flannel", "password": [PASSWORD]}, "password"),
    ],
)
def test_half_a_user_is_refused_by_name_without_the_password(given: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_access({**URL, **given})
    assert caught.value.path == path
    assert "bottles" not in str(caught.value)


def test_user_and_password_are_taken_and_the_password_has_no_repr() -> None:
    access = parse_access({**URL, "username": "flannel", "password": PASSWORD})
    assert (access.username, access.password) == ("flannel", PASSWORD)
    assert "bottles" not in repr(access)
