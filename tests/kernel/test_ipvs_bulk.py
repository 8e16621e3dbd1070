# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Thousands of virtual services, which the kernel's file tells of instead of one answer for each."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs import RealServer
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs_service import parse_services
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs_text import ipvsadm_lines
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import State
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink import ipvs_adapter, ipvs_table
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink.ipvs_adapter import IpvsAdapter
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import Operation
from tests.kernel.ipvs_nodes import (
    DELETED,
    Args,
    addresses,
    apply_to,
    foreign,
    lone_node,
    operations,
    server,
    service,
    table,
)
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.test_ipvs_kinds import ALL
from tests.kernel.test_overlay_undo import inside

pytestmark = pytest.mark.usefixtures("ipvs")

SERVICES = 3000


@pytest.fixture
def node(netns: Namespaces) -> Namespace:
    return lone_node(netns)


def many(count: int = SERVICES) -> Args:
    """Services of three servers each, of both IP versions in turns."""

    def one(number: int) -> Args:
        high, low = divmod(number, 250)
        if number % 4 == 3:
            place, prefix = f"fd00:96::{number:x}", f"fd00:244:{number:x}::"
        else:
            place, prefix = f"10.100.{high}.{low + 1}", f"10.{200 + high}.{low}."
        return service(place, 80, *(server(f"{prefix}{each}", 8080) for each in (1, 2, 3)))

    return {"services": [one(number) for number in range(count)]}


def lines(args: Args) -> list[str]:
    declared = parse_services(args)
    return sorted(ipvsadm_lines(declared.services, declared.servers))


def test_many_services(node: Namespace, tmp_path: Path) -> None:
    args = many()
    made = apply_to(tmp_path, node, args)
    assert len(operations(made)) == SERVICES * (1 + 3 + 1) + 1
    assert table(node) == lines(args) and len(addresses(node)) == SERVICES
    assert not apply_to(tmp_path, node, args).changed
    changed = copy.deepcopy(args)
    changed["services"][1234]["servers"][1]["weight"] = 5
    sent: list[Operation] = []
    plain = IpvsAdapter.apply
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IpvsAdapter, "apply", lambda self, ops: sent.extend(ops) or plain(self, ops))
        assert len(operations(apply_to(tmp_path, node, changed))) == 1
    assert [str(each)[:13] for each in sent] == ["~ real server"]
    assert table(node) == lines(changed)
    other = copy.deepcopy(changed)
    other["services"] = other["services"][:1000]
    apply_to(tmp_path, node, other)
    assert table(node) == lines(other) and len(addresses(node)) == 1000
    apply_to(tmp_path, node, DELETED)
    assert table(node) == []


def test_refusal_among_many_leaves_nothing(node: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = table(node)
    args = many(600)
    real = ipvs_adapter.Ipvs.message

    def with_wrong_one(self: Any, operation: Operation) -> Any:
        item = operation.item
        if isinstance(item, RealServer) and item.address == "10.201.50.2:8080" and operation.action == "add":
            operation = Operation("add", item._replace(address="224.0.0.1:8080"))
        return real(self, operation)

    monkeypatch.setattr(ipvs_adapter.Ipvs, "message", with_wrong_one)
    with pytest.raises(
        ApplyError, match=r"^real server 10\.201\.50\.2:8080 of tcp 10\.100\.1\.51:80 .*: cannot add: Inv"
    ):
        apply_to(tmp_path, node, args)
    assert table(node) == before and addresses(node) == []


def read(node: Namespace, few: int, thorough: list[str], monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.setattr(ipvs_table, "_FEW", few)
    with inside(node):
        return IpvsAdapter([], thorough).read()


def test_file_and_netlink_tell_the_same(node: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every kind of service; of those in ``thorough``, everything about their servers too."""
    limited = service("10.99.0.1", 80, server("10.244.1.1", 80, connections_max=9, connections_min=3))
    apply_to(tmp_path, node, {"services": [*ALL["services"], limited]})
    # What only somebody else would make.
    foreign(
        node,
        [
            "-A -t 10.99.0.2:80 -s wlc -p 77",
            "-A -u [fd00:99::2]:53 -s rr -o -p 60 -M 64",
            "-A -f 99 -s sh -b sh-port,flag-3 -p 60",
            "-a -f 99 -r 10.244.1.1 -i -x 7",
            "-A --sctp-service [fd00:99::3]:99 -s lblcr",
        ],
    )
    node.run("ip address add 10.99.0.2/32 dev eth0")
    netlink = read(node, 10**6, [], monkeypatch)
    thorough = [each.service for each in netlink.values() if isinstance(each, RealServer)]
    assert read(node, 0, thorough, monkeypatch) == netlink
    assert len(netlink) == 1 + len(table(node))
    plain = read(node, 0, [], monkeypatch)
    differ = {key for key, item in netlink.items() if plain[key] != item}
    assert plain.keys() == netlink.keys()
    assert {key[1] for key in differ} == {"tcp 10.99.0.1:80", "tcp 10.96.0.4:80"}


def test_limits_and_tunnels_among_many(node: Namespace, tmp_path: Path) -> None:
    """What is declared of them is kept and repaired, however many services there are."""
    args = many(300)
    gre = {"forwarding": "tunnel", "tunnel": {"type": "gre"}}
    args["services"].append(
        service("10.99.0.1", 80, server("10.244.1.1", connections_max=9), server("10.244.1.2", **gre))
    )
    apply_to(tmp_path, node, args)
    assert not apply_to(tmp_path, node, args).changed
    node.run("ipvsadm -e -t 10.99.0.1:80 -r 10.244.1.1:80 -m -x 3")
    node.run("ipvsadm -e -t 10.99.0.1:80 -r 10.244.1.2:80 -i --tun-type ipip")
    assert len(operations(apply_to(tmp_path, node, args))) == 2
    assert "-a -t 10.99.0.1:80 -r 10.244.1.2:80 -i -w 1 --tun-type gre --tun-nocsum" in table(node)
    # No longer declared, they are known from the run before.
    args["services"][-1] = service("10.99.0.1", 80, server("10.244.1.1"), server("10.244.1.2", forwarding="tunnel"))
    assert len(operations(apply_to(tmp_path, node, args))) == 2
    assert "-a -t 10.99.0.1:80 -r 10.244.1.2:80 -i -w 1 --tun-type ipip" in table(node)
