# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""How long the overlay of a node takes, against `ip -batch` and `bridge -batch` of the same state in the same run.

``make bench`` prints a table and writes ``build/bench/datapath.json``: a list of records

``case``          apply, noop, add_one, remove_one, teardown
``family``        ipv4
``peers``         number of other nodes; ``objects`` what the kernel holds for them
``engine_s``      desired state in memory to verified kernel state
``ours_s``        the whole process: start-up, reading the saved desired state, engine
``reference_s``   the batch tools: as many processes as it takes. For noop they dump the same tables; for teardown
                  `ip link delete` lets the kernel clean up
``engine_ratio``  engine_s / reference_s; ``ratio`` ours_s / reference_s
``peak_mib``      peak resident memory of the whole process

Times are medians of alternating runs. The batch tools verify nothing and make plain routes, as flannel does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.fairlead.cluster.plugins.module_utils._system.runtime_tree import unpack
from ansible_collections.fairlead.cluster.plugins.plugin_utils.runtime_tree import build
from tests.bench.peers import DEVICE, UNDERLAY, Peer, batch, document
from tests.kernel.namespaces import Namespace

TOP = Path(__file__).resolve().parents[2]
CASES = ("apply", "noop", "add_one", "remove_one", "teardown")
PEERS = (100, 1000, 5000, 20000)
RUNS = 5
DELETE = "from fairlead._desired import overlay_network as o; o.converge({'state': 'deleted'}, False, None)"


@dataclass
class Samples:
    """Seconds of each run of a case, and peak memory in MiB."""

    engine: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)


@contextmanager
def node() -> Iterator[Namespace]:
    """A namespace with an underlay that leads nowhere."""
    made = Namespace("bench")
    try:
        made.run(f"ip link add {UNDERLAY} type veth peer name far")
        made.run("ip link set far up")
        made.run(f"ip link set {UNDERLAY} up")
        made.run(f"ip address add {Peer(0).address}/12 dev {UNDERLAY}")
        yield made
    finally:
        made.remove()


class Ours:
    """The runtime as it is installed on nodes, with a saved desired state of its own."""

    def __init__(self, directory: Path) -> None:
        tree = build(TOP)
        archive = directory / "tree.tar.gz"
        archive.write_bytes(tree.archive())
        self.tree = directory / tree.version
        unpack(str(archive), str(self.tree))
        self.state = directory / "state"
        self.state.mkdir()
        # A first run writes the compiled modules, as role node does when it installs the tree.
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(self.tree)], check=True)

    def save(self, peers: int) -> None:
        (self.state / "overlay_network.json").write_text(json.dumps(document(peers), indent=1, sort_keys=True))

    def command(self, case: str) -> list[str]:
        setting = f"FAIRLEAD_STATE_DIR={self.state}"
        if case == "teardown":
            return ["env", setting, f"PYTHONPATH={self.tree / 'lib'}", sys.executable, "-c", DELETE]
        return ["env", setting, sys.executable, "-I", str(self.tree / "bin" / "fairlead"), "restore"]


def timed(inside: Namespace, commands: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Seconds and peak MiB of commands, one after the other, each to its end."""
    seconds = peak = 0.0
    for command in commands:
        start = time.perf_counter()
        process = subprocess.Popen(inside.command(command), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        errors = process.stderr.read()
        _pid, status, usage = os.wait4(process.pid, 0)
        seconds += time.perf_counter() - start
        assert status == 0, f"{command}: {errors.decode()}"
        peak = max(peak, usage.ru_maxrss / 1024)
    return seconds, peak


def reference_commands(directory: Path, peers: int) -> dict[str, list[list[str]]]:
    apply = batch(directory, "apply", 1, peers, "replace", with_device=True)
    add = batch(directory, "add", peers + 1, peers + 1, "replace")
    remove = batch(directory, "remove", peers + 1, peers + 1, "delete")
    both = {
        name: [["ip", "-batch", str(files.ip)], ["bridge", "-batch", str(files.bridge)]]
        for name, files in (("apply", apply), ("add_one", add), ("remove_one", remove))
    }
    dumps = [
        ["ip", "-d", "link", "show", "dev", DEVICE],
        ["ip", "address", "show", "dev", DEVICE],
        ["ip", "neigh", "show", "dev", DEVICE],
        ["bridge", "fdb", "show", "dev", DEVICE],
        ["ip", "route", "show"],
    ]
    return {**both, "noop": dumps, "teardown": [["ip", "link", "delete", DEVICE]]}


def measure(peers: int, runs: int, ours: Ours, directory: Path) -> tuple[dict[str, Samples], int]:
    """Samples by case, and the number of objects."""
    samples = {case: Samples() for case in CASES}
    reference = reference_commands(directory, peers)
    objects = 0
    with node() as inside:

        def whole() -> None:
            for case in CASES:
                ours.save(peers + 1 if case == "add_one" else peers)
                seconds, peak = timed(inside, [ours.command(case)])
                samples[case].ours.append(seconds)
                samples[case].peak.append(peak)

        def engine() -> None:
            nonlocal objects
            done = subprocess.run(
                inside.command([sys.executable, "-m", "tests.bench.engine", str(peers)]),
                cwd=TOP, env={**os.environ, "PYTHONPATH": f"{TOP}:{TOP / 'collections'}"},
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            result = json.loads(done.stdout)
            objects = result["objects"]
            for case in CASES:
                samples[case].engine.append(result["seconds"][case])

        def batches() -> None:
            for case in CASES:
                samples[case].reference.append(timed(inside, reference[case])[0])

        for _run in range(runs):
            for side in (batches, engine, whole):
                side()
    return samples, objects


def records(peers: int, objects: int, samples: dict[str, Samples]) -> list[dict[str, object]]:
    made = []
    for case, found in samples.items():
        engine, ours = statistics.median(found.engine), statistics.median(found.ours)
        reference = statistics.median(found.reference)
        made.append(
            {
                "case": case,
                "family": "ipv4",
                "peers": peers,
                "objects": objects,
                "engine_s": round(engine, 5),
                "ours_s": round(ours, 5),
                "reference_s": round(reference, 5),
                "engine_ratio": round(engine / reference, 3),
                "ratio": round(ours / reference, 3),
                "peak_mib": round(max(found.peak), 1),
            }
        )
    return made


def row(record: dict[str, object]) -> str:
    return (
        f"{record['case']:<11} {record['peers']:>6} {record['objects']:>7} {record['engine_s']:>9.4f} "
        f"{record['ours_s']:>9.4f} {record['reference_s']:>12.4f} {record['engine_ratio']:>13.2f} "
        f"{record['ratio']:>6.2f} {record['peak_mib']:>9.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, nargs="+", default=PEERS, help="numbers of peers (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=RUNS, help="alternating runs each (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=TOP / "build" / "bench" / "datapath.json")
    arguments = parser.parse_args()
    found: list[dict[str, object]] = []
    print("case         peers objects  engine_s    ours_s  reference_s  engine_ratio  ratio  peak_mib", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        ours = Ours(Path(directory))
        for peers in arguments.peers:
            samples, objects = measure(peers, arguments.runs, ours, Path(directory))
            for record in records(peers, objects, samples):
                print(row(record), flush=True)
                found.append(record)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
