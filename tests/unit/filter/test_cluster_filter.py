# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Filters over declared variables: order, precedence, and what a template that cannot be resolved does to them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from jinja2 import StrictUndefined

from ansible_collections.fairlead.cluster.plugins.filter import cluster
from ansible_collections.fairlead.cluster.plugins.filter.cluster import cluster_declaration, cluster_nodes

HOSTVARS: dict[str, dict[str, Any]] = {
    "b": {"ansible_host": "192.0.2.2", "cluster_node_address": "198.51.100.2"},
    "a": {"ansible_host": "192.0.2.1"},
    "192.0.2.3": {},
    "nameless": {"ansible_facts": {"default_ipv4": {"address": "192.0.2.9"}}},
}


def test_nodes_in_the_order_given_with_the_declared_address() -> None:
    assert cluster_nodes(["b", "192.0.2.3", "a"], HOSTVARS) == [
        {"name": "b", "address": "198.51.100.2"},
        {"name": "192.0.2.3", "address": "192.0.2.3"},
        {"name": "a", "address": "192.0.2.1"},
    ]


def test_variable_of_the_callers_choice_counts_first_where_it_says_something() -> None:
    hostvars = {**HOSTVARS, "a": {**HOSTVARS["a"], "public": "203.0.113.1"}, "b": {**HOSTVARS["b"], "public": ""}}
    assert cluster_nodes(["b", "a"], hostvars, "public") == [
        {"name": "b", "address": "198.51.100.2"},
        {"name": "a", "address": "203.0.113.1"},
    ]


DUAL = {"cluster_pod_cidr6": "fd00:10:244::/56", "cluster_node_address6": "2001:db8::1"}


def test_ipv6_address_comes_where_it_is_asked_for_and_the_cluster_has_ipv6() -> None:
    hostvars = {"a": {"ansible_host": "192.0.2.1", **DUAL}}
    both = {"name": "a", "address": "192.0.2.1", "address6": "2001:db8::1"}
    assert cluster_nodes("a", hostvars, first6="") == [both]
    assert cluster_nodes("a", hostvars) == [{"name": "a", "address": "192.0.2.1"}]
    assert cluster_nodes("a", {"a": {**hostvars["a"], "cluster_pod_cidr6": ""}}, first6="") == cluster_nodes(
        "a", hostvars
    )
    behind = {**hostvars["a"], "public6": "2001:db8:9::1"}
    assert cluster_nodes("a", {"a": behind}, "", "public6") == [{**both, "address6": "2001:db8:9::1"}]
    assert cluster_nodes("a", {"a": {**behind, "public6": ""}}, "", "public6") == [both]


def test_host_of_a_dual_cluster_without_ipv6_address_is_named() -> None:
    with pytest.raises(AnsibleFilterError, match=r"hosts\.a: has no declared IPv6 address; set cluster_node_address6"):
        cluster_nodes("a", {"a": {"ansible_host": "192.0.2.1", "cluster_pod_cidr6": "fd00::/56"}}, first6="")


def test_facts_are_no_declaration() -> None:
    with pytest.raises(AnsibleFilterError, match=r"hosts\.nameless: has no declared address"):
        cluster_nodes(["nameless"], HOSTVARS)


def declared(hostvars: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return cluster_declaration({"all": list(hostvars), "etcd": []}, hostvars)


def settings(hostvars: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    kept = ("name", "value", "hosts", "unresolved")
    return [{key: entry[key] for key in kept if entry.get(key)} for entry in declared(hostvars)["settings"]]


def test_equal_declarations_of_all_hosts_are_one_setting() -> None:
    both = {"flannel_mtu": 1400, "unrelated": 1}
    assert settings({"a": both, "b": dict(both)}) == [{"name": "flannel_mtu", "value": 1400}]


def test_values_that_only_look_equal_are_apart() -> None:
    assert settings({"a": {"flannel_mtu": 1}, "b": {"flannel_mtu": True}}) == [
        {"name": "flannel_mtu", "value": 1, "hosts": ["a"]},
        {"name": "flannel_mtu", "value": True, "hosts": ["b"]},
    ]


def test_template_that_cannot_be_resolved_is_passed_on_as_such() -> None:
    undefined = StrictUndefined("no facts yet")
    hostvars = {"a": {"flannel_mtu": undefined, "node_sysctls": {"x": [undefined]}}}
    assert settings(hostvars) == [
        {"name": "flannel_mtu", "hosts": ["a"], "unresolved": "no facts yet"},
        {"name": "node_sysctls", "hosts": ["a"], "unresolved": "no facts yet"},
    ]


def test_secret_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"pki_passphrase": {"type": "str", "choices": [], "no_log": True}}
    monkeypatch.setattr(cluster, "_known_options", lambda roles: options)
    assert settings({"a": {"pki_passphrase": "hush"}}) == [
        {"name": "pki_passphrase", "hosts": ["a"], "unresolved": "a secret"}
    ]


def test_of_the_preshared_key_there_is_a_fingerprint_to_compare() -> None:
    """Equal ones are one entry, wherever they come from."""
    first, second = (base64.b64encode(bytes([number] * 32)).decode() for number in (7, 8))
    keys = {"a": first, "b": second, "c": first}
    found = settings({host: {"flannel_wireguard_psk": psk} for host, psk in keys.items()})
    assert [entry["hosts"] for entry in found] == [["a", "c"], ["b"]]
    values = [entry["value"] for entry in found]
    assert all(value.startswith("sha256:") for value in values) and len(set(values)) == 2
    assert settings({"a": {"flannel_wireguard_psk": ""}}) == [{"name": "flannel_wireguard_psk", "hosts": ["a"]}]
    assert "hunter2" not in str(settings({"a": {"flannel_wireguard_psk": "hunter2"}}))
    unknown = settings({"a": {"flannel_wireguard_psk": StrictUndefined("hunter2 is undefined")}})
    assert unknown == [{"name": "flannel_wireguard_psk", "hosts": ["a"], "unresolved": "a secret"}]


def test_options_of_all_roles_are_known() -> None:
    found = declared({"a": {}})
    assert found["options"]["flannel_vxlan_vni"] == {"type": "int", "choices": []}
    assert found["options"]["flannel_backend_type"]["choices"] == ["vxlan", "host-gw", "ipip", "wireguard"]
    assert {"cluster_", "flannel_", "etcd_", "pki_", "cni_", "node_"} <= set(found["prefixes"])
    assert {"cluster_name", "cluster_pod_cidr", "cluster_service_cidr", "cluster_node_address"} <= set(found["options"])
