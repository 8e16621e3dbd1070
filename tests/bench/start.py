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
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench.peers import FAMILIES, IPV4, IPV6, Peer, networks, teardown_commands
from tests.bench.processes import Done, run
from tests.bench.records import Record, Samples
from tests.kernel.conftest import MODULES
from tests.kernel.namespaces import Namespace, Namespaces
from tests.upstream import builds
from tests.upstream.flanneld import Flanneld
from tests.upstream.lan import Lan

TOP = Path(__file__).resolve().parents[2]
# flanneld asks etcd about each lease by itself and tells the kernel one object after another: 20,000 take minutes.
LIMIT = 5000
BACKEND = {"type": "vxlan", "vni": 1, "port": 8472}
# Nodes that are nothing but a lease; those on the LAN have the lowest addresses of IPv6.
_FIRST_PEER = 10
# Routes of flannel as /proc shows them; those that the kernel makes for IPv6 have another metric.
_ROUTE4 = re.compile(rf"^{IPV4.device}\t", re.MULTILINE)
_ROUTE6 = re.compile(rf"^\w+ \w+ \w+ \w+ \w+ 00000400 .* {IPV6.device}$", re.MULTILINE)
_LOOK_SECONDS, _END_SECONDS = 0.01, 600


def measured(numbers: Sequence[int], families: Iterable[str], runs: int) -> Iterator[Record]:
    """Nothing, with the reason printed, where flanneld and etcd cannot be built."""
    try:
        flanneld = builds.built(builds.FLANNEL) / "flanneld"
        etcd = builds.built(builds.etcd(builds.ETCD_RELEASES[-1]))
    except (builds.MissingError, builds.BuildError) as error:
        print(f"start, against real flanneld: left out, {error}", flush=True)
        return
    for family in families:
        for peers in numbers:
            if peers <= LIMIT:
                yield measure(peers, family, runs, flanneld, etcd)


def measure(peers: int, family: str, runs: int, flanneld: Path, etcd: Path) -> Record:
    samples = Samples()
    with _site(etcd) as lan:
        ours, theirs = Ours(lan, peers, family), Theirs(lan, flanneld, peers, family)
        # The first runs make the leases, of all other nodes too.
        ours.run()
        theirs.run()
        for _run in range(runs):
            samples.reference.append(theirs.run())
            done = ours.run()
            samples.ours.append(sum(one.seconds for one in done))
            samples.peak.append(max(one.peak_mib for one in done))
        # As flanneld makes them: without nexthop objects.
        return samples.record("start", family, peers, len(FAMILIES[family]) * 3 * (peers + 1))


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

    def __init__(self, lan: Lan, peers: int, family: str) -> None:
        self._lan, self._node, self._family = lan, lan.node(2), family
        addresses = {"n2": ["192.0.2.2", "2001:db8::2"]}
        for peer in map(Peer, range(_FIRST_PEER, _FIRST_PEER + peers - 1)):
            addresses[f"p{peer.number}"] = [peer.address(IPV4), peer.address(IPV6)]
        keys = [f"address{half.suffix}" for half in FAMILIES[family]]
        self._nodes = [{"name": name, **dict(zip(keys, both, strict=False))} for name, both in addresses.items()]

    def run(self) -> list[Done]:
        leases = self._module("overlay_lease", self._lease_arguments())
        found = json.loads(leases.output)
        members = {"node": found["own"], "peers": found["peers"]}
        network = self._module("overlay_network", {**networks(self._family), **members})
        _clear(self._node, self._family)
        return [leases, network]

    def _lease_arguments(self) -> dict[str, Any]:
        return {
            "endpoints": self._lan.etcd.endpoints,
            **self._lan.etcd.tls,
            "config": {**networks(self._family), "subnet_len": IPV4.length, "backend": BACKEND},
            "cluster_name": "bench",
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

    def __init__(self, lan: Lan, program: Path, peers: int, family: str) -> None:
        self._daemon, self._family = Flanneld(program, lan, 1), family
        self._routes = len(FAMILIES[family]) * peers

    def run(self) -> float:
        """Seconds until the route to the last peer is there."""
        start = time.perf_counter()
        process = self._daemon.launch()
        try:
            while _routes(process.pid) < self._routes:
                assert process.poll() is None, f"flanneld ended:\n{self._daemon.words()}"
                assert time.perf_counter() - start < _END_SECONDS, f"flanneld takes too long:\n{self._daemon.words()}"
                time.sleep(_LOOK_SECONDS)
            return time.perf_counter() - start
        finally:
            self._daemon.stop()
            _clear(self._daemon.node, self._family)


def _routes(pid: int) -> int:
    """To peers, as the process with this identifier sees its network."""
    tables = ((_ROUTE4, "route"), (_ROUTE6, "ipv6_route"))
    return sum(len(form.findall(Path(f"/proc/{pid}/net/{name}").read_text())) for form, name in tables)


def _clear(node: Namespace, family: str) -> None:
    for command in teardown_commands(family):
        node.run(command, check=False)
