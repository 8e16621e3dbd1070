# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""UDP ports of the overlay's devices that something else on the node has. Those of WireGuard are tested with the rest
of that backend."""

from __future__ import annotations

import socket

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespaces
from tests.kernel.overlay_nodes import dual_document, lone_node, snapshot
from tests.kernel.test_overlay_undo import inside


@pytest.mark.parametrize(
    ("family", "device"), [(socket.AF_INET, "flannel.1"), (socket.AF_INET6, "flannel-v6.1")], ids=["ipv4", "ipv6"]
)
def test_port_of_somebody_else_is_named_with_the_device_and_a_way_out(
    family: socket.AddressFamily, device: str, netns: Namespaces, run_module: RunModule
) -> None:
    node = lone_node(netns)
    before = snapshot(node)
    document = dual_document(1, 2, backend={"type": "vxlan", "port": 4000})
    with inside(node):
        other = socket.socket(family, socket.SOCK_DGRAM)
    with other:
        if family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("", 4000))
        message = run_module("overlay_network", document, netns=node, fails=True)["msg"]
        assert message.startswith(f"link {device} up: cannot add: Address already in use"), message
        assert f"something else on this node has UDP port 4000, on which {device} listens." in message
        assert "`ss -lunp 'sport = :4000'` shows what" in message and message.endswith("or choose another backend.port")
        assert ":4000" in node.out(["ss", "-lunH", "sport = :4000"]), "the command finds it"
        assert snapshot(node) == before
    assert run_module("overlay_network", document, netns=node)["changed"]
