# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""For tests against real flanneld and real etcd: their programs, and namespaces of these tests' own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import run_module, state_dir
from tests.kernel.namespaces import Namespaces, remove_abandoned
from tests.upstream import builds
from tests.upstream.lan import PREFIX

__all__ = ["run_module", "state_dir"]

# Where the assertions of these tests are.
pytest.register_assert_rewrite(
    "tests.kernel.test_overlay_lease",
    "tests.kernel.test_overlay_lease_dual",
    "tests.kernel.test_overlay_lease_many",
    "tests.kernel.test_overlay_lease_users",
    "tests.upstream.ring",
)

HERE = Path(__file__).resolve().parent
Programs = Callable[[builds.Component], Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.kernel)


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers() -> None:
    if os.geteuid() == 0:
        remove_abandoned(PREFIX)


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Directory with a component's programs, built when they are not in the cache."""

    def find(component: builds.Component) -> Path:
        try:
            return builds.built(component)
        except builds.MissingError as error:
            # Where these tests are wanted, a Go that cannot build them must not go unnoticed.
            if os.environ.get("CI") and shutil.which("go"):
                pytest.fail(str(error))
            pytest.skip(str(error))

    return find


@pytest.fixture
def netns() -> Iterator[Namespaces]:
    """A factory of network namespaces that are gone after the test: ``node = netns("label")``."""
    namespaces = Namespaces(PREFIX)
    try:
        yield namespaces
    finally:
        namespaces.remove()
