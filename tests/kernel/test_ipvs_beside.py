# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services beside those of module cluster_service, and beside devices of others: each keeps what it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import ipvs_service, store
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import PrerequisiteError, SpecError
from tests.kernel import service_site
from tests.kernel.ipvs_nodes import (
    DELETED,
    DEVICE,
    Args,
    addresses,
    apply_to,
    dummies,
    lone_node,
    operations,
    service,
    snapshot,
    table,
    web,
)
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.service_site import ABSENT, document, everywhere
from tests.kernel.test_ipvs_safety import killed
from tests.kernel.test_overlay_undo import inside, no_runner

pytestmark = pytest.mark.usefixtures("ipvs")

#: Has the cluster IPs of the other module's services too.
SCOPE = [{"network": "10.96.0.0/12"}, {"network": "fd00:10:96::/112"}]
OWN: Args = {"services": [service("10.97.0.1", 80, "10.244.1.9")], "scope": SCOPE}


@pytest.fixture
def node(netns: Namespaces) -> Namespace:
    return lone_node(netns)


def cluster(directory: Path, node: Namespace, args: Args) -> list[str]:
    return operations(service_site.apply_to(directory, node, args))


def test_services_of_a_cluster_stay_in_a_scope_that_has_them(node: Namespace, tmp_path: Path) -> None:
    made = document("auto", *everywhere("web", 80))
    cluster(tmp_path, node, made)
    beside = service_site.snapshot(node)
    node.run("ipvsadm -A -t 10.96.7.7:80 -s rr")
    apply_to(tmp_path, node, OWN)
    assert not [line for line in table(node) if "10.96.7.7" in line]
    wanted = snapshot(node)
    assert set(beside["services"]) < set(wanted["table"]) and "-A -t 10.96.0.80:80 -s rr" in wanted["table"]
    # At boot.
    with inside(node), pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "DIRECTORY", str(tmp_path / node.name))
        saved = store.load("ipvs_service")
        assert saved is not None and not ipvs_service.converge(saved, False, no_runner).changed
    assert cluster(tmp_path, node, made) == [] and snapshot(node) == wanted
    apply_to(tmp_path, node, {**DELETED, "scope": SCOPE})
    assert service_site.snapshot(node) == beside
    cluster(tmp_path, node, ABSENT)
    assert table(node) == []


@pytest.mark.parametrize("state", ["overridden", "replaced", "merged", "deleted"])
def test_service_of_a_cluster_is_refused_by_name(state: str, node: Namespace, tmp_path: Path) -> None:
    cluster(tmp_path, node, document("auto", *everywhere("web", 80)))
    before = snapshot(node)
    args = {"services": [*OWN["services"], web(9)], "state": state}
    refused = r"^services\[1\]: service tcp 10\.96\.0\.80:80 is one of module cluster_service on this node"
    for check in (True, False):
        with pytest.raises(SpecError, match=refused):
            apply_to(tmp_path, node, args, check)
    assert snapshot(node) == before


def test_manifests_that_lead_to_a_service_of_this_module_are_refused(node: Namespace, tmp_path: Path) -> None:
    apply_to(tmp_path, node, {"services": [service("10.96.0.80", 80, "10.244.1.9")]})
    before, made = snapshot(node), document("auto", *everywhere("web", 80))
    with pytest.raises(SpecError, match=r"^objects: service tcp 10\.96\.0\.80:80 is one of module ipvs_service"):
        cluster(tmp_path, node, made)
    assert snapshot(node) == before
    apply_to(tmp_path, node, DELETED)
    assert cluster(tmp_path, node, made)


@pytest.mark.parametrize("device", [DEVICE, "svc0"])
def test_virtual_addresses_get_no_node_ports(device: str, node: Namespace, tmp_path: Path) -> None:
    apply_to(tmp_path, node, {**OWN, "device": device})
    cluster(tmp_path, node, document("auto", *everywhere("web", 80)))
    ports = {line.split()[2] for line in table(node) if ":30080" in line}
    assert {"192.0.2.1:30080", "[2001:db8::1]:30080"} == ports
    assert not apply_to(tmp_path, node, {**OWN, "device": device}).changed


@pytest.mark.parametrize("held", [["10.99.0.1/32", "fd00:99::1/128"], ["10.97.0.1/32"], []])
def test_device_that_somebody_else_made_is_refused(held: list[str], node: Namespace, tmp_path: Path) -> None:
    """Such as a router's loopback, whatever is on it."""
    node.run("ip link add svc0 type dummy")
    for address in held:
        node.run(f"ip address add {address} dev svc0")
    before = snapshot(node)
    for state in ("overridden", "replaced", "merged"):
        with pytest.raises(PrerequisiteError, match="device: interface svc0 is there, and this module did not make it"):
            apply_to(tmp_path, node, {**OWN, "device": "svc0", "state": state})
        assert snapshot(node) == before and not list(tmp_path.rglob("*.unfinished"))
    for args in (DELETED, {"services": OWN["services"], **DELETED}):
        assert operations(apply_to(tmp_path, node, {**args, "device": "svc0"})) == []
        assert snapshot(node) == before
    # Nor is it taken when the device is to change.
    apply_to(tmp_path, node, OWN)
    with pytest.raises(PrerequisiteError, match="interface svc0 is there"):
        apply_to(tmp_path, node, {**OWN, "device": "svc0"})
    apply_to(tmp_path, node, DELETED)
    assert snapshot(node) == before


@pytest.mark.parametrize("state", ["overridden", "merged", "deleted"])
def test_device_of_a_killed_first_run_is_known(state: str, node: Namespace, tmp_path: Path) -> None:
    bare = snapshot(node)
    args, position = {**OWN, "device": "svc0"}, 0
    while killed(tmp_path, node, args, position):
        if state == "deleted":
            # Of another service, which leaves everything of this one.
            apply_to(tmp_path, node, {"services": [service("10.97.0.2", 80)], "state": state})
        apply_to(tmp_path, node, {**args, "state": "overridden" if state == "deleted" else state})
        assert dummies(node) == ["eth0", "svc0"] and addresses(node, "svc0") == ["10.97.0.1/32"], position
        apply_to(tmp_path, node, DELETED)
        assert snapshot(node) == bare, position
        position += 1
    assert position > 3
