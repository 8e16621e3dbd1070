# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What a node remembers of its member, and by that: which data of etcd on it is ours."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from typing import Any, List, Mapping, Optional

from .._model.etcd import MemberSpec
from .._model.files import File
from .._system.files import read_file

MEMORY = "/var/lib/fairlead/etcd_member.json"
STARTING, MEMBER = "starting", "member"


def memory(spec: MemberSpec, stage: str) -> File:
    content = {"name": spec.name, "token": spec.token, "data_dir": spec.data_dir, "stage": stage}
    return File(MEMORY, json.dumps(content, indent=1, sort_keys=True) + "\n", "0600")


def remembered() -> Mapping[str, Any]:
    """Empty when nothing is; also when it cannot be read, which makes data nobody's of ours."""
    file = read_file(MEMORY)
    try:
        content = json.loads(file.content) if file is not None else {}
    except ValueError:
        content = {}
    return content if isinstance(content, dict) else {}


def own_data() -> Optional[str]:
    """The directory that etcd keeps in the remembered data directory, there or not; None when none is remembered."""
    data_dir = remembered().get("data_dir")
    return os.path.join(data_dir, "member") if isinstance(data_dir, str) and data_dir else None


def foreign_data(data_dir: str) -> Optional[str]:
    """Data that another etcd has left where ours would have its own; None when there is none."""
    path = os.path.join(data_dir, "member")
    if path == own_data():
        return None
    try:
        return path if os.listdir(path) else None
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return path


def has_log(data_dir: str) -> bool:
    """Whether etcd would find a member's log: without one it starts as if there were nothing."""
    return bool(glob.glob(os.path.join(glob.escape(data_dir), "member", "wal", "*.wal")))


def holders(path: str, proc: str = "/proc") -> List[int]:
    """Processes that have a file below ``path`` open."""
    inside = os.path.join(os.path.realpath(path), "")
    pids = sorted(int(name) for name in os.listdir(proc) if name.isdigit())
    opened = {pid: _open_files(os.path.join(proc, str(pid), "fd")) for pid in pids}
    return [pid for pid in pids if any(file.startswith(inside) for file in opened[pid])]


def _open_files(directory: str) -> List[str]:
    files = []
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            # What is gone by now is held by nobody.
            with contextlib.suppress(OSError):
                files.append(os.readlink(os.path.join(directory, name)))
    return files
