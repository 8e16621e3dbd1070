# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A reset removes virtual services on every host before it forgets them, and looks for the devices of both modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ansible_collections.fairlead.cluster.plugins.module_utils._model import cluster_service, ipvs_service

ROOT = Path(__file__).resolve().parents[2]
MODULE = "fairlead.cluster.ipvs_service"
PLAYS = yaml.safe_load((ROOT / "playbooks/reset.yml").read_text())


def test_virtual_services_go_before_the_memory_of_them() -> None:
    tasks = yaml.safe_load((ROOT / "roles/node/tasks/reset.yml").read_text())
    looked, removed, forgotten = (
        next(number for number, task in enumerate(tasks) if module in task)
        for module in ("ansible.builtin.stat", MODULE, "ansible.builtin.file")
    )
    assert looked < removed < forgotten
    assert tasks[removed][MODULE] == {"state": "deleted"}
    # Nowhere else, and no runtime is asked for: the module leaves a lock behind, which the last task would find.
    path = tasks[looked]["ansible.builtin.stat"]["path"]
    assert path in tasks[forgotten]["loop"] and tasks[removed]["when"] == f"{tasks[looked]['register']}.stat.exists"


def test_they_go_on_hosts_of_etcd_too_whether_there_is_a_runtime_or_not() -> None:
    (play,) = (each for each in PLAYS if "fairlead.cluster.node" in str(each["tasks"]))
    (task,) = (each for each in play["tasks"] if "fairlead.cluster.node" in str(each))
    assert play["hosts"] == "nodes:etcd" and "when" not in task


@pytest.mark.parametrize("device", [ipvs_service.DEVICE, cluster_service.DEVICE])
def test_proof_looks_for_the_devices(device: str) -> None:
    (play,) = (each for each in PLAYS if each["name"] == "Proof")
    patterns = re.findall(r"link show \| grep -Eo '([^']*)'", re.sub(r"{{.*?}}", "", play["vars"]["reset_dump"]))
    assert any(re.search(each, f"7: {device}: <BROADCAST,NOARP>") for each in patterns)
