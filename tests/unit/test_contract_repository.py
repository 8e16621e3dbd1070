# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What lies around the code: inventories to start from, changelog, make targets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INVENTORIES = sorted(path.parent for path in (ROOT / "inventories").glob("*/hosts.yml"))
SHOWN = ROOT / "inventories" / "stacked" / "group_vars" / "all" / "cluster.yml"
TOPOLOGIES = {"single": "single", "stacked": "stacked", "external_etcd": "external", "lab": "stacked"}
# A variable set, or shown with its default behind "# ".
VARIABLE = re.compile(r"^(# )?([a-z][a-z0-9_]*): (.*)$")
DECLARED = ("cluster_name", "cluster_pod_cidr", "cluster_service_cidr")


def directory_name(path: Path) -> str:
    return path.name


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    program = str(Path(sys.executable).parent / command[0])
    return subprocess.run(
        [program, *command[1:]], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def shown_variables(path: Path) -> dict[str, Any]:
    """Every variable of a file, set or commented, with its value."""
    matches = filter(None, map(VARIABLE.match, path.read_text(encoding="utf-8").splitlines()))
    return {match[2]: yaml.safe_load(match[3]) for match in matches}


def role_options() -> dict[str, Any]:
    options: dict[str, Any] = {}
    for path in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for spec in read(path)["argument_specs"].values():
            options.update(spec.get("options") or {})
    return options


def role_defaults() -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for path in ROOT.glob("roles/*/defaults/main.yml"):
        defaults.update(read(path) or {})
    return defaults


def computed(default: Any) -> Any:
    """A default that is computed from other variables, where none of those is set."""
    if not isinstance(default, str) or "{{" not in default:
        return default
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True)
    environment.filters["bool"] = bool
    return environment.from_string(default).render()


@pytest.mark.parametrize("inventory", INVENTORIES, ids=directory_name)
def test_inventory_loads_with_the_four_groups(inventory: Path) -> None:
    result = run("ansible-inventory", "-i", str(inventory), "--list")
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr
    groups = json.loads(result.stdout)
    assert {"etcd", "control_plane", "nodes"} <= set(groups)
    assert set(groups["nodes"]["children"]) == {"control_plane", "worker"}


@pytest.mark.parametrize("inventory", INVENTORIES, ids=directory_name)
def test_inventory_passes_the_preflight(inventory: Path) -> None:
    result = run("ansible-playbook", "-i", str(inventory), "playbooks/preflight.yml")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "WARNING" not in result.stdout + result.stderr
    assert f"etcd {TOPOLOGIES.get(inventory.name, 'stacked')} on" in result.stdout


def test_every_topology_has_an_inventory() -> None:
    assert set(TOPOLOGIES) <= {path.name for path in INVENTORIES}


def test_every_variable_shown_is_one_of_a_role_with_its_default() -> None:
    options, defaults = role_options(), role_defaults()
    variables = shown_variables(SHOWN)
    assert len(variables) > 35
    assert sorted(set(variables) - set(options)) == []
    for name, value in variables.items():
        if name not in DECLARED:
            default = options[name]["default"] if name.startswith("cluster_") else computed(defaults[name])
            assert value == default, f"{name} is shown with another default than the role has"


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_inventories_differ_in_hosts_and_name_only(name: str) -> None:
    """They are there to be copied, so each is complete; a change goes into all of them."""
    lines = (
        (ROOT / "inventories" / name / "group_vars" / "all" / "cluster.yml").read_text(encoding="utf-8").splitlines()
    )
    changed = {line for line in lines if line not in SHOWN.read_text(encoding="utf-8").splitlines()}
    assert len(changed) <= 1
    assert all(line.startswith("cluster_name: ") for line in changed)


@pytest.mark.parametrize("path", sorted((ROOT / "changelogs" / "fragments").iterdir()), ids=lambda path: path.name)
def test_changelog_fragment_has_the_form_that_makes_a_changelog(path: Path) -> None:
    known = {section[0] for section in read(ROOT / "changelogs" / "config.yaml")["sections"]} | {"trivial"}
    assert re.fullmatch(r"[0-9]{4}-[a-z0-9-]+\.yml", path.name), "NNNN-short-name.yml, where NNNN is the issue"
    for section, entries in read(path).items():
        if section == "release_summary":
            assert isinstance(entries, str)
            continue
        assert section in known
        assert isinstance(entries, list) and all(isinstance(entry, str) for entry in entries)


def test_every_make_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory"], capture_output=True, text=True, check=True
    )
    for target in phony[1].split():
        assert re.search(rf"^  make {re.escape(target)}\s+\S", shown.stdout, re.MULTILINE), target


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "STYLE.md", "LICENSE"])
def test_text_at_the_top_is_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 500


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "roles").glob("*/README.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_trap_of_the_kernel_has_its_test() -> None:
    listed = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", (ROOT / "docs/reference/kernel_traps.md").read_text("utf-8"))
    assert len(listed) > 15
    missing = [
        f"{file}::{name}"
        for file, name in listed
        if f"def {name}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8")
    ]
    assert missing == []
