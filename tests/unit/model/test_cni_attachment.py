# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What is asked of an attachment, when one is as wanted, and the plan that leads there."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired.cni_attachment import (
    plan_absent,
    plan_present,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.cni import loopback_list
from ansible_collections.fairlead.cluster.plugins.module_utils._model.cni_attachment import (
    Attachment,
    Namespace,
    addresses_of,
    parse_wish,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import Item, state_of

CONFIG = loopback_list("1.0.0").text
WANT = Attachment("net", "pod", "eth0", "/run/netns/pod", CONFIG)
THERE = dataclasses.replace(WANT, result='{"ips": [{"address": "10.1.1.2/24"}]}')
OURS = Namespace("pod", ours=True)


def wish(**changes: Any) -> Any:
    return parse_wish({"network": "net", "container_id": "pod", "netns": "pod", **changes})


def operations(*have: Item, namespace: str = "pod") -> list[str]:
    return [str(operation) for operation in plan_present(state_of(have), WANT, namespace)]


def test_namespace_by_name_and_by_path() -> None:
    assert (wish().netns, wish().namespace) == ("/run/netns/pod", "pod")
    assert (wish(netns="/proc/1/ns/net").netns, wish(netns="/proc/1/ns/net").namespace) == ("/proc/1/ns/net", "")


def test_port_mappings_get_the_default_protocol() -> None:
    given = wish(capability_args={"portMappings": [{"hostPort": 80, "containerPort": 8080}], "bandwidth": {"x": 1}})
    assert json.loads(given.capability_args) == {
        "portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}],
        "bandwidth": {"x": 1},
    }


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"container_id": "a b"}, "container_id"),
        ({"container_id": "../x"}, "container_id"),
        ({"ifname": ".."}, "ifname"),
        ({"ifname": "sixteen-letters!"}, "ifname"),
        ({"netns": "../x"}, "netns"),
        ({"network": "-x"}, "network"),
        ({"capability_args": {"portMappings": [{"hostPort": 0}]}}, "capability_args.portMappings[0].hostPort"),
        (
            {"capability_args": {"portMappings": [{"hostPort": 1, "containerPort": 2, "protocol": "icmp"}]}},
            "capability_args.portMappings[0].protocol",
        ),
    ],
)
def test_wish_refuses(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        wish(**changes)
    assert refused.value.path == path


def test_missing_namespace_is_made_before_the_attachment() -> None:
    assert operations() == ["+ network namespace pod", "+ attachment net pod eth0 in /run/netns/pod"]


def test_namespace_by_path_is_never_made() -> None:
    assert operations(namespace="") == ["+ attachment net pod eth0 in /run/netns/pod"]


def test_good_attachment_is_left_alone() -> None:
    assert operations(OURS, THERE) == []


@pytest.mark.parametrize(
    "change",
    [
        {"problem": "CHECK failed"},
        {"netns": "/run/netns/other"},
        {"config": loopback_list("0.4.0").text},
        {"capability_args": '{"portMappings": []}'},
    ],
)
def test_attachment_that_is_not_as_wanted_is_replaced(change: dict[str, str]) -> None:
    [operation] = plan_present(state_of([OURS, dataclasses.replace(THERE, **change)]), WANT, "pod")
    assert (operation.action, operation.item) == ("replace", WANT)


def test_form_of_the_cached_configuration_does_not_matter() -> None:
    compact = json.dumps(json.loads(CONFIG), sort_keys=True)
    assert operations(OURS, dataclasses.replace(THERE, config=compact)) == []


def test_attachment_of_a_vanished_namespace_is_made_anew() -> None:
    assert [line[0] for line in operations(THERE)] == ["+", "~"]


def test_detaching_goes_before_removing_the_namespace() -> None:
    assert [type(op.item).__name__ for op in plan_absent(state_of([OURS, THERE]))] == ["Attachment", "Namespace"]


def test_namespace_made_by_others_stays() -> None:
    assert plan_absent(state_of([Namespace("pod", ours=False)])) == []


def test_addresses_are_those_inside_the_container() -> None:
    result = {
        "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/pod"}],
        "ips": [{"address": "10.1.1.1/24", "interface": 0}, {"address": "10.1.1.2/24", "interface": 1}],
    }
    assert addresses_of(json.dumps(result)) == ["10.1.1.2/24"]
    assert addresses_of("") == []
