# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The collection as users get it: what is in its archive, and that it works installed as it does from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The only entries at the top of the archive. What is new in the checkout has to be ignored in galaxy.yml or added here.
TOP = {
    "CHANGELOG.rst",
    "CONTRIBUTING.md",
    "FILES.json",
    "LICENSE",
    "MANIFEST.json",
    "README.md",
    "STYLE.md",
    "changelogs",
    "meta",
    "playbooks",
    "plugins",
    "roles",
    "runtime",
}
UNWANTED = (".pyc", ".retry", ".swp", "~")

pytestmark = pytest.mark.slow


def run(*command: str, cwd: Path, **environment: str) -> str:
    program = str(Path(sys.executable).parent / command[0])
    plain = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    result = subprocess.run(
        [program, *command[1:]],
        cwd=cwd,
        env={**plain, "ANSIBLE_NOCOLOR": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("archive")
    run("ansible-galaxy", "collection", "build", "--output-path", str(output), cwd=ROOT)
    return next(output.glob("fairlead-cluster-*.tar.gz"))


@pytest.fixture(scope="module")
def installed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the installed collection and nothing of the checkout near it."""
    target = tmp_path_factory.mktemp("installed")
    run("ansible-galaxy", "collection", "install", "--offline", "-p", str(target), str(archive), cwd=target)
    return target


def names_of(kind: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "plugins" / kind).glob("*.py") if path.stem != "__init__")


def test_archive_holds_the_collection_and_nothing_else(archive: Path) -> None:
    with tarfile.open(archive) as content:
        names = content.getnames()
    assert {name.split("/")[0] for name in names} <= TOP
    assert {"LICENSE", "README.md", "meta", "playbooks", "plugins", "roles", "runtime"} <= {
        name.split("/")[0] for name in names
    }
    assert [name for name in names if name.endswith(UNWANTED) or "__pycache__" in name] == []


def test_archive_holds_every_file_of_runtime_and_library(archive: Path) -> None:
    with tarfile.open(archive) as content:
        names = set(content.getnames())
    expected = [
        str(path.relative_to(ROOT))
        for directory in ("runtime", "plugins", "roles", "playbooks")
        for path in (ROOT / directory).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    ]
    assert sorted(set(expected) - names) == []


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("module", names_of("modules")),
        ("callback", names_of("callback")),
        ("filter", sorted(path.stem for path in (ROOT / "plugins" / "filter").glob("*.yml"))),
    ],
)
def test_installed_plugins_document_themselves(kind: str, names: list[str], installed: Path) -> None:
    full = [f"fairlead.cluster.{name}" for name in names]
    output = run("ansible-doc", "-t", kind, "-j", *full, cwd=installed, ANSIBLE_COLLECTIONS_PATH=str(installed))
    shown = json.loads(output)
    assert sorted(shown) == full
    assert all(entry["doc"]["short_description"] for entry in shown.values())
    if kind == "module":
        assert all("attributes" in entry["doc"] for entry in shown.values())


def test_checkout_documents_the_same_modules_and_roles() -> None:
    shown = json.loads(run("ansible-doc", "-l", "-j", "fairlead.cluster", cwd=ROOT))
    assert sorted(shown) == [f"fairlead.cluster.{name}" for name in names_of("modules")]
    roles = json.loads(run("ansible-doc", "-t", "role", "-l", "-j", "fairlead.cluster", cwd=ROOT))
    assert sorted(roles) == sorted(f"fairlead.cluster.{path.name}" for path in (ROOT / "roles").iterdir())


def test_installed_playbook_runs_by_its_full_name(installed: Path, tmp_path: Path) -> None:
    """Also shows that filters and modules find roles and library beside themselves."""
    inventory = str(ROOT / "inventories" / "stacked")
    environment = {"ANSIBLE_COLLECTIONS_PATH": str(installed), "ANSIBLE_INJECT_FACT_VARS": "false"}
    output = run("ansible-playbook", "-i", inventory, "fairlead.cluster.preflight", cwd=tmp_path, **environment)
    assert "5 nodes, etcd stacked on 3 members" in output


def test_playbook_of_the_checkout_runs_by_its_full_name() -> None:
    output = run("ansible-playbook", "-i", "inventories/single", "fairlead.cluster.preflight", cwd=ROOT)
    assert "1 node, etcd single on 1 member" in output


def test_links_of_the_checkout_are_relative_and_lead_to_the_collection() -> None:
    links = ROOT / "collections" / "ansible_collections" / "fairlead" / "cluster"
    for name in ("galaxy.yml", "meta", "playbooks", "plugins", "roles"):
        assert (links / name).is_symlink()
        assert not os.readlink(links / name).startswith("/")
        assert (links / name).resolve() == ROOT / name
