# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What the reference tells people to set is what the preflight lets pass: inputs of the role."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]


def test_variables_of_the_reference_are_inputs_of_the_role() -> None:
    text = (ROOT / "docs" / "reference" / "pki.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(pki_[a-z_]+)` \|", text, re.MULTILINE))
    assert len(documented) >= 5
    specs = yaml.safe_load((ROOT / "roles" / "pki" / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    inputs = {name for spec in specs["argument_specs"].values() for name in spec["options"]}
    assert documented - inputs == set()
