# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Every test of tests/kernel/test_overlay_lease*.py once more, against each release of etcd that is built here.

Those files themselves run against Debian's 3.4. Their tests are taken as they are, with another fixture ``store``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import (
    etcd_server,
    test_overlay_lease,
    test_overlay_lease_dual,
    test_overlay_lease_many,
    test_overlay_lease_users,
)
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespaces
from tests.kernel.test_overlay_lease import Store
from tests.upstream import builds
from tests.upstream.conftest import Programs

pytestmark = pytest.mark.slow


@pytest.fixture(params=builds.ETCD_RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(
    release: str,
    programs: Programs,
    netns: Namespaces,
    run_module: RunModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Store]:
    directory = programs(builds.etcd(release))
    monkeypatch.setattr(etcd_server, "programs", lambda: directory)
    namespace = netns("etcd")
    with etcd_server.cluster(namespace, tmp_path) as etcd:
        yield Store(etcd, namespace, run_module)


def test_it_is_that_release(release: str, store: Store) -> None:
    (status,) = json.loads(store.etcd.etcdctl("endpoint", "status", "-w", "json").stdout)
    assert status["Status"]["version"].startswith(f"{release}.")


FIXTURES = ("runtime", "guarded")
FILES = (test_overlay_lease, test_overlay_lease_dual, test_overlay_lease_many, test_overlay_lease_users)
FOUND = [(name, value) for file in FILES for name, value in vars(file).items() if name.startswith("test_")]
# One would take the place of the other.
assert len(FOUND) == len(dict(FOUND)), "two tests have one name"
# Last, so that nothing of theirs takes the place of what is said here.
globals().update(
    {
        name: value
        for name, value in [
            *FOUND,
            *((name, vars(file)[name]) for file in FILES for name in FIXTURES if name in vars(file)),
        ]
        if name not in globals()
    }
)
