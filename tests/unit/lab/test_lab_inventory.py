# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What the lab reads from an inventory, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from lab import inventory
from lab.errors import LabError


def listing(hosts: dict[str, str | None], **variables: Any) -> dict[str, Any]:
    values = {name: ({"ansible_host": address} if address else {}) | variables for name, address in hosts.items()}
    return {"_meta": {"hostvars": values}}


def test_defaults_fill_what_the_inventory_leaves_out() -> None:
    wanted = inventory.parse(listing({"a": "192.0.2.11"}))
    assert (wanted.name, wanted.lan, wanted.gateway, wanted.memory) == ("lab", "192.0.2.0/24", "192.0.2.1", 512)
    assert (wanted.features, wanted.packages, wanted.nodes) == ((), (), {"a": "192.0.2.11"})


def test_variables_are_taken_over() -> None:
    wanted = inventory.parse(
        listing(
            {"b": "198.51.100.5", "a": "198.51.100.4"},
            lab_name="other",
            lab_lan="198.51.100.0/25",
            lab_gateway="198.51.100.126",
            lab_features=["vxlan"],
            lab_packages=["ipset", "etcd-server", "ipset"],
            lab_memory_mib=768,
        )
    )
    assert wanted.packages == ("etcd-server", "ipset")
    assert list(wanted.nodes) == ["a", "b"]
    assert (wanted.name, wanted.gateway, wanted.memory) == ("other", "198.51.100.126", 768)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (listing({}), "no hosts"),
        (listing({"a": None}), r"hosts\.a\.ansible_host: '' is not an IPv4 address"),
        (listing({"a": "node.example"}), r"hosts\.a\.ansible_host: 'node.example' is not"),
        (listing({"a": "203.0.113.1"}), r"hosts\.a\.ansible_host: 203\.0\.113\.1 is outside"),
        (listing({"a": "192.0.2.1"}), r"hosts\.a\.ansible_host: 192\.0\.2\.1 belongs to lab_gateway"),
        (listing({"a": "192.0.2.5", "b": "192.0.2.5"}), r"hosts\.b\.ansible_host: 192\.0\.2\.5 belongs to a"),
        (listing({"a": "192.0.2.5"}, lab_lan="192.0.2.1/24"), "lab_lan: .*host bits"),
        (listing({"a": "192.0.2.5"}, lab_gateway="10.0.0.1"), "lab_gateway: 10.0.0.1 is outside"),
        (listing({"a": "192.0.2.5"}, lab_name="No Name"), "lab name 'No Name'"),
    ],
)
def test_bad_inventory_is_refused_by_the_item_s_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        inventory.parse(given)
