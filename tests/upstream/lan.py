# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A LAN in namespaces: a bridge, etcd of a real release at its address, and nodes that flanneld or we run on."""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kernel.namespaces import Namespace, Namespaces

PREFIX = "flu-"
ETCD_ADDRESS = "192.0.2.100"
ENDPOINT = f"http://{ETCD_ADDRESS}:2379"
KEYS = "/coreos.com/network"
START_SECONDS = 60
# Sysctls that are set before the interfaces come, which inherit them: no waiting for duplicate address detection.
_SYSCTLS = {"ipv6/conf/all/accept_dad": 0, "ipv6/conf/default/accept_dad": 0}
_FORWARDING = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}


@dataclasses.dataclass(frozen=True)
class EtcdLease:
    """``identifier`` is that of the etcd lease in hexadecimal, ``granted`` its seconds."""

    value: str
    identifier: str
    granted: int


class Lan:
    """Node N has eth0 with 192.0.2.N, 2001:db8::N and MAC address 02:00:00:00:00:NN."""

    def __init__(self, netns: Namespaces, directory: Path) -> None:
        self.netns, self.directory = netns, directory
        self.namespace = netns("lan")
        self._etcd: subprocess.Popen[str] | None = None
        self._etcdctl = ""
        set_sysctls(self.namespace, _SYSCTLS)
        self.namespace.run("ip link add br0 type bridge")
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
        """Without TLS: what is between flanneld and us here is the form of keys and values."""
        peers = "http://127.0.0.1:2380"
        options = {
            "data-dir": self.directory / "etcd",
            "listen-client-urls": ENDPOINT,
            "advertise-client-urls": ENDPOINT,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"default={peers}",
        }
        self._etcdctl = str(programs / "etcdctl")
        with (self.directory / "etcd.log").open("w") as log:
            command = [str(programs / "etcd"), *(f"--{name}={value}" for name, value in options.items())]
            self._etcd = self.namespace.start(command, stdout=log, stderr=log)
        wait_until(lambda: self.etcdctl("endpoint", "health", check=False).returncode == 0, "etcd is healthy")

    def stop(self) -> None:
        if self._etcd is not None:
            end(self._etcd)

    def etcdctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["env", "ETCDCTL_API=3", self._etcdctl, f"--endpoints={ENDPOINT}", *arguments]
        return self.namespace.run(command, check=check)

    def configure(self, config: dict[str, Any]) -> None:
        self.etcdctl("put", f"{KEYS}/config", json.dumps(config))

    def leases(self) -> dict[str, EtcdLease]:
        """By the last part of the key, such as 10.244.1.0-24."""
        answer = json.loads(self.etcdctl("get", f"{KEYS}/subnets/", "--prefix", "-w", "json").stdout)
        return {_text(entry["key"]).rpartition("/")[2]: self._lease(entry) for entry in answer.get("kvs", [])}

    def _lease(self, entry: dict[str, Any]) -> EtcdLease:
        identifier = f"{entry.get('lease', 0):x}"
        shown = json.loads(self.etcdctl("lease", "timetolive", identifier, "-w", "json").stdout)
        return EtcdLease(_text(entry["value"]), identifier, int(shown.get("granted-ttl", 0)))

    def revoke(self, name: str) -> None:
        """Take away the lease with this key (its last part), as its end or an administrator would."""
        self.etcdctl("lease", "revoke", self.leases()[name].identifier)


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode()


def set_sysctls(node: Namespace, values: dict[str, int]) -> None:
    node.run(["sh", "-c", "".join(f"echo {value} >/proc/sys/net/{name};" for name, value in values.items())])


def wait_until(holds: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Fails the test when it does not come to be."""
    end_of_waiting = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end_of_waiting, f"after {seconds:g} s it is still not so that {what}"
        time.sleep(0.1)


def end(process: subprocess.Popen[str]) -> None:
    """As systemd does it: asked first."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
