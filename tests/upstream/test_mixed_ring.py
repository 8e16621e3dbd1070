# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Real flanneld and our modules in one overlay: whatever a node of either kind does, the others follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespaces
from tests.upstream import builds
from tests.upstream.conftest import Programs
from tests.upstream.lan import Lan
from tests.upstream.ring import IPV4, IPV6, Ring

pytestmark = pytest.mark.slow
FLANNELD, OURS = 2, 4


@pytest.fixture(params=[(IPV4,), (IPV4, IPV6)], ids=["ipv4", "dual"])
def empty(
    programs: Programs, netns: Namespaces, run_module: RunModule, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Ring]:
    flanneld, etcd = programs(builds.FLANNEL) / "flanneld", programs(builds.etcd("3.7"))
    lan = Lan(netns, tmp_path)
    made = Ring(lan, flanneld, run_module, request.param)
    try:
        lan.start_etcd(etcd)
        yield made
    finally:
        made.stop()
        lan.stop()


@pytest.fixture
def ring(empty: Ring) -> Ring:
    """Four nodes that know each other."""
    empty.start_ours()
    empty.start_flanneld()
    # By now flanneld has leases that ours did not see.
    empty.refresh()
    empty.start_pods()
    empty.check()
    return empty


def test_our_nodes_join_an_overlay_of_flanneld(empty: Ring) -> None:
    """The network configuration is as short as flannel's own documentation has it."""
    dual = {"EnableIPv6": True, "IPv6Network": IPV6.network} if IPV6 in empty.versions else {}
    empty.lan.configure({"Network": IPV4.network, **dual, "Backend": {"Type": "vxlan"}})
    empty.start_flanneld()
    empty.start_ours()
    empty.start_pods()
    empty.check()


def test_second_run_on_our_nodes_changes_nothing(ring: Ring) -> None:
    leases, before = ring.lan.leases(), ring.members()
    ring.refresh()
    for number in ring.ours:
        lease = ring.module(number, "overlay_lease", **ring.lease_arguments(number))
        assert not lease["changed"]
        arguments = {**ring.networks, "node": lease["own"], "peers": lease["peers"]}
        assert not ring.module(number, "overlay_network", **arguments)["changed"]
    assert (ring.lan.leases(), ring.members()) == (leases, before)


def test_our_node_leaves_and_returns(ring: Ring) -> None:
    before = ring.members()
    ring.ours.remove(OURS)
    ring.module(OURS, "overlay_lease", **{**ring.lease_arguments(OURS), "state": "absent"})
    ring.module(OURS, "overlay_network", state="deleted")
    ring.refresh()
    ring.check()
    ring.ours.append(OURS)
    ring.refresh()
    ring.check()
    assert ring.members() == before


def test_flanneld_leaves_and_returns(ring: Ring) -> None:
    before = ring.members()
    leave(ring)
    ring.refresh()
    ring.check()
    ring.flanneld[FLANNELD].start()
    ring.refresh()
    ring.check()
    assert ring.members() == before


def leave(ring: Ring) -> None:
    """The node with flanneld is taken out of the overlay for good: stopped, and its lease deleted."""
    name = ring.lease_name(FLANNELD)
    ring.flanneld[FLANNELD].stop()
    ring.lan.revoke(name)


def test_our_node_whose_lease_was_revoked_takes_it_again(ring: Ring) -> None:
    before = ring.members()
    ring.lan.revoke(ring.lease_name(OURS))
    ring.refresh()
    ring.check()
    assert ring.members() == before


def test_flanneld_whose_lease_is_revoked_ends_and_the_others_drop_it(ring: Ring) -> None:
    ring.lan.revoke(ring.lease_name(FLANNELD))
    ring.flanneld[FLANNELD].wait_for_its_end()
    ring.refresh()
    ring.check()


def test_flanneld_restarts_without_anybody_noticing(ring: Ring) -> None:
    before = ring.members()
    ring.flanneld[FLANNELD].stop()
    ring.flanneld[FLANNELD].start()
    ring.check()
    assert ring.members() == before


def test_our_node_changes_its_mac_address(ring: Ring) -> None:
    before = ring.members()[OURS][IPV4]
    ring.macs[OURS] = "02:aa:bb:cc:dd:44"
    ring.refresh()
    assert ring.members()[OURS][IPV4].mac == "02:aa:bb:cc:dd:44"
    # flanneld replaces neighbor and route, and adds an entry for the new address: it never looks for the old one.
    ring.leftovers = {(number, IPV4): [(before.mac, before.address)] for number in ring.flanneld}
    ring.check()


def test_flanneld_changes_its_mac_address(ring: Ring) -> None:
    before = ring.members()[FLANNELD]
    ring.flanneld[FLANNELD].stop()
    # It makes up another one for a new device.
    for version in ring.versions:
        ring.nodes[FLANNELD].run(f"ip link delete {version.device}")
    ring.flanneld[FLANNELD].start()
    after = ring.members()[FLANNELD]
    for version, half in before.items():
        assert (after[version].subnet, after[version].mac != half.mac) == (half.subnet, True)
        ring.leftovers[1, version] = [(half.mac, half.address)]
    ring.refresh()
    ring.check()


def test_our_node_changes_its_address(ring: Ring) -> None:
    before = ring.members()[OURS]
    change_address(ring, OURS)
    ring.refresh()
    after = ring.members()[OURS]
    for version, half in before.items():
        moved = dataclasses.replace(half, address=f"{version.lan}{ring.hosts[OURS]}")
        assert after[version] == moved != half
    ring.check()


def change_address(ring: Ring, number: int) -> None:
    old, new = number, number + 40
    for version in ring.versions:
        place = f"/{version.lan_length} dev eth0"
        ring.nodes[number].run(f"ip address delete {version.lan}{old}{place}")
        ring.nodes[number].run(f"ip address add {version.lan}{new}{place}")
    ring.hosts[number] = new


def test_flanneld_changes_its_address(ring: Ring) -> None:
    before = ring.members()[FLANNELD]
    # With its lease still there it would take another subnet, as it finds its lease by its address.
    leave(ring)
    change_address(ring, FLANNELD)
    ring.flanneld[FLANNELD].start()
    ring.refresh()
    assert [half.subnet for half in ring.members()[FLANNELD].values()] == [half.subnet for half in before.values()]
    ring.check()


def test_one_of_each_kind_leaves_at_once(ring: Ring) -> None:
    leave(ring)
    ring.ours.remove(OURS)
    ring.module(OURS, "overlay_lease", **{**ring.lease_arguments(OURS), "state": "absent"})
    ring.refresh()
    ring.check()
