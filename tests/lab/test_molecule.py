# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The molecule scenarios that run on lab nodes, each from creation to destruction."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab import lifecycle, network, processes, state
from tests.lab.cluster import lab_name

pytestmark = [pytest.mark.lab, pytest.mark.molecule, pytest.mark.slow]

MOLECULE = Path(sys.executable).with_name("molecule")
STEPS = ("create", "check", "converge", "idempotence", "verify", "destroy")


@pytest.mark.parametrize(
    ("scenario", "purpose"), [("default", "mol"), ("single", "mol-single"), ("external_etcd", "mol-external")]
)
def test_scenario_passes_and_leaves_nothing(scenario: str, purpose: str, tmp_path: Path) -> None:
    # Molecule keeps its state under the home directory.
    lab = lab_name(purpose)
    environment = {**os.environ, "HOME": str(tmp_path), "NO_COLOR": "1", "FAIRLEAD_LAB": lab}
    environment.pop("FORCE_COLOR", None)
    # An earlier run that was killed may have left it.
    lifecycle.down(lab)
    try:
        done = subprocess.run(
            [str(MOLECULE), "test", "-s", scenario], cwd=state.REPO, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:]
        details = done.stdout.rpartition("DETAILS")[2]
        for step in STEPS:
            # The sign between them depends on what the terminal's encoding can show.
            assert re.search(rf"{scenario} \S+ {step}: Executed: Successful", details), details
        assert not network.namespace(state.netns_name(lab)).exists()
        assert not state.lab_dir(lab).exists()
        assert processes.marked(state.lab_dir(lab)) == []
    finally:
        lifecycle.down(lab)
