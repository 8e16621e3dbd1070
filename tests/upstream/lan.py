# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A LAN in namespaces: a bridge, etcd of a real release at its address, and nodes that flanneld or we run on."""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

from tests.kernel.etcd_server import Cluster
from tests.kernel.namespaces import Namespace, Namespaces

PREFIX = "flu-"
ETCD_ADDRESS = "192.0.2.100"
BRIDGE_MAC = "02:00:00:00:00:64"
KEYS = "/coreos.com/network"
# Sysctls that are set before the interfaces come, which inherit them: no waiting for duplicate address detection.
_SYSCTLS = {"ipv6/conf/all/accept_dad": 0, "ipv6/conf/default/accept_dad": 0}
_FORWARDING = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}


@dataclasses.dataclass(frozen=True)
class EtcdLease:
    """``identifier`` is that of the etcd lease in hexadecimal, ``granted`` its seconds."""

    value: str
    identifier: str
    granted: int


class LanEtcd(Cluster):
    """One member at the LAN's address, with TLS and client certificates of our PKI."""

    def __init__(self, namespace: Namespace, directory: Path, programs: Path) -> None:
        self._programs = programs
        super().__init__(namespace, directory, 1)

    def _certify(self) -> None:
        self.bin, self.members = self._programs, [{"name": "m1", "address": ETCD_ADDRESS}]
        super()._certify()


class Lan:
    """Node N has eth0 with 192.0.2.N, 2001:db8::N and MAC address 02:00:00:00:00:NN."""

    def __init__(self, netns: Namespaces, directory: Path) -> None:
        self.netns, self.directory = netns, directory
        self.namespace = netns("lan")
        self._etcd: LanEtcd | None = None
        set_sysctls(self.namespace, _SYSCTLS)
        # A bridge without an address of its own takes that of its lowest port, another one when a port comes, and nodes
        # that know the old one get no answer until their neighbor entry is too old.
        self.namespace.run(f"ip link add br0 address {BRIDGE_MAC} type bridge")
        self.namespace.run(f"ip address add {ETCD_ADDRESS}/24 dev br0")
        self.namespace.run("ip link set br0 up")

    def node(self, number: int) -> Namespace:
        node = self.netns(f"n{number}")
        set_sysctls(node, {**_SYSCTLS, **_FORWARDING})
        self.netns.link(node, "eth0", self.namespace, f"p{number}")
        self.namespace.run(f"ip link set p{number} master br0")
        node.run(f"ip link set eth0 down address 02:00:00:00:00:{number:02x}")
        node.run("ip link set eth0 up")
        node.run(f"ip address add 192.0.2.{number}/24 dev eth0")
        node.run(f"ip address add 2001:db8::{number}/64 dev eth0")
        return node

    def start_etcd(self, programs: Path) -> None:
        self._etcd = LanEtcd(self.namespace, self.directory, programs)
        self._etcd.start()

    def stop(self) -> None:
        if self._etcd is not None:
            self._etcd.stop()

    @property
    def etcd(self) -> LanEtcd:
        assert self._etcd is not None, "etcd is not started"
        return self._etcd

    def configure(self, config: dict[str, Any]) -> None:
        self.etcd.etcdctl("put", f"{KEYS}/config", json.dumps(config))

    def leases(self) -> dict[str, EtcdLease]:
        """By the last part of the key, such as 10.244.1.0-24."""
        answer = json.loads(self.etcd.etcdctl("get", f"{KEYS}/subnets/", "--prefix", "-w", "json").stdout)
        return {_text(entry["key"]).rpartition("/")[2]: self._lease(entry) for entry in answer.get("kvs", [])}

    def _lease(self, entry: dict[str, Any]) -> EtcdLease:
        identifier = f"{entry.get('lease', 0):x}"
        shown = json.loads(self.etcd.etcdctl("lease", "timetolive", identifier, "-w", "json").stdout)
        return EtcdLease(_text(entry["value"]), identifier, int(shown.get("granted-ttl", 0)))

    def revoke(self, name: str) -> None:
        """Take away the lease with this key (its last part), as its end or an administrator would."""
        self.etcd.etcdctl("lease", "revoke", self.leases()[name].identifier)


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode()


def set_sysctls(node: Namespace, values: dict[str, int]) -> None:
    node.run(["sh", "-c", "".join(f"echo {value} >/proc/sys/net/{name};" for name, value in values.items())])


def end(process: subprocess.Popen[str]) -> None:
    """As systemd does it: asked first."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
