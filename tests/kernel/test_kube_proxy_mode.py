# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""kube-proxy changes its mode on a node whose systemd is played and whose sysctls are the kernel's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import kube_proxy_kernel
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.test_overlay_undo import inside
from tests.unit.system.test_kube_proxy_node import Node

#: Mode iptables sets it, and node ports on 127.0.0.1 are reached as long as it is 1.
SYSCTL = "net.ipv4.conf.all.route_localnet"


class ModeNode(Node):
    """Knows what the sysctl was while kube-proxy was started and asked."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, namespace: Namespace) -> None:
        settings = kube_proxy_kernel.converge
        super().__init__(root, monkeypatch)
        monkeypatch.setattr(kube_proxy_kernel, "converge", settings)
        files = {name: str(root / "kernel" / name) for name in kube_proxy_kernel.FILES}
        monkeypatch.setattr(kube_proxy_kernel, "FILES", files)
        self.namespace, self.seen = namespace, ""

    def value(self) -> str:
        return self.namespace.out(["sysctl", "-n", SYSCTL]).strip()

    def hold(self) -> None:
        self.seen += self.value()


@pytest.fixture
def node(netns: Namespaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModeNode]:
    namespace = netns("node")
    with inside(namespace):
        made = ModeNode(tmp_path, monkeypatch, namespace)
        made.present(kube_proxy_mode="iptables")
        assert made.value() == "1"
        made.seen = ""
        yield made


def test_setting_of_the_mode_before_holds_until_the_new_one_serves(node: ModeNode) -> None:
    announced = node.present(check=True).operations
    assert node.value() == "1"
    node.shown["NeedDaemonReload"] = "yes"
    done = node.present().operations
    assert (node.seen, node.value()) == ("11", "0")
    assert sorted(map(str, done)) == sorted(map(str, announced))
    assert f"~ sysctl {SYSCTL} = 0 (was sysctl {SYSCTL} = 1)" in map(str, done)
    for check in (True, False):
        assert not node.present(check=check).changed


def test_mode_that_does_not_come_up_leaves_the_settings_of_the_one_before(node: ModeNode) -> None:
    before, node.problem = node.tree(), "status 503"
    with pytest.raises(ApplyError, match="status 503"):
        node.present()
    assert node.seen.replace("1", "") == "" and node.value() == "1"
    assert node.tree() == before
    node.problem = ""
    assert not node.present(kube_proxy_mode="iptables").changed
