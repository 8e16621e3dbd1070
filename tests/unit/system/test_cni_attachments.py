# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What is left of an attachment when a step of attaching it anew fails, with plugins and namespaces played."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired.cni_attachment import converge
from ansible_collections.fairlead.cluster.plugins.module_utils._model.cni_attachment import Namespace, parse_wish
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError, UndoError
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import ADD, Operation
from ansible_collections.fairlead.cluster.plugins.module_utils._system import cni_attachments
from ansible_collections.fairlead.cluster.plugins.module_utils._system.cni_cache import ResultCache

RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24"}]}


class Node:
    """One plugin, ``wire``, that keeps the network it attached the interface to; ``refuses`` is one it fails for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.wired: list[str] = []
        self.refuses: tuple[str, ...] = ()
        (root / "bin").mkdir()
        (root / "net.d").mkdir()
        (root / "bin" / "wire").touch(0o755)
        self.configure("old")

    def configure(self, wire: str) -> None:
        plugins = [{"type": "wire", "wire": wire}]
        content = {"cniVersion": "1.0.0", "name": "net", "plugins": plugins}
        (self.root / "net.d" / "net.conflist").write_text(json.dumps(content))

    def __call__(self, args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        if args[0] == "nsenter":
            return (0 if self.wired else 1), "", ""
        text = data or ""
        [command] = [word.split("=")[1] for word in args if word.startswith("CNI_COMMAND=")]
        wire = json.loads(text)["wire"]
        if command == "ADD" and wire in self.refuses:
            return 1, json.dumps({"code": 11, "msg": "no wire left"}), ""
        if command == "ADD":
            self.wired.append(wire)
        if command == "DEL" and wire in self.wired:
            self.wired.remove(wire)
        return 0, json.dumps(RESULT) if command == "ADD" else "", ""

    def attach(self) -> bool:
        document = {
            "network": "net",
            "container_id": "pod",
            "netns": "/proc/self/ns/net",
            "conf_dir": str(self.root / "net.d"),
            "plugin_dirs": [str(self.root / "bin")],
            "cache_dir": str(self.root / "cache"),
        }
        return converge(document, False, self).changed

    def kept(self) -> list[str]:
        found = ResultCache(str(self.root / "cache")).of_network("net")
        return [json.loads(attachment.config)["plugins"][0]["wire"] for attachment in found]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_changed_network_is_attached_anew(node: Node) -> None:
    assert node.attach()
    node.configure("new")
    assert node.attach()
    assert (node.wired, node.kept()) == (["new"], ["new"])
    assert not node.attach()


def test_failing_replacement_leaves_the_pod_its_working_interface(node: Node) -> None:
    node.attach()
    node.configure("new")
    node.refuses = ("new",)
    with pytest.raises(ApplyError, match="no wire left"):
        node.attach()
    assert (node.wired, node.kept()) == (["old"], ["old"])


def test_interface_that_cannot_be_attached_again_is_told(node: Node) -> None:
    node.attach()
    node.configure("new")
    node.refuses = ("new", "old")
    with pytest.raises(UndoError, match=r"no wire left; and attachment net pod eth0 .* could not be attached again"):
        node.attach()


def test_attachment_whose_result_cannot_be_kept_is_taken_back(node: Node) -> None:
    (node.root / "cache").mkdir()
    (node.root / "cache" / "results").symlink_to("nowhere/results")
    with pytest.raises(ApplyError, match="attachment net pod eth0 .* the result of ADD cannot be kept"):
        node.attach()
    assert node.wired == []


def test_failing_mark_of_a_namespace_is_an_apply_error(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    (node.root / "file").touch()
    monkeypatch.setattr(cni_attachments, "MARKS", str(node.root / "file" / "marks"))
    wish = parse_wish({"network": "net", "container_id": "pod", "netns": str(node.root / "none")})
    adapter = cni_attachments.AttachmentAdapter(wish, "net", None, node)
    with pytest.raises(ApplyError, match="network namespace pod: .*Not a directory"):
        list(adapter.apply([Operation(ADD, Namespace("pod", ours=True))]))
