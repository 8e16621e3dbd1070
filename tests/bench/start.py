# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""How long a node takes to join an overlay: real flanneld against our modules, over the same leases in one etcd.

flanneld is measured from its start to the last route in the kernel, looked at from outside. Ours are the processes of
modules overlay_lease and overlay_network, one after the other to their ends, which come after verifying. Each has a
node of its own on one LAN; both have a lease already, as when a machine starts again.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease import vtep_mac
from tests.bench.peers import IPV4, NETWORK, Peer
from tests.bench.processes import Done, run
from tests.bench.records import Record, Samples
from tests.kernel.conftest import MODULES
from tests.kernel.namespaces import Namespaces
from tests.upstream import builds
from tests.upstream.flanneld import Flanneld
from tests.upstream.lan import Lan

TOP = Path(__file__).resolve().parents[2]
# flanneld asks etcd about each lease by itself and tells the kernel one object after another: 20,000 take minutes.
LIMIT = 5000
CLUSTER, DEVICE = "bench", IPV4.device
BACKEND = {"type": "vxlan", "vni": 1, "port": 8472}
_LOOK_SECONDS, _END_SECONDS = 0.01, 600


def measured(numbers: Iterable[int], runs: int) -> Iterator[Record]:
    """Nothing, with the reason printed, where flanneld and etcd cannot be built."""
    try:
        flanneld = builds.built(builds.FLANNEL) / "flanneld"
        etcd = builds.built(builds.etcd(builds.ETCD_RELEASES[-1]))
    except (builds.MissingError, builds.BuildError) as error:
        print(f"start, against real flanneld: left out, {error}", flush=True)
        return
    for peers in numbers:
        if peers <= LIMIT:
            yield measure(peers, runs, flanneld, etcd)


def measure(peers: int, runs: int, flanneld: Path, etcd: Path) -> Record:
    samples = Samples()
    with _site(etcd) as lan:
        ours, theirs = Ours(lan, peers), Theirs(lan, flanneld, peers)
        # The first runs make the leases, of all other nodes too.
        ours.run()
        theirs.run()
        for _run in range(runs):
            samples.reference.append(theirs.run())
            done = ours.run()
            samples.ours.append(sum(one.seconds for one in done))
            samples.peak.append(max(one.peak_mib for one in done))
        return samples.record("start", "ipv4", peers, 3 * peers + 3)


@contextlib.contextmanager
def _site(etcd: Path) -> Iterator[Lan]:
    """A LAN with etcd."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        namespaces = Namespaces()
        stack.callback(namespaces.remove)
        lan = Lan(namespaces, Path(directory))
        stack.callback(lan.stop)
        lan.start_etcd(etcd)
        yield lan


class Ours:
    """Node n2. Its peers are flanneld's node, and nodes that are nothing but a lease."""

    def __init__(self, lan: Lan, peers: int) -> None:
        self._lan, self._node = lan, lan.node(2)
        own = {"name": "n2", "address": "192.0.2.2", "mac": vtep_mac(CLUSTER, "n2")}
        others = (Peer(number) for number in range(1, peers))
        self._nodes = [
            own,
            *({"name": f"p{peer.number}", "address": peer.address(IPV4), "mac": peer.mac(IPV4)} for peer in others),
        ]

    def run(self) -> list[Done]:
        leases = self._module("overlay_lease", self._lease_arguments())
        found = json.loads(leases.output)
        members = {"node": found["own"], "peers": found["peers"]}
        network = self._module("overlay_network", {"network": NETWORK, **members})
        self._node.run(f"ip link delete {DEVICE}")
        return [leases, network]

    def _lease_arguments(self) -> dict[str, Any]:
        return {
            "endpoints": self._lan.etcd.endpoints,
            **self._lan.etcd.tls,
            "config": {"network": NETWORK, "subnet_len": IPV4.length, "backend": BACKEND},
            "cluster_name": CLUSTER,
            "nodes": self._nodes,
            "node": "n2",
            "timeout": 30,
        }

    def _module(self, name: str, arguments: dict[str, Any]) -> Done:
        with tempfile.TemporaryDirectory() as state:
            given = {**arguments, "_ansible_remote_tmp": state}
            environment = {
                "PYTHONPATH": str(TOP / "collections"),
                "FAIRLEAD_STATE_DIR": f"{state}/desired",
                "FAIRLEAD_RUN_DIR": f"{state}/run",
            }
            command = self._node.command([sys.executable, "-m", f"{MODULES}.{name}"])
            return run(command, json.dumps({"ANSIBLE_MODULE_ARGS": given}), environment)


class Theirs:
    """Node n1, with flanneld."""

    def __init__(self, lan: Lan, program: Path, peers: int) -> None:
        self._daemon, self._peers = Flanneld(program, lan, 1), peers

    def run(self) -> float:
        """Seconds until the route to the last peer is there."""
        start = time.perf_counter()
        process = self._daemon.launch()
        try:
            while _routes(process.pid) < self._peers:
                assert process.poll() is None, f"flanneld ended:\n{self._daemon.words()}"
                assert time.perf_counter() - start < _END_SECONDS, f"flanneld takes too long:\n{self._daemon.words()}"
                time.sleep(_LOOK_SECONDS)
            return time.perf_counter() - start
        finally:
            self._daemon.stop()
            self._daemon.node.run(f"ip link delete {DEVICE}", check=False)


def _routes(pid: int) -> int:
    """Over the device, as the process with this identifier sees its network."""
    return Path(f"/proc/{pid}/net/route").read_bytes().count(f"\n{DEVICE}\t".encode())
