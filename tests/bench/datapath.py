# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""How long the overlay of a node takes, against `ip -batch` and `bridge -batch` of the same state in the same run.

``make bench`` prints a table and writes ``build/bench/datapath.json``: a list of records

``case``          apply, noop, add_one, remove_one, teardown; start, see ``start``
``family``        ipv4, or dual for IPv4 and IPv6
``peers``         number of other nodes; ``objects`` what the kernel holds for them
``engine_s``      desired state in memory to verified kernel state; null for start
``ours_s``        the whole process: start-up, reading the saved desired state, engine
``reference_s``   the batch tools: as many processes as it takes. For noop they dump the same tables; for teardown
                  `ip link delete` lets the kernel clean up. For start: flanneld
``engine_ratio``  engine_s / reference_s; ``ratio`` ours_s / reference_s
``peak_mib``      peak resident memory of the whole process

Times are medians of alternating runs. The batch tools verify nothing and make plain routes, as flannel does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.installed import Installed
from tests.bench.peers import (
    FAMILIES,
    UNDERLAY,
    batch,
    document,
    dump_commands,
    teardown_commands,
    underlay_addresses,
)
from tests.bench.processes import run
from tests.bench.records import HEADER, Record, Samples, row
from tests.kernel.namespaces import Namespace

TOP = Path(__file__).resolve().parents[2]
CASES = ("apply", "noop", "add_one", "remove_one", "teardown")
PEERS = (100, 1000, 5000, 20000)
RUNS = 5
KIND = "overlay_network"
DELETE = "from fairlead._desired import overlay_network as o; o.converge({'state': 'deleted'}, False, None)"


@contextmanager
def node(family: str) -> Iterator[Namespace]:
    """A namespace with an underlay that leads nowhere."""
    made = Namespace("bench")
    try:
        made.run(f"ip link add {UNDERLAY} type veth peer name far")
        made.run("ip link set far up")
        made.run(f"ip link set {UNDERLAY} up")
        for address in underlay_addresses(family):
            made.run(f"ip address add {address} dev {UNDERLAY} nodad")
        yield made
    finally:
        made.remove()


def saved(ours: Installed, peers: int, family: str) -> None:
    ours.save(KIND, document(peers, family))


def command(ours: Installed, case: str) -> list[str]:
    return ours.script(DELETE) if case == "teardown" else ours.restore()


def reference_commands(directory: Path, peers: int, family: str) -> dict[str, list[list[str]]]:
    """By case; what the batch tools read is written into the directory."""
    every, last = range(1, peers + 1), [peers + 1]
    return {
        "apply": batch(directory, "apply", family, every, "replace", with_device=True).commands(),
        "noop": dump_commands(family),
        "add_one": batch(directory, "add", family, last, "replace").commands(),
        "remove_one": batch(directory, "remove", family, last, "delete").commands(),
        "teardown": teardown_commands(family),
    }


def timed(inside: Namespace, commands: Iterable[Sequence[str]]) -> tuple[float, float]:
    """Seconds and peak MiB of commands, one after the other."""
    done = [run(inside.command(command)) for command in commands]
    return sum(one.seconds for one in done), max(one.peak_mib for one in done)


def measure(peers: int, family: str, runs: int, ours: Installed, directory: Path) -> list[Record]:
    samples = {case: Samples() for case in CASES}
    reference = reference_commands(directory, peers, family)
    objects = 0
    with node(family) as inside:
        for _run in range(runs):
            for case in CASES:
                samples[case].reference.append(timed(inside, reference[case])[0])
            seconds, objects = engine(inside, peers, family)
            for case in CASES:
                samples[case].engine.append(seconds[case])
            for case in CASES:
                saved(ours, peers + 1 if case == "add_one" else peers, family)
                whole, peak = timed(inside, [command(ours, case)])
                samples[case].ours.append(whole)
                samples[case].peak.append(peak)
    return [found.record(case, family, peers, objects) for case, found in samples.items()]


def engine(inside: Namespace, peers: int, family: str) -> tuple[dict[str, float], int]:
    """Seconds by case, and the number of objects."""
    command = [sys.executable, "-m", "tests.bench.engine", str(peers), family]
    found = json.loads(run(inside.command(command), environment={"PYTHONPATH": f"{TOP}:{TOP / 'collections'}"}).output)
    return found["seconds"], found["objects"]


def measured(numbers: Sequence[int], families: Sequence[str], runs: int) -> Iterator[Record]:
    with tempfile.TemporaryDirectory() as directory:
        ours = Installed(Path(directory))
        for family in families:
            for peers in numbers:
                yield from measure(peers, family, runs, ours, Path(directory))
    # Not before: what is in memory when a process is started counts as that one's peak too.
    from tests.bench import start

    yield from start.measured(numbers, families, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, nargs="+", default=PEERS, help="numbers of peers (default: %(default)s)")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=[*FAMILIES], help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=RUNS, help="alternating runs each (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=TOP / "build" / "bench" / "datapath.json")
    arguments = parser.parse_args()
    print(HEADER, flush=True)
    found: list[Record] = []
    for record in measured(arguments.peers, arguments.families, arguments.runs):
        print(row(record), flush=True)
        found.append(record)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
