# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Loading kernel modules: through the runner, with clear refusals. Whether one is there is the kernel's to say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._engine import converge
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import (
    ApplyError,
    PrerequisiteError,
    VerifyError,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kernel import KernelModule
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import difference
from ansible_collections.fairlead.cluster.plugins.module_utils._system import kernel_modules


class Modprobe:
    """A runner that knows only modprobe; a success makes the module appear."""

    def __init__(self, there: set[str], status: int = 0, message: str = "") -> None:
        self.there = there
        self.answer = (status, "", message)
        self.calls: list[list[str]] = []

    def __call__(self, args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        self.calls.append(list(args))
        if self.answer[0] == 0:
            self.there.add(args[1])
        return self.answer


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    names: set[str] = set()
    monkeypatch.setattr(kernel_modules, "is_there", names.__contains__)
    return names


def load(runner: Modprobe, *names: str) -> list[str]:
    want = state_of(KernelModule(name) for name in names)
    adapter = kernel_modules.ModuleAdapter(names, runner)
    return [str(operation) for operation in converge(adapter, lambda have: difference(have, want)).operations]


def test_module_missing_is_loaded_others_are_left(there: set[str]) -> None:
    there.add("vxlan")
    runner = Modprobe(there)
    assert load(runner, "vxlan", "br_netfilter") == ["+ kernel module br_netfilter"]
    assert runner.calls == [["modprobe", "br_netfilter"]]
    assert load(runner, "vxlan", "br_netfilter") == []


def test_module_refused_by_modprobe_names_the_reason(there: set[str]) -> None:
    with pytest.raises(ApplyError, match=r"kernel module ip_vs: .*Operation not permitted"):
        load(Modprobe(there, 1, "modprobe: ERROR: could not insert 'ip_vs': Operation not permitted\n"), "ip_vs")


def test_modprobe_missing_names_the_package(there: set[str]) -> None:
    with pytest.raises(PrerequisiteError, match="install package kmod"):
        load(Modprobe(there, 127), "ip_vs")


def test_modprobe_that_lies_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_modules, "is_there", lambda name: False)
    with pytest.raises(VerifyError, match="kernel module ip_vs"):
        load(Modprobe(set()), "ip_vs")


def modules_directory(monkeypatch: pytest.MonkeyPatch, path: Path, **indexes: str) -> None:
    for name, text in indexes.items():
        (path / name.replace("_", ".")).write_text(text)
    monkeypatch.setattr(kernel_modules, "_directory", lambda: str(path))


def test_module_on_disk_is_loadable_and_built_in_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    modules_directory(
        monkeypatch,
        tmp_path,
        modules_dep="kernel/net/fl-first.ko.xz:\nkernel/net/fl_second.ko: kernel/net/fl-first.ko.xz\n",
        modules_builtin="kernel/net/fl-inside.ko\n",
    )
    kernel_modules.require_loadable(["fl_first", "fl_second", "fl_inside"])
    assert [name for name in ("fl_first", "fl_second", "fl_inside") if kernel_modules.is_there(name)] == ["fl_inside"]


def test_module_neither_there_nor_on_disk_names_what_it_is_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: set[str]
) -> None:
    modules_directory(monkeypatch, tmp_path, modules_dep="kernel/net/ip_vs_rr.ko: kernel/net/ip_vs.ko\n")
    with pytest.raises(PrerequisiteError, match="kernel module ip_vs, which is needed for virtual servers"):
        kernel_modules.require_loadable(["ip_vs_rr", "ip_vs"])


def test_function_in_a_kernel_without_modules_is_seen_by_its_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    modules_directory(monkeypatch, tmp_path)
    monkeypatch.setattr(kernel_modules, "_built_in_options", lambda: frozenset({"WIREGUARD"}))
    monkeypatch.setattr(kernel_modules.os.path, "isdir", lambda path: False)
    assert kernel_modules.is_there("wireguard")
    assert not kernel_modules.is_there("ip_vs_lc")
