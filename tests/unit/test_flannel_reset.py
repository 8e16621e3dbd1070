# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Role flannel's reset goes on without the lease released when etcd cannot be asked, and for no other reason; and the
playbook's proof looks for the devices of all backends."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest
import yaml
from ansible.plugins.test.core import failed

from ansible_collections.fairlead.cluster.plugins.module_utils._model.backend import BACKENDS, Backend

ROOT = Path(__file__).resolve().parents[2]
TASKS = ROOT / "roles" / "flannel" / "tasks" / "reset.yml"


def is_failure(result: dict[str, object]) -> bool:
    task = next(task for task in yaml.safe_load(TASKS.read_text()) if "fairlead.cluster.overlay_lease" in task)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.tests["failed"] = failed
    return bool(environment.compile_expression(task["failed_when"])(**{task["register"]: result}))


# PrerequisiteError: the TLS files are gone, because an earlier reset was interrupted after role pki's part.
@pytest.mark.parametrize("error_type", ["UnreachableError", "UndeterminedError", "PrerequisiteError"])
def test_etcd_that_cannot_be_asked_does_not_stop_a_reset(error_type: str) -> None:
    assert not is_failure({"failed": True, "error_type": error_type})


@pytest.mark.parametrize("more", [{"error_type": "SpecError"}, {"error_type": "ApplyError"}, {}])
def test_other_failures_stop_a_reset(more: dict[str, object]) -> None:
    assert is_failure({"failed": True, **more})


def test_a_released_lease_is_no_failure() -> None:
    assert not is_failure({"changed": True})


def proof() -> str:
    play = next(play for play in yaml.safe_load((ROOT / "playbooks/reset.yml").read_text()) if play["name"] == "Proof")
    return re.sub(r"{{.*?}}", "", play["vars"]["reset_dump"])


@pytest.mark.parametrize("device", sorted({name for kind in BACKENDS for name in Backend(type=kind).devices}))
def test_proof_looks_for_the_devices_and_routes_of_each_backend(device: str) -> None:
    links, routes = (re.search(rf"{command}.* grep -Eo? '([^']*)'", proof()) for command in ("link show", "route show"))
    assert links is not None and re.search(links[1], f"7: {device}: <BROADCAST>"), "the device"
    assert routes is not None and re.search(routes[1], f"10.244.0.0/16 dev {device} scope link"), "routes"
