# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The module contract: documentation says what the argument specification does, in full and in today's markup."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "ansible_collections.fairlead.cluster.plugins.modules"
FRAGMENTS = "ansible_collections.fairlead.cluster.plugins.doc_fragments"
NAMES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py") if path.stem != "__init__")
# What result_of gives beside Ansible's own keys.
RESULT_KEYS = {"before", "after", "operations", "left_out"}
# I(), B() and the like came before O(), V(), RV() and E().
OLD_MARKUP = re.compile(r"\b(I|B)\([^)]*\)")
COMPARED = ("type", "elements", "required", "default", "choices", "aliases")


class Captured(Exception):
    """Carries the arguments that a module gave to AnsibleModule."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


def load(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}")


def documentation(name: str) -> dict[str, Any]:
    """With the options of its fragments."""
    found: dict[str, Any] = yaml.safe_load(load(name).DOCUMENTATION)
    listed = found["extends_documentation_fragment"]
    options: dict[str, Any] = {}
    for fragment in [listed] if isinstance(listed, str) else listed:
        file, _dot, part = fragment.removeprefix("fairlead.cluster.").partition(".")
        holder = importlib.import_module(f"{FRAGMENTS}.{file}").ModuleDocFragment
        options |= yaml.safe_load(getattr(holder, part.upper() or "DOCUMENTATION"))["options"]
    return {**found, "options": options | (found.get("options") or {})}


def captured(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``main`` asks AnsibleModule for."""

    def stand_in(argument_spec: dict[str, Any], **others: Any) -> None:
        raise Captured({"argument_spec": argument_spec, **others})

    module = load(name)
    monkeypatch.setattr(module, "AnsibleModule", stand_in)
    with pytest.raises(Captured) as call:
        module.main()
    return call.value.arguments


def from_spec(spec: dict[str, Any], inner: str) -> dict[str, Any]:
    """Options in a form that documentation and argument specification share."""
    options = {}
    for name, option in spec.items():
        entry = {key: option[key] for key in COMPARED if option.get(key) not in (None, False, [])}
        if option.get("default") is False:
            entry["default"] = False
        entry["type"] = option.get("type", "str")
        entry["choices"] = sorted(map(str, option.get("choices") or []))
        entry["options"] = from_spec(option.get(inner) or {}, inner)
        options[name] = entry
    return options


def test_every_module_is_in_the_action_group() -> None:
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))
    assert runtime["action_groups"]["cluster"] == NAMES
    assert runtime["requires_ansible"] == ">=2.19.0"


@pytest.mark.parametrize("name", NAMES)
def test_documentation_and_argument_specification_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = captured(name, monkeypatch)
    documented = from_spec(documentation(name).get("options") or {}, "suboptions")
    assert documented == from_spec(arguments["argument_spec"], "options")


@pytest.mark.parametrize("name", NAMES)
def test_module_supports_check_mode_and_documents_its_promises(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert captured(name, monkeypatch).get("supports_check_mode") is True
    fragments = documentation(name)["extends_documentation_fragment"]
    assert any(
        "fairlead.cluster.attributes" in fragment
        for fragment in ([fragments] if isinstance(fragments, str) else fragments)
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_option_and_result_is_described(name: str) -> None:
    def check(options: dict[str, Any], inner: str, path: str) -> None:
        for key, option in options.items():
            assert option.get("description"), f"{path}{key}"
            assert option.get("type"), f"{path}{key}"
            check(option.get(inner) or {}, inner, f"{path}{key}.")

    document = documentation(name)
    check(document.get("options") or {}, "suboptions", "options.")
    returned = yaml.safe_load(load(name).RETURN)
    check(returned, "contains", "RETURN.")
    assert all(value.get("returned") for value in returned.values())
    assert document["module"] == name
    assert document["short_description"] and document["description"] and document["version_added"]


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(load(name), "result_of")])
def test_all_keys_of_bounded_results_are_documented(name: str) -> None:
    returned = yaml.safe_load(load(name).RETURN)
    assert sorted(RESULT_KEYS - set(returned)) == []
    assert returned["left_out"]["type"] == "dict" and returned["left_out"]["returned"] == "when there are more"


@pytest.mark.parametrize("name", NAMES)
def test_markup_is_the_semantic_one(name: str) -> None:
    module = load(name)
    for text in (module.DOCUMENTATION, module.RETURN):
        assert not OLD_MARKUP.search(text)


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_tasks_that_call_the_module(name: str) -> None:
    def tasks(node: Any) -> list[dict[str, Any]]:
        found = []
        for entry in node:
            inner = [task for key in ("tasks", "block") for task in entry.get(key, [])]
            found += tasks(inner) if inner else [entry]
        return found

    examples = tasks(yaml.safe_load(load(name).EXAMPLES))
    assert any(f"fairlead.cluster.{name}" in task for task in examples)
    assert all(task.get("name") for task in examples)
