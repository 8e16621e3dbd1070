# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Names, records, the lock on a lab, and the cache of built things."""

from __future__ import annotations

import fcntl
import os
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


DAY = 24 * 3600


@pytest.fixture
def old_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache whose entries were used 31 days ago: trees, a disk, and what a killed build left."""
    monkeypatch.setattr(state, "CACHE", tmp_path)
    for name in ("root-1", "mirror-2", "vagrant-3"):
        cache.built(name, _make_tree)
    cache.built("disk-4.ext4", Path.touch)
    cache.touch(tmp_path / "root-5")
    _make_tree(tmp_path / ".root-5.new")
    for lock in tmp_path.glob(".*.lock"):
        os.utime(lock, (time.time() - 31 * DAY,) * 2)
    (tmp_path / "of-somebody-else").mkdir()
    return tmp_path


def _make_tree(path: Path) -> None:
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "file").write_text("x")
    (path / "deep").chmod(0o500)


def test_entries_that_nobody_used_for_long_go(old_entries: Path) -> None:
    assert sorted(cache.prune(set())) == ["disk-4.ext4", "mirror-2", "root-1", "root-5", "vagrant-3"]
    assert [path.name for path in old_entries.iterdir()] == ["of-somebody-else"]
    assert cache.prune(set()) == []


def test_entries_in_use_stay(old_entries: Path) -> None:
    cache.built("root-1", _make_tree)
    cache.touch(old_entries / "mirror-2")
    pruned = cache.prune({old_entries / "vagrant-3", Path("/elsewhere/disk-4.ext4")})
    assert sorted(pruned) == ["disk-4.ext4", "root-5"]
    assert {path.name for path in old_entries.glob("[!.]*")} == {"root-1", "mirror-2", "vagrant-3", "of-somebody-else"}


def test_entries_of_last_month_stay(old_entries: Path) -> None:
    assert cache.prune(set(), now=time.time() - 2 * DAY) == []
    assert (old_entries / "root-1" / "deep" / "file").exists()


def test_entry_that_is_being_built_stays(old_entries: Path) -> None:
    handle = os.open(old_entries / ".root-1.lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert "root-1" not in cache.prune(set())
    finally:
        os.close(handle)
    assert (old_entries / "root-1").exists()


def test_pruned_entry_is_built_again(old_entries: Path) -> None:
    cache.prune(set())
    assert (cache.built("root-1", _make_tree) / "deep" / "file").read_text() == "x"


def test_paths_of_labs_of_all_checkouts_are_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    monkeypatch.setattr(state, "RUN", tmp_path / "run")
    for labs, name, disk in ((other, "far", "/c/disk-1"), (mine, "near", "")):
        monkeypatch.setattr(state, "LABS", labs)
        nodes = {"a": "192.0.2.2"}
        lab = state.Lab(name, "/i", "uml", "192.0.2.0/24", "192.0.2.1", 512, nodes, f"/c/root-{name}", disk, "/c/m")
        lab.save()
    owner = state.run_dir("far") / "owner"
    owner.parent.mkdir(parents=True)
    owner.write_text(str(other / "far"))
    gone = state.run_dir("gone") / "owner"
    gone.parent.mkdir()
    gone.write_text(str(other / "gone"))
    assert {str(path) for path in state.paths_in_use()} == {"/c/root-far", "/c/disk-1", "/c/m", "/c/root-near"}


def test_key_depends_on_every_part_and_where_it_ends() -> None:
    assert len({cache.key("a", "b"), cache.key("ab"), cache.key("a", "c"), cache.key("b", "a")}) == 4
