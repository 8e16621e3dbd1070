# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Leases and configurations as real flanneld left them in etcd (tests/fixtures/flannel): read and written unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease import LEASED
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease_codec import (
    decode_config,
    decode_lease,
    encode_config,
    encode_lease,
    lease_key,
)

CAPTURES = sorted((Path(__file__).resolve().parents[2] / "fixtures" / "flannel").glob("*.json"))


def captured(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def test_there_are_captures() -> None:
    assert len(CAPTURES) >= 9


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_lease_is_read_and_written_unchanged(path: Path) -> None:
    for name, entry in captured(path)["leases"].items():
        lease = decode_lease(name, entry["value"], LEASED)
        assert lease is not None
        assert (lease_key("/prefix", lease), encode_lease(lease)) == (f"/prefix/subnets/{name}", entry["value"])
        assert entry["ttl"] == 86400


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_configuration_allows_the_subnets_that_flanneld_took(path: Path) -> None:
    document = captured(path)
    config = decode_config(document["config"], "key")
    for name in document["leases"]:
        subnets = name.replace("-", "/").split("&")
        assert len(subnets) == len(config.pools) == 1 + ("dual" in path.stem)
        assert all(pool.holds(subnet) for pool, subnet in zip(config.pools, subnets, strict=True))


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_configuration_that_was_written_by_hand_is_written_again_alike(path: Path) -> None:
    config = decode_config(captured(path)["config"], "key")
    assert json.loads(encode_config(config)) == json.loads(captured(path)["config"])
    if json.loads(config.others) == {}:
        assert encode_config(config) == captured(path)["config"]
