# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Hundreds of corrupted documents for leases and rules: each refused by the path of a mistake, with nothing sent."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import masquerade, overlay_lease
from ansible_collections.fairlead.cluster.plugins.module_utils._etcd.gateway import Gateway
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from tests.corrupted import Document, copying, corrupted, integer, mistakes, setting

# The same ones in every run, and more of them than of other properties.
MANY = settings(max_examples=400, derandomize=True, database=None)
NODES = 4
LEASE: Document = {
    "endpoints": ["https://192.0.2.11:2379", "https://192.0.2.12:2379"],
    "ca_file": "/etc/fairlead/pki/etcd-ca.crt",
    "cert_file": "/etc/fairlead/pki/etcd-client.crt",
    "key_file": "/etc/fairlead/pki/etcd-client.key",
    "username": "flannel",
    "password": "secret-1",
    "timeout": 5,
    "prefix": "/coreos.com/network",
    "config": {
        "network": "10.244.0.0/16",
        "subnet_len": 24,
        "subnet_min": "10.244.1.0",
        "subnet_max": "10.244.200.0",
        "backend": {
            "type": "vxlan",
            "vni": 1,
            "port": 8472,
            "mtu": 1500,
            "gbp": False,
            "learning": False,
            "direct_routing": True,
        },
    },
    "cluster_name": "lab",
    "nodes": [
        {
            "name": f"n{number}",
            "address": f"192.0.2.{number}",
            "mac": f"02:00:00:00:00:{number:02x}",
            "subnet": f"10.244.{number}.0/24",
        }
        for number in range(1, NODES + 1)
    ],
    "node": "n1",
    "ttl": 86400,
}
NO_URL = (
    7,
    None,
    [],
    "",
    "192.0.2.11:2379",
    "ftp://192.0.2.11",
    "https://h/path",
    "https://[fd00::1:2379",
    "https://h:0",
)
NO_END = ("10.245.0.0", "10.244.1.1", "10.244.1", "fd00::", 7, [], {})
PAIRS = [(one, other) for other in range(NODES) for one in range(other)]
LEASE_MISTAKES = [
    *mistakes(
        {
            "endpoints": ("list", "https://192.0.2.11:2379", 7, [], {}),
            "endpoints[1]": NO_URL,
            **{name: "text" for name in ("ca_file", "cert_file", "key_file", "prefix", "cluster_name")},
            "username": "text",
            "password": "text",
            "timeout": integer(1, 300),
            "ttl": (*integer(0, 2**31), 1, 14399),
            "config": "section",
            "config.network": "network",
            "config.subnet_len": integer(18, 30),
            "config.subnet_min": (*NO_END, "10.244.201.0x"),
            "config.subnet_max": NO_END,
            "config.backend": "section",
            "config.backend.type": (*("udp", "VXLAN", ""), 7, [], {}, True),
            "config.backend.vni": integer(1, 9999999),
            "config.backend.port": integer(1, 65535),
            "config.backend.mtu": [value for value in integer(576, 65535) if value != 0],
            **{f"config.backend.{name}": "boolean" for name in ("gbp", "learning", "direct_routing")},
            "nodes": (7, True, "x", {}),
            **{f"nodes[{index}]": "section" for index in range(NODES)},
            **{f"nodes[{index}].name": "name" for index in range(NODES)},
            **{f"nodes[{index}].address": "address" for index in range(NODES)},
            **{f"nodes[{index}].mac": "mac" for index in range(NODES)},
            **{f"nodes[{index}].subnet": "subnet" for index in range(NODES)},
            "node": (*("", "n9", "N1", "a b"), 7, [], True),
        },
        sections=["config", "config.backend", *(f"nodes[{index}]" for index in range(NODES))],
        required=["endpoints", "config", "config.network", "config.backend", "nodes", "node", "cluster_name"],
    ),
    *(copying(f"nodes[{one}].{key}", f"nodes[{two}].{key}") for one, two in PAIRS for key in LEASE["nodes"][0]),
    *(
        setting(f"nodes[{index}].subnet", value)
        for index in range(NODES)
        for value in ("10.244.0.0/23", "10.244.3.0/25")
    ),
    *(setting("prefix", value) for value in ("coreos.com", "/coreos.com/", "")),
    setting("config.subnet_min", "10.244.201.0", "config.subnet_max"),
    setting("cert_file", None),
    setting("key_file", None),
    setting("username", None),
    setting("password", None),
]
RULES: Document = {
    "state": "present",
    "network": "10.244.0.0/16",
    "subnet": "10.244.1.0/24",
    "network6": "fd00:10:244::/48",
    "subnet6": "fd00:10:244:1::/64",
    "backend": "auto",
    "masquerade": True,
    "forward": True,
    "remembered": "nftables",
}
RULES_MISTAKES = list(
    mistakes(
        {
            "state": (*("gone", "Present", ""), 7, [], True),
            "network": (
                "network",
                "0.0.0.0/0",
                "::/0",
                "10.244.1.0/24x",
                7,
                [],
                {},
                True,
                *("10.244.0.1/16", "fd00::/48"),
            ),
            "subnet": (*("10.99.1.0/24", "10.244.0.0/15", "0.0.0.0/0", "fd00::/64", "10.244.1.1/24", ""), 7, [], {}),
            "network6": (*("::/0", "10.244.0.0/16", "fd00:10:244::1/48", "fd00::x/48", "fd00:10:244::", ""), 7, [], {}),
            "subnet6": (
                *("fd00:10:245::/64", "fd00:10:244::/47", "::/0", "10.244.1.0/24", "fd00:10:244:1::1/64", ""),
                *(7, [], {}),
            ),
            "backend": (*("ipset", "NFTABLES", ""), 7, [], {}, False),
            "masquerade": "boolean",
            "forward": "boolean",
            "remembered": "text",
        },
        sections=[""],
        # Without both of one IP version, the other one is all that is wanted.
        required=["network", "subnet6"],
    )
)


def refuse(self: Gateway, *_words: Any) -> Any:
    raise AssertionError("etcd was asked")


def runner(args: Sequence[str], _data: str | None = None) -> tuple[int, str, str]:
    raise AssertionError(f"{args} was run")


def check_refusal(caught: pytest.ExceptionInfo[SpecError], paths: set[str]) -> None:
    assert caught.value.path in paths
    assert str(caught.value).startswith(f"{caught.value.path}: ")
    assert len(caught.value.problem) > 5 and "secret-1" not in str(caught.value)


@MANY
@given(corrupted(LEASE, LEASE_MISTAKES), st.sampled_from([overlay_lease.ensure, overlay_lease.release]), st.booleans())
def test_corrupted_leases_are_refused_by_their_path_and_etcd_is_not_asked(
    made: tuple[Document, set[str]], verb: Any, check: bool
) -> None:
    document, paths = made
    with patch.object(Gateway, "__init__", refuse), pytest.raises(SpecError) as caught:
        verb(document, check)
    check_refusal(caught, paths)


@MANY
@given(corrupted(RULES, RULES_MISTAKES), st.booleans())
@example(({**RULES, "network": "10.244.0.0/15", "subnet": "10.246.0.0/24"}, {"subnet"}), False)
def test_corrupted_rules_are_refused_by_their_path_and_nothing_is_run(
    made: tuple[Document, set[str]], check: bool
) -> None:
    document, paths = made
    with pytest.raises(SpecError) as caught:
        masquerade.converge(document, check, runner)
    check_refusal(caught, paths)


def test_documents_without_a_mistake_would_be_sent() -> None:
    """Else the refusals above would be worth nothing."""
    with patch.object(Gateway, "__init__", refuse), pytest.raises(AssertionError, match="etcd was asked"):
        overlay_lease.ensure(LEASE, True)
    with pytest.raises(AssertionError, match="was run"):
        masquerade.converge(RULES, True, runner)
    assert len(LEASE_MISTAKES) > 400 and len(RULES_MISTAKES) > 40


def test_each_mistake_alone_is_refused_too() -> None:
    for mistake in LEASE_MISTAKES:
        document = copy.deepcopy(LEASE)
        mistake.make(document)
        paths = {"cert_file", "key_file"} if mistake.path in ("cert_file", "key_file") else {mistake.path}
        paths |= {"username", "password"} if mistake.path in ("username", "password") else set()
        with patch.object(Gateway, "__init__", refuse), pytest.raises(SpecError) as caught:
            overlay_lease.ensure(document, True)
        check_refusal(caught, paths)
    for mistake in RULES_MISTAKES:
        document = copy.deepcopy(RULES)
        mistake.make(document)
        with pytest.raises(SpecError) as caught:
            masquerade.converge(document, False, runner)
        check_refusal(caught, {mistake.path})
