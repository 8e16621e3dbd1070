# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A thousand services."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from tests.kernel.ipvs_nodes import lone_node
from tests.kernel.namespaces import Namespaces
from tests.kernel.service_site import ABSENT, Args, apply_to, document, operations, snapshot
from tests.manifests import endpoint, endpoint_slice, service

pytestmark = pytest.mark.usefixtures("ipvs")
SERVICES = 1000


def many(way: str) -> Args:
    """Each with a cluster IP and two endpoints, the first of which is on this node."""
    objects = []
    for number in range(SERVICES):
        high, low = divmod(number, 250)
        objects.append(service(f"s{number}", clusterIP=f"10.96.{high}.{low + 1}"))
        ends = endpoint(f"10.244.1.{low + 1}", "n1"), endpoint(f"10.244.{high + 2}.{low + 1}", "n2")
        objects.append(endpoint_slice(*ends, of=f"s{number}"))
    return document(way, *objects)


def test_many_services(way: str, netns: Namespaces, tmp_path: Path) -> None:
    node = lone_node(netns)
    bare = snapshot(node)
    args = many(way)
    apply_to(tmp_path, node, args)
    shown = snapshot(node)
    assert sum(line.startswith("-A ") for line in shown["services"]) == SERVICES
    assert sum(line.startswith("-a ") for line in shown["services"]) == 2 * SERVICES
    text = "\n".join([*shown["sets"], *shown["nft"]])
    # In sets cluster, known and addresses.
    assert len(re.findall(r"10\.96\.[0-9.]+( \. tcp \. 80|,tcp:80)", text)) == 2 * SERVICES
    assert apply_to(tmp_path, node, args).operations == []
    changed = copy.deepcopy(args)
    changed["objects"][501]["endpoints"][1]["addresses"] = ["10.244.99.1"]
    assert len(operations(apply_to(tmp_path, node, changed))) == 2
    apply_to(tmp_path, node, ABSENT)
    assert snapshot(node) == bare
