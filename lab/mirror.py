# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The package mirror of a lab: the closure of what the roles install, fetched once by the host's apt.

Nodes see it as their only package source, so the roles' real install path runs without an internet.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from lab import cache, sources
from lab.errors import need, run

_WORLD_READABLE = 0o755


def package_mirror(root: Path, packages: Iterable[str]) -> Path:
    """A flat apt repository with the packages and all they depend on beyond the root tree.

    :param root: root tree whose dpkg status says what a node has already.
    :param packages: binary package names; recommended packages are not included.
    """
    names = sorted(set(packages))
    return cache.built(f"mirror-{cache.key('mirror', root.name, *names)}", lambda target: _build(root, names, target))


def source_line(gateway: str) -> str:
    """What a node's apt sources hold."""
    return f"deb [trusted=yes] http://{gateway}/debian ./\n"


def _build(root: Path, names: list[str], target: Path) -> None:
    need("apt-get", "apt-ftparchive")
    target.mkdir(mode=_WORLD_READABLE, parents=True)
    if names:
        print(f"fetching {len(names)} packages and their dependencies for the lab's mirror (once) ...", flush=True)
        _download(root, names, target)
    packages = run(["sh", "-c", 'cd "$1" && apt-ftparchive packages .', "sh", str(target)])
    (target / "Packages").write_text(packages)
    (target / "Packages.gz").write_bytes(gzip.compress(packages.encode(), mtime=0))
    release = run(["sh", "-c", 'cd "$1" && apt-ftparchive release .', "sh", str(target)])
    (target / "Release").write_text(release)


def _download(root: Path, names: list[str], target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for folder in ("lists/partial", "cache/archives/partial", "preferences.d"):
            Path(scratch, folder).mkdir(parents=True)
        listing = Path(scratch, "sources.list")
        listing.write_text(sources.host().text())
        options = [
            f"-oDir::State::lists={scratch}/lists",
            f"-oDir::State::status={root}/var/lib/dpkg/status",
            f"-oDir::State::extended_states={scratch}/extended_states",
            f"-oDir::Cache={scratch}/cache",
            f"-oDir::Etc::sourcelist={listing}",
            "-oDir::Etc::sourceparts=/dev/null",
            "-oDir::Etc::preferences=/dev/null",
            f"-oDir::Etc::preferencesparts={scratch}/preferences.d",
            "-oAPT::Sandbox::User=root",
            "-oAcquire::Languages=none",
            "-oAPT::Install-Recommends=false",
        ]
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", *options, "-qq", "update"], env=quiet)
        run(["apt-get", *options, "-qq", "--yes", "--download-only", "install", *names], env=quiet)
        for archive in Path(scratch, "cache/archives").glob("*.deb"):
            shutil.move(archive, target / archive.name)
