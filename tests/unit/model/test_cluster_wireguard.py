# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A declared cluster with backend wireguard: one preshared key, which nobody gets to see, and ports for two devices."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.cluster import check_cluster
from ansible_collections.fairlead.cluster.plugins.module_utils._model.wireguard import fingerprint
from tests.unit.model.test_cluster import ADDRESSES, declaration, errors, warnings
from tests.unit.model.test_cluster_ipv6 import PODS6, dual

PSK, OTHER = (base64.b64encode(bytes([number] * 32)).decode() for number in (7, 8))
WIREGUARD = {"flannel_backend_type": "wireguard"}


def with_keys(**keys: str) -> dict[str, Any]:
    return declaration(WIREGUARD, {host: {"flannel_wireguard_psk": psk} for host, psk in keys.items()})


@pytest.mark.parametrize("told", [lambda psk: psk, fingerprint])
def test_nodes_with_different_preshared_keys_are_named_and_the_keys_are_not(told: Any) -> None:
    keys = {**dict.fromkeys(ADDRESSES, told(PSK)), "w1": told(OTHER)}
    (found,) = errors(check_cluster(with_keys(**keys)))
    assert found.startswith("flannel_wireguard_psk: must be the same on all nodes, and is ")
    assert f"'{fingerprint(PSK)}' on cp1;" in found and f"'{fingerprint(OTHER)}' on w1." in found
    assert PSK not in found and OTHER not in found


def test_node_without_the_preshared_key_of_the_others_is_named() -> None:
    (found,) = errors(check_cluster(with_keys(cp1=PSK, cp2=PSK, cp3=PSK)))
    assert "not set on w1" in found and PSK not in found


def test_one_preshared_key_declared_in_several_places_is_no_problem() -> None:
    report = check_cluster(with_keys(**dict.fromkeys(ADDRESSES, PSK)))
    assert (errors(report), warnings(report)) == ([], [])
    assert errors(check_cluster(declaration({**WIREGUARD, "flannel_wireguard_psk": PSK}))) == []
    assert errors(check_cluster(declaration({**WIREGUARD, "flannel_wireguard_psk": ""}))) == []


def test_what_is_no_key_is_refused_unseen() -> None:
    (found,) = errors(check_cluster(declaration({**WIREGUARD, "flannel_wireguard_psk": "hunter2"})))
    assert found.startswith("flannel_wireguard_psk: must be a WireGuard key: 32 bytes in base64")
    assert "hunter2" not in found


PORT, PORT6 = "flannel_wireguard_listen_port", "flannel_wireguard_listen_port6"


@pytest.mark.parametrize(
    ("variables", "item"),
    [
        ({PORT6: 51820}, PORT6),
        ({PORT6: "51820"}, PORT6),
        ({PORT: 51821}, PORT),
        ({PORT: 4000, PORT6: 4000}, PORT6),
        ({PORT: 4000, PORT6: 4000, "flannel_wireguard_mode": "separate"}, PORT6),
    ],
    ids=str,
)
def test_two_devices_with_one_port_are_refused(variables: dict[str, Any], item: str) -> None:
    (found,) = errors(check_cluster(dual({**WIREGUARD, **variables})))
    assert found.startswith(f"{item}: must not be {int(variables[item])}, which is the port of the other device")
    assert found.endswith("choose another one")


@pytest.mark.parametrize(
    "variables",
    [
        {PORT: 51821, PORT6: 51820},
        {PORT: 51820, PORT6: 51820, "flannel_wireguard_mode": "auto"},
        {PORT: 51820, PORT6: 51820, "flannel_wireguard_mode": "ipv6"},
    ],
    ids=str,
)
def test_ports_that_can_be(variables: dict[str, Any]) -> None:
    assert errors(check_cluster(dual({**WIREGUARD, **variables}))) == []


def test_without_a_second_device_its_port_does_not_matter() -> None:
    assert errors(check_cluster(declaration({**WIREGUARD, PORT6: 51820}))) == []
    assert errors(check_cluster(declaration({PORT6: 51820, "cluster_pod_cidr6": ""}))) == []
    of_another = errors(check_cluster(dual({PORT6: 51820})))
    assert of_another == [], f"{PODS6} by VXLAN"
