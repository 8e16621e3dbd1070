# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Backend wireguard of overlay_network. Where this kernel has no WireGuard, the tests run in a guest with the
distribution's kernel, which has it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_network
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Outcome
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError, SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay import Overlay, parse_overlay
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay_forms import described
from tests.kernel import guest, packets
from tests.kernel.conftest import RunModule
from tests.kernel.guest_debian import DebianKernel
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import document, joined_nodes, lone_node
from tests.kernel.test_overlay_undo import Poisoned, inside, no_runner
from tests.kernel.wireguard_nodes import PSK, Keys, device_of, dual_pod, peers_of, snapshot

MODULE = "overlay_network"
DELETE = {"state": "deleted"}
#: Kernel modules of the guest.
MODULES = ("wireguard", "veth", "bridge", "vxlan")


def has_wireguard(node: Namespace) -> bool:
    return node.run("ip link add probe type wireguard", check=False).returncode == 0


@pytest.fixture
def wireguard(netns: Namespaces) -> None:
    if not has_wireguard(netns("probe")):
        assert guest.INSIDE not in os.environ, "the guest has no WireGuard either"
        pytest.skip("this kernel has no WireGuard; the test runs in a guest that has it")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def test_wireguard_in_a_kernel_that_has_it(netns: Namespaces, tmp_path: Path) -> None:
    if guest.INSIDE in os.environ or has_wireguard(netns("probe")):
        pytest.skip("the other tests of this file have run in this kernel")
    files = ["tests/kernel/test_overlay_wireguard.py", "tests/kernel/test_wireguard_key.py"]
    output = guest.run_tests(DebianKernel(), files, MODULES, tmp_path, timeout=600)
    counts = re.search(r"(\d+) passed, (\d+) skipped", output)
    assert counts is not None and int(counts[1]) >= 10, output


def test_kernel_without_wireguard_is_named(netns: Namespaces, run_module: RunModule) -> None:
    node = lone_node(netns)
    if has_wireguard(netns("probe")):
        pytest.skip("this kernel has WireGuard")
    arguments = {**document(1, 2), "backend": {"type": "wireguard"}}
    for member in (arguments["node"], *arguments["peers"]):
        member["public_key"] = "fSXPDUbHZ7aBKDkV4BBvEOgGSzFPRQgnvTrc4VQWnG" + ("U=" if member["name"] == "n1" else "Y=")
    before = snapshot(node)
    for check in (True, False):
        result = run_module(MODULE, arguments, netns=node, check=check, fails=True)
        assert "this node's kernel has no wireguard (CONFIG_WIREGUARD, module wireguard)" in result["msg"]
    assert snapshot(node) == before


Apply = Callable[..., Outcome]


@pytest.fixture
def apply(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Apply]:
    """What the module does, without starting a process for it, which takes a guest several seconds."""
    saved: dict[str, Overlay] = {}

    def run(node: Namespace, document: dict[str, Any], check: bool = False) -> Outcome:
        earlier = [saved[node.name]] if node.name in saved else []
        monkeypatch.setattr(overlay_network, "_earlier_overlays", lambda *_: earlier)
        with inside(node):
            outcome = overlay_network.converge(document, check, no_runner)
        if check:
            return outcome
        saved.pop(node.name, None)
        if "node" in document:
            saved[node.name] = parse_overlay(document)
        return outcome

    monkeypatch.setattr(overlay_network.store, "DIRECTORY", str(tmp_path / "desired"))
    yield run


def shown(outcome: Outcome) -> list[str]:
    return [str(operation) for operation in outcome.operations]


@pytest.mark.usefixtures("wireguard")
def test_device_peers_and_route_are_flannels(netns: Namespaces, run_module: RunModule, keys: Keys) -> None:
    node = lone_node(netns)
    before = snapshot(node)
    arguments = keys.document(1, 2, psk=PSK, keepalive=25)
    predicted = run_module(MODULE, arguments, netns=node, check=True)
    assert predicted["changed"] and snapshot(node) == before
    result = run_module(MODULE, arguments, netns=node, diff=True)
    assert (result["device"], result["device6"], result["mtu"]) == ("flannel-wg", None, 1420)
    assert result["operations"] == predicted["operations"]
    private = keys.path(1).read_text().strip()
    assert private not in json.dumps(result) and PSK not in json.dumps(result)
    assert device_of(node) == {"private": private, "public": keys.public(1), "port": "51820", "mark": "off"}
    peer = {"psk": PSK, "endpoint": "192.0.2.2:51820", "allowed": "10.244.2.0/24", "keepalive": "25"}
    assert peers_of(node) == {keys.public(2): peer}
    assert "mtu 1420 qdisc noqueue" in node.out("ip link show flannel-wg")
    assert "qlen" not in node.out("ip link show flannel-wg")
    assert "inet 10.244.1.0/32 scope global flannel-wg\n" in node.out("ip -4 address show dev flannel-wg")
    assert node.out("ip route show dev flannel-wg").strip() == "10.244.0.0/16 scope link"
    assert not run_module(MODULE, arguments, netns=node)["changed"]
    gathered = run_module(MODULE, {"state": "gathered"}, netns=node)["gathered"]
    assert gathered["peers"] == [
        {"public_key": keys.public(2), "address": "192.0.2.2", "listen_port": 51820, "subnet": "10.244.2.0/24"}
    ]
    run_module(MODULE, DELETE, netns=node)
    assert snapshot(node) == before
