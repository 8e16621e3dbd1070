# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The builder: what is pinned is what is built, and a machine that cannot build says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import state
from tests.upstream import builds


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(state, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def stub_go(directory: Path, monkeypatch: pytest.MonkeyPatch, version: str, build: str = "exit 1") -> None:
    """A command go of this version, alone in PATH with a C compiler and nice."""
    directory.mkdir()
    for name, script in (
        ("go", f'[ "$1" = env ] && echo go{version} && exit 0\n{build}'),
        ("gcc", "exit 0"),
        ("nice", 'exec "$@"'),
    ):
        (directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/bin")
    monkeypatch.delenv("CC", raising=False)


@pytest.mark.parametrize("component", builds.COMPONENTS, ids=lambda component: component.name)
def test_key_changes_with_the_pins(component: builds.Component) -> None:
    assert component.key() == component.key()
    others = {other.key() for other in builds.COMPONENTS if other != component}
    assert component.key() not in others
    assert component.go_needed() >= (1, 20)


def test_without_go_the_reason_is_told(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(builds.MissingError, match="command go is not in PATH"):
        builds.built(builds.FLANNEL)


def test_go_that_is_too_old_is_told(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_go(tmp_path / "bin", monkeypatch, "1.19.8")
    with pytest.raises(builds.MissingError, match=r"flannel needs Go 1\.\d+\.\d+ or newer, and this is 1\.19\.8"):
        builds.built(builds.FLANNEL)


def test_missing_compiler_is_told(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_go(tmp_path / "bin", monkeypatch, "1.99.0")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(builds.MissingError, match="no C compiler"):
        builds.built(builds.FLANNEL)


def test_failed_build_leaves_nothing_and_says_what_go_said(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_go(tmp_path / "bin", monkeypatch, "1.99.0", "echo no such module >&2; exit 1")
    with pytest.raises(builds.BuildError, match="no such module"):
        builds.built(builds.etcd("3.7"))
    assert [path for path in empty_cache.iterdir() if not path.name.endswith(".lock")] == []


def test_what_is_built_is_not_built_again(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = 'while [ "$1" != -o ]; do shift; done; echo made >"$2"'
    stub_go(tmp_path / "bin", monkeypatch, "1.99.0", write)
    made = builds.built(builds.etcd("3.7"))
    assert sorted(path.name for path in made.iterdir()) == ["etcd", "etcdctl", "etcdutl"]
    # Not even Go is needed any more.
    monkeypatch.setenv("PATH", str(tmp_path))
    assert builds.built(builds.etcd("3.7")) == made
