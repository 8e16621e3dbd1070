# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The captures that our service model is compared with are what real kube-proxy makes, and our model says the same of
services drawn anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import kube_proxy_captures as captures
from tests.kernel import inside
from tests.kernel.namespaces import Namespace, Namespaces
from tests.upstream import builds, capture, service_capture
from tests.upstream.conftest import Programs
from tests.upstream.kube_proxy import HostKubeProxy, configuration, write
from tests.upstream.kubernetes_api import KubernetesApi, running
from tests.upstream.lan import PREFIX
from tests.upstream.service_cases import NODE, SEED, SERVICE_RANGES, Case, Object, drawn_cases
from tests.upstream.service_corners import Places, endpoint_slice, service
from tests.upstream.services_oracle import Oracle, node_object

ADDRESS = NODE["addresses"][0]
NOT_COMPARED = {"made_with": {}}


@pytest.fixture(scope="module")
def oracle(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    found = programs(builds.KUBERNETES), programs(capture.ETCD)
    netns = Namespaces(PREFIX)
    try:
        made = Oracle(netns, tmp_path_factory.mktemp("oracle"), *found)
        try:
            yield made
        finally:
            made.stop()
    finally:
        netns.remove()


@pytest.mark.slow
@pytest.mark.parametrize("name", service_capture.VARIANTS)
def test_capture_is_made_again(name: str, oracle: Oracle) -> None:
    """What our model says of the same objects is in tests/unit/model/test_service_oracle.py."""
    kept = captures.stored()[name]
    variant = service_capture.VARIANTS[name]
    made = service_capture.document(variant, service_capture.recorded(kept), oracle)
    assert made["made_with"]["kubernetes"] == kept["made_with"]["kubernetes"], "run scripts/capture-kube-proxy"
    assert made | NOT_COMPARED == kept | NOT_COMPARED


@pytest.mark.slow
def test_model_agrees_on_other_services(oracle: Oracle) -> None:
    """Those of another seed than the captured ones."""
    chosen = drawn_cases({"ClusterIP": 6, "NodePort": 6, "LoadBalancer": 8}, SEED + 1)
    options = {"nodePortAddresses": ["10.244.0.0/16", "2001:db8::/32"]}
    shares = service_capture.shared_out(oracle.state_of(of_all(chosen), **options), chosen)
    node = captures.node_of(NODE, options)
    for case in chosen:
        assert captures.expected(case.objects, node) == shares[case.name], case


def test_every_file_has_its_variant() -> None:
    assert sorted(captures.stored()) == sorted(service_capture.VARIANTS)


@pytest.fixture
def api(netns: Namespaces, programs: Programs, tmp_path: Path) -> Iterator[KubernetesApi]:
    """An API server in a namespace that is the node as well."""
    node = netns("node")
    node.run(f"ip address add {ADDRESS}/24 dev lo")
    found = programs(builds.KUBERNETES), programs(capture.ETCD)
    with running(node, tmp_path / "api", found, ADDRESS, ",".join(SERVICE_RANGES)) as made:
        made.create(node_object())
        yield made


@pytest.mark.slow
def test_mode_nftables_on_this_kernel(api: KubernetesApi, programs: Programs, tmp_path: Path) -> None:
    """A service answers that has the node's own API server behind it."""
    node, at = api.namespace, Places(1)
    own = service("api", [{"port": 443, "nodePort": at.node_port(0)}], clusterIP=at.cluster("IPv4"), type="NodePort")
    here = {"addresses": [ADDRESS], "nodeName": NODE["name"]}
    for made in (own, endpoint_slice("api", "a", "IPv4", [here], [{"port": 6443}])):
        api.create(made)
    config = configuration(api.kubeconfig(tmp_path / "kubeconfig"), NODE["name"], "nftables")
    # What connects from the namespace itself takes the way of the cluster IP.
    node.run(f"ip route add {SERVICE_RANGES[0]} dev lo")
    proxy = HostKubeProxy(node, programs(builds.KUBERNETES) / "kube-proxy", tmp_path)
    try:
        proxy.start(write(tmp_path / "config.json", config))
        assert at.cluster("IPv4") in node.out("nft list map ip kube-proxy service-ips")
        assert _connects(node, at.cluster("IPv4"), 443)
        assert _connects(node, ADDRESS, at.node_port(0))
        assert not _connects(node, ADDRESS, at.node_port(1))
    finally:
        proxy.stop()


def of_all(chosen: list[Case]) -> list[Object]:
    return [made for case in chosen for made in case.objects]


def _connects(node: Namespace, address: str, port: int) -> bool:
    try:
        inside.connected(node, address, port, 5).close()
    except OSError:
        return False
    return True
