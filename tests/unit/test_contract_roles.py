# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The role contract: the same role runs from a playbook, for one host with --limit, and inside a charm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
FORBIDDEN_KEYWORDS = {"delegate_to", "delegate_facts", "run_once", "serial", "local_action"}
# Other hosts, and what was meant for people: a role gets all it needs by its own variables.
FORBIDDEN_NAMES = re.compile(
    r"\b(hostvars|groups|group_names|ansible_play_hosts\w*|play_hosts|ansible_play_batch|inventory_dir|playbook_dir)\b"
)
# Facts by their old names, which ansible-core 2.24 no longer has.
INJECTED_FACT = re.compile(
    r"(?<![\w.'\"])ansible_(distribution\w*|os_family|kernel|architecture|hostname|fqdn|default_ipv\d|service_mgr|"
    r"pkg_mgr|processor\w*|memtotal_mb|interfaces|all_ipv\d_addresses|python_version|system|machine|date_time)\b"
)
# Their main calls their other entry points, each of which says what it takes.
IN_PARTS = {"pki"}
EXPRESSION = re.compile(r"{{.*?}}|{%.*?%}", re.DOTALL)
# Keys of a task that hold an expression without braces.
BARE = {"when", "changed_when", "failed_when", "until", "that", "loop"}


def role_name(path: Path) -> str:
    return path.name


def documents(role: Path) -> Iterator[tuple[Path, Any]]:
    for path in sorted(role.rglob("*.yml")):
        yield path, yaml.safe_load(path.read_text(encoding="utf-8"))


def mappings(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from mappings(value)
    elif isinstance(node, list):
        for value in node:
            yield from mappings(value)


def expressions(node: Any, bare: bool = False) -> Iterator[str]:
    """Every text that Ansible evaluates."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from expressions(value, bare or key in BARE)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value, bare)
    elif isinstance(node, str):
        yield from [node] if bare else EXPRESSION.findall(node)


def evaluated(role: Path) -> Iterator[tuple[Path, str]]:
    for path, document in documents(role):
        if path.name != "argument_specs.yml":
            yield from ((path, text) for text in expressions(document))
    for path in sorted((role / "templates").rglob("*.j2")):
        yield from ((path, text) for text in EXPRESSION.findall(path.read_text(encoding="utf-8")))


def load(role: Path, name: str) -> Any:
    path = role / name
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def specs(role: Path) -> dict[str, Any]:
    found: dict[str, Any] = load(role, "meta/argument_specs.yml")["argument_specs"]
    return found


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_role_has_its_parts(role: Path) -> None:
    for name in ("README.md", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml"):
        assert (role / name).is_file(), name
    assert re.fullmatch(r"[a-z][a-z0-9_]*", role.name)


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_role_leaves_other_hosts_and_rolling_to_playbooks(role: Path) -> None:
    for path, document in documents(role):
        for mapping in mappings(document):
            assert not FORBIDDEN_KEYWORDS & set(mapping), path
    for path, text in evaluated(role):
        assert not FORBIDDEN_NAMES.search(text), f"{path}: {text}"


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_role_reads_facts_by_their_dictionary(role: Path) -> None:
    for path, text in evaluated(role):
        assert not INJECTED_FACT.search(text), f"{path}: {text}"


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_variables_carry_the_roles_name(role: Path) -> None:
    internal, own = f"__{role.name}_", (f"{role.name}_", f"__{role.name}_")
    for name in load(role, "defaults/main.yml"):
        assert name.startswith(f"{role.name}_")
    for name in load(role, "vars/main.yml"):
        assert name.startswith(internal)
    for path, document in documents(role):
        for mapping in mappings(document):
            assert str(mapping.get("register", internal)).startswith(internal), path
            for name in mapping.get("ansible.builtin.set_fact", {}):
                assert name.startswith(own) or name == "cacheable", path


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_inputs_are_typed_described_and_named_like_the_role_or_the_cluster(role: Path) -> None:
    for entry, spec in specs(role).items():
        assert spec.get("short_description"), entry
        for name, option in (spec.get("options") or {}).items():
            assert name.startswith((f"{role.name}_", "cluster_")), name
            assert option.get("type") and option.get("description"), name
            assert option["type"] != "list" or option.get("elements"), name


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_defaults_and_specification_agree(role: Path) -> None:
    """A default that is computed stands in the specification as what it is computed from, so only its type counts."""
    defaults = load(role, "defaults/main.yml")
    options = {name: option for spec in specs(role).values() for name, option in (spec.get("options") or {}).items()}
    assert sorted(set(defaults) - set(options)) == [], "defaults without a specification"
    documented = {name for name, option in options.items() if "default" in option and name.startswith(f"{role.name}_")}
    assert sorted(documented - set(defaults)) == [], "specified defaults that the role does not have"
    for name, value in defaults.items():
        if "{{" not in str(value) and "default" in options[name]:
            assert options[name]["default"] == value, name
        assert not (options[name].get("required") and value is not None), f"{name}: required, and has a default"


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_every_entry_point_is_there_and_main_takes_every_input(role: Path) -> None:
    entries = specs(role)
    assert [entry for entry in entries if not (role / "tasks" / f"{entry}.yml").is_file()] == []
    if role.name not in IN_PARTS:
        taken = entries["main"].get("options") or {}
        assert sorted(set(load(role, "defaults/main.yml")) - set(taken)) == [], "defaults that are no options of main"


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_every_yaml_file_says_its_license(role: Path) -> None:
    for path in sorted(role.rglob("*.yml")):
        assert "SPDX-License-Identifier: Apache-2.0" in path.read_text(encoding="utf-8")[:120], path


def test_every_entry_that_a_playbook_calls_is_specified() -> None:
    called = set()
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        for mapping in mappings(yaml.safe_load(path.read_text(encoding="utf-8"))):
            for keyword in ("ansible.builtin.include_role", "ansible.builtin.import_role"):
                arguments = mapping.get(keyword, {})
                if "tasks_from" in arguments:
                    role = arguments["name"].removeprefix("fairlead.cluster.")
                    names = mapping["loop"] if role == "{{ item }}" else [role]
                    called |= {(name, arguments["tasks_from"]) for name in names}
    assert called >= {("flannel", "key"), ("flannel", "reset"), ("pki", "sign")}, "the search finds nothing"
    assert sorted(call for call in called if call[1] not in specs(ROOT / "roles" / call[0])) == []
