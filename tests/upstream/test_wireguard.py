# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Real flanneld on n1 and our modules on n2, with backend wireguard. Where this kernel has no WireGuard, the tests run
in a guest with the distribution's kernel, which has it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import guest, packets
from tests.kernel.conftest import RunModule
from tests.kernel.guest_debian import DebianKernel
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.test_overlay_wireguard import has_wireguard, patiently
from tests.kernel.wireguard_nodes import NETWORK, NETWORK6, PSK, device_of, dual_pod, peers_of
from tests.upstream import builds, node_state
from tests.upstream.conftest import Programs
from tests.upstream.flanneld import Flanneld
from tests.upstream.lan import Lan, wait_until

pytestmark = pytest.mark.slow
ETCD = builds.etcd("3.7")
#: Kernel modules of the guest: WireGuard, the nodes' LAN, and what flanneld's rules for nftables take, of which the
#: first one is asked for by name.
FILTER_MODULES = ("crc32c_generic", "nf_tables", "nft_chain_nat", "nft_masq", "nft_ct")
MODULES = ("wireguard", "veth", "bridge", "br_netfilter", *FILTER_MODULES)
THEIRS, OURS = 1, 2
#: Of a backend, as flannel's configuration and as our modules have it.
PLAIN: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
OPTIONS = (
    {"PSK": PSK, "PersistentKeepaliveInterval": 25, "ListenPort": 5180, "ListenPortV6": 5186, "MTU": 1400},
    {"psk": PSK, "keepalive": 25, "listen_port": 5180, "listen_port6": 5186, "mtu": 1400},
)
# flanneld listens on the first port and tells the other nodes the second one for IPv6.
ONE_DEVICE = (
    {"Mode": "auto", "ListenPort": 5180, "ListenPortV6": 5180},
    {"mode": "auto", "listen_port": 5180, "listen_port6": 5180},
)


def test_wireguard_in_a_kernel_that_has_it(programs: Programs, netns: Namespaces, tmp_path: Path) -> None:
    if guest.INSIDE in os.environ or has_wireguard(netns("probe")):
        pytest.skip("the other tests of this file have run in this kernel")
    for component in (builds.FLANNEL, ETCD):
        programs(component)
    output = guest.run_tests(DebianKernel(), ["tests/upstream/test_wireguard.py"], MODULES, tmp_path, timeout=1500)
    counts = re.search(r"(\d+) passed, (\d+) skipped", output)
    assert counts is not None and int(counts[1]) >= 4, output


class Pair:
    """Both nodes; ``refresh`` runs our modules on ours, ``state`` tells what they made."""

    def __init__(self, lan: Lan, flanneld: Path, run_module: RunModule, dual: bool) -> None:
        self.lan, self._run_module, self.dual = lan, run_module, dual
        self.theirs = Flanneld(flanneld, lan, THEIRS)
        self.nodes = {THEIRS: self.theirs.node, OURS: lan.node(OURS)}
        self.key = str(lan.directory / "our key")
        self.subnet_env = {THEIRS: self.theirs.subnet_env, OURS: lan.directory / "subnet.env"}
        self.backend: dict[str, Any] = {}

    def start(self, their_backend: dict[str, Any], our_backend: dict[str, Any]) -> None:
        dual = {"EnableIPv6": True, "IPv6Network": NETWORK6} | subnets6("IPv6SubnetMin", "IPv6SubnetMax", number=THEIRS)
        config = {"EnableNFTables": True, "Network": NETWORK} | subnets("SubnetMin", "SubnetMax", number=THEIRS)
        backend = {"Type": "wireguard", **their_backend}
        self.lan.configure({**config, **(dual if self.dual else {}), "Backend": backend})
        self.backend = {"type": "wireguard", **our_backend}
        self.theirs.start()
        self.refresh()
        self.settle()

    def refresh(self) -> dict[str, Any]:
        public_key = self.module("wireguard_key", path=self.key)["public_key"]
        networks = {"network": NETWORK, **({"network6": NETWORK6} if self.dual else {})}
        config = {**networks, **subnets("subnet_min", "subnet_max", number=OURS), "backend": self.backend}
        addresses = {"address": f"192.0.2.{OURS}", **({"address6": f"2001:db8::{OURS}"} if self.dual else {})}
        leases = self.module(
            "overlay_lease",
            endpoints=self.lan.etcd.endpoints,
            **self.lan.etcd.tls,
            config={**config, **(subnets6("subnet6_min", "subnet6_max", number=OURS) if self.dual else {})},
            cluster_name="pair",
            nodes=[{"name": "n2", "public_key": public_key, **addresses}],
            node="n2",
            timeout=60 * guest.PATIENCE,
        )
        env = {"path": str(self.subnet_env[OURS]), "ipmasq": True}
        backend = {**self.backend, "key_file": self.key}
        members = {"node": leases["own"], "peers": leases["peers"]}
        return self.module("overlay_network", **networks, backend=backend, **members, subnet_env=env)

    def module(self, name: str, **arguments: Any) -> dict[str, Any]:
        return self._run_module(name, arguments, netns=self.nodes[OURS])

    def public_key(self, number: int) -> str:
        return device_of(self.nodes[number])["public"]

    def settle(self) -> None:
        """flanneld follows the leases by itself."""
        wait_until(lambda: self.public_key(OURS) in peers_of(self.nodes[THEIRS]), "flanneld knows our node's key")

    def state(self, number: int) -> dict[str, Any]:
        """Of the overlay, as seen from this node: what differs between nodes is called own or other."""
        node = self.nodes[number]
        state = node_state.read(node)
        links = [link for link in state["links"] if link["ifname"].startswith("flannel")]
        names = [link["ifname"] for link in links]
        whole = {
            "links": links,
            "addresses": {name: state["addresses"][name] for name in names},
            "routes": [route for both in state["routes"].values() for route in both if route.get("dev") in names],
            "devices": {name: device(node, name) for name in names},
            "peers": {name: peers_of(node, name) for name in names},
            "subnet_env": self.subnet_env[number].read_text().splitlines(),
        }
        return named(whole, own=self.words(number), other=self.words(3 - number))

    def lease(self, number: int) -> Any:
        (found,) = [
            (name, json.loads(lease.value), lease.granted)
            for name, lease in self.lan.leases().items()
            if name.startswith(f"10.244.{number}.")
        ]
        return named(found, own=self.words(number))

    def words(self, number: int) -> list[str]:
        return [
            self.public_key(number),
            f"192.0.2.{number}",
            f"2001:db8::{number}",
            f"10.244.{number}.",
            f"fd00:0:0:{number}:",
        ]


def subnets(first: str, last: str, number: int) -> dict[str, str]:
    """flanneld picks by chance: there is one to be had."""
    return dict.fromkeys((first, last), f"10.244.{number}.0")


def subnets6(first: str, last: str, number: int) -> dict[str, str]:
    return dict.fromkeys((first, last), f"fd00:0:0:{number}::")


def device(node: Namespace, name: str) -> dict[str, str]:
    return {key: value for key, value in device_of(node, name).items() if key != "private"}


def named(value: Any, **words: list[str]) -> Any:
    text = json.dumps(value, sort_keys=True)
    for name, replaced in words.items():
        for position, word in enumerate(replaced):
            # A number must end where it ends.
            text = re.sub(rf"{re.escape(word)}(?![0-9])", f"<{name} {position}>", text)
    return json.loads(text)


@pytest.fixture
def pair(
    programs: Programs, netns: Namespaces, run_module: RunModule, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Pair]:
    if not has_wireguard(netns("probe")):
        assert guest.INSIDE not in os.environ, "the guest has no WireGuard either"
        pytest.skip("this kernel has no WireGuard; the test runs in a guest that has it")
    lan = Lan(netns, tmp_path)
    made: Pair | None = None
    try:
        lan.start_etcd(programs(ETCD))
        made = Pair(lan, programs(builds.FLANNEL) / "flanneld", run_module, getattr(request, "param", True))
        yield made
    finally:
        if made is not None:
            made.theirs.stop()
        lan.stop()


@pytest.mark.parametrize(
    ("pair", "backend"),
    [(False, PLAIN), (True, OPTIONS), (True, ONE_DEVICE)],
    ids=["ipv4", "dual with all options", "one device for both"],
    indirect=["pair"],
)
def test_devices_peers_and_leases_are_flannels(pair: Pair, backend: tuple[dict[str, Any], dict[str, Any]]) -> None:
    pair.start(*backend)
    theirs, ours = pair.state(THEIRS), pair.state(OURS)
    for part in theirs:
        assert ours[part] == theirs[part], part
    assert pair.lease(OURS) == pair.lease(THEIRS)
    assert not pair.refresh()["changed"]


def test_pods_reach_each_other_also_with_new_keys(pair: Pair, netns: Namespaces) -> None:
    pair.start(*OPTIONS)
    pods = {number: dual_pod(netns, node, number, 1320) for number, node in pair.nodes.items()}
    with packets.server(pods[THEIRS]), packets.server(pods[OURS]):
        reach_each_other(pods)
        # A key of its own is made where there is none.
        pair.theirs.stop()
        pair.theirs.wireguard_key.unlink()
        pair.theirs.start()
        pair.refresh()
        reach_each_other(pods)
        Path(pair.key).unlink()
        pair.refresh()
        pair.settle()
        reach_each_other(pods)
    assert not pair.refresh()["changed"]


def reach_each_other(pods: dict[int, Namespace]) -> None:
    for here, there in ((THEIRS, OURS), (OURS, THEIRS)):
        assert patiently(pods[here], f"10.244.{there}.2", 1320) == f"10.244.{here}.2"
        assert patiently(pods[here], f"fd00:0:0:{there}::2", 1320) == f"fd00:0:0:{here}::2"
