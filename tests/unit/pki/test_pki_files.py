# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Files and directories of keys and certificates: rights, failing writes, and what a reset takes away."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._ansible import items_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError, ReadError, SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.files import File
from ansible_collections.fairlead.cluster.plugins.module_utils._pki import removal
from ansible_collections.fairlead.cluster.plugins.module_utils._pki.record import NAME
from ansible_collections.fairlead.cluster.plugins.module_utils._system.files import write_file
from tests.unit.pki.node import DAY, NOW, Node, mode


def test_failed_write_leaves_every_file_as_it_was(certified: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    before = certified.files()
    certified.now = NOW + 350 * DAY
    signed = certified.sign(certified.request())
    rename, count = os.rename, iter(range(100))

    def fail_third(source: str, target: str) -> None:
        if next(count) == 2:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_third)
    with pytest.raises(ApplyError, match="No space left"):
        certified.install(signed)
    assert certified.files() == before


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_umask_of_root_does_not_keep_others_from_the_directories(
    node: Node, tmp_path: Path, strict_umask: None
) -> None:
    node.run()
    tmp_path.chmod(0o755)
    assert {str(path.relative_to(tmp_path)): mode(path) for path in tmp_path.rglob("*") if path.is_dir()} == {
        "cp1": "0755",
        "cp1/pki": "0755",
        "authority": "0755",
        "authority/pki": "0755",
        "authority/pki/ca": "0700",
    }
    assert mode(node.path("etcd-server.crt")) == "0644"


def test_files_of_the_system_are_in_directories_that_others_can_read(tmp_path: Path, strict_umask: None) -> None:
    write_file(File(str(tmp_path / "a" / "b" / "file"), "text"))
    assert [mode(tmp_path / "a"), mode(tmp_path / "a" / "b")] == ["0755", "0755"]


def remove(node: Node, check: bool = False) -> removal.Removed:
    paths = [node.ca, node.ca.parent, node.ca.parent.parent, node.pki, node.pki.parent]
    return removal.converge({"paths": list(map(str, paths))}, check)


def test_reset_takes_all_that_was_made_and_nothing_twice(certified: Node) -> None:
    before = certified.files()
    planned = remove(certified, check=True)
    assert certified.files() == before
    done = remove(certified)
    assert done.outcome.operations == planned.outcome.operations
    assert "PRIVATE KEY" not in json.dumps(items_of(done.outcome.before))
    assert list(certified.root.iterdir()) == []
    assert not remove(certified).outcome.changed


def test_reset_leaves_what_others_made_or_changed_and_names_it(certified: Node) -> None:
    certified.now = NOW + 340 * DAY
    certified.run()
    own = certified.path("etcd-client.crt")
    own.write_text("somebody's own")
    foreign = [certified.path("notes.txt"), certified.ca / "backup" / "etcd.key", certified.path("etcd-server.bak")]
    foreign[1].parent.mkdir()
    for path in foreign:
        path.write_text("foreign")
    removed = remove(certified)
    assert removed.left == sorted(map(str, [own, foreign[0], foreign[1].parent, foreign[2]]))
    assert {path for path in certified.root.rglob("*") if path.is_file()} == {own, *foreign}
    assert not remove(certified).outcome.changed


def test_certificates_that_were_there_before_are_not_taken_for_ours(certified: Node) -> None:
    """Rights put right do not make a file ours, nor does a run that was undone."""
    certified.path(NAME).unlink()
    certified.path("etcd-server.key").chmod(0o644)
    before = {path.name for path in certified.pki.iterdir()}
    assert certified.run() == []
    assert mode(certified.path("etcd-server.key")) == "0600"
    remove(certified)
    assert {path.name for path in certified.pki.iterdir()} == before


def test_undone_run_leaves_the_record_without_what_it_put_back(
    certified: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    certified.path(NAME).unlink()
    before = certified.files()
    certified.now = NOW + 340 * DAY
    signed = certified.sign(certified.request())
    with monkeypatch.context() as patch, pytest.raises(ApplyError):
        patch.setattr(os, "rename", failing(os.rename, certified.path("etcd-server.crt")))
        certified.install(signed)
    assert certified.files() == before
    remove(certified)
    assert {name: content for name, content in before.items() if "/cp1/" in name} == certified.files()


def failing(rename: Callable[[str, str], None], once: Path) -> Callable[[str, str], None]:
    left = [str(once)]

    def stand_in(source: str, target: str) -> None:
        if target in left:
            left.remove(target)
            raise OSError(28, "No space left on device")
        rename(source, target)

    return stand_in


def test_reset_takes_what_a_killed_run_left(certified: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(source: str, target: str) -> None:
        raise Killed

    certified.path("etcd-server.crt").unlink()
    signed = certified.sign(certified.request())
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "rename", die)
        patch.setattr(os, "unlink", lambda _path: None)
        certified.install(signed)
    assert list(certified.pki.glob(".fairlead-*")) != [certified.path(NAME)]
    remove(certified)
    assert list(certified.root.iterdir()) == []


def test_reset_of_a_moved_directory_knows_its_files(certified: Node) -> None:
    moved = certified.root / "elsewhere"
    shutil.copytree(certified.ca, moved)
    removal.converge({"paths": [str(moved)]}, False)
    assert not moved.exists()
    assert certified.ca.exists()


def test_broken_record_is_named_and_nothing_is_removed(certified: Node) -> None:
    certified.path(NAME).write_text("[]")
    before = certified.files()
    with pytest.raises(ReadError, match=r"\.fairlead-files: is not the record"):
        remove(certified)
    assert certified.files() == before


def test_path_that_is_not_absolute_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        removal.converge({"paths": ["/a", "b"]}, False)
    assert caught.value.path == "paths[1]"
