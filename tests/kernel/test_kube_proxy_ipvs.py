# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services that kube-proxy left, and those of others, in a kernel that has IPVS and neither sets nor nftables.
Where this one is another, test_kube_proxy_guest runs these tests in a guest."""

from __future__ import annotations

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.ipvs_nodes import dummies, foreign, lone_node, table
from tests.kernel.namespaces import Namespace, Namespaces

pytestmark = pytest.mark.usefixtures("ipvs")

DEVICE = "kube-ipvs0"
#: On an address of the node: a node port, and beside them.
NODE_PORT = ["-A -t 192.0.2.1:30080 -s rr", "-a -t 192.0.2.1:30080 -r 10.244.1.1:8080 -m -w 1"]
BESIDE = ["-A -t 192.0.2.1:443 -s rr", "-a -t 192.0.2.1:443 -r 10.244.1.2:443 -m -w 1"]
CLUSTER = ["-A -t 10.96.0.80:80 -s rr", "-a -t 10.96.0.80:80 -r 10.244.1.1:8080 -m -w 1"]


@pytest.fixture
def node(netns: Namespaces) -> Namespace:
    made = lone_node(netns)
    foreign(made, [*NODE_PORT, *BESIDE])
    return made


def test_node_port_of_somebody_else_stays_where_mode_ipvs_never_was(node: Namespace, run_module: RunModule) -> None:
    for keep in ("nftables", "iptables", "none"):
        result = run_module("kube_proxy_state", {"keep": keep}, netns=node)
        assert not result["changed"] and result["others"] == ["tcp 192.0.2.1:30080", "tcp 192.0.2.1:443"]
    assert table(node) == sorted([*NODE_PORT, *BESIDE])


@pytest.mark.parametrize("address_is_gone", [False, True])
def test_kube_proxy_s_go_with_its_device_after_a_run_that_was_cut_off_too(
    node: Namespace, run_module: RunModule, address_is_gone: bool
) -> None:
    node.run(f"ip link add {DEVICE} type dummy")
    if not address_is_gone:
        node.run(f"ip address add 10.96.0.80/32 dev {DEVICE}")
        foreign(node, CLUSTER)
    announced = run_module("kube_proxy_state", {"keep": "nftables"}, netns=node, check=True)
    result = run_module("kube_proxy_state", {"keep": "nftables"}, netns=node)
    assert result["operations"] == announced["operations"] and DEVICE in result["operations"][-1]
    assert (table(node), dummies(node)) == (sorted(BESIDE), ["eth0"])
    assert not run_module("kube_proxy_state", {"keep": "nftables"}, netns=node)["changed"]
