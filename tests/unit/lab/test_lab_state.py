# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Names, records, the lock on a lab, and the cache of built things."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from lab import cache, state
from lab.errors import LabError


def test_names_that_fit_namespaces_and_sockets_are_taken() -> None:
    for name in ("a", "lab", "lab-2", "a" * 20):
        assert state.netns_name(name) == f"fl-{name}"


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a/b", "..", "a" * 21, "a_b"])
def test_names_that_fit_nowhere_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="lab name"):
        state.lab_dir(name)


def test_lab_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "LABS", tmp_path)
    lab = state.Lab("x", "/somewhere", "uml", "192.0.2.0/24", "192.0.2.1", 512, {"a": "192.0.2.2"})
    lab.save()
    assert state.load("x") == lab
    assert state.load("y") is None
    assert lab.prefix == 24


def test_lock_waits_for_its_holder_and_survives_the_directory_s_removal(tmp_path: Path) -> None:
    order: list[str] = []
    directory = tmp_path / "lab"

    def second() -> None:
        with state.locked(directory):
            order.append(f"second, directory {'there' if directory.exists() else 'gone'}")

    with state.locked(directory):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
        shutil.rmtree(directory)
    thread.join(5)
    assert order == ["first", "second, directory there"]


def test_cache_builds_once_for_two_that_ask_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "CACHE", tmp_path)
    builds: list[Path] = []

    def build(target: Path) -> None:
        builds.append(target)
        time.sleep(0.1)
        target.mkdir()
        (target / "file").write_text("x")

    threads = [threading.Thread(target=cache.built, args=("thing", build)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(builds) == 1
    assert (tmp_path / "thing" / "file").read_text() == "x"


def test_cache_keeps_nothing_of_a_failed_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "CACHE", tmp_path)

    def fail(target: Path) -> None:
        target.mkdir()
        raise LabError("no")

    with pytest.raises(LabError):
        cache.built("thing", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".thing.lock"]


def test_key_depends_on_every_part_and_where_it_ends() -> None:
    assert len({cache.key("a", "b"), cache.key("ab"), cache.key("a", "c"), cache.key("b", "a")}) == 4
