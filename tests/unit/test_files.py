# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Declared files: parsing, and what is on the disk afterwards."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Outcome, converge
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError, ReadError, SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.files import File, parse_files
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import difference
from ansible_collections.fairlead.cluster.plugins.module_utils._system.files import FileAdapter

OWNER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name


def mine(path: Path, content: str = "x\n", mode: str = "0644") -> File:
    return File(str(path), content, mode, OWNER, GROUP)


def put(*files: File, also: tuple[Path, ...] = (), check: bool = False) -> Outcome:
    """Converge to ``files``; those of ``also`` shall be gone."""
    want = state_of(files)
    adapter = FileAdapter([*(file.path for file in files), *map(str, also)])
    return converge(adapter, lambda have: difference(have, want), check)


def test_file_is_written_with_content_mode_and_directories(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    assert put(mine(path, "text\n", "0600")).changed
    assert path.read_text() == "text\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not put(mine(path, "text\n", "0600")).changed
    assert os.listdir(path.parent) == ["file"]


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    assert put(mine(tmp_path / "a" / "file"), check=True).changed
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("change", [{"content": "other\n"}, {"mode": "0640"}])
def test_drift_of_content_or_mode_is_repaired(change: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "file"
    put(mine(path, **{"content": "x\n", "mode": "0600", **change}))
    outcome = put(mine(path, "x\n", "0600"))
    assert [operation.action for operation in outcome.operations] == ["replace"]
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("x\n", 0o600)


def test_bytes_that_are_no_text_survive_reading_and_undo(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xff\r\n\x00")
    missing = File(str(tmp_path / "zz"), "x", "0644", "no-such-user", GROUP)
    with pytest.raises(ApplyError, match="no-such-user"):
        put(mine(path), missing)
    assert path.read_bytes() == b"\xff\r\n\x00"
    assert os.listdir(tmp_path) == ["file"]


def test_file_is_removed_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    assert put(also=(path,)).changed
    assert not path.exists()
    assert not put(also=(path,)).changed


def test_directory_in_the_way_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(ReadError, match="not as a regular file; move it away first"):
        put(mine(tmp_path / "file"))
    assert (tmp_path / "file").is_dir()


def test_link_in_the_way_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("x")
    link = tmp_path / "file"
    link.symlink_to("target")
    with pytest.raises(ReadError, match="file: is a symbolic link to target; move it away first"):
        put(mine(link))
    assert os.readlink(link) == "target"
    assert (tmp_path / "target").read_text() == "x"


@pytest.mark.skipif(os.getuid() != 0, reason="giving files away takes root")
def test_owner_without_a_name_comes_back_with_undo(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 54321, 54322)
    with pytest.raises(ApplyError, match="no-such-user"):
        put(mine(path), File(str(tmp_path / "zz"), "x", "0644", "no-such-user", GROUP))
    assert (path.read_text(), path.stat().st_uid, path.stat().st_gid) == ("old", 54321, 54322)


def test_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """The new content comes by rename: who has the old file open goes on reading it whole."""
    path = tmp_path / "file"
    put(mine(path, "old"))
    with path.open() as reader:
        put(mine(path, "new"))
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_line_of_a_file_does_not_show_its_content() -> None:
    assert "secret" not in str(File("/etc/key", "secret", "0600"))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"path": "etc/x"}, r"files\[0\]\.path: must be absolute"),
        ({"path": "/x", "mode": "644"}, r"files\[0\]\.mode: must be four octal digits"),
        ({"path": "/x", "mode": "0689"}, r"files\[0\]\.mode: must be four octal digits"),
        ({"path": "/x", "mode": 420}, r"files\[0\]\.mode: must be a string"),
        ({"path": "/x", "contents": ""}, r"files\[0\]\.contents: is unknown here"),
        ({"content": ""}, r"files\[0\]\.path: is required"),
    ],
)
def test_malformed_file_is_refused_by_path(entry: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        parse_files([entry])


def test_one_path_twice_is_refused() -> None:
    with pytest.raises(SpecError, match=r"files\[1\]\.path: path /x is also that of files\[0\]\.path"):
        parse_files([{"path": "/x"}, {"path": "/x", "content": "y"}])
