# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Real kube-proxy as a process of a node: of a namespace (mode nftables), or of a guest (mode ipvs)."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.kernel import inside
from tests.kernel.guest_node import GuestNode
from tests.kernel.namespaces import Namespace
from tests.upstream.lan import end
from tests.waiting import wait_until

#: Where it is on a busy machine, User-mode Linux takes a tenth of a second for each of the programs that it starts.
SYNC_SECONDS = 900
METRICS_PORT = 10249
_FAILED = re.compile(r"^kubeproxy_sync_proxy_rules_\w+_failures_total\S* [1-9]", re.MULTILINE)
_SYNCED = re.compile(r'^kubeproxy_sync_proxy_rules_last_timestamp_seconds\{ip_family="(\w+)"\} [1-9]', re.MULTILINE)
#: Kernel modules for mode ipvs, with everything that kube-proxy's rules take.
MODULES = (
    *("ipv6", "dummy", "nf_conntrack", "nf_conntrack_netlink", "nf_nat"),
    *("ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_lc", "ip_vs_wlc", "ip_vs_sh", "ip_vs_mh"),
    *("ip_set_hash_ip", "ip_set_hash_ipport", "ip_set_hash_ipportip", "ip_set_hash_ipportnet", "ip_set_bitmap_port"),
    *("xt_set", "xt_addrtype", "xt_comment", "xt_conntrack", "xt_mark", "xt_MASQUERADE"),
    *("xt_ipvs", "xt_physdev", "xt_tcpudp", "ipt_REJECT", "ip6t_REJECT"),
    *(f"{family}table_{table}" for family in ("ip", "ip6") for table in ("nat", "filter", "mangle")),
)


def configuration(kubeconfig: Path, node: str, mode: str, **more: Any) -> dict[str, Any]:
    """KubeProxyConfiguration that leaves alone what is not a namespace's; ``more`` are fields of it.

    Its metrics must be served to the tests, on METRICS_PORT: for a guest, at another address than loopback.
    """
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": node,
        "mode": mode,
        "metricsBindAddress": f"0.0.0.0:{METRICS_PORT}",
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        **more,
    }


class KubeProxy(Protocol):
    """``start`` returns when all services and slices that are there at the time are in the kernel, of both families."""

    def start(self, config: Path, *options: str) -> None: ...

    def stop(self) -> None: ...

    def words(self) -> str:
        """All that it said."""


class HostKubeProxy:
    """In a namespace, on the kernel here."""

    def __init__(self, node: Namespace, program: Path, directory: Path) -> None:
        self.node, self.program, self.log = node, program, directory / "kube-proxy.log"
        self.process: subprocess.Popen[str] | None = None

    def start(self, config: Path, *options: str) -> None:
        with self.log.open("a") as log:
            command = [str(self.program), f"--config={config}", *options]
            self.process = self.node.start(command, stdout=log, stderr=log)
        wait_until(self._synced, f"kube-proxy has applied all, see {self.log}", SYNC_SECONDS, every=0.5)

    def _synced(self) -> bool:
        assert self.process is not None and self.process.poll() is None, f"kube-proxy ended:\n{self.words()[-3000:]}"
        return _synced(self.node, "127.0.0.1", self.words)

    def words(self) -> str:
        return self.log.read_text()

    def stop(self) -> None:
        if self.process is not None:
            end(self.process)
            self.process = None


class GuestKubeProxy:
    """In a guest."""

    LOG = "/run/kube-proxy.log"

    def __init__(self, node: GuestNode, program: Path) -> None:
        self.node, self.program = node, program
        self.pid = 0

    def start(self, config: Path, *options: str, before: Sequence[str] = ()) -> None:
        """``before`` is the beginning of the command, which becomes kube-proxy in the end."""
        self.pid = self.node.launch([*before, str(self.program), f"--config={config}", *options], self.LOG)
        wait_until(self._synced, "kube-proxy in the guest has applied all", SYNC_SECONDS, every=2)

    def _synced(self) -> bool:
        if _synced(self.node.namespace, self.node.address, self.words):
            return True
        assert self._lives(), f"kube-proxy ended:\n{self.words()[-3000:]}"
        return False

    def _lives(self) -> bool:
        return self.node.run(["kill", "-0", str(self.pid)], check=False).returncode == 0

    def words(self) -> str:
        return self.node.out(["cat", self.LOG])

    def stop(self) -> None:
        if self.pid:
            self.node.run(["sh", "-c", f"kill {self.pid}; while kill -0 {self.pid}; do sleep 0.1; done 2>/dev/null"])
            self.pid = 0


def _synced(namespace: Namespace, address: str, words: Callable[[], str]) -> bool:
    """Whether it was through with all rules once: it starts when it knows all services and slices.

    Fails the test when it could not write its rules, as it does where the kernel lacks a feature, and tries for ever.
    """
    with contextlib.suppress(OSError, http.client.HTTPException):
        metrics = inside.get(namespace, address, METRICS_PORT, "/metrics")[1]
        assert not _FAILED.search(metrics), f"kube-proxy cannot write its rules:\n{words()[-8000:]}"
        return set(_SYNCED.findall(metrics)) == {"IPv4", "IPv6"}
    return False


def write(path: Path, config: dict[str, Any]) -> Path:
    """A JSON document is YAML too."""
    path.write_text(json.dumps(config, indent=1))
    return path
