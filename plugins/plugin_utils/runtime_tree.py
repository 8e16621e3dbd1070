# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Puts the node runtime together on the controller: one tree of files, the same bytes for the same inputs.

``lib/fairlead``        the library (plugins/module_utils) without what only Ansible's modules use
``lib/fairlead/agent``  the commands (runtime/*.py)
``lib/pyroute2``        the controller's pyroute2, whole: its parts import each other in one order that works
``bin/fairlead``        the command
``units/``              units of systemd
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import importlib.util
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..module_utils._deps import PYROUTE2_MINIMUM
from ..module_utils._model.runtime import tree_digest

ONLY_ANSIBLE = ("_ansible.py", "_deps.py")
# The hash is in the version so that two states of a checkout never share a directory; 48 bits are plenty for that.
HASH_DIGITS = 12
_PACKAGE = '# Copyright the Fairlead authors\n# SPDX-License-Identifier: Apache-2.0\n"""{}"""\n'


class RuntimeTreeError(Exception):
    """The tree cannot be put together on this controller. The message says what to do."""


@dataclass(frozen=True)
class Tree:
    """Files by path relative to the tree's root, each with its octal mode and content; and the collection's version."""

    collection_version: str
    files: dict[str, tuple[str, bytes]]

    @property
    def digest(self) -> str:
        return tree_digest({path: (mode, _sha256(content)) for path, (mode, content) in self.files.items()})

    @property
    def version(self) -> str:
        return f"{self.collection_version}-{self.digest[:HASH_DIGITS]}"

    @property
    def units(self) -> dict[str, str]:
        """Units of systemd by name."""
        return {
            path.removeprefix("units/"): content.decode()
            for path, (_mode, content) in sorted(self.files.items())
            if path.startswith("units/")
        }

    def archive(self) -> bytes:
        """The tree as tar.gz without anything that differs from run to run (times, owners, file name)."""
        packed = io.BytesIO()
        with (
            gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=0) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path, (mode, content) in sorted(self.files.items()):
                entry = tarfile.TarInfo(path)
                entry.mode = int(mode, 8)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return packed.getvalue()


def build(root: Path) -> Tree:
    """The tree from a collection's root (checkout or installed artefact). Raises RuntimeTreeError."""
    library = {
        "__init__.py": _PACKAGE.format("The library of the node runtime.").encode(),
        **_python_files(root / "plugins" / "module_utils", leave_out=ONLY_ANSIBLE),
    }
    agent = {
        "__init__.py": _PACKAGE.format("The commands of the node runtime.").encode(),
        **_python_files(root / "runtime"),
    }
    files = {
        **_placed("lib/fairlead", library),
        **_placed("lib/fairlead/agent", agent),
        **_placed("lib", _pyroute2()),
        **_placed("units", {path.name: path.read_bytes() for path in (root / "runtime" / "units").iterdir()}),
        **_placed("bin", {"fairlead": (root / "runtime" / "bin" / "fairlead").read_bytes()}, "0755"),
    }
    return Tree(collection_version(root), files)


def collection_version(root: Path) -> str:
    """From galaxy.yml in a checkout, from MANIFEST.json in an installed artefact."""
    manifest, galaxy = root / "MANIFEST.json", root / "galaxy.yml"
    if manifest.exists():
        return str(json.loads(manifest.read_text())["collection_info"]["version"])
    if galaxy.exists():
        return str(yaml.safe_load(galaxy.read_text())["version"])
    raise RuntimeTreeError(f"{root}: neither MANIFEST.json nor galaxy.yml is there: not the root of a collection")


def _python_files(directory: Path, leave_out: tuple[str, ...] = ()) -> dict[str, bytes]:
    paths = (path for path in directory.rglob("*.py") if path.relative_to(directory).as_posix() not in leave_out)
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def _placed(folder: str, files: dict[str, bytes], mode: str = "0644") -> dict[str, tuple[str, bytes]]:
    return {f"{folder}/{path}": (mode, content) for path, content in files.items()}


def _pyroute2() -> dict[str, bytes]:
    spec = importlib.util.find_spec("pyroute2")
    wanted = ".".join(map(str, PYROUTE2_MINIMUM))
    if spec is None or spec.origin is None:
        raise RuntimeTreeError(f"pyroute2 is missing where ansible-playbook runs: pip install 'pyroute2>={wanted}'")
    package = Path(spec.origin).parent
    found = _version(package / "config" / "version.py")
    if found < PYROUTE2_MINIMUM:
        raise RuntimeTreeError(
            f"pyroute2 {'.'.join(map(str, found))} where ansible-playbook runs is too old: "
            f"pip install 'pyroute2>={wanted}'"
        )
    files = {f"pyroute2/{path}": content for path, content in _python_files(package).items()}
    return {**files, **_licences(package)}


def _version(path: Path) -> tuple[int, ...]:
    text = path.read_text() if path.exists() else ""
    values = [node.value for node in ast.parse(text).body if isinstance(node, ast.Assign)]
    versions = [value.value for value in values if isinstance(value, ast.Constant)]
    return tuple(int(part) for part in str(versions[0]).split(".")[:3] if part.isdigit()) if versions else ()


def _licences(package: Path) -> dict[str, bytes]:
    """pyroute2's licences allow copies that bring them along."""
    folders = package.parent.glob("pyroute2-*.dist-info")
    found = (path for folder in folders for path in folder.rglob("LICENSE*") if path.is_file())
    return {f"pyroute2/{path.name}": path.read_bytes() for path in found}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
