# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Where pyroute2's commands for IPVS do something else than they say. docs/reference/kernel_traps.md lists them.

Each test first shows that the trap is there, so that a version without it is noticed.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from pyroute2 import IPVS, IPVSDest, IPVSService
from pyroute2.netlink.exceptions import NetlinkError

from tests.kernel.ipvs_nodes import apply_to, lone_node, server, service, table, web
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.test_overlay_undo import inside

pytestmark = pytest.mark.usefixtures("ipvs")

PLACE = {"addr": "10.96.0.1", "port": 80, "protocol": 6}


@pytest.fixture
def node(netns: Namespaces) -> Namespace:
    return lone_node(netns)


def test_real_server_without_a_method_is_masqueraded(node: Namespace, tmp_path: Path) -> None:
    """pyroute2 takes direct routing, which reaches no pod."""
    with inside(node), IPVS() as ipvs:
        ipvs.service("add", IPVSService(**PLACE))
        ipvs.dest("add", IPVSService(**PLACE), IPVSDest(addr="10.244.1.1", port=80))
    assert table(node) == ["-A -t 10.96.0.1:80 -s wlc", "-a -t 10.96.0.1:80 -r 10.244.1.1:80 -g -w 1"]
    apply_to(tmp_path, node, {"services": [service("10.96.0.1", 80, server("10.244.1.1"))]})
    assert table(node) == ["-A -t 10.96.0.1:80 -s rr", "-a -t 10.96.0.1:80 -r 10.244.1.1:80 -m -w 1"]


def test_change_of_a_service_or_server_deletes_nothing(node: Namespace, tmp_path: Path) -> None:
    """pyroute2's "update" is the kernel's command for deleting."""
    with inside(node), IPVS() as ipvs:
        ipvs.service("add", IPVSService(**PLACE))
        ipvs.service("update", IPVSService(**PLACE))
    assert table(node) == []
    apply_to(tmp_path, node, {"services": [web(1)]})
    apply_to(tmp_path, node, {"services": [web(1, scheduler="sed")]})
    changed = {"services": [service("10.96.0.80", 80, server("10.244.1.1", 8080, weight=9), scheduler="sed")]}
    apply_to(tmp_path, node, changed)
    assert table(node) == ["-A -t 10.96.0.80:80 -s sed", "-a -t 10.96.0.80:80 -r 10.244.1.1:8080 -m -w 9"]


def test_service_of_ipv6_has_a_netmask(node: Namespace, tmp_path: Path) -> None:
    """pyroute2 sends none, and the kernel refuses that."""
    with inside(node), IPVS() as ipvs, pytest.raises(NetlinkError) as refused:
        ipvs.service("add", IPVSService(addr="fd00:96::1", port=80, protocol=6))
    assert refused.value.code == errno.EINVAL and table(node) == []
    apply_to(tmp_path, node, {"services": [service("fd00:96::1", 80)]})
    assert table(node) == ["-A -t [fd00:96::1]:80 -s rr"]


def test_time_outs_and_ports_of_tunnels_are_sent_in_their_own_byte_orders(node: Namespace, tmp_path: Path) -> None:
    """pyroute2 has no command for the first, and swaps the bytes of the second."""
    assert not [name for name in dir(IPVS) if "config" in name or "timeout" in name]
    tunnel = {"fwd_method": 2, "tun_type": 1, "tun_port": 6080}
    with inside(node), IPVS() as ipvs:
        ipvs.service("add", IPVSService(**PLACE))
        ipvs.dest("add", IPVSService(**PLACE), IPVSDest(addr="10.244.1.1", port=80, **tunnel))
    assert f"--tun-port {int.from_bytes((6080).to_bytes(2, 'little'), 'big')} " in table(node)[1]
    gue = server("10.244.1.1", forwarding="tunnel", tunnel={"type": "gue", "port": 6080})
    apply_to(tmp_path, node, {"services": [service("10.96.0.1", 80, gue)], "timeouts": {"tcp": 1000}})
    assert "--tun-port 6080 " in table(node)[1]
    assert "1000 120 300" in node.out("ipvsadm -Ln --timeout")
