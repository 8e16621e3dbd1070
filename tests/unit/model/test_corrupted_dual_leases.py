# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Hundreds of corrupted documents for dual-stack leases: each refused by the path of a mistake, with nothing sent."""

from __future__ import annotations

import copy
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_lease
from ansible_collections.fairlead.cluster.plugins.module_utils._etcd.gateway import Gateway
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from tests.corrupted import Document, copying, corrupted, integer, mistakes, setting
from tests.unit.model.test_corrupted_input import LEASE, LEASE_MISTAKES, MANY, NODES, PAIRS, check_refusal, refuse

DUAL: Document = copy.deepcopy(LEASE)
DUAL["config"] |= {
    "network6": "fd00:10:244::/48",
    "subnet6_len": 64,
    "subnet6_min": "fd00:10:244:1::",
    "subnet6_max": "fd00:10:244:200::",
}
for number, node in enumerate(DUAL["nodes"], 1):
    node["address6"] = f"2001:db8::{number}"
    node["mac6"] = f"02:00:00:00:06:{number:02x}"
    node["subnet6"] = f"fd00:10:244:{number}::/64"

NO_END6 = ("fd00:10:245::", "fd00:10:244:1::1", "fd00:10:244:1", "10.244.1.0", "fd00:10:244:1::%eth0", 7, [], {})
IPV6_MISTAKES = [
    *mistakes(
        {
            "config.network6": "network6",
            "config.subnet6_len": integer(50, 126),
            "config.subnet6_min": NO_END6,
            "config.subnet6_max": NO_END6,
            "config.backend.vni": (10000, 9999999),
            "config.backend.mtu": (576, 1349),
            **{f"nodes[{index}].address6": "address6" for index in range(NODES)},
            **{f"nodes[{index}].mac6": "mac" for index in range(NODES)},
            **{f"nodes[{index}].subnet6": "subnet6" for index in range(NODES)},
        },
        required=["config.network", *(f"nodes[{index}].address6" for index in range(NODES))],
    ),
    *(
        copying(f"nodes[{one}].{key}6", f"nodes[{two}].{key}6")
        for one, two in PAIRS
        for key in ("address", "mac", "subnet")
    ),
    *(copying(f"nodes[{index}].mac", f"nodes[{index}].mac6") for index in range(NODES)),
    *(
        setting(f"nodes[{index}].subnet6", value)
        for index in range(NODES)
        for value in ("fd00:10:244::/64", "fd00:10:244:2::/63", "fd00:10:244:3::/65", "fd00:10:244:201::/64")
    ),
    setting("config.subnet6_min", "fd00:10:244:201::", "config.subnet6_max"),
    setting("config.network6", "fe80::/64"),
    setting("config.network6", "ff05::/48"),
    # The others have lost their network.
    setting("config.network6", None, "config.subnet6_len"),
]


@MANY
@given(
    corrupted(DUAL, [*IPV6_MISTAKES, *LEASE_MISTAKES]),
    st.sampled_from([overlay_lease.ensure, overlay_lease.release]),
    st.booleans(),
)
def test_corrupted_leases_are_refused_by_their_path_and_etcd_is_not_asked(
    made: tuple[Document, set[str]], verb: Any, check: bool
) -> None:
    document, paths = made
    with patch.object(Gateway, "__init__", refuse), pytest.raises(SpecError) as caught:
        verb(document, check)
    # A copied MAC address is found at its second place, whichever of its two names that has.
    check_refusal(
        caught, {path for known in paths for path in (known, f"{known}6" if known.endswith("mac") else known)}
    )


def test_document_without_a_mistake_would_be_sent() -> None:
    """Else the refusals above would be worth nothing."""
    with patch.object(Gateway, "__init__", refuse), pytest.raises(AssertionError, match="etcd was asked"):
        overlay_lease.ensure(DUAL, True)
    assert len(IPV6_MISTAKES) > 200


def test_each_mistake_of_ipv6_alone_is_refused_too() -> None:
    for mistake in IPV6_MISTAKES:
        document = copy.deepcopy(DUAL)
        mistake.make(document)
        with patch.object(Gateway, "__init__", refuse), pytest.raises(SpecError) as caught:
            overlay_lease.ensure(document, True)
        check_refusal(caught, {mistake.path})
