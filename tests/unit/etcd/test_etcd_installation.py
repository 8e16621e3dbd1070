# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Files and releases of a member: beside no other etcd, whole or not at all, and removed only when they are ours."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._etcd import installation, service
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import (
    ApplyError,
    PrerequisiteError,
    ReadError,
    SpecError,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.etcd import BANNER
from ansible_collections.fairlead.cluster.plugins.module_utils._system import releases
from tests.unit.etcd.member_node import Node

PROGRAMS = {"top/etcd": b"#!etcd", "top/etcdctl": b"#!etcdctl", "top/README.md": b"text", "top/doc/etcd": b"no"}


def packed(programs: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in programs.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


class Site:
    """A node, its files below a directory of the test, and a mirror."""

    def __init__(self, node: Node, root: Path) -> None:
        self.node, self.root = node, root
        self.releases, self.environment = root / "opt" / "etcd", root / "etc" / "etcd.env"
        self.archive = packed(PROGRAMS)
        self.sha256 = hashlib.sha256(self.archive).hexdigest()
        self.fetch: Callable[[str], Any] = lambda url: io.BytesIO(self.archive)
        self.tried = 0

    def runner(self, args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        return self.node.systemctl(args) if args[0] == "systemctl" else (self.tried, "", "Exec format error")

    def document(self, **changes: Any) -> dict[str, Any]:
        files = [(self.node.unit, f"# {BANNER}\n"), (self.environment, f"# {BANNER}\nETCD_NAME=m1\n")]
        return {
            "files": [{"path": str(path), "content": content} for path, content in files],
            "environment_file": str(self.environment),
            "data_dir": str(self.node.data),
            "release_directory": str(self.releases),
            **changes,
        }

    @property
    def release(self) -> dict[str, str]:
        return {"version": "3.6.14", "url": "http://mirror/etcd.tar.gz", "sha256": self.sha256}

    def present(self, check: bool = False, **changes: Any) -> installation.Installed:
        return installation.present(self.document(**changes), check, self.runner, self.fetch)

    def absent(self, check: bool = False) -> installation.Uninstalled:
        return installation.absent(self.document(), check, self.runner)

    def tree(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir())


@pytest.fixture
def site(node: Node, tmp_path: Path) -> Site:
    node.environment.unlink()
    return Site(node, tmp_path)


@pytest.fixture
def strict() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_release_and_files_come_together_and_once(site: Site) -> None:
    assert len(site.present(check=True, release=site.release).outcome.operations) == 3
    assert site.tree() == []
    assert site.present(release=site.release).outcome.changed
    directory = f"opt/etcd/3.6.14-{site.sha256[:12]}"
    assert site.tree() == [
        "etc/etcd.env",
        "etcd.service",
        *(f"{directory}/{name}" for name in (".fairlead.json", "etcd", "etcdctl")),
    ]
    site.fetch = lambda url: pytest.fail("fetched again")
    assert not site.present(release=site.release).outcome.changed


@pytest.mark.usefixtures("strict")
def test_account_of_etcd_gets_at_everything_whatever_the_umask(site: Site) -> None:
    site.present(release=site.release)
    directory = site.releases / f"3.6.14-{site.sha256[:12]}"
    for path in (site.releases.parent, site.releases, directory, directory / "etcd", site.environment.parent):
        assert path.stat().st_mode & 0o777 == 0o755, path
    assert site.environment.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", ["service", "unit", "environment", "data"])
def test_another_etcd_is_refused_with_nothing_done(site: Site, name: str) -> None:
    if name == "service":
        site.node.run()
        site.node.process = service.Process({}, "/usr/bin/etcd")
    if name == "unit":
        site.node.foreign_unit(enabled=False)
    if name == "environment":
        site.environment.parent.mkdir()
        site.environment.write_text("ETCD_NAME=other\n")
    if name == "data":
        site.node.write_data()
    before = site.tree()
    parts = {
        "service": "systemctl disable --now etcd.service",
        "unit": str(site.node.unit),
        "environment": str(site.environment),
        "data": f"{site.node.data}/member holds data",
    }
    for check in (True, False):
        with pytest.raises(installation.ForeignError, match="nothing of it was changed") as caught:
            site.present(check, release=site.release)
        assert parts[name] in str(caught.value)
    assert (site.tree(), site.node.commands) == (before, [])


def test_data_that_is_remembered_and_service_of_ours_are_no_obstacle(site: Site) -> None:
    site.node.write_data()
    site.node.remember("member")
    site.node.run()
    assert site.present().outcome.changed


def failing(url: str) -> Any:
    raise urllib.error.URLError("Connection refused")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"fetch": failing}, "http://mirror/etcd.tar.gz cannot be fetched: .*Connection refused"),
        ({"archive": packed({**PROGRAMS, "top/etcd": b"evil"})}, "has the SHA-256 .*; it was thrown away"),
        ({"tried": 126}, "do not run on this node: Exec format error"),
    ],
)
def test_release_that_is_of_no_use_changes_nothing(site: Site, change: dict[str, Any], problem: str) -> None:
    site.present()
    before = site.tree()
    for key, value in change.items():
        setattr(site, key, value)
    changed = {**site.document()["files"][0], "content": f"# {BANNER}\nanother release\n"}
    with pytest.raises(ApplyError, match=problem):
        site.present(release=site.release, files=[changed])
    assert site.tree() == before
    assert site.node.unit.read_text() == f"# {BANNER}\n"
    assert not site.releases.exists()


@pytest.mark.parametrize(
    ("archive", "problem"),
    [
        (packed({"top/etcd": b"x"}), "the archive holds no etcdctl inside"),
        (packed({"etcd": b"x", "etcdctl": b"x", "a/b/etcd": b"x"}), "the archive holds no etcd and no etcdctl"),
        (packed(PROGRAMS)[:60], "ended before"),
        (b"not packed at all", "could not be opened"),
    ],
    # Not the archives themselves: they hold the time, and every worker makes its own.
    ids=["one program", "two of one", "cut off", "no archive"],
)
def test_archive_of_another_shape_is_refused(site: Site, archive: bytes, problem: str) -> None:
    site.archive, site.sha256 = archive, hashlib.sha256(archive).hexdigest()
    with pytest.raises(ApplyError, match=problem):
        site.present(release=site.release)
    assert site.tree() == []


def test_archive_writes_nowhere_but_into_its_directory(site: Site) -> None:
    site.archive = packed({**PROGRAMS, "../etcd": b"evil", "/top/etcd": b"evil"})
    site.sha256 = hashlib.sha256(site.archive).hexdigest()
    site.present(release=site.release)
    assert (site.releases / f"3.6.14-{site.sha256[:12]}" / "etcd").read_bytes() == b"#!etcd"
    assert not list(site.root.rglob("top")) and not (site.releases / "etcd").exists()


def test_damaged_release_is_replaced(site: Site) -> None:
    site.present(release=site.release)
    program = site.releases / f"3.6.14-{site.sha256[:12]}" / "etcd"
    program.write_bytes(b"#!damaged")
    assert site.present(release=site.release).outcome.changed
    assert program.read_bytes() == b"#!etcd"
    assert not releases.unfinished(str(site.releases))


def test_what_an_interrupted_run_has_left_goes_with_the_next(site: Site) -> None:
    (site.releases / ".fairlead-abc" / "x").mkdir(parents=True)
    site.present(release=site.release)
    assert len(list(site.releases.iterdir())) == 1


def test_directory_of_somebody_else_in_the_place_of_a_release_is_refused(site: Site) -> None:
    (site.releases / f"3.6.14-{site.sha256[:12]}").mkdir(parents=True)
    with pytest.raises(ReadError, match="was not unpacked by role etcd; move it away first"):
        site.present(release=site.release)
    assert site.tree() == []


def test_files_that_cannot_be_written_take_the_release_back(site: Site) -> None:
    site.environment.parent.write_text("a file where a directory has to be\n")
    with pytest.raises(ApplyError):
        site.present(release=site.release)
    assert site.tree() == ["etc"]


def test_absent_removes_what_is_ours_and_says_what_is_not(site: Site) -> None:
    site.present(release=site.release)
    (site.releases / "mine").mkdir()
    (site.releases / "mine" / "file").touch()
    site.environment.write_text("ETCD_NAME=other\n")
    assert site.absent(check=True).outcome.changed
    assert site.node.unit.exists()
    removed = site.absent()
    assert (removed.outcome.changed, removed.left) == (True, [str(site.environment)])
    assert site.tree() == ["etc/etcd.env", "opt/etcd/mine/file"]
    assert not site.absent().outcome.changed


def test_absent_takes_an_empty_directory_and_what_was_unfinished(site: Site) -> None:
    site.present(release=site.release)
    (site.releases / ".fairlead-abc").mkdir()
    site.absent()
    assert not site.releases.exists()


def test_systemd_forgets_a_unit_that_an_interrupted_run_has_removed(site: Site) -> None:
    site.node.shown.update(FragmentPath=str(site.node.unit), NeedDaemonReload="yes")
    assert not site.absent().outcome.changed
    assert site.node.commands == ["daemon-reload"]


@pytest.mark.parametrize("unit", [True, False])
def test_unit_waits_for_its_program_only_where_another_one_would_be_lost(site: Site, unit: bool) -> None:
    if unit:
        site.present()
    changed = {**site.document()["files"][0], "content": f"# {BANNER}\npackage\n"}
    missing = {"program": str(site.root / "bin" / "etcd"), "files": [changed]}
    installed = site.present(missing_program="defer", **missing)
    assert installed.deferred is unit
    assert ("package" in site.node.unit.read_text()) is not unit
    assert site.present(missing_program="accept", **missing).outcome.changed is unit


def test_missing_program_and_account_are_named(site: Site) -> None:
    program = site.root / "bin" / "etcd"
    asked = {"program": str(program), "missing_program": "refuse", "account": "nobody-of-that-name"}
    with pytest.raises(PrerequisiteError, match=f"{program} is missing.*etcd_install_method: none.*etcd_bin_dir"):
        site.present(**asked)
    program.parent.mkdir()
    program.touch(0o755)
    with pytest.raises(PrerequisiteError, match="useradd --system .* nobody-of-that-name"):
        site.present(**asked)
    assert site.tree() == ["bin/etcd"]
    assert site.present(**{**asked, "account": "root"}).outcome.changed


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"files": [{"path": "/x", "content": "no mark"}]}, "files[0].content"),
        ({"release": {"version": "../x", "url": "u", "sha256": "0" * 64}}, "release.version"),
        ({"release": {"version": "1", "url": "u", "sha256": ""}}, "release.sha256"),
    ],
)
def test_broken_declaration_is_refused_with_its_path(site: Site, changes: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as caught:
        site.present(**changes)
    assert caught.value.path == path
