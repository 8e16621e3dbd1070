# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The captures that all other tests rely on are what real flanneld makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kernel.namespaces import Namespaces
from tests.upstream import builds, capture
from tests.upstream.conftest import Programs


@pytest.mark.slow
@pytest.mark.parametrize("name", capture.CASES)
def test_capture_is_made_again(name: str, programs: Programs, netns: Namespaces, tmp_path: Path) -> None:
    for component in (builds.FLANNEL, capture.ETCD):
        programs(component)
    made, kept = capture.capture(capture.CASES[name], netns, tmp_path), capture.stored(name)
    assert made["made_with"]["flannel"] == kept["made_with"]["flannel"], "run scripts/capture-flannel"
    if made["made_with"] != kept["made_with"]:
        # Other versions of the kernel and its tools know settings more or fewer.
        made, kept = in_both(made, kept), in_both(kept, made)
    assert {**made, "made_with": {}} == {**kept, "made_with": {}}


def in_both(one: Any, other: Any) -> Any:
    """``one`` without the keys that ``other`` does not have in the same place."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: in_both(value, other[key]) for key, value in one.items() if key in other}
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [in_both(*pair) for pair in zip(one, other, strict=True)]
    return one


def test_every_file_has_its_case() -> None:
    assert sorted(path.stem for path in capture.FIXTURES.glob("*.json")) == sorted(capture.CASES)
