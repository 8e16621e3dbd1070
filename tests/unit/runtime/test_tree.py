# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The runtime's tree: the same bytes for the same inputs, complete, and able to run on its own."""

from __future__ import annotations

import ast
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._system.runtime_tree import digest_of, unpack
from ansible_collections.fairlead.cluster.plugins.plugin_utils import runtime_tree
from ansible_collections.fairlead.cluster.plugins.plugin_utils.runtime_tree import RuntimeTreeError, Tree, build

# What a node over a slow link should not have to wait for.
ARCHIVE_LIMIT = 750_000


def isolated(directory: Path, code: str) -> str:
    """Output of Python code that sees the standard library and the tree, and nothing of Ansible."""
    blocked = "import sys; sys.modules['ansible'] = None; "
    start = [sys.executable, "-I", "-S", "-c", f"{blocked}sys.path.insert(0, {str(directory / 'lib')!r}); {code}"]
    done = subprocess.run(start, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_archive_is_the_same_from_a_copy_of_the_collection(root_dir: Path, tree: Tree, tmp_path: Path) -> None:
    for name in ("plugins", "runtime"):
        shutil.copytree(root_dir / name, tmp_path / name, copy_function=shutil.copyfile)
    shutil.copyfile(root_dir / "galaxy.yml", tmp_path / "galaxy.yml")
    copy = build(tmp_path)
    assert (copy.version, copy.archive()) == (tree.version, tree.archive())


def test_archive_is_small(tree: Tree) -> None:
    assert len(tree.archive()) < ARCHIVE_LIMIT


def test_any_changed_file_is_another_version(tree: Tree) -> None:
    changed = {**tree.files, "bin/fairlead": ("0755", tree.files["bin/fairlead"][1] + b"\n")}
    made_executable = {**tree.files, "units/fairlead-restore.service": ("0755", b"")}
    versions = {Tree(tree.collection_version, files).version for files in (tree.files, changed, made_executable)}
    assert len(versions) == 3


def test_version_of_an_installed_artefact_comes_from_its_manifest(root_dir: Path, tree: Tree, tmp_path: Path) -> None:
    for name in ("plugins", "runtime"):
        shutil.copytree(root_dir / name, tmp_path / name)
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"collection_info": {"version": "9.8.7"}}))
    assert build(tmp_path).version == f"9.8.7-{tree.digest[:12]}"


def test_directory_that_is_no_collection_is_refused(root_dir: Path, tmp_path: Path) -> None:
    for name in ("plugins", "runtime"):
        shutil.copytree(root_dir / name, tmp_path / name)
    with pytest.raises(RuntimeTreeError, match="galaxy.yml"):
        build(tmp_path)


def test_pyroute2_too_old_or_missing_says_what_to_install(root_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_tree, "PYROUTE2_MINIMUM", (99, 0, 0))
    with pytest.raises(RuntimeTreeError, match=r"too old: pip install 'pyroute2>=99.0.0'"):
        build(root_dir)
    monkeypatch.setattr(runtime_tree.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeTreeError, match=r"missing where ansible-playbook runs: pip install 'pyroute2"):
        build(root_dir)


def test_unpacked_tree_has_the_announced_digest(tree: Tree, installed: Path) -> None:
    assert digest_of(str(installed)) == tree.digest
    (installed / "lib" / "__pycache__").mkdir()
    (installed / "lib" / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    assert digest_of(str(installed)) == tree.digest


@pytest.mark.parametrize("damage", ["missing", "changed", "added", "mode", "link", "folder link"])
def test_any_damage_changes_the_digest(tree: Tree, installed: Path, damage: str) -> None:
    victim = installed / "lib" / "pyroute2" / "ipvs.py"
    if damage == "missing":
        victim.unlink()
    elif damage == "changed":
        victim.write_bytes(b"")
    elif damage == "added":
        victim.with_name("ipvs2.py").write_bytes(b"")
    elif damage == "mode":
        victim.chmod(0o666)
    elif damage == "link":
        victim.rename(installed.parent / "kept.py")
        victim.symlink_to(installed.parent / "kept.py")
    else:
        (installed / "lib" / "extra").symlink_to("/tmp")
    assert digest_of(str(installed)) != tree.digest


@pytest.mark.parametrize("name", ["../escape", "/tmp/fairlead-escape", "a/../../escape"])
def test_archive_that_would_write_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(tarfile.TarError, match="unexpected entry"):
        unpack(str(archive), str(tmp_path / "tree"))
    assert not (tmp_path / "escape").exists()


def test_archive_with_a_link_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        entry = tarfile.TarInfo("link")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(entry)
    with pytest.raises(tarfile.TarError, match="unexpected entry"):
        unpack(str(archive), str(tmp_path / "tree"))


def test_every_module_of_the_library_loads_without_ansible(tree: Tree, installed: Path) -> None:
    paths = [path.removeprefix("lib/").removesuffix(".py") for path in tree.files if path.startswith("lib/fairlead/")]
    names = sorted(path.removesuffix("/__init__").replace("/", ".") for path in paths)
    isolated(installed, f"import importlib; [importlib.import_module(name) for name in {names!r}]")


def test_library_keeps_to_the_syntax_of_python_3_9(tree: Tree) -> None:
    for path, (_mode, content) in tree.files.items():
        if path.startswith(("lib/", "bin/")) and not path.endswith(("LICENSE", ".0", "-later")):
            ast.parse(content, filename=path, feature_version=(3, 9))


def test_pyroute2_comes_from_the_tree(installed: Path) -> None:
    origin = isolated(
        installed, "import pyroute2; from pyroute2 import IPRoute, IPVS, WireGuard; print(pyroute2.__file__)"
    )
    assert origin.strip() == str(installed / "lib" / "pyroute2" / "__init__.py")


def test_units_run_the_command_that_role_node_links(tree: Tree) -> None:
    assert "fairlead-restore.service" in tree.units
    for name, content in tree.units.items():
        commands = [line.partition("=")[2] for line in content.splitlines() if line.startswith("ExecStart=")]
        assert all(command.startswith("/opt/fairlead/current/bin/fairlead ") for command in commands), name
