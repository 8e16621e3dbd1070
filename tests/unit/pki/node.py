# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The whole way of a certificate between a node and the authority, as the playbook goes it."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Outcome
from ansible_collections.fairlead.cluster.plugins.module_utils._pki import authority, certificates
from ansible_collections.fairlead.cluster.plugins.module_utils._pki.record import NAME

NOW = datetime.datetime(2026, 11, 21, 12, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
SERVER = {
    "name": "etcd-server",
    "authority": "etcd",
    "common_name": "cp1",
    "dns_names": ["cp1", "localhost"],
    "addresses": ["192.0.2.11", "127.0.0.1", "::1"],
    "usages": ["server", "client"],
}
CLIENT = {"name": "etcd-client", "authority": "etcd", "common_name": "cp1"}
PEER = {**SERVER, "name": "etcd-peer", "authority": "etcd-peer"}


class Node:
    """A node and the authority's host, in two directories. Nodes in the same ``root`` share the authority."""

    def __init__(self, root: Path, name: str = "cp1") -> None:
        self.root, self.name = root, name
        self.pki = root / name / "pki"
        self.ca = root / "authority" / "pki" / "ca"
        self.now = NOW
        self.wanted: list[dict[str, Any]] = [SERVER, CLIENT, PEER]
        self.window = 30
        self.outcomes: list[Outcome] = []
        self.warnings: list[str] = []
        self.trusted: list[dict[str, str]] = []

    def request(self, check: bool = False, **settings: Any) -> list[dict[str, Any]]:
        return self._certified(settings, check)

    def install(self, signed: list[dict[str, str]], check: bool = False) -> list[dict[str, Any]]:
        entries = [{key: value for key, value in entry.items() if key != "host"} for entry in signed]
        return self._certified({"signed": entries}, check)

    def _certified(self, more: dict[str, Any], check: bool) -> list[dict[str, Any]]:
        document = {
            "certificates": self.wanted,
            "directory": str(self.pki),
            "renew_before_days": self.window,
            **more,
        }
        certified = certificates.converge(document, check, self.now)
        self.outcomes.append(certified.outcome)
        self.warnings += certified.warnings
        self.trusted = [{**entry, "host": self.name} for entry in certified.trusted]
        return certified.requests

    def sign(self, requests: list[dict[str, Any]], check: bool = False, **settings: Any) -> list[dict[str, str]]:
        declared = {entry["name"]: entry for entry in self.wanted}
        document = {
            "authorities": ["cluster", "etcd", "etcd-peer"],
            "cluster_name": "lab",
            "directory": str(self.ca),
            "requests": [
                {
                    **declared[request["name"]],
                    "host": self.name,
                    **{key: request[key] for key in ("csr", "reason", "need", "known_authority")},
                }
                for request in requests
            ],
            **settings,
        }
        signed = authority.converge(document, check, self.now)
        self.outcomes.append(signed.outcome)
        self.warnings += signed.warnings
        return signed.signed

    def run(self, check: bool = False, **settings: Any) -> list[str]:
        """What the playbook does. Gives the reasons for which something was signed."""
        requests = self.request(check, new_authorities=settings.get("new_authorities", False))
        if requests:
            self.install(self.sign(requests, check, **{"trusted": self.trusted, **settings}), check)
        return [request["reason"] for request in requests]

    def path(self, name: str) -> Path:
        return self.pki / name

    def files(self) -> dict[str, bytes]:
        """Keys and certificates of all hosts."""
        return {str(path): path.read_bytes() for path in self.root.rglob("*") if path.is_file() and path.name != NAME}


def mode(path: Path) -> str:
    return f"{path.stat().st_mode & 0o7777:04o}"
