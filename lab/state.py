# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Where a lab keeps what it knows: paths under ``build/lab/NAME`` and the records in them.

Everything is recorded before it is made, so that ``down`` can clean after a crash at any point.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab.errors import LabError

REPO = Path(__file__).resolve().parent.parent
LABS = REPO / "build" / "lab"
RUN = Path("/run")
CACHE = Path(os.environ.get("FAIRLEAD_CACHE", "/var/cache/fairlead"))

#: Long enough for people; short enough for a Unix socket's path (108 bytes) under /run.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")


@dataclass(frozen=True)
class Lab:
    """What one lab is made of; stored as ``lab.json``.

    lan is a CIDR, gateway and the values of nodes are addresses in it, memory is MiB a node. lan6, gateway6 and nodes6
    are the same for IPv6; empty without it.
    root, disk and mirror are paths in the cache; disk is empty for containers.
    """

    name: str
    inventory: str
    kind: str
    lan: str
    gateway: str
    memory: int
    nodes: dict[str, str]
    root: str = ""
    disk: str = ""
    mirror: str = ""
    lan6: str = ""
    gateway6: str = ""
    nodes6: dict[str, str] = field(default_factory=dict)

    @property
    def dir(self) -> Path:
        return lab_dir(self.name)

    @property
    def netns(self) -> str:
        return netns_name(self.name)

    @property
    def prefix(self) -> int:
        return int(self.lan.partition("/")[2])

    @property
    def prefix6(self) -> int:
        return int(self.lan6.partition("/")[2])

    def node_dir(self, node: str) -> Path:
        return self.dir / "nodes" / node

    def save(self) -> None:
        self.dir.mkdir(parents=True, exist_ok=True)
        write_json(self.dir / "lab.json", asdict(self))


def check_name(name: str) -> str:
    """Return name, or raise LabError when no namespace, socket and directory can be named after it."""
    if not _NAME.fullmatch(name):
        raise LabError(f"lab name {name!r}: use 1 to 20 of a-z, 0-9 and -, not at either end")
    return name


def lab_dir(name: str) -> Path:
    return LABS / check_name(name)


def netns_name(name: str) -> str:
    return f"fl-{check_name(name)}"


def run_dir(name: str) -> Path:
    """Sockets (their paths must be short) and the mark of which checkout owns the name."""
    return RUN / netns_name(name)


def load(name: str) -> Lab | None:
    """The recorded lab of this name, or None."""
    record = read_json(lab_dir(name) / "lab.json")
    return Lab(**record) if record else None


def paths_in_use() -> set[Path]:
    """What the labs of this machine are made from: those of this checkout, and those of others that are up."""
    owners = []
    for owner in RUN.glob("fl-*/owner"):
        # Another lab may be going down just now.
        with suppress(FileNotFoundError):
            owners.append(Path(owner.read_text()))
    records = [read_json(directory / "lab.json") for directory in {*owners, *LABS.glob("*")}]
    parts = [record.get(part) for record in records if record for part in ("root", "disk", "mirror")]
    return {Path(part) for part in parts if part}


def write_json(path: Path, value: Any) -> None:
    """Replace a file whole: a reader sees the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The content, or None when there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory (made if absent) against other lab commands; survives its removal meanwhile."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if directory.exists() and os.path.samestat(os.fstat(handle), directory.stat()):
                yield
                return
        finally:
            os.close(handle)
