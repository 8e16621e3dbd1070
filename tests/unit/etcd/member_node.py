# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A node with one member of etcd, played: systemd, the process it runs, and what the cluster's members say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._etcd import cluster, member, memory, service
from ansible_collections.fairlead.cluster.plugins.module_utils._etcd.gateway import UnreachableError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.etcd import MemberStatus

ENVIRONMENT = "ETCD_NAME=m1\nETCD_INITIAL_CLUSTER_STATE=existing\nETCD_LOG='a b'\n# c\n\nFAIRLEAD_ETCD_UNIT=1\n"
PROCESS = {
    "ETCD_NAME": "m1",
    "ETCD_LOG": "a b",
    "FAIRLEAD_ETCD_UNIT": "1",
    "ETCD_INITIAL_CLUSTER_STATE": "new",
    "A": "b",
}


class Node:
    """systemd, the process it runs, and what the members of the cluster say."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data, self.memory, self.bootstrap = root / "data", root / "memory.json", root / "bootstrap.env"
        self.environment, self.unit = root / "etcd.env", root / "etcd.service"
        self.environment.write_text(ENVIRONMENT)
        self.shown = {"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "disabled", "MainPID": "0"}
        self.process: service.Process | None = None
        self.commands: list[str] = []
        self.names = ["m1", "m2", "m3"]
        self.members: list[MemberStatus] | None = None
        self.fails = ""
        monkeypatch.setattr(memory, "MEMORY", str(self.memory))
        monkeypatch.setattr(service, "UNIT_DIRECTORY", str(root))
        monkeypatch.setattr(member, "BOOTSTRAP_FILE", str(self.bootstrap))
        monkeypatch.setattr(member, "list_members", lambda access: self.listed())
        monkeypatch.setattr(cluster, "gather", lambda access: self.listed())
        monkeypatch.setattr(cluster, "PAUSE", 0)
        monkeypatch.setattr(service, "read_process", lambda pid: self.process)

    def listed(self) -> list[MemberStatus]:
        if self.members is None:
            raise UnreachableError("no etcd endpoint answers")
        return self.members

    def systemctl(self, args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        verb = args[1]
        if verb == "show":
            return 0, "".join(f"{key}={value}\n" for key, value in self.shown.items()), ""
        self.commands.append(" ".join(args[1:]))
        if verb == self.fails:
            return 1, "", "Unit is masked."
        if verb == "daemon-reload":
            self.shown["NeedDaemonReload"] = "no"
            if self.unit.exists():
                self.shown["FragmentPath"] = str(self.unit)
        if verb in ("enable", "disable"):
            self.shown["UnitFileState"] = f"{verb}d"
        if verb in ("start", "restart"):
            self.run()
        if verb == "stop":
            self.shown["ActiveState"] = "inactive"
        return 0, "", ""

    def foreign_unit(self, enabled: bool) -> None:
        self.unit.write_text("[Service]\nExecStart=/usr/bin/etcd\n")
        self.shown.update(FragmentPath=str(self.unit), UnitFileState="enabled" if enabled else "disabled")

    def run(self, **environment: str) -> None:
        self.shown.update(ActiveState="active", MainPID="7")
        self.process = service.Process({**PROCESS, **environment}, "/usr/bin/etcd")

    def write_data(self) -> None:
        wal = self.data / "member" / "wal"
        wal.mkdir(parents=True)
        (wal / "0-0.wal").touch()

    def remember(self, stage: str) -> None:
        content = {"name": "m1", "token": "lab", "data_dir": str(self.data), "stage": stage}
        self.memory.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        self.memory.chmod(0o600)

    def document(self, **changes: Any) -> dict[str, Any]:
        return {
            "name": "m1",
            "token": "lab",
            "members": [{"name": name, "address": f"192.0.2.{name[1:]}"} for name in self.names],
            "data_dir": str(self.data),
            "environment_file": str(self.environment),
            "wait": 0,
            **changes,
        }

    def start(self, check: bool = False) -> member.Started:
        return member.start(self.document(), check, self.systemctl)

    def remove(self, check: bool = False) -> member.Removed:
        document = {"environment_file": str(self.environment), "data_dir": str(self.data)}
        return member.remove(document, check, self.systemctl)

    def restart(self, check: bool = False) -> bool:
        return member.restart(self.document(), check, self.systemctl).changed

    def healthy(self, check: bool = False) -> bool:
        return member.healthy(self.document(), check, self.systemctl)[0].changed

    def status(self, name: str, **changes: Any) -> MemberStatus:
        known = MemberStatus(
            name=name,
            id=name,
            peer_urls=(f"https://192.0.2.{name[1:]}:2380",),
            client_urls=(f"https://192.0.2.{name[1:]}:2379",),
            learner=False,
            healthy=True,
        )
        if changes.get("healthy") is False:
            changes.setdefault("problem", "is dead")
        return dataclasses.replace(known, **changes)

    def cluster(self, *dead: str) -> None:
        self.members = [self.status(name, healthy=name not in dead) for name in self.names]


def refused(node: Node) -> str:
    before = node.memory.exists()
    with pytest.raises(member.UnsafeStartError) as caught:
        node.start()
    assert (node.commands, node.bootstrap.exists(), node.memory.exists()) == ([], False, before)
    return str(caught.value)
