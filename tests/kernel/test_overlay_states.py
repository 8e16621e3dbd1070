# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""States of overlay_network beside overridden, deleted and gathered."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespaces
from tests.kernel.overlay_nodes import document, lone_node, member, snapshot

MODULE = "overlay_network"


def made(netns: Namespaces, run_module: RunModule, args: dict[str, Any]) -> dict[str, Any]:
    """What a fresh node looks like with these parameters."""
    node = lone_node(netns)
    run_module(MODULE, args, netns=node)
    return snapshot(node)


@pytest.mark.parametrize("state", ["merged", "replaced"])
def test_peers_of_earlier_runs_stay(netns: Namespaces, run_module: RunModule, state: str) -> None:
    node = lone_node(netns)
    for peers in ((2, 3), (4,)):
        args = document(1, *peers, state=state)
        assert run_module(MODULE, args, netns=node, check=True)["changed"]
        assert run_module(MODULE, args, netns=node)["changed"]
        assert not run_module(MODULE, args, netns=node)["changed"]
    assert snapshot(node) == made(netns, run_module, document(1, 2, 3, 4))
    moved = document(1, state=state)
    moved["peers"] = [{**member(3), "address": "192.0.2.33", "subnet": "10.244.33.0/24"}]
    run_module(MODULE, moved, netns=node)
    expected = document(1, 2, 4)
    expected["peers"] += moved["peers"]
    assert snapshot(node) == made(netns, run_module, expected)
    run_module(MODULE, document(1, 4), netns=node)
    assert snapshot(node) == made(netns, run_module, document(1, 4))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"nexthop_objects": False},
        {"backend": {"vni": 7, "port": 4789, "mtu": 1400, "learning": True, "gbp": True}},
        {"backend": {"type": "host-gw"}},
    ],
    ids=["default", "plain routes", "options", "host-gw"],
)
def test_rendered_commands_make_what_the_module_makes(
    netns: Namespaces, run_module: RunModule, more: dict[str, Any]
) -> None:
    node = lone_node(netns)
    before = snapshot(node)
    result = run_module(MODULE, document(1, 2, 3, **more, state="rendered"), netns=node)
    assert not result["changed"] and snapshot(node) == before
    for line in result["rendered"]:
        node.run(line)
    assert snapshot(node) == made(netns, run_module, document(1, 2, 3, **more))


def test_rendered_refuses_what_is_wrong(netns: Namespaces, run_module: RunModule) -> None:
    args = document(1, 2, state="rendered")
    args["peers"].append(member(2))
    message = run_module(MODULE, args, netns=lone_node(netns), fails=True)["msg"]
    assert message.startswith("peers[1].name: name n2 is also that of peers[0].name")
