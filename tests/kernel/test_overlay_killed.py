# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A run that is killed at any of its operations: what it made is known to the next one, whatever that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_network, store
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Adapter
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import State
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import Operation
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import document, dual_document, lone_node, snapshot
from tests.kernel.test_overlay_undo import Poisoned, inside, no_runner

HOST_GW = {"backend": {"type": "host-gw"}}
#: What a run was about to make, and what the next one is asked for.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "other peers": (document(1, 2, 3, **HOST_GW), document(1, 4, **HOST_GW)),
    "other peers of both IP versions": (dual_document(1, 2, 3, **HOST_GW), dual_document(1, 4, **HOST_GW)),
    "other backend": (document(1, 2, 3, **HOST_GW), document(1, 3)),
    "other device": (dual_document(1, 2, backend={"vni": 7}), dual_document(1, 2, backend={"vni": 8})),
    "IPv6 no more": (dual_document(1, 2), document(1, 2)),
}


class KilledError(BaseException):
    """Stands for a signal that nobody can catch: what comes after it does not happen, undo included."""


class Deadly:
    """An adapter that ends with everything after ``left`` operations."""

    def __init__(self, inner: Adapter, left: int) -> None:
        self.inner, self.left = inner, left

    def read(self) -> State:
        return self.inner.read()

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        yield from self.inner.apply(operations[: self.left])
        if self.left < len(operations):
            self.left = 0
            raise KilledError


def killed(node: Namespace, args: dict[str, Any], position: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run until an operation, then be gone. Whether the run was that long."""
    plain, took_back = overlay_network._adapter, store._note
    with monkeypatch.context() as patch:
        patch.setattr(overlay_network, "_adapter", lambda *parts: Deadly(plain(*parts), position))
        patch.setattr("ansible_collections.fairlead.cluster.plugins.module_utils._engine._undo", lambda *_: None)
        # A killed process takes no note back either.
        notes: list[Any] = []
        patch.setattr(store, "_note", lambda kind, entries: notes.append(entries) or took_back(kind, notes[0]))
        try:
            with inside(node):
                overlay_network.converge(args, False, no_runner)
        except KilledError:
            return True
    return False


def run(node: Namespace, args: dict[str, Any]) -> None:
    with inside(node):
        overlay_network.converge(args, False, no_runner)
        saved = {key: value for key, value in args.items() if key != "state"}
        store.forget("overlay_network", False) if "state" in args else store.save("overlay_network", saved, False)


@pytest.mark.parametrize("case", CASES)
def test_what_a_killed_run_made_goes_unless_it_is_wanted(
    case: str, netns: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = CASES[case]
    node = lone_node(netns)
    bare = snapshot(node)
    run(node, second)
    wanted = snapshot(node)
    run(node, {"state": "deleted"})
    assert snapshot(node) == bare
    position = 0
    while killed(node, first, position, monkeypatch):
        run(node, second)
        assert snapshot(node) == wanted, f"after {position} operations"
        run(node, {"state": "deleted"})
        assert snapshot(node) == bare, f"after {position} operations"
        position += 1
    assert position > 3


def test_two_killed_runs_are_both_known(netns: Namespaces, monkeypatch: pytest.MonkeyPatch) -> None:
    node = lone_node(netns)
    bare = snapshot(node)
    run(node, document(1, 5, **HOST_GW))
    assert killed(node, document(1, 2, 3, **HOST_GW), 3, monkeypatch)
    assert killed(node, document(1, 4, 6, **HOST_GW), 1, monkeypatch)
    assert len(store.unfinished("overlay_network")) == 2
    run(node, {"state": "deleted"})
    assert snapshot(node) == bare
    assert store.unfinished("overlay_network") == []


def test_killed_run_of_what_is_saved_is_known_without_a_note(
    netns: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at boot."""
    node = lone_node(netns)
    bare = snapshot(node)
    saved = document(1, 2, 3, **HOST_GW)
    store.save("overlay_network", saved, False)
    assert killed(node, saved, 2, monkeypatch)
    assert snapshot(node) != bare and store.unfinished("overlay_network") == []
    run(node, document(1))
    run(node, {"state": "deleted"})
    assert snapshot(node) == bare


def test_run_that_was_taken_back_is_not_remembered(netns: Namespaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a device that was there before would be taken for ours later."""
    node, plain = lone_node(netns), overlay_network._adapter
    node.run("ip link add flannel.1 type vxlan id 1 local 192.0.2.1 dstport 8472")
    before = snapshot(node)
    with monkeypatch.context() as patch, inside(node), pytest.raises(ApplyError):
        patch.setattr(overlay_network, "_adapter", lambda *parts: Poisoned(plain(*parts), 3))
        overlay_network.converge(document(1, 2), False, no_runner)
    run(node, {"state": "deleted"})
    assert snapshot(node) == before
