# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The captures that all other tests rely on are what real flanneld makes."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.namespaces import Namespaces
from tests.upstream import builds, capture, node_state
from tests.upstream.conftest import Programs


@pytest.mark.slow
@pytest.mark.parametrize("name", capture.CASES)
def test_capture_is_made_again(name: str, programs: Programs, netns: Namespaces, tmp_path: Path) -> None:
    for component in (builds.FLANNEL, capture.ETCD):
        programs(component)
    kept = capture.stored(name)

    def is_kept(made: dict[str, Any]) -> bool:
        return operator.eq(*comparable(made, kept))

    made = capture.capture(capture.CASES[name], netns, tmp_path, is_kept)
    assert made["made_with"]["flannel"] == kept["made_with"]["flannel"], "run scripts/capture-flannel"
    found, expected = comparable(made, kept)
    assert found == expected


def comparable(made: dict[str, Any], kept: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    if made["made_with"] != kept["made_with"]:
        # Other versions of the kernel and its tools know settings more or fewer.
        made, kept = node_state.common(made, kept), node_state.common(kept, made)
    return {**made, "made_with": {}}, {**kept, "made_with": {}}


def test_every_file_has_its_case() -> None:
    assert sorted(path.stem for path in capture.FIXTURES.glob("*.json")) == sorted(capture.CASES)
