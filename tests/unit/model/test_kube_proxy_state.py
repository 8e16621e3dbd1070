# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What is kube-proxy's, and of which mode; everything else is somebody's who counts on it."""

from __future__ import annotations

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy_state import (
    KEEPABLE,
    SETS,
    StateWish,
    goes,
    is_kube_proxy_s,
    jump_goes,
    parse_state_wish,
    sets_go,
    table_goes,
)

# By table and name: the modes with which a chain goes.
CHAINS = {
    ("nat", "KUBE-SERVICES"): "nftables none",
    ("nat", "KUBE-POSTROUTING"): "nftables none",
    ("filter", "KUBE-FORWARD"): "nftables none",
    ("filter", "KUBE-SERVICES"): "ipvs nftables none",
    ("nat", "KUBE-SVC-NPX46M4PTMTKRN6Y"): "ipvs nftables none",
    ("nat", "KUBE-NODEPORTS"): "ipvs nftables none",
    ("mangle", "KUBE-PROXY-CANARY"): "ipvs nftables none",
    ("nat", "KUBE-NODE-PORT"): "iptables nftables none",
    ("filter", "KUBE-IPVS-OUT-FILTER"): "iptables nftables none",
    ("filter", "KUBE-FIREWALL"): "",
    ("mangle", "KUBE-KUBELET-CANARY"): "",
    ("nat", "KUBE-MARK-DROP"): "",
    ("filter", "KUBE-ROUTER-FORWARD"): "",
    ("filter", "KUBE-NWPLCY-AAAA"): "",
    ("filter", "KUBE-SVC-AAAA"): "",
    ("nat", "FAIRLEAD-SERVICES"): "",
    ("mangle", "KUBE-SERVICES"): "",
}
WISH = parse_state_wish({"keep": "nftables", "exclude_cidrs": ["198.18.0.0/24", "fd00:99::/112"]})
VIRTUAL = frozenset({"10.96.0.10", "198.18.0.9", "fd00:96::a"})
LOCAL = frozenset({"192.0.2.11", "127.0.0.1", "198.18.0.1", "2001:db8::11"})


def wish(keep: str) -> StateWish:
    return parse_state_wish({"keep": keep})


@pytest.mark.parametrize(("place", "modes"), CHAINS.items())
def test_chain_goes_with_the_modes_that_do_not_have_it(place: tuple[str, str], modes: str) -> None:
    assert [keep for keep in KEEPABLE if goes(wish(keep), *place)] == [
        keep for keep in KEEPABLE if keep in modes.split()
    ]


def test_sets_are_of_ipvs_and_tables_of_nftables() -> None:
    assert [keep for keep in KEEPABLE if not sets_go(wish(keep))] == ["ipvs"]
    assert [keep for keep in KEEPABLE if not table_goes(wish(keep))] == ["nftables"]
    assert len(SETS) == 34 and max(map(len, SETS)) == 31
    assert {"KUBE-6-LOAD-BALANCER-SOURCE-CID", "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS", "KUBE-IPVS-IPS"} <= SETS
    assert not {"KUBE-SRC-AAAA", "KUBE-DST-BBBB", "KUBE-ROUTER-SVIP"} & SETS


@pytest.mark.parametrize(
    ("service", "its"),
    [
        ("tcp 10.96.0.10:53", True),
        ("udp 10.96.0.10:7", True),
        ("tcp [fd00:96::a]:53", True),
        ("tcp 192.0.2.11:30000", True),
        ("sctp [2001:db8::11]:32767", True),
        ("tcp 192.0.2.11:29999", False),
        ("tcp 192.0.2.11:32768", False),
        ("tcp 192.0.2.11:443", False),
        ("tcp 203.0.113.5:30080", False),
        ("tcp 198.18.0.9:80", False),
        ("tcp 198.18.0.1:30080", False),
        ("tcp [fd00:99::1]:30080", False),
        ("mark 7", False),
        ("mark6 7", False),
    ],
)
def test_virtual_service_is_kube_proxy_s_by_its_address_and_port(service: str, its: bool) -> None:
    assert is_kube_proxy_s(WISH, service, VIRTUAL, LOCAL) is its


def test_ways_to_the_shared_chain_go_with_their_mode() -> None:
    of_ipvs = ["-m", "comment", "--comment", "kube-proxy firewall rules", "-j", "KUBE-PROXY-FIREWALL"]
    of_iptables = ["-m", "comment", "--comment", "kubernetes load balancer firewall", "-j", "KUBE-PROXY-FIREWALL"]
    assert [keep for keep in KEEPABLE if jump_goes(wish(keep), of_ipvs)] == ["iptables"]
    assert [keep for keep in KEEPABLE if jump_goes(wish(keep), of_iptables)] == ["ipvs"]
    assert not jump_goes(wish("iptables"), [*of_ipvs[:-1], "SOMEBODYS"])
