# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Calls to etcd's JSON gateway (3.4 and newer, prefix /v3), with fail-over between endpoints.

One connection is kept while it works. An endpoint that does not answer, or says that it cannot serve just now, is
passed over for the next; an answer that refuses the request is final. A user logs in when etcd first asks for it: what
needs no user, such as the state of a member without a leader, can be asked for where nobody could log in.
"""

from __future__ import annotations

import base64
import dataclasses
import http.client
import json
import socket
import ssl
import urllib.parse
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .._model.errors import FairleadError, PrerequisiteError, ReadError
from .._model.etcd import Access

# Codes of google.rpc.Code with which a member says that another one may do better: deadline exceeded, unavailable.
_TRY_ANOTHER = (4, 14)
NOT_FOUND, PERMISSION_DENIED, UNAUTHENTICATED = 5, 7, 16
# With which etcd asks for a user, or for a new token in place of one that ran out or was made void. The first two have
# the code of an invalid argument, so that only their words tell (api/v3rpc/rpctypes/error.go, as etcd's own client).
_NO_USER, _OLD_TOKEN = "etcdserver: user name is empty", "etcdserver: revision of auth store is old"
_NO_AUTHENTICATION = "etcdserver: authentication is not enabled"
# Its gateway would take a certificate's common name for the user, cannot, and therefore serves no such certificate
# while authentication is enabled (embed/serve.go).
_COMMON_NAME = "CommonName of client sending a request against gateway"
# Of an answer that is not etcd's JSON, characters to show.
_LONGEST_WORDS = 200
# Calls that change something.
_WRITES = ("/v3/kv/txn", "/v3/kv/put", "/v3/kv/deleterange", "/v3/lease/grant", "/v3/lease/revoke")


class UnreachableError(ReadError):
    """No endpoint answered.

    ``strangers`` are endpoints at which somebody is, whom TLS keeps apart from us: ``URL: reason`` each.
    """

    def __init__(self, message: str, strangers: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.strangers = tuple(strangers)


class UndeterminedError(UnreachableError):
    """A write was sent, and nobody said what became of it: it may have happened, or may yet happen."""


class RefusedError(FairleadError):
    """Etcd answered, and the answer was no. ``code`` is that of google.rpc.Code."""

    def __init__(self, path: str, code: int, message: str) -> None:
        super().__init__(f"etcd refused {path}: {message} (code {code})")
        self.code, self.reason = code, message

    @property
    def wants_token(self) -> bool:
        return self.code == UNAUTHENTICATED or self.reason in (_NO_USER, _OLD_TOKEN)


class LoginError(FairleadError):
    """Etcd knows its users, and does not let us in as one of them."""


class _PassOverError(Exception):
    """This endpoint cannot serve the request now."""


@dataclasses.dataclass
class _Attempts:
    """What one call has gone through: why endpoints were passed over, and whether one of them may have acted on it."""

    failures: List[str] = dataclasses.field(default_factory=list)
    strangers: List[str] = dataclasses.field(default_factory=list)
    lost: bool = False

    def note(self, endpoint: str, error: Exception, shaken: bool) -> None:
        """``shaken``: whether the two sides had shaken hands by TLS."""
        failure = f"{endpoint}: {_reason(error)}"
        self.failures.append(failure)
        # A server that does not accept our certificate says so too late for some to hear more than the end.
        if _is_stranger(error) or (shaken and isinstance(error, (ConnectionError, ssl.SSLEOFError))):
            self.strangers.append(failure)


class Gateway:
    """Speaks to the first of the endpoints that answers. Not for use from several threads at once."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._context = _tls_context(access) if any(url.startswith("https") for url in access.endpoints) else None
        self._order = list(access.endpoints)
        self._connection: Optional[http.client.HTTPConnection] = None
        # Valid at every member, until it has not been used for minutes, or users and permissions change.
        self._token: Optional[str] = None

    def post(self, path: str, body: Mapping[str, Any]) -> Dict[str, Any]:
        """Answer of a call like ``kv/range``. Raises UnreachableError, or RefusedError with etcd's reason.

        A call may reach etcd twice when the first answer was lost: make writes conditional. UndeterminedError when a
        write was lost so and no answer to a later attempt tells what became of it; a refusal does not.
        """
        return self._request("POST", f"/v3/{path}", json.dumps(body))

    def get(self, path: str) -> Dict[str, Any]:
        return self._request("GET", path, None)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _request(self, method: str, path: str, body: Optional[str]) -> Dict[str, Any]:
        attempts = _Attempts()
        try:
            return self._permitted(method, path, body, attempts)
        except (RefusedError, LoginError, UnreachableError) as error:
            # Final, unless the same write may have happened before.
            if not attempts.lost or path not in _WRITES or isinstance(error, UndeterminedError):
                raise
            raise UndeterminedError(f"{error}, after a first answer was lost ({_joined(attempts)})") from error

    def _permitted(self, method: str, path: str, body: Optional[str], attempts: _Attempts) -> Dict[str, Any]:
        """The answer, after logging in when etcd asks for that; once, for a new token that is refused will be again."""
        try:
            return self._try_all(method, path, body, attempts)
        except RefusedError as error:
            if _COMMON_NAME in error.reason:
                raise LoginError(
                    f"etcd has authentication enabled, and then takes no certificate with a common name "
                    f"({self.access.cert_file}) by its JSON gateway: give cert_file one without, or none"
                ) from error
            if not (error.wants_token or (self._token is None and error.code == PERMISSION_DENIED)):
                raise
            if self.access.username is None:
                raise LoginError(f"{error}. It knows its users: give username and password of one") from error
        self._token = self._log_in()
        return self._try_all(method, path, body, attempts)

    def _log_in(self) -> Optional[str]:
        """A new token, None from an etcd that asks for none. Raises LoginError."""
        self._token = None
        body = json.dumps({"name": self.access.username, "password": self.access.password})
        try:
            answer = self._try_all("POST", "/v3/auth/authenticate", body, _Attempts())
        except RefusedError as error:
            if error.reason == _NO_AUTHENTICATION:
                return None
            raise LoginError(
                f"etcd does not let user {self.access.username} in: {error.reason}; correct username and password"
            ) from error
        return str(answer["token"]) if answer.get("token") else None

    def _try_all(self, method: str, path: str, body: Optional[str], attempts: _Attempts) -> Dict[str, Any]:
        for endpoint in list(self._order):
            try:
                return self._ask(endpoint, method, path, body, attempts)
            except RefusedError:
                raise
            except (OSError, http.client.HTTPException, ValueError, _PassOverError) as error:
                attempts.note(endpoint, error, self._connection is not None and endpoint.startswith("https"))
                self.close()
                # The next call begins with an endpoint that has not just failed.
                self._order.append(self._order.pop(0))
        message = f"no etcd endpoint answers: {_joined(attempts)}"
        if attempts.lost and path in _WRITES:
            raise UndeterminedError(f"{message}; whether the write happened is not known", attempts.strangers)
        raise UnreachableError(message, attempts.strangers)

    def _ask(self, endpoint: str, method: str, path: str, body: Optional[str], attempts: _Attempts) -> Dict[str, Any]:
        try:
            return self._exchange(endpoint, method, path, body, attempts)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # An idle connection that etcd has closed meanwhile says nothing about the endpoint: once more, freshly.
            self.close()
            return self._exchange(endpoint, method, path, body, attempts)

    def _exchange(
        self, endpoint: str, method: str, path: str, body: Optional[str], attempts: _Attempts
    ) -> Dict[str, Any]:
        if self._connection is None:
            connection = self._connect(endpoint)
            # What fails until here, such as TLS, has sent nothing.
            connection.connect()
            self._connection = connection
        try:
            return _exchange(self._connection, method, path, body, self._token)
        except RefusedError:
            raise
        except BaseException:
            attempts.lost = True
            raise

    def _connect(self, endpoint: str) -> http.client.HTTPConnection:
        url = urllib.parse.urlsplit(endpoint)
        host = url.hostname or ""
        if url.scheme == "https":
            return http.client.HTTPSConnection(
                host, url.port or 443, timeout=self.access.timeout, context=self._context
            )
        return http.client.HTTPConnection(host, url.port or 80, timeout=self.access.timeout)


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: Optional[str], token: Optional[str]
) -> Dict[str, Any]:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    # Etcd takes the bare token, without a scheme before it.
    connection.request(method, path, body, {**headers, "Authorization": token} if token else headers)
    response = connection.getresponse()
    text = response.read().decode()
    if response.status == 200:
        answer = json.loads(text)
        if not isinstance(answer, dict):
            raise _PassOverError(f"answered {path} with something that is not a mapping")
        return answer
    code, message = _error_of(text, response.status, response.reason)
    if code in _TRY_ANOTHER:
        raise _PassOverError(message)
    raise RefusedError(path, code, message)


def _error_of(text: str, status: int, reason: str) -> Tuple[int, str]:
    """Code and message of an error body. Older releases also have ``error`` with the same text."""
    try:
        data = json.loads(text)
        # A member without a leader answers /health with 503 and a body of another shape.
        return int(data.get("code", 14 if status >= 500 else 2)), str(data.get("message") or text.strip())
    except (ValueError, AttributeError, TypeError):
        words = "" if text.lstrip().startswith("<") else " ".join(text.split())[:_LONGEST_WORDS]
        return (14 if status >= 500 else 2), f"HTTP {status} {reason}{': ' if words else ''}{words}"


def _joined(attempts: _Attempts) -> str:
    return "; ".join(attempts.failures) or "the connection was closed"


def _is_stranger(error: Exception) -> bool:
    """Whether somebody is there and is not whom we trust, or does not trust us; an end in mid-air says nothing."""
    return isinstance(error, ssl.SSLError) and not isinstance(
        error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError, ssl.SSLWantReadError)
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid here: {error.verify_message}"
    # The two are one class from Python 3.10 on.
    if isinstance(error, (TimeoutError, socket.timeout)):
        return "no answer in time"
    return str(error) or type(error).__name__


def _tls_context(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
        if access.cert_file is not None:
            context.load_cert_chain(access.cert_file, access.key_file)
    except OSError as error:
        names = ", ".join(name for name in (access.ca_file, access.cert_file, access.key_file) if name)
        reason = error.strerror or error
        raise PrerequisiteError(f"the TLS files for etcd ({names}) cannot be used: {reason}; apply role pki") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def encoded(text: str) -> str:
    """Keys and values travel as base64 of their UTF-8 bytes."""
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def decoded(data: str) -> str:
    return base64.b64decode(data).decode("utf-8", "surrogateescape")
