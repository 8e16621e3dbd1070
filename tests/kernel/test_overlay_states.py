# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""States of overlay_network beside overridden, deleted and gathered."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespaces
from tests.kernel.overlay_nodes import (
    document,
    dual_document,
    dual_member,
    family_document,
    ipv6_member,
    lone_node,
    member,
    snapshot,
)

MODULE = "overlay_network"


def made(netns: Namespaces, run_module: RunModule, args: dict[str, Any]) -> dict[str, Any]:
    """What a fresh node looks like with these parameters."""
    node = lone_node(netns)
    run_module(MODULE, args, netns=node)
    return snapshot(node)


@pytest.mark.parametrize(("state", "family"), [("merged", "ipv4"), ("replaced", "ipv4"), ("merged", "dual")])
def test_peers_of_earlier_runs_stay(netns: Namespaces, run_module: RunModule, state: str, family: str) -> None:
    node = lone_node(netns)
    for peers in ((2, 3), (4,)):
        args = family_document(family, 1, *peers, state=state)
        assert run_module(MODULE, args, netns=node, check=True)["changed"]
        assert run_module(MODULE, args, netns=node)["changed"]
        assert not run_module(MODULE, args, netns=node)["changed"]
    assert snapshot(node) == made(netns, run_module, family_document(family, 1, 2, 3, 4))
    moved = family_document(family, 1, 3, state=state)
    suffix = "6" if family == "dual" else ""
    address, subnet = ("2001:db8::33", "fd00:10:244:33::/64") if suffix else ("192.0.2.33", "10.244.33.0/24")
    moved["peers"][0].update({f"address{suffix}": address, f"subnet{suffix}": subnet})
    run_module(MODULE, moved, netns=node)
    expected = family_document(family, 1, 2, 4)
    expected["peers"] += moved["peers"]
    assert snapshot(node) == made(netns, run_module, expected)
    run_module(MODULE, family_document(family, 1, 4), netns=node)
    assert snapshot(node) == made(netns, run_module, family_document(family, 1, 4))


def test_gathered_tells_of_both_ip_versions(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    run_module(MODULE, dual_document(1, 2), netns=node)
    before = snapshot(node)
    found = run_module(MODULE, {"state": "gathered"}, netns=node)
    assert not found["changed"] and snapshot(node) == before
    assert (found["device"], found["device6"], found["mtu"]) == ("flannel.1", "flannel-v6.1", 1430)
    halves = [{key: value for key, value in member(2).items() if key != "name"}]
    halves.append({key: value for key, value in ipv6_member(2).items() if key != "name"})
    assert found["gathered"]["peers"] == halves
    node_found = found["gathered"]["node"]
    assert node_found.pop("device_addresses") == ["10.244.1.0/32", "fd00:10:244:1::/128"]
    assert node_found.items() <= dual_member(1).items() and len(node_found) == 4
    run_module(MODULE, {"state": "deleted"}, netns=node)
    assert run_module(MODULE, {"state": "gathered"}, netns=node)["gathered"] == {}


OPTIONS = {"vni": 7, "port": 4789, "mtu": 1400, "learning": True, "gbp": True}


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("ipv4", {}),
        ("ipv4", {"nexthop_objects": False}),
        ("ipv4", {"backend": OPTIONS}),
        ("ipv4", {"backend": {"type": "host-gw"}}),
        ("ipv6", {}),
        ("dual", {"backend": OPTIONS}),
        ("dual", {"backend": {"type": "host-gw"}}),
    ],
    ids=["default", "plain routes", "options", "host-gw", "ipv6", "dual with options", "dual host-gw"],
)
def test_rendered_commands_make_what_the_module_makes(
    netns: Namespaces, run_module: RunModule, family: str, more: dict[str, Any]
) -> None:
    node = lone_node(netns)
    before = snapshot(node)
    result = run_module(MODULE, family_document(family, 1, 2, 3, **more, state="rendered"), netns=node)
    assert not result["changed"] and snapshot(node) == before
    for line in result["rendered"]:
        node.run(line)
    assert snapshot(node) == made(netns, run_module, family_document(family, 1, 2, 3, **more))


def test_rendered_refuses_what_is_wrong(netns: Namespaces, run_module: RunModule) -> None:
    args = document(1, 2, state="rendered")
    args["peers"].append(member(2))
    message = run_module(MODULE, args, netns=lone_node(netns), fails=True)["msg"]
    assert message.startswith("peers[1].name: name n2 is also that of peers[0].name")
