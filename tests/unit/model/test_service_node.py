# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The node that services are looked at from."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, IPV6
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_node import parse_node
from tests.manifests import NODE


def test_defaults() -> None:
    node = parse_node(NODE)
    assert (node.name, node.zone, node.scheduler, node.masquerade_all) == ("n1", "zone-a", "rr", False)
    assert (node.versions, node.cluster_networks) == ((IPV4, IPV6), ())
    assert node.addresses == {IPV4: ("10.244.1.1", "192.0.2.2"), IPV6: ("2001:db8::2",)}
    assert node.node_port_addresses == node.addresses
    assert node.primary == {IPV4: "192.0.2.2", IPV6: "2001:db8::2"}


def test_all_that_can_be_told() -> None:
    more = {"address": "10.244.1.1", "address6": "2001:db8::9", "masquerade_all": True, "families": ["ipv6", "ipv4"]}
    node = parse_node({**NODE, **more, "cluster_networks": ["10.244.0.0/16", "fd00:244::/48"], "scheduler": "wlc"})
    assert node.primary == {IPV4: "10.244.1.1", IPV6: "2001:db8::9"}
    assert (node.masquerade_all, node.scheduler, node.versions) == (True, "wlc", (IPV4, IPV6))
    assert node.cluster_networks == ("10.244.0.0/16", "fd00:244::/48")


def test_a_node_may_have_addresses_of_one_version_only() -> None:
    node = parse_node({"name": "n1", "addresses": ["192.0.2.2"]})
    assert (node.addresses[IPV6], node.node_port_addresses[IPV6], node.primary[IPV6]) == ((), (), "")
    assert parse_node({"name": "n1", "addresses": []}).primary == {IPV4: "", IPV6: ""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "N1"}, "node.name: must be a lower-case RFC 1123 name"),
        ({"name": None}, "node.name: is required"),
        ({"addresses": None}, "node.addresses: is required"),
        ({"addresses": "192.0.2.2"}, "node.addresses: must be a list"),
        ({"addresses": ["192.0.2.2", "fe80::1%eth0"]}, "node.addresses[1]: must be an IP address"),
        ({"address": "2001:db8::2"}, "node.address: must be an IPv4 address"),
        ({"address6": "192.0.2.2"}, "node.address6: must be an IPv6 address"),
        ({"node_port_addresses": ["192.0.2.2/24"]}, "node.node_port_addresses[0]: 192.0.2.2/24 has host bits set"),
        ({"node_port_addresses": ["primary", "192.0.2.0/24"]}, "node.node_port_addresses[0]: must be a network"),
        ({"cluster_networks": ["10.244.0.0"]}, "node.cluster_networks[0]: must be a network"),
        ({"scheduler": "random"}, "node.scheduler: must be one of rr"),
        ({"masquerade_all": "yes"}, "node.masquerade_all: must be true or false"),
        ({"families": ["IPv4"]}, "node.families[0]: must be one of ipv4, ipv6"),
        ({"families": []}, "node.families: must name at least one"),
        ({"members": ["192.0.2.2", "w1"]}, "node.members[1]: must be an IP address"),
        ({"node_ports": "30000"}, "node.node_ports: must be a range of ports like 30000-32767, not '30000'"),
        ({"node_ports": "0-100"}, "node.node_ports: must be a range of ports"),
        ({"node_ports": "200-100"}, "node.node_ports: must be a range of ports"),
        ({"node_ports": "1-65536"}, "node.node_ports: must be a range of ports"),
        ({"zone": 7}, "node.zone: must be a string"),
        ({"nodeName": "n1"}, "node.nodeName: is unknown here"),
    ],
)
def test_mistakes_are_named_by_their_path(changes: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_node({**NODE, **changes})
    assert str(caught.value).startswith(message)
