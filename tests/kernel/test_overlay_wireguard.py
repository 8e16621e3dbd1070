# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Backend wireguard of overlay_network. Where this kernel has no WireGuard, the tests run in a guest with the
distribution's kernel, which has it."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_network
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Outcome
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import (
    ApplyError,
    PrerequisiteError,
    SpecError,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay import Overlay, parse_overlay
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay_forms import described
from tests.kernel import guest, packets
from tests.kernel.conftest import RunModule
from tests.kernel.guest_debian import DebianKernel
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import document, joined_nodes, lone_node
from tests.kernel.test_overlay_undo import Poisoned, inside, no_runner
from tests.kernel.wireguard_nodes import PSK, Keys, device_of, devices_of, dual_pod, peers_of, snapshot

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


@pytest.mark.guest
def test_wireguard_in_a_kernel_that_has_it(netns: Namespaces, tmp_path: Path) -> None:
    if guest.INSIDE in os.environ or has_wireguard(netns("probe")):
        pytest.skip("the other tests of this file have run in this kernel")
    files = ["tests/kernel/test_overlay_wireguard.py", "tests/kernel/test_wireguard_key.py"]
    output = guest.run_tests(DebianKernel(), files, MODULES, tmp_path, 3600)
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
def test_device_peers_and_route_are_flannels(
    netns: Namespaces, run_module: RunModule, apply: Apply, keys: Keys
) -> None:
    node = lone_node(netns)
    before = snapshot(node)
    arguments = keys.document(1, 2, psk=PSK, keepalive=25)
    predicted = apply(node, arguments, check=True)
    assert snapshot(node) == before
    result = run_module(MODULE, arguments, netns=node, diff=True)
    assert (result["device"], result["device6"], result["mtu"]) == ("flannel-wg", None, 1420)
    assert result["operations"][: len(predicted.operations)] == shown(predicted)
    private = keys.path(1).read_text().strip()
    assert private not in json.dumps(result) and PSK not in json.dumps(result)
    assert device_of(node) == {"private": private, "public": keys.public(1), "port": "51820", "mark": "off"}
    peer = {"psk": PSK, "endpoint": "192.0.2.2:51820", "allowed": "10.244.2.0/24", "keepalive": "25"}
    assert peers_of(node) == {keys.public(2): peer}
    assert "mtu 1420 qdisc noqueue" in node.out("ip link show flannel-wg")
    assert "qlen" not in node.out("ip link show flannel-wg")
    assert "inet 10.244.1.0/32 scope global flannel-wg\n" in node.out("ip -4 address show dev flannel-wg")
    assert node.out("ip route show dev flannel-wg").strip() == "10.244.0.0/16 scope link"
    assert not apply(node, arguments).changed
    with inside(node):
        gathered = described(overlay_network.gather({"backend": {"type": "wireguard"}}))
    assert gathered["peers"] == [
        {"public_key": keys.public(2), "address": "192.0.2.2", "listen_port": 51820, "subnet": "10.244.2.0/24"}
    ]
    assert private not in str(gathered) and PSK not in str(gathered)
    run_module(MODULE, DELETE, netns=node)
    assert snapshot(node) == before


@pytest.mark.usefixtures("wireguard")
def test_pods_reach_each_other_and_other_peers_do_not_disturb(netns: Namespaces, apply: Apply, keys: Keys) -> None:
    nodes = joined_nodes(netns, 3)
    pods = [dual_pod(netns, node, number, 1420) for number, node in enumerate(nodes, 1)]
    for number in (1, 2):
        apply(nodes[number - 1], keys.document(number, 1, 2, psk=PSK))
    with packets.server(pods[1]), packets.server(pods[2]):
        assert packets.ask(pods[0], "10.244.2.2", 1420) == "10.244.1.2"
        apply(nodes[2], keys.document(3, 1, 2))
        with packets.stream(pods[0], "10.244.2.2") as counts:
            for number in (1, 2):
                apply(nodes[number - 1], keys.document(number, 1, 2, 3, psk=PSK))
            assert packets.silent(pods[0], "10.244.3.2"), "without the preshared key"
            apply(nodes[2], keys.document(3, 1, 2, psk=PSK))
            assert packets.ask(pods[0], "10.244.3.2") == "10.244.1.2"
            keys.anew(3)
            for number in (1, 2, 3):
                rekeyed = apply(nodes[number - 1], keys.document(number, 1, 2, 3, psk=PSK))
            assert [line[:12] for line in shown(rekeyed)] == ["~ wireguard "], "in place"
            assert packets.ask(pods[0], "10.244.3.2") == "10.244.1.2"
            for number in (1, 2):
                apply(nodes[number - 1], keys.document(number, 1, 2, psk=PSK))
            assert packets.silent(pods[0], "10.244.3.2")
    sent, answered = counts
    assert sent == answered > 10
    assert set(peers_of(nodes[0])) == {keys.public(2)}


@pytest.mark.usefixtures("wireguard")
def test_drift_is_repaired(netns: Namespaces, apply: Apply, keys: Keys) -> None:
    node = lone_node(netns)
    arguments = keys.document(1, 2, 3, psk=PSK, keepalive=20)
    apply(node, arguments)
    made = snapshot(node)
    other = keys.public(9)
    node.run(f"wg set flannel-wg peer {keys.public(2)} remove")
    node.run(f"wg set flannel-wg peer {keys.public(3)} endpoint 192.0.2.77:1 persistent-keepalive 0")
    node.run(f"wg set flannel-wg peer {other} allowed-ips 10.244.2.0/24,10.244.3.0/24")
    node.run("wg set flannel-wg listen-port 5555 fwmark 7")
    node.run("ip link set flannel-wg mtu 1300")
    node.run("ip route add 10.244.200.0/24 dev flannel-wg")
    node.run("ip route del 10.244.0.0/16 dev flannel-wg")
    node.run("ip address add 10.244.99.0/32 dev flannel-wg")
    repaired = apply(node, arguments)
    assert snapshot(node) == made
    assert any(line.startswith(f"- wireguard_peer {other}") for line in shown(repaired))
    assert not apply(node, arguments).changed
    # In a device without a key nothing is what it should be.
    node.run("ip link set flannel-wg down")
    node.run(["sh", "-c", "wg set flannel-wg private-key /dev/null"])
    apply(node, arguments)
    assert snapshot(node) == made


@pytest.mark.usefixtures("wireguard")
def test_peer_that_roams_is_left_where_it_is(netns: Namespaces, apply: Apply, keys: Keys) -> None:
    nodes = joined_nodes(netns, 2)
    pods = [dual_pod(netns, node, number, 1420) for number, node in enumerate(nodes, 1)]
    first = keys.document(1, 2)
    first["peers"][0]["address"] = "192.0.2.99"
    apply(nodes[0], first)
    apply(nodes[1], keys.document(2, 1))
    with packets.server(pods[0]):
        assert packets.ask(pods[1], "10.244.1.2") == "10.244.2.2"
    assert peers_of(nodes[0])[keys.public(2)]["endpoint"] == "192.0.2.2:51820"
    assert not apply(nodes[0], first).changed
    first["peers"][0]["address"] = "192.0.2.98"
    (moved,) = shown(apply(nodes[0], first))
    assert "endpoint 192.0.2.98:51820" in moved and "roamed to 192.0.2.2:51820" in moved
    assert not apply(nodes[0], first).changed


@pytest.mark.usefixtures("wireguard")
def test_change_of_the_backend_gives_what_a_fresh_node_gets(netns: Namespaces, apply: Apply, keys: Keys) -> None:
    encrypted, plain = keys.document(1, 2), document(1, 2)
    fresh = {"wireguard": lone_node(netns), "vxlan": lone_node(netns)}
    apply(fresh["wireguard"], encrypted)
    apply(fresh["vxlan"], plain)
    node = lone_node(netns)
    for name in ("vxlan", "wireguard", "vxlan"):
        apply(node, encrypted if name == "wireguard" else plain)
        assert snapshot(node) == snapshot(fresh[name]), name


@pytest.mark.usefixtures("wireguard")
def test_failure_half_way_and_at_the_end_is_taken_back(
    netns: Namespaces, apply: Apply, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lone_node(netns)
    first = keys.document(1, 2, 3, psk=PSK, keepalive=5)
    apply(node, first)
    before = snapshot(node)
    changes = [document(1, 2), DELETE, keys.document(1, 3, 4, listen_port=7777, mtu=1400)]
    plain = overlay_network._adapter
    for change in changes:
        planned = len(apply(node, change, check=True).operations)
        assert planned >= 4
        for position in (planned // 2, planned - 1):
            poison = lambda *arguments, position=position: Poisoned(plain(*arguments), position)  # noqa: E731
            with monkeypatch.context() as poisoned, pytest.raises(ApplyError, match="poisoned"):
                poisoned.setattr(overlay_network, "_adapter", poison)
                apply(node, change)
            assert snapshot(node) == before, (change, position)


@pytest.mark.usefixtures("wireguard")
@pytest.mark.parametrize(("device", "option", "port"), [("", "listen_port", 51820), ("-v6", "listen_port6", 51821)])
def test_port_of_somebody_else_is_named_with_the_device_and_a_way_out(
    netns: Namespaces, apply: Apply, keys: Keys, device: str, option: str, port: int
) -> None:
    """At a start, and when the device that is up shall have another port."""
    node = lone_node(netns)
    with inside(node):
        other, later = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with other, later:
        other.bind(("", port))
        later.bind(("", 7777))
        for taken, backend in ((port, {}), (7777, {option: 7777})):
            before = snapshot(node)
            with pytest.raises(ApplyError, match="cannot (add|replace): Address already in use: ") as caught:
                apply(node, keys.document(1, 2, dual=True, **backend))
            assert f"has UDP port {taken}, on which flannel-wg{device} listens." in str(caught.value)
            assert str(caught.value).endswith(f"or choose another backend.{option}")
            assert snapshot(node) == before
            other.close()
            assert apply(node, keys.document(1, 2, dual=True)).changed == (taken == port)


@pytest.mark.usefixtures("wireguard")
@pytest.mark.parametrize("mode", ["separate", "auto", "ipv6"])
def test_both_ip_versions_over_devices_of_their_own_or_over_one(
    netns: Namespaces, apply: Apply, keys: Keys, mode: str
) -> None:
    nodes = joined_nodes(netns, 2)
    before = snapshot(nodes[0])
    pods = [dual_pod(netns, node, number, 1420) for number, node in enumerate(nodes, 1)]
    for number, node in enumerate(nodes, 1):
        apply(node, keys.document(number, 1, 2, dual=True, mode=mode))
        assert not apply(node, keys.document(number, 1, 2, dual=True, mode=mode)).changed
    with packets.server(pods[1]):
        assert packets.ask(pods[0], "10.244.2.2", 1420) == "10.244.1.2"
        assert packets.ask(pods[0], "fd00:0:0:2::2", 1420) == "fd00:0:0:1::2"
    facts = {
        device: [(peer["endpoint"], sorted(peer["allowed"].split(","))) for peer in peers_of(nodes[0], device).values()]
        for device in devices_of(nodes[0])
    }
    if mode == "separate":
        assert facts == {
            "flannel-wg": [("192.0.2.2:51820", ["10.244.2.0/24"])],
            "flannel-wg-v6": [("[2001:db8::2]:51821", ["fd00:0:0:2::/64"])],
        }
    else:
        endpoint = "192.0.2.2:51820" if mode == "auto" else "[2001:db8::2]:51820"
        assert facts == {"flannel-wg": [(endpoint, ["10.244.2.0/24", "fd00:0:0:2::/64"])]}
    device6 = "flannel-wg-v6" if mode == "separate" else "flannel-wg"
    assert "fd00::/48 dev " + device6 in nodes[0].out("ip -6 route show")
    # One version less, and nothing of it is left.
    apply(nodes[0], keys.document(1, 2, mode=mode))
    assert "fd00::/48" not in nodes[0].out("ip -6 route show")
    apply(nodes[0], DELETE)
    nodes[0].run("ip link del pod0")
    assert snapshot(nodes[0]) == before


@pytest.mark.usefixtures("wireguard")
def test_declared_key_must_be_that_of_the_file(netns: Namespaces, apply: Apply, keys: Keys) -> None:
    node = lone_node(netns)
    before = snapshot(node)
    arguments = keys.document(1, 2)
    declared = arguments["node"]["public_key"]
    keys.anew(1)
    with pytest.raises(SpecError, match=f"node.public_key: {re.escape(declared)} is not .*, the public key of"):
        apply(node, arguments)
    keys.path(1).unlink()
    with pytest.raises(PrerequisiteError, match="there is no .*key1 on this node; module wireguard_key makes it"):
        apply(node, arguments)
    assert apply(node, arguments, check=True).changed
    assert snapshot(node) == before


class Confined(Namespace):
    """The same namespace, where commands run through another one."""

    def __init__(self, node: Namespace, through: list[str]) -> None:
        self.name, self._through = node.name, through

    def command(self, command: str | Sequence[str]) -> list[str]:
        words = command.split() if isinstance(command, str) else list(command)
        return super().command([*self._through, *words])


@pytest.mark.usefixtures("wireguard")
def test_what_the_boot_unit_may_is_enough(netns: Namespaces, run_module: RunModule, keys: Keys, root_dir: Path) -> None:
    """It may load modules and configure the network, and make no namespaces."""
    node = lone_node(netns)
    unit = (root_dir / "runtime/units/fairlead-restore.service").read_text()
    (line,) = re.findall(r"^CapabilityBoundingSet=(.+)$", unit, re.MULTILINE)
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in line.split())
    confined = Confined(node, ["setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--no-new-privs"])
    run_module(MODULE, keys.document(1, 2, psk=PSK), netns=confined)
    assert set(peers_of(node)) == {keys.public(2)}


@pytest.mark.usefixtures("wireguard")
def test_a_thousand_peers(netns: Namespaces, apply: Apply, keys: Keys) -> None:
    node = lone_node(netns)
    arguments = keys.document(1)
    for number in range(1000):
        subnet = f"10.{96 + number // 256}.{number % 256}.0/24"
        key = base64.b64encode(number.to_bytes(31, "big") + b"\x01").decode()
        address = f"198.18.{number // 250}.{1 + number % 250}"
        arguments["peers"].append({"address": address, "subnet": subnet, "public_key": key})
    arguments["network"] = "10.64.0.0/10"
    arguments["node"]["subnet"] = "10.127.1.0/24"
    apply(node, arguments)
    assert len(peers_of(node)) == 1000
    assert not apply(node, arguments).changed
    gone = arguments["peers"].pop(500)
    assert len(apply(node, arguments).operations) == 1
    assert gone["public_key"] not in peers_of(node)
