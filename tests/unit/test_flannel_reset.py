# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Role flannel's reset goes on without the lease released when etcd cannot be asked, and for no other reason."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest
import yaml
from ansible.plugins.test.core import failed

TASKS = Path(__file__).resolve().parents[2] / "roles" / "flannel" / "tasks" / "reset.yml"


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
