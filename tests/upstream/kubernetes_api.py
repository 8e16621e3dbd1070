# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Real kube-apiserver with an etcd of its own, in a namespace, and its objects.

Whoever has the token may do everything; others come with a certificate of ``client_ca`` and the rights of RBAC, which
has Kubernetes' own roles (group system:masters, user system:kube-proxy, ...). No controllers run: nothing exists that
nobody made, but for namespaces and Service kubernetes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.kernel import inside
from tests.kernel.namespaces import Namespace
from tests.upstream.lan import end
from tests.waiting import wait_until

Object = dict[str, Any]
PORT = 6443
TOKEN = "token-of-the-tests"
NAMESPACE = "default"
START_SECONDS, ANSWER_SECONDS = 120, 30
# Where objects of a kind are, below the API's root; %s is the namespace.
_PATHS = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "Service": "/api/v1/namespaces/%s/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/%s/endpointslices",
}


class ApiError(Exception):
    """What the API server refused, with its words."""


class _Connection(http.client.HTTPSConnection):
    """To a server in a namespace."""

    def __init__(self, namespace: Namespace, address: str, authority: Path) -> None:
        self._namespace, self._authority = namespace, authority
        super().__init__(address, PORT, timeout=ANSWER_SECONDS)

    def connect(self) -> None:
        raw = inside.connected(self._namespace, self.host, self.port, ANSWER_SECONDS)
        context = ssl.create_default_context(cafile=str(self._authority))
        self.sock = context.wrap_socket(raw, server_hostname=self.host)


class KubernetesApi:
    """``address`` is the namespace's; the ranges are of addresses for services, one or two, such as 10.96.0.0/12.

    ``client_ca`` is a file with a CA's certificate. ``authority`` is the file with the CA of the server's own.
    """

    def __init__(
        self, namespace: Namespace, directory: Path, address: str, ranges: str, client_ca: Path | None = None
    ) -> None:
        self.namespace, self.directory, self.address, self.ranges = namespace, directory, address, ranges
        self.client_ca = client_ca
        self.processes: list[subprocess.Popen[str]] = []
        self._connections = threading.local()
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"https://{self.address}:{PORT}"

    @property
    def authority(self) -> Path:
        # Made by the API server, with the certificate of its CA at the end.
        return self.directory / "apiserver.crt"

    def start(self, kubernetes: Path, etcd: Path) -> None:
        """From directories with the programs; returns when it serves."""
        (self.directory / "tokens").write_text(f"{TOKEN},tests,tests,system:masters\n")
        key = self.directory / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        # Nothing is to survive a loss of power.
        self._launch("etcd", {"data-dir": self.directory / "etcd", "unsafe-no-fsync": "true"}, etcd)
        options = {
            "advertise-address": self.address,
            "allow-privileged": "true",
            "anonymous-auth": "false",
            "authorization-mode": "Node,RBAC",
            "bind-address": self.address,
            "cert-dir": self.directory,
            # Nobody makes accounts for pods, and there are none.
            "disable-admission-plugins": "ServiceAccount",
            "endpoint-reconciler-type": "none",
            "etcd-servers": "http://127.0.0.1:2379",
            "secure-port": PORT,
            "service-account-issuer": self.url,
            "service-account-key-file": key,
            "service-account-signing-key-file": key,
            "service-cluster-ip-range": self.ranges,
            "token-auth-file": self.directory / "tokens",
        }
        if self.client_ca is not None:
            options["client-ca-file"] = self.client_ca
        self._launch("kube-apiserver", options, kubernetes)
        wait_until(self._serves, f"kube-apiserver is ready, see {self.directory}", START_SECONDS)

    def _launch(self, program: str, options: Mapping[str, object], programs: Path) -> None:
        command = [str(programs / program), *(f"--{name}={value}" for name, value in options.items())]
        with self._log(program).open("w") as log:
            self.processes.append(self.namespace.start(command, stdout=log, stderr=log))

    def _log(self, program: str) -> Path:
        return self.directory / f"{program}.log"

    def _serves(self) -> bool:
        for process, program in zip(self.processes, ("etcd", "kube-apiserver"), strict=True):
            assert process.poll() is None, f"{program} ended:\n{self._log(program).read_text()[-3000:]}"
        with contextlib.suppress(OSError, ApiError, http.client.HTTPException):
            # It writes the CA before it listens; `default` is made a little after it is ready.
            return self.request("GET", "/readyz") == "ok" and bool(self.get("Namespace", NAMESPACE))
        return False

    def stop(self) -> None:
        while self.processes:
            end(self.processes.pop())

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for who may do everything. A JSON document is YAML too."""
        path.write_text(json.dumps(self.kubeconfig_for({"token": TOKEN})))
        return path

    def kubeconfig_for(self, user: Mapping[str, str]) -> Object:
        """For a user such as ``{"token": ...}`` or ``{"client-certificate": FILE, "client-key": FILE}``."""
        cluster = {"server": self.url, "certificate-authority": str(self.authority)}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tests", "user": dict(user)}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
            "current-context": "tests",
        }

    def request(self, method: str, path: str, body: Object | None = None) -> Any:
        """The answer: an object, or text. Raises ApiError, or OSError where nobody answers."""
        data = None if body is None else json.dumps(body)
        try:
            status, text = self._exchange(method, path, data)
        except http.client.RemoteDisconnected:
            # It ends connections that nobody used for a while.
            status, text = self._exchange(method, path, data)
        if status >= 400:
            name = "" if body is None else f" ({body.get('metadata', {}).get('name')})"
            raise ApiError(f"{method} {path}{name}: {status} {text[:2000]}")
        return json.loads(text) if text.startswith("{") else text

    def _exchange(self, method: str, path: str, data: str | None) -> tuple[int, str]:
        connection = self._connection()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise

    def _connection(self) -> _Connection:
        """Of this thread, kept open."""
        made: _Connection | None = getattr(self._connections, "made", None)
        if made is None:
            made = self._connections.made = _Connection(self.namespace, self.address, self.authority)
        return made

    def get(self, kind: str, name: str) -> Object:
        return dict(self.request("GET", f"{_place(kind)}/{name}"))

    def all(self, kind: str) -> list[Object]:
        items: list[Object] = self.request("GET", _place(kind))["items"]
        return items

    def create(self, given: Object) -> Object:
        """Create an object with its status; the answer is how the API server has it. ``given`` stays as it is."""
        kind = given["kind"]
        made = dict(self.request("POST", _place(kind), given))
        if not given.get("status"):
            return made
        path = f"{_place(kind)}/{given['metadata']['name']}/status"
        return dict(self.request("PUT", path, {**made, "status": given["status"]}))

    def replace(self, given: Object) -> Object:
        """As ``create``, for one that exists."""
        kind, name = given["kind"], given["metadata"]["name"]
        version = self.get(kind, name)["metadata"]["resourceVersion"]
        metadata = {**given["metadata"], "resourceVersion": version}
        made = dict(self.request("PUT", f"{_place(kind)}/{name}", {**given, "metadata": metadata}))
        if not given.get("status"):
            return made
        return dict(self.request("PUT", f"{_place(kind)}/{name}/status", {**made, "status": given["status"]}))

    def delete(self, kind: str, name: str) -> None:
        self.request("DELETE", f"{_place(kind)}/{name}")

    def delete_services(self) -> None:
        """All services but the API server's own, and all EndpointSlices."""
        for kind in ("EndpointSlice", "Service"):
            for item in self.all(kind):
                if item["metadata"]["name"] != "kubernetes":
                    self.delete(kind, item["metadata"]["name"])


def _place(kind: str) -> str:
    path = _PATHS[kind]
    return path % NAMESPACE if "%s" in path else path


@contextlib.contextmanager
def running(
    namespace: Namespace,
    directory: Path,
    programs: tuple[Path, Path],
    address: str,
    ranges: str,
    client_ca: Path | None = None,
) -> Iterator[KubernetesApi]:
    """An API server for a while; ``programs`` are the directories of builds.KUBERNETES and of an etcd."""
    api = KubernetesApi(namespace, directory, address, ranges, client_ca)
    try:
        api.start(*programs)
        yield api
    finally:
        api.stop()
