# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Dual-stack leases between real flanneld and our module: each takes those of the other, and flanneld follows ours on
their way to dual stack and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, IPV6
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease import vtep_mac
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.upstream import builds
from tests.upstream.conftest import Programs
from tests.upstream.flanneld import Flanneld
from tests.upstream.lan import Lan
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
CLUSTER = "ring"
NETWORKS = {"network": "10.244.0.0/16", "network6": "fd00:10:244::/48"}
BACKEND = {"type": "vxlan", "vni": 1, "port": 8472}


class Store:
    """The LAN with flanneld on n1, and the module as it runs on n3."""

    def __init__(self, lan: Lan, program: Path, run_module: RunModule) -> None:
        self.lan, self._program, self._run_module = lan, program, run_module
        self.here = lan.node(3)
        self.flanneld: Flanneld | None = None

    def start_flanneld(self) -> Flanneld:
        self.flanneld = self.flanneld or Flanneld(self._program, self.lan, 1)
        self.flanneld.start()
        return self.flanneld

    def stop(self) -> None:
        if self.flanneld is not None:
            self.flanneld.stop()

    def ours(self, *numbers: int, dual: bool = True, pins: dict[str, str] | None = None) -> dict[str, Any]:
        """The module's run for these nodes."""
        nodes = [
            {"name": f"n{number}", "address": f"192.0.2.{number}", "address6": f"2001:db8::{number}", **(pins or {})}
            for number in numbers
        ]
        arguments = {
            "endpoints": self.lan.etcd.endpoints,
            **self.lan.etcd.tls,
            "config": {**NETWORKS, "backend": BACKEND}
            if dual
            else {"network": NETWORKS["network"], "backend": BACKEND},
            "cluster_name": CLUSTER,
            "nodes": nodes,
            "node": f"n{numbers[0]}",
            "timeout": 30,
        }
        return self._run_module("overlay_lease", arguments, netns=self.here)

    def value(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.lan.leases()[name].value)
        return found


@pytest.fixture
def store(programs: Programs, netns: Namespaces, run_module: RunModule, tmp_path: Path) -> Iterator[Store]:
    flanneld, etcd = programs(builds.FLANNEL) / "flanneld", programs(builds.etcd("3.7"))
    lan = Lan(netns, tmp_path)
    made = Store(lan, flanneld, run_module)
    try:
        lan.start_etcd(etcd)
        yield made
    finally:
        made.stop()
        lan.stop()


def mac(node: Namespace, device: str) -> str:
    (link,) = node.json(f"ip -j link show dev {device}")
    return str(link["address"])


def environment(daemon: Flanneld) -> dict[str, str]:
    return dict(line.split("=", 1) for line in daemon.subnet_env.read_text().splitlines())


# Far from what chance, or the first free one, would give.
NAME = "10.244.177.0-24&fd00:10:244:1770::-64"
PINS = {"subnet": "10.244.177.0/24", "subnet6": "fd00:10:244:1770::/64"}


def test_flanneld_takes_the_lease_that_we_made_for_it(store: Store) -> None:
    store.ours(1, pins=PINS)
    assert list(store.lan.leases()) == [NAME]
    daemon = store.start_flanneld()
    shown = environment(daemon)
    assert (shown["FLANNEL_SUBNET"], shown["FLANNEL_IPV6_SUBNET"]) == ("10.244.177.1/24", "fd00:10:244:1770::1/64")
    assert list(store.lan.leases()) == [NAME]
    # Only its devices' MAC addresses are its own.
    assert store.value(NAME) == {
        "PublicIP": "192.0.2.1",
        "PublicIPv6": "2001:db8::1",
        "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": mac(daemon.node, "flannel.1")},
        "BackendV6Data": {"VNI": 1, "VtepMAC": mac(daemon.node, "flannel-v6.1")},
    }


def test_we_keep_the_lease_that_flanneld_made(store: Store) -> None:
    store.ours(3)
    daemon = store.start_flanneld()
    (name,) = set(store.lan.leases()) - {"10.244.1.0-24&fd00:10:244:1::-64"}
    written = store.lan.leases()[name].value
    listed = store.ours(3)
    (peer,) = listed["peers"]
    assert (peer["mac"], peer["mac6"]) == (mac(daemon.node, "flannel.1"), mac(daemon.node, "flannel-v6.1"))
    assert "&".join(peer[key].replace("/", "-") for key in ("subnet", "subnet6")) == name
    assert store.lan.leases()[name].value == written and not store.ours(3)["changed"]
    # Its node becomes one of ours.
    daemon.stop()
    own = store.ours(1, 3)["own"]
    assert "&".join(own[key].replace("/", "-") for key in ("subnet", "subnet6")) == name
    assert (own["mac"], own["mac6"]) == (vtep_mac(CLUSTER, "n1", IPV4), vtep_mac(CLUSTER, "n1", IPV6))
    # Byte for byte what flanneld would write with these.
    for old, new in ((peer["mac"], own["mac"]), (peer["mac6"], own["mac6"])):
        written = written.replace(old, new)
    assert store.lan.leases()[name].value == written


def gateways(node: Namespace) -> set[str]:
    """Subnets that the node has a way to over one of flannel's devices."""
    found = []
    for family, device in (("-4", "flannel.1"), ("-6", "flannel-v6.1")):
        if node.run(f"ip link show dev {device}", check=False).returncode == 0:
            found += [
                entry["dst"] for entry in node.json(f"ip {family} -j route show dev {device}") if "gateway" in entry
            ]
    return set(found)


def test_flanneld_follows_ours_to_dual_stack_and_back(store: Store) -> None:
    """It is told of the old key's end first: the other way round it would take away the way to the node, or end."""
    store.lan.configure(
        {
            "Network": NETWORKS["network"],
            "EnableIPv6": True,
            "IPv6Network": NETWORKS["network6"],
            "Backend": {"Type": "vxlan", "VNI": 1, "Port": 8472},
        }
    )
    daemon = store.start_flanneld()
    for dual in (False, True, False, True):
        own = store.ours(3, dual=dual)["own"]
        subnets = {own["subnet"], own["subnet6"]} if dual else {own["subnet"]}
        wait_until(lambda wanted=subnets: gateways(daemon.node) == wanted, f"flanneld has ways to {subnets} alone")  # type: ignore[misc]
    assert daemon.process is not None and daemon.process.poll() is None, daemon.words()


def test_node_with_flanneld_goes_to_dual_stack_by_one_run_of_ours(store: Store) -> None:
    """By itself it would give up its IPv4 subnet, and not come up as long as any lease is without IPv6."""
    store.ours(3, dual=False)
    daemon = store.start_flanneld()
    subnet = environment(daemon)["FLANNEL_SUBNET"]
    daemon.stop()
    store.ours(3, 1)
    daemon.start()
    after = environment(daemon)
    assert after["FLANNEL_SUBNET"] == subnet and after["FLANNEL_IPV6_SUBNET"] == "fd00:10:244:2::1/64"
    own, (peer,) = (found := store.ours(3))["own"], found["peers"]
    assert peer["subnet6"] == "fd00:10:244:2::/64" and found["conflicts"] == []
    wait_until(lambda: gateways(daemon.node) == {own["subnet"], own["subnet6"]}, "flanneld has a way to our subnets")


def test_running_flanneld_of_ipv4_alone_fails_at_a_dual_stack_lease(store: Store) -> None:
    """What users of flannel 0.28 are told in the documentation: it hangs, which shows when it is ended."""
    store.ours(3, dual=False)
    daemon = store.start_flanneld()
    wait_until(lambda: gateways(daemon.node) == {"10.244.1.0/24"}, "flanneld has a way to our IPv4 subnet")
    store.ours(3)
    wait_until(
        lambda: (
            "Received Subnet Event with VxLan: BackendType: vxlan, PublicIP: 192.0.2.3, PublicIPv6: 2001:db8::3"
            in daemon.log.read_text()
        ),
        "flanneld is told of our lease",
    )
    daemon.stop()
    assert "nil pointer dereference" in daemon.words()


def test_dual_stack_flanneld_fails_to_choose_subnets_beside_a_lease_of_ipv4_alone(store: Store) -> None:
    """What users of flannel 0.28 are told in the documentation, and why all leases go to dual stack in one call."""
    store.ours(3, dual=False)
    store.lan.configure(
        {
            "Network": NETWORKS["network"],
            "EnableIPv6": True,
            "IPv6Network": NETWORKS["network6"],
            "Backend": {"Type": "vxlan"},
        }
    )
    with pytest.raises(AssertionError, match="nil pointer dereference"):
        store.start_flanneld()
    store.ours(3)
    store.start_flanneld()
    assert all("&" in name for name in store.lan.leases()) and len(store.lan.leases()) == 2
