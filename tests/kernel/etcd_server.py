# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Real etcd with TLS on loopback addresses of a namespace, with certificates made by our own PKI."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._pki import authority, certificates
from lab import cache
from tests.kernel import inside
from tests.kernel.namespaces import Namespace
from tests.waiting import PATIENCE

PACKAGES = ("etcd-server", "etcd-client")
START_SECONDS = 120 * PATIENCE
#: etcd writes to disk before it answers, which takes seconds where many do.
ANSWER_SECONDS = 30


def programs() -> Path:
    """Directory with etcd and etcdctl: of the system, or unpacked from Debian's packages without installing them."""
    found = shutil.which("etcd")
    if found and shutil.which("etcdctl"):
        return Path(found).parent
    try:
        return cache.built(f"etcd-{cache.key(*PACKAGES)}", _unpack) / "usr" / "bin"
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"etcd is not installed, and its packages cannot be fetched with apt-get: {error}")


def _unpack(target: Path) -> None:
    target.mkdir()
    subprocess.run(["apt-get", "download", *PACKAGES], cwd=target, check=True, capture_output=True)
    for package in target.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, target], check=True)


class Cluster:
    """Members m1, m2, ... at 127.0.0.11, 127.0.0.12, ... of one namespace."""

    def __init__(self, namespace: Namespace, directory: Path, size: int) -> None:
        self.namespace, self.directory = namespace, directory
        self.bin = programs()
        self.members = [{"name": f"m{number}", "address": f"127.0.0.{10 + number}"} for number in range(1, size + 1)]
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.pki = directory / "pki"
        # Who etcdctl is, ``name:password``, once etcd wants to know.
        self.user = ""
        self._certify()

    @property
    def endpoints(self) -> list[str]:
        return [f"https://{member['address']}:2379" for member in self.members]

    @property
    def nameless(self) -> dict[str, str]:
        """The same for a certificate without a common name."""
        return {**self.tls, "cert_file": str(self.pki / "nameless.crt"), "key_file": str(self.pki / "nameless.key")}

    @property
    def tls(self) -> dict[str, str]:
        """Parameters of our modules for the client's certificate."""
        return {
            "ca_file": str(self.pki / "etcd-ca.crt"),
            "cert_file": str(self.pki / "etcd-client.crt"),
            "key_file": str(self.pki / "etcd-client.key"),
        }

    def _certify(self) -> None:
        # A peer's address is checked too, and on loopback connections come from 127.0.0.1.
        addresses = ["127.0.0.1", *(member["address"] for member in self.members)]
        both = {"common_name": "etcd", "addresses": addresses, "usages": ["server", "client"]}
        wanted: list[dict[str, Any]] = [
            {"name": "etcd-server", "authority": "etcd", **both},
            {"name": "etcd-peer", "authority": "etcd-peer", **both},
            {"name": "etcd-client", "authority": "etcd", "common_name": "client"},
        ]
        document = {"certificates": wanted, "directory": str(self.pki)}
        requests = certificates.converge(document, False).requests
        answer = authority.converge(
            {
                "authorities": ["etcd", "etcd-peer"],
                "cluster_name": "test",
                "directory": str(self.directory / "authority" / "ca"),
                "requests": [
                    {**entry, "host": "test", "csr": request["csr"]}
                    for entry, request in zip(wanted, requests, strict=True)
                ],
            },
            False,
        )
        self._certify_nameless(self.directory / "authority" / "ca" / "etcd")
        signed = [{key: value for key, value in entry.items() if key != "host"} for entry in answer.signed]
        certificates.converge({**document, "signed": signed}, False)

    def _certify_nameless(self, authority: Path) -> None:
        """A client certificate without a common name, as etcd's gateway wants it where there are users."""
        target = self.pki / "nameless"
        request = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/"]
        _openssl([*request, "-keyout", f"{target}.key", "-out", f"{target}.csr"])
        sign = ["openssl", "x509", "-req", "-in", f"{target}.csr", "-out", f"{target}.crt", "-days", "2"]
        _openssl([*sign, "-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-CAcreateserial"])

    def start(self, *names: str, state: str = "new") -> None:
        for member in self.members:
            if not names or member["name"] in names:
                self.processes[member["name"]] = self._started(member["name"], member["address"], state)
        for member in self.members:
            if not names or member["name"] in names:
                self._await(member["address"])

    def _started(self, name: str, address: str, state: str) -> subprocess.Popen[str]:
        peers = ",".join(f"{member['name']}=https://{member['address']}:2380" for member in self.members)
        options = {
            "name": name,
            "data-dir": self.directory / name,
            "listen-client-urls": f"https://{address}:2379",
            "advertise-client-urls": f"https://{address}:2379",
            "listen-peer-urls": f"https://{address}:2380",
            "initial-advertise-peer-urls": f"https://{address}:2380",
            "initial-cluster": peers,
            "initial-cluster-state": state,
            "cert-file": self.pki / "etcd-server.crt",
            "key-file": self.pki / "etcd-server.key",
            "trusted-ca-file": self.pki / "etcd-ca.crt",
            "client-cert-auth": "true",
            "peer-cert-file": self.pki / "etcd-peer.crt",
            "peer-key-file": self.pki / "etcd-peer.key",
            "peer-trusted-ca-file": self.pki / "etcd-peer-ca.crt",
            "peer-client-cert-auth": "true",
        }
        command = [str(self.bin / "etcd"), *[f"--{key}={value}" for key, value in options.items()]]
        log = (self.directory / f"{name}.log").open("w")
        with log:
            return self.namespace.start(command, stdout=log, stderr=log)

    def _await(self, address: str) -> None:
        end = time.monotonic() + START_SECONDS
        while self.etcdctl("endpoint", "health", endpoints=f"https://{address}:2379", check=False).returncode != 0:
            if time.monotonic() > end:
                logs = "\n".join(path.read_text()[-2000:] for path in sorted(self.directory.glob("*.log")))
                raise AssertionError(f"etcd at {address} is not healthy after {START_SECONDS} s:\n{logs}")
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def enable_users(self, name: str, password: str, prefix: str) -> None:
        """From now on etcd serves root, and this user below the prefix, and nobody else."""
        self.etcdctl("user", "add", "root:for etcdctl")
        self.etcdctl("user", "grant-role", "root", "root")
        self.etcdctl("role", "add", name)
        self.etcdctl("role", "grant-permission", name, "readwrite", "--prefix=true", prefix)
        self.etcdctl("user", "add", f"{name}:{password}")
        self.etcdctl("user", "grant-role", name, name)
        self.etcdctl("auth", "enable")
        self.user = "root:for etcdctl"

    def etcdctl(
        self, *arguments: str, endpoints: str = "", check: bool = True, data: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self.namespace.run(self._command(*arguments, endpoints=endpoints), check=check, data=data)

    def _command(self, *arguments: str, endpoints: str = "") -> list[str]:
        return [
            *("env", "ETCDCTL_API=3"),
            str(self.bin / "etcdctl"),
            f"--endpoints={endpoints or ','.join(self.endpoints)}",
            f"--cacert={self.pki / 'etcd-ca.crt'}",
            f"--cert={self.pki / 'etcd-client.crt'}",
            f"--key={self.pki / 'etcd-client.key'}",
            f"--command-timeout={ANSWER_SECONDS * PATIENCE}s",
            f"--dial-timeout={ANSWER_SECONDS * PATIENCE}s",
            *([f"--user={self.user}"] if self.user else []),
            *arguments,
        ]

    def told(self, prefix: str, since: int, count: int) -> list[tuple[str, str]]:
        """What those who watch the prefix were told after a revision, in its order: so many times PUT or DELETE and a
        key."""
        watch = self._command("watch", prefix, "--prefix", f"--rev={since + 1}")
        process = self.namespace.start(watch, stdout=subprocess.PIPE)
        events: list[tuple[str, str]] = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip() in ("PUT", "DELETE"):
                    events.append((line.strip(), next(process.stdout).strip()))
                if len(events) == count:
                    break
        finally:
            process.kill()
            process.wait()
        return events

    def contents(self, prefix: str = "/") -> dict[str, str]:
        """Everything below the prefix, as etcdctl prints it: a line with the key, a line with the value."""
        lines = self.etcdctl("get", prefix, "--prefix").stdout.splitlines()
        return dict(zip(lines[::2], lines[1::2], strict=True))

    def lease_of(self, key: str) -> str:
        """Hexadecimal identifier of the etcd lease that the key hangs on, all zeros for none."""
        entry = json.loads(self.etcdctl("get", key, "-w", "json").stdout)["kvs"][0]
        return f"{entry.get('lease', 0):016x}"

    def leases(self) -> set[str]:
        """Identifiers of all etcd leases."""
        return set(self.etcdctl("lease", "list").stdout.split()[3:])

    def renewals(self) -> int:
        """How many times the first member, which must be alone, has lengthened the life of an etcd lease."""
        address = self.members[0]["address"]
        context = ssl.create_default_context(cafile=self.tls["ca_file"])
        context.load_cert_chain(self.tls["cert_file"], self.tls["key_file"])
        connection = http.client.HTTPConnection(address, 2379)
        plain = inside.connected(self.namespace, address, 2379, ANSWER_SECONDS)
        with context.wrap_socket(plain, server_hostname=address) as connection.sock:
            connection.request("GET", "/metrics")
            told = connection.getresponse().read().decode()
        found = re.search(r"^etcd_debugging_lease_renewed_total (\d+)$", told, re.MULTILINE)
        assert found is not None, "this etcd does not tell"
        return int(found[1])

    def revision(self) -> int:
        return int(json.loads(self.etcdctl("get", "none", "-w", "json").stdout)["header"]["revision"])


def _openssl(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def cluster(namespace: Namespace, directory: Path, size: int = 1) -> Iterator[Cluster]:
    made = Cluster(namespace, directory, size)
    try:
        made.start()
        yield made
    finally:
        made.stop()
