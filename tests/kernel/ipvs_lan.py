# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A client, a node that balances, and real servers, each in a namespace of its own.

The client has an interface to the node, and one to the bridge on which the servers are.
"""

from __future__ import annotations

from tests.kernel.namespaces import Namespace, Namespaces

#: Where services are, by way: through the node, or from the servers' own link.
SERVICES, ON_LINK = "10.96.0.0/16", "10.97.0.0/16"
SERVICES6 = "fd00:96::/64"


class Lan:
    def __init__(self, netns: Namespaces, servers: int) -> None:
        self.netns = netns
        self.client, self.node = netns("client"), netns("node")
        netns.link(self.client, "eth0", self.node, "eth0")
        self._address(self.client, "eth0", "192.0.2.9/24", "2001:db8::9/64")
        self._address(self.node, "eth0", "192.0.2.1/24", "2001:db8::1/64")
        self._batch(self.node, "link add br0 type bridge", "link set br0 up")
        self._address(self.node, "br0", "10.244.0.1/24", "fd00:244::1/64")
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.node.run(["sh", "-c", f"echo 1 > /proc/sys/net/{key}"])
        self.servers = [self._server(number) for number in range(1, servers + 1)]
        self._attach(self.client, "eth1", 9)
        routes = [f"route add {SERVICES} via 192.0.2.1", f"route add {ON_LINK} via 10.244.0.1 src 10.244.0.9"]
        self._batch(self.client, *routes, f"-6 route add {SERVICES6} via 2001:db8::1")

    def _server(self, number: int) -> Namespace:
        made = self.netns(f"s{number}")
        self._attach(made, "eth0", 10 + number)
        self._batch(made, "route add default via 10.244.0.1", "-6 route add default via fd00:244::1")
        return made

    def _attach(self, namespace: Namespace, name: str, number: int) -> None:
        self.netns.link(namespace, name, self.node, f"port{number}")
        self._batch(self.node, f"link set port{number} master br0")
        self._address(namespace, name, f"10.244.0.{number}/24", f"fd00:244::{number}/64")

    def _address(self, namespace: Namespace, device: str, address: str, address6: str) -> None:
        self._batch(namespace, f"address add {address} dev {device}", f"address add {address6} dev {device} nodad")

    def _batch(self, namespace: Namespace, *lines: str) -> None:
        for line in lines:
            namespace.run(f"ip {line}")
