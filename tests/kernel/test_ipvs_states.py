# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""States of module ipvs_service: what each makes, removes and leaves alone, as ipvsadm and ip see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import ipvs_service
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import PrerequisiteError
from tests.kernel.conftest import RunModule
from tests.kernel.ipvs_nodes import (
    DELETED,
    DEVICE,
    MODULE,
    Args,
    addresses,
    apply_to,
    foreign,
    lone_node,
    operations,
    saved,
    server,
    service,
    snapshot,
    table,
    web,
)
from tests.kernel.namespaces import Namespace, Namespaces

pytestmark = pytest.mark.usefixtures("ipvs")

FOREIGN = (
    "-A -t 10.96.9.9:80 -s wlc",
    "-a -t 10.96.9.9:80 -r 10.244.9.9:80 -g -w 7 -x 50 -y 20",
    "-A -u [fd00:96::9]:53 -s sh -p 33",
    "-A -f 9 -s rr",
    "-a -f 9 -r 10.244.9.9:0 -m",
    "-A -f 9 -6 -s wrr",
)


@pytest.fixture
def node(netns: Namespaces) -> Namespace:
    return lone_node(netns)


def two(*numbers: int, **more: Any) -> Args:
    """Two services, one of which has the servers."""
    return {"services": [web(*numbers, **more), service("fd00:96::80", 443, server("fd00:244::1"))]}


def test_twelve_steps(node: Namespace, run_module: RunModule) -> None:
    """Create, modify and delete, each in check mode and for real, each again; deletion of what is absent."""
    bare = snapshot(node)

    def step(args: Args, *expected: str) -> None:
        before = snapshot(node)
        told = run_module(MODULE, args, netns=node, check=True)
        assert told["changed"] == bool(expected) and snapshot(node) == before
        done = run_module(MODULE, args, netns=node)
        assert done["operations"] == told["operations"] and done["after"] == told["after"]
        assert sorted(line for line in done["operations"] if not line[2:].startswith("file ")) == sorted(expected)
        reached = snapshot(node)
        for check in (True, False):
            again = run_module(MODULE, args, netns=node, check=check)
            assert not again["changed"] and again["operations"] == []
        assert snapshot(node) == reached

    created = (
        "+ virtual service tcp 10.96.0.80:80 scheduler rr",
        "+ virtual service tcp [fd00:96::80]:443 scheduler rr",
        "+ real server 10.244.1.1:8080 of tcp 10.96.0.80:80 masquerade weight 1",
        "+ real server 10.244.1.2:8080 of tcp 10.96.0.80:80 masquerade weight 1",
        "+ real server [fd00:244::1]:443 of tcp [fd00:96::80]:443 masquerade weight 1",
        f"+ dummy {DEVICE}",
        f"+ address 10.96.0.80/32 dev {DEVICE}",
        f"+ address fd00:96::80/128 dev {DEVICE}",
    )
    step(two(1, 2), *created)
    assert addresses(node) == ["10.96.0.80/32", "fd00:96::80/128"]
    step(
        two(2, 3, scheduler="wlc"),
        "~ virtual service tcp 10.96.0.80:80 scheduler wlc (was virtual service tcp 10.96.0.80:80 scheduler rr)",
        "+ real server 10.244.1.3:8080 of tcp 10.96.0.80:80 masquerade weight 1",
        "- real server 10.244.1.1:8080 of tcp 10.96.0.80:80 masquerade weight 1",
    )
    assert table(node)[1] == "-A -t [fd00:96::80]:443 -s rr" and "-A -t 10.96.0.80:80 -s wlc" in table(node)
    step(
        DELETED,
        f"- address fd00:96::80/128 dev {DEVICE}",
        f"- address 10.96.0.80/32 dev {DEVICE}",
        f"- dummy {DEVICE}",
        "- real server [fd00:244::1]:443 of tcp [fd00:96::80]:443 masquerade weight 1",
        "- real server 10.244.1.3:8080 of tcp 10.96.0.80:80 masquerade weight 1",
        "- real server 10.244.1.2:8080 of tcp 10.96.0.80:80 masquerade weight 1",
        "- virtual service tcp [fd00:96::80]:443 scheduler rr",
        "- virtual service tcp 10.96.0.80:80 scheduler wlc",
    )
    assert snapshot(node) == bare
    step(DELETED)
    step({**two(1), "state": "deleted"})


def test_result_and_diff_are_readable(node: Namespace, run_module: RunModule) -> None:
    run_module(MODULE, {"services": [web(1)]}, netns=node)
    changed = run_module(MODULE, {"services": [web(1, scheduler="sed")]}, netns=node, diff=True)
    sides = changed["diff"]["before"], changed["diff"]["after"]
    assert "virtual service tcp 10.96.0.80:80 scheduler rr\n" in sides[0] and "scheduler sed\n" in sides[1]
    assert changed["diff"]["before_header"] == "virtual services"
    kinds = {item["kind"] for item in changed["after"]}
    assert {"virtual_service", "real_server", "dummy", "address", "ipvs_timeouts"} <= kinds
    found = run_module(MODULE, {"state": "gathered"}, netns=node)
    assert not found["changed"]
    assert found["gathered"]["services"] == [
        {
            "protocol": "tcp",
            "address": "10.96.0.80",
            "port": 80,
            "scheduler": "sed",
            "servers": [{"address": "10.244.1.1", "port": 8080, "weight": 1}],
        }
    ]


STATES = ("overridden", "replaced", "merged", "deleted")


@pytest.mark.parametrize("scope", [[], [{"network": "10.96.0.0/24"}, {"network": "fd00:96::80/124"}, {"marks": "1-8"}]])
def test_no_state_touches_what_is_foreign(scope: list[Args], node: Namespace, tmp_path: Path) -> None:
    node.run("ip link add kube-ipvs0 type dummy")
    node.run("ip address add 10.96.0.10/32 dev kube-ipvs0")
    node.run("ip address add 10.96.0.80/32 dev kube-ipvs0")
    foreign(node, FOREIGN)
    before = snapshot(node)
    for state in STATES:
        apply_to(tmp_path, node, {**two(1, 2), "scope": scope})
        apply_to(tmp_path, node, {**two(2), "scope": scope, "state": state})
        assert set(before["table"]) <= set(table(node)), state
        # That of the first service is on another device, so it is not put on ours.
        assert addresses(node) in ([], ["fd00:96::80/128"]), state
    apply_to(tmp_path, node, {**DELETED, "scope": scope})
    assert snapshot(node) == before


AREAS: list[tuple[Args, set[str]]] = [
    ({"network": "10.96.0.0/12"}, {"10.96.1.1:80", "10.96.1.1:8080", "10.96.1.2:80"}),
    ({"network": "10.96.1.1/32", "ports": "80"}, {"10.96.1.1:80"}),
    ({"network": "10.96.1.0/24", "ports": "81-9000"}, {"10.96.1.1:8080"}),
    ({"network": "fd00:96::/64"}, {"[fd00:96::1]:80"}),
    ({"marks": "10-12"}, {"10", "12"}),
    ({"marks": "12"}, {"12"}),
]


def test_scope_is_ours_alone(node: Namespace, tmp_path: Path) -> None:
    """Of others' services, those in it go with state overridden, and no others do."""
    places = (
        "-t 10.96.1.1:80",
        "-t 10.96.1.1:8080",
        "-u 10.96.1.2:80",
        "-t [fd00:96::1]:80",
        "-f 10",
        "-f 12 -6",
        "-f 13",
    )
    for area, gone in AREAS:
        foreign(node, [f"-A {place} -s rr" for place in places])
        for state in ("replaced", "merged"):
            apply_to(tmp_path, node, {"services": [web(1)], "scope": [area], "state": state})
            assert len(table(node)) == len(places) + 2, (area, state)
        apply_to(tmp_path, node, {"services": [web(1)], "scope": [area]})
        left = {line.split()[2] for line in table(node) if line.startswith("-A")} - {"10.96.0.80:80"}
        assert left == {place.split()[1] for place in places} - gone, area
        node.run("ipvsadm -C")
        (saved(tmp_path, node)).unlink()


def test_replaced_and_merged(node: Namespace, tmp_path: Path) -> None:
    one, other = web(1, 2), service("10.96.0.81", 80, "10.244.1.9")
    apply_to(tmp_path, node, {"services": [one]})
    node.run("ipvsadm -a -t 10.96.0.80:80 -r 10.244.1.77:8080 -m")
    merged = apply_to(tmp_path, node, {"services": [web(3), other], "state": "merged"})
    assert sorted(operations(merged)) == [
        f"+ address 10.96.0.81/32 dev {DEVICE}",
        "+ real server 10.244.1.3:8080 of tcp 10.96.0.80:80 masquerade weight 1",
        "+ real server 10.244.1.9:8080 of tcp 10.96.0.81:80 masquerade weight 1",
        "+ virtual service tcp 10.96.0.81:80 scheduler rr",
    ]
    assert len(table(node)) == 7
    replaced = apply_to(tmp_path, node, {"services": [web(3)], "state": "replaced"})
    assert sorted(line[:27] for line in operations(replaced)) == [
        "- real server 10.244.1.1:80",
        "- real server 10.244.1.2:80",
        "- real server 10.244.1.77:8",
    ]
    assert addresses(node) == ["10.96.0.80/32", "10.96.0.81/32"]
    # All of it is known to be ours, and comes back at boot.
    wanted = snapshot(node)
    node.run("ipvsadm -C")
    node.run(f"ip link delete {DEVICE}")
    restored = apply_to(tmp_path, node, {"services": [web(3), other]})
    assert len(operations(restored)) == 7 and snapshot(node) == wanted
    apply_to(tmp_path, node, {"services": [other]})
    assert len(table(node)) == 2 and addresses(node) == ["10.96.0.81/32"]


def test_deleted_by_name(node: Namespace, tmp_path: Path) -> None:
    bare = snapshot(node)
    one, other = web(1), service("10.96.0.80", 443, "10.244.1.9")
    apply_to(tmp_path, node, {"services": [one, other]})
    apply_to(tmp_path, node, {"services": [{"address": "10.96.0.80", "port": 80}], "state": "deleted"})
    assert table(node)[0] == "-A -t 10.96.0.80:443 -s rr" and addresses(node) == ["10.96.0.80/32"]
    assert not apply_to(tmp_path, node, {"services": [other]}).changed
    apply_to(tmp_path, node, {"services": [other], "state": "deleted"})
    assert snapshot(node) == bare and not saved(tmp_path, node).exists()


@pytest.mark.parametrize("ipvs_is_there", [True, False])
def test_deleted_by_name_takes_addresses_of_services_that_are_gone(
    ipvs_is_there: bool, node: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `kube-proxy --cleanup`, or when the kernel module was taken away after that."""
    bare = snapshot(node)
    first, second, third = web(1), service("10.96.0.81", 80), service("10.96.0.80", 443)
    apply_to(tmp_path, node, {"services": [first, second, third]})
    node.run("ipvsadm -C")
    if not ipvs_is_there:
        monkeypatch.setattr(ipvs_service, "has_ipvs", lambda: False)
    for services, left in (([second], ["10.96.0.80/32"]), ([first], ["10.96.0.80/32"]), ([third], [])):
        args = {"services": services, "state": "deleted"}
        told = apply_to(tmp_path, node, args, check=True)
        done = apply_to(tmp_path, node, args)
        assert addresses(node) == left and operations(told) == operations(done)
    assert snapshot(node) == bare and not saved(tmp_path, node).exists()


@pytest.mark.parametrize("ipvs_is_there", [True, False])
def test_all_that_is_remembered_is_undone(
    ipvs_is_there: bool, node: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `deleted` alone, as in a reset: device and time-outs are not named."""
    bare = snapshot(node)
    args = {**two(1, 2), "device": "svc0", "scope": [{"marks": "1-9"}]}
    apply_to(tmp_path, node, {**args, "timeouts": {"tcp": 1000, "udp": 310}} if ipvs_is_there else args)
    if not ipvs_is_there:
        node.run("ipvsadm -C")
        monkeypatch.setattr(ipvs_service, "has_ipvs", lambda: False)
    assert apply_to(tmp_path, node, DELETED).changed
    assert snapshot(node) == bare and not list((tmp_path / node.name).iterdir())
    assert not apply_to(tmp_path, node, DELETED).changed


def test_time_outs_that_are_not_declared_any_more(node: Namespace, tmp_path: Path) -> None:
    bare = snapshot(node)
    apply_to(tmp_path, node, {"services": [web(1)], "timeouts": {"tcp": 1000, "tcp_fin": 110, "udp": 310}})
    apply_to(tmp_path, node, {"services": [web(1)], "state": "merged", "timeouts": {"udp": 320}})
    assert "1000 110 320" in snapshot(node)["times"]
    node.run("ipvsadm --set 1000 110 77")
    args = {"services": [web(1)], "timeouts": {"tcp_fin": 110}}
    apply_to(tmp_path, node, args)
    assert "900 110 77" in snapshot(node)["times"], "one is declared, and one is somebody else's"
    node.run("ipvsadm --set 900 110 300")
    apply_to(tmp_path, node, {**args, "state": "deleted"})
    assert snapshot(node) == bare


def test_deleted_takes_the_device_with_whatever_is_on_it(node: Namespace, tmp_path: Path) -> None:
    bare = snapshot(node)
    apply_to(tmp_path, node, {"services": [web(1)]})
    node.run(f"ip address add 10.96.0.99/32 dev {DEVICE}")
    apply_to(tmp_path, node, DELETED)
    assert snapshot(node) == bare


DRIFT = (
    "ipvsadm -C",
    "ipvsadm -D -t 10.96.0.80:80",
    "ipvsadm -E -t 10.96.0.80:80 -s wrr",
    "ipvsadm -E -t 10.96.0.80:80 -s rr -p 60",
    "ipvsadm -E -t 10.96.0.80:80 -s rr -b flag-1",
    "ipvsadm -E -t 10.96.0.80:80 -s rr -b flag-3",
    "ipvsadm -d -t 10.96.0.80:80 -r 10.244.1.2:8080",
    "ipvsadm -a -t 10.96.0.80:80 -r 10.244.1.3:8080 -m",
    "ipvsadm -e -t 10.96.0.80:80 -r 10.244.1.2:8080 -m -w 0",
    "ipvsadm -e -t 10.96.0.80:80 -r 10.244.1.2:8080 -m -w 1 -x 9 -y 3",
    "ipvsadm -e -t [fd00:96::80]:443 -r [fd00:244::1]:443 -g",
    "ipvsadm -e -t [fd00:96::80]:443 -r [fd00:244::1]:443 -i --tun-type gue --tun-port 6080",
    "ipvsadm --set 100 100 100",
    f"ip address delete 10.96.0.80/32 dev {DEVICE}",
    f"ip address delete fd00:96::80/128 dev {DEVICE}",
    f"ip address add 10.96.0.81/32 dev {DEVICE}",
    f"ip address add fd00:96::81/128 dev {DEVICE}",
    f"ip link delete {DEVICE}",
)


def test_drift_of_everything_is_repaired(node: Namespace, tmp_path: Path) -> None:
    args = {**two(1, 2), "timeouts": {"tcp": 1000, "tcp_fin": 110, "udp": 310}}
    apply_to(tmp_path, node, args)
    wanted = snapshot(node)
    for command in DRIFT:
        node.run(command)
        assert snapshot(node) != wanted, command
        assert apply_to(tmp_path, node, args, check=True).changed, command
        apply_to(tmp_path, node, args)
        assert snapshot(node) == wanted, command


def test_addresses_that_other_interfaces_have_stay_there(node: Namespace, tmp_path: Path) -> None:
    services = [web(1), service("192.0.2.1", 80), service("2001:db8::1", 80), service("127.0.0.1", 80), service("::1")]
    args = {"services": [*services, service("fd00:96::80")]}
    apply_to(tmp_path, node, args)
    assert addresses(node) == ["10.96.0.80/32", "fd00:96::80/128"]
    node.run("ip address add 10.96.0.80/24 dev eth0")
    moved = apply_to(tmp_path, node, args)
    assert operations(moved) == [f"- address 10.96.0.80/32 dev {DEVICE}"]
    node.run("ip address delete 10.96.0.80/24 dev eth0")
    apply_to(tmp_path, node, args)
    assert addresses(node) == ["10.96.0.80/32", "fd00:96::80/128"]
    apply_to(tmp_path, node, {"services": services[1:]})
    assert node.run(f"ip link show {DEVICE}", check=False).returncode == 1


@pytest.mark.parametrize("state", ["overridden", "replaced", "merged"])
def test_device_of_another_name_and_none(state: str, node: Namespace, tmp_path: Path) -> None:
    """The old one does not stay behind, whichever state renames it, and every address leads here all the while."""
    bare, both = snapshot(node), ["10.96.0.80/32", "10.96.0.81/32"]
    services = [web(1), service("10.96.0.81", 80, "10.244.1.9")]
    apply_to(tmp_path, node, {"services": services, "device": "svc0"})
    assert addresses(node, "svc0") == both
    # Of two services, one is declared again.
    again = services if state == "overridden" else services[:1]
    apply_to(tmp_path, node, {"services": again, "state": state})
    assert addresses(node) == both and "svc0" not in node.out("ip link")
    assert "local 10.96.0.81 dev fairlead-ipvs" in node.out("ip route show table local")
    assert not apply_to(tmp_path, node, {"services": again, "state": state}).changed
    apply_to(tmp_path, node, {"services": again, "state": state, "device": ""})
    assert snapshot(node)["addresses"] == bare["addresses"] and len(table(node)) == 4
    apply_to(tmp_path, node, DELETED)
    assert snapshot(node) == bare


def test_device_that_is_no_dummy_is_refused(node: Namespace, tmp_path: Path) -> None:
    node.run("ip link add svc0 type bridge")
    before = snapshot(node)
    with pytest.raises(PrerequisiteError, match="interface svc0 is there and is no dummy device, so not ours"):
        apply_to(tmp_path, node, {"services": [web(1)], "device": "svc0"})
    apply_to(tmp_path, node, {**DELETED, "device": "svc0"})
    assert snapshot(node) == before


def test_device_that_became_another_is_no_more_ours(node: Namespace, tmp_path: Path) -> None:
    apply_to(tmp_path, node, {"services": [web(1)], "device": "svc0"})
    node.run("ip link delete svc0")
    node.run("ip link add svc0 type bridge")
    node.run("ip address add 10.99.0.1/32 dev svc0")
    apply_to(tmp_path, node, {"services": [web(1)]})
    assert addresses(node) == ["10.96.0.80/32"] and addresses(node, "svc0") == ["10.99.0.1/32"]
