# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Files on a real file system: the twelve steps, the diff, and nothing half-written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import RunModule

MODULE = "managed_files"


def rights(path: Path) -> str:
    return f"{path.stat().st_mode & 0o7777:04o}"


def steps(run_module: RunModule, args: dict[str, Any], look: Any, before: Any, after: Any) -> None:
    """Check mode and for real, each twice: what is announced is what happens, and only once."""
    assert look() == before
    announced = run_module(MODULE, args, check=True)
    assert run_module(MODULE, args, check=True)["operations"] == announced["operations"]
    assert look() == before
    done = run_module(MODULE, args)
    assert look() == after
    again = run_module(MODULE, args)
    assert look() == after
    assert (announced["changed"], done["changed"], again["changed"]) == (True, True, False)
    assert (announced["operations"], again["operations"]) == (done["operations"], [])
    assert announced["after"] == done["after"]
    assert (done["after"], again["changed_paths"]) == (again["before"], [])


def test_twelve_steps(run_module: RunModule, tmp_path: Path) -> None:
    one, two = tmp_path / "deep" / "er" / "one", tmp_path / "two"

    def look() -> list[tuple[str, str] | None]:
        return [(path.read_text(), rights(path)) if path.exists() else None for path in (one, two)]

    files = [{"path": str(one), "content": "1\n"}, {"path": str(two), "content": "2\n", "mode": "0600"}]
    steps(run_module, {"files": files}, look, [None, None], [("1\n", "0644"), ("2\n", "0600")])
    modified = [{"path": str(one), "content": "1\n", "mode": "0640"}, {"path": str(two), "content": "two\n"}]
    steps(
        run_module,
        {"files": modified},
        look,
        [("1\n", "0644"), ("2\n", "0600")],
        [("1\n", "0640"), ("two\n", "0644")],
    )
    mixed = [{"path": str(one), "state": "absent"}, {"path": str(two), "content": "two again\n"}]
    steps(run_module, {"files": mixed}, look, [("1\n", "0640"), ("two\n", "0644")], [None, ("two again\n", "0644")])
    gone = {"files": [{"path": str(one)}, {"path": str(two)}], "state": "absent"}
    steps(run_module, gone, look, [None, ("two again\n", "0644")], [None, None])
    assert not run_module(MODULE, gone)["changed"]


def test_diff_shows_lines_and_rights(run_module: RunModule, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old\nkept\n")
    path.chmod(0o644)
    files = [{"path": str(path), "content": "new\nkept\n", "mode": "0600"}]
    (shown,) = run_module(MODULE, {"files": files}, check=True, diff=True)["diff"]
    assert (shown["before"], shown["after"]) == ("old\nkept\n", "new\nkept\n")
    assert (shown["before_header"], shown["after_header"]) == (f"{path} (0644 root:root)", f"{path} (0600 root:root)")


def test_diff_of_rights_alone_is_not_empty(run_module: RunModule, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("same\n")
    path.chmod(0o644)
    files = [{"path": str(path), "content": "same\n", "mode": "0600"}]
    (shown,) = run_module(MODULE, {"files": files}, diff=True)["diff"]
    assert "0644" in shown["before"]
    assert "0600" in shown["after"]


def test_content_that_shall_not_be_shown_is_nowhere_but_in_the_arguments(run_module: RunModule, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old-secret")
    files = [{"path": str(path), "content": "new-secret", "mode": "0600"}]
    result = run_module(MODULE, {"files": files, "show_content": False}, diff=True)
    del result["invocation"]
    assert result["diff"]
    assert "secret" not in str(result).replace(str(path), "")
    assert path.read_text() == "new-secret"


def test_file_that_is_not_text_is_compared_and_shown(run_module: RunModule, tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe")
    (shown,) = run_module(MODULE, {"files": [{"path": str(path), "content": "text\n"}]}, diff=True)["diff"]
    assert shown["before"] == "\ufffd\ufffd"
    assert path.read_bytes() == b"text\n"


def test_failure_of_the_last_puts_back_the_others(run_module: RunModule, tmp_path: Path) -> None:
    changed, made, refused = tmp_path / "a-changed", tmp_path / "b-made", tmp_path / "c-refused"
    changed.write_text("as found\n")
    changed.chmod(0o604)
    files = [{"path": str(path), "content": "new\n"} for path in (changed, made, refused)]
    files[2]["owner"] = "no-such-user"
    result = run_module(MODULE, {"files": files}, fails=True)
    assert "no-such-user" in result["msg"]
    assert (changed.read_text(), rights(changed)) == ("as found\n", "0604")
    assert sorted(os.listdir(tmp_path)) == ["a-changed"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"path": "relative"}, "files[1].path: must be absolute"),
        ({"path": "/tmp/flt-mode", "mode": "644"}, "files[1].mode: must be four octal digits"),
        ({"path": "/tmp/flt-twice"}, "files[1].path: path /tmp/flt-twice is also that of files[0].path"),
    ],
)
def test_refusals_name_the_entry(run_module: RunModule, file: dict[str, str], message: str) -> None:
    result = run_module(MODULE, {"files": [{"path": "/tmp/flt-twice"}, file]}, fails=True)
    assert message in result["msg"]
    assert not Path("/tmp/flt-twice").exists()


def test_directory_in_the_place_of_a_file_is_refused(run_module: RunModule, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    result = run_module(MODULE, {"files": [{"path": str(tmp_path / "taken")}]}, fails=True)
    assert "not as a regular file" in result["msg"]
