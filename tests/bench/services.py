# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""How long the services of a node take, against ipvsadm with the same table in the same kernel.

``make bench`` prints a table and writes ``build/bench/services.json``: a list of records

``case``          program, noop, change_one; connect
``services``      number of virtual services, each with three real servers; ``objects`` all of these
``engine_s``      desired state in memory to verified kernel state; null for connect
``ours_s``        the whole process: start-up, reading the saved desired state, engine. For connect: seconds of one
                  connection through the first service
``reference_s``   program: ``ipvsadm --restore``; noop: ``ipvsadm -Ln``; change_one: ``ipvsadm -e``; connect: seconds of
                  one connection to the real server itself
``engine_ratio``  engine_s / reference_s; ``ratio`` ours_s / reference_s
``kernel_s``      what the kernel alone takes. program: for the same messages, packed beforehand; noop: to tell its
                  table, as text; null for the others
``operations``    what the engine sent
``peak_mib``      peak resident memory of the whole process

Times are medians of alternating runs, in User-mode Linux where the kernel has no IPVS. ipvsadm verifies nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.fairlead.cluster.plugins.module_utils._desired.virtual_services import wanted_services
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import converge
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs import (
    RealServer,
    VirtualService,
    service_name,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs_service import Declared, described
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs_text import ipvsadm_lines
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink.bulk import apply_many
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink.ipvs import Ipvs
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink.ipvs_adapter import IpvsAdapter
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink.ipvs_table import PATH
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.ipvs import OVERRIDDEN, plan_services
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import ADD, Operation
from tests.bench.connections import ADDRESS, PORT, SERVER, SERVICE_PORT, seconds_of_one, server
from tests.bench.installed import Installed
from tests.bench.processes import run
from tests.bench.records import Record
from tests.kernel import guest
from tests.kernel.guest_uml import UserModeLinux
from tests.kernel.namespaces import Namespace
from tests.kernel.test_overlay_undo import inside

TOP = Path(__file__).resolve().parents[2]
SERVICES = (1000, 10000)
SERVERS, RUNS = 3, 5
CASES = ("program", "noop", "change_one")
MODULES = ("ipv6", "veth", "ip_vs", "ip_vs_rr", "nf_conntrack")
# ipvsadm needs 36 seconds for 10,000 services on a quiet machine, and three times that on a busy one.
TIMEOUT = 3600.0
HEADER = (
    "case        services objects   engine_s     ours_s  reference_s  engine_ratio  ratio   kernel_s operations"
    "  peak_mib"
)
_MARK = "RECORDS "


def table(services: int, changed: bool = False) -> Declared:
    """``changed``: one real server in the middle has another weight."""
    named = [f"tcp 10.{96 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}:80" for number in range(services)]
    servers = [
        RealServer(name, f"10.244.{server}.{number % 250 + 1}:{8000 + number // 250}")
        for number, name in enumerate(named)
        for server in range(SERVERS)
    ]
    if changed:
        middle = len(servers) // 2
        servers[middle] = servers[middle]._replace(weight=7)
    return Declared(tuple(map(VirtualService, named)), tuple(servers), device="")


class Engine:
    """One desired state in memory."""

    def __init__(self, declared: Declared) -> None:
        self.declared = declared

    def converge(self) -> tuple[float, int]:
        """Seconds and number of operations."""
        adapter = IpvsAdapter([])
        started = time.perf_counter()
        wanted = wanted_services(self.declared, OVERRIDDEN, frozenset(), [])
        outcome = converge(adapter, lambda have: plan_services(have, wanted))
        return time.perf_counter() - started, len(outcome.operations)

    def kernel(self) -> float:
        """Seconds for the messages alone."""
        operations = [Operation(ADD, item) for item in (*self.declared.services, *self.declared.servers)]
        with Ipvs() as ipvs:
            messages = {id(each): ipvs.message(each) for each in operations}
            started = time.perf_counter()
            for _done in apply_many(ipvs.netlink, operations, lambda each: messages[id(each)]):
                pass
            return time.perf_counter() - started


def _reading() -> float:
    """Seconds for the kernel's text of all that is there."""
    started = time.perf_counter()
    Path(PATH).read_bytes()
    return time.perf_counter() - started


def measured(numbers: Sequence[int], runs: int) -> Iterator[Record]:
    with tempfile.TemporaryDirectory() as directory:
        ours = Installed(Path(directory))
        for number in numbers:
            yield from _programming(number, runs, ours)
    for number in (1, *numbers[-1:]):
        yield _connecting(number, runs)


def _programming(number: int, runs: int, ours: Installed) -> Iterator[Record]:
    found = {case: _Times() for case in CASES}
    wanted = {"program": table(number), "noop": table(number), "change_one": table(number, changed=True)}
    for _run in range(runs):
        with _fresh() as node, inside(node):
            found["program"].kernel.append(Engine(wanted["program"]).kernel())
            found["noop"].kernel.append(_reading())
        with _fresh() as node, inside(node):
            for case in CASES:
                seconds, found[case].operations = Engine(wanted[case]).converge()
                found[case].engine.append(seconds)
        with _fresh() as node:
            for case, declared in wanted.items():
                ours.save("ipvs_service", described(declared))
                done = run(node.command(ours.restore()))
                found[case].ours.append(done.seconds)
                found[case].peak = max(found[case].peak, done.peak_mib)
        with _fresh() as node:
            for case, command, data in _reference(wanted["program"], wanted["change_one"]):
                found[case].reference.append(run(node.command(command), data).seconds)
    objects = number * (1 + SERVERS)
    for case, times in found.items():
        yield times.record(case, number, objects)


@contextlib.contextmanager
def _fresh() -> Iterator[Namespace]:
    """A namespace of its own for each contender: the kernel keeps servers that were removed for two minutes and looks
    through all of them for each that is added (ip_vs_trash_get_dest in ip_vs_ctl.c)."""
    node = Namespace("bench")
    try:
        yield node
    finally:
        node.remove()


@dataclasses.dataclass
class _Times:
    """Seconds of each run of a case."""

    engine: list[float] = dataclasses.field(default_factory=list)
    ours: list[float] = dataclasses.field(default_factory=list)
    reference: list[float] = dataclasses.field(default_factory=list)
    kernel: list[float] = dataclasses.field(default_factory=list)
    operations: int = 0
    peak: float = 0.0

    def record(self, case: str, number: int, objects: int) -> Record:
        middle = {name: statistics.median(getattr(self, name)) for name in ("engine", "ours", "reference")}
        kernel = statistics.median(self.kernel) if self.kernel else None
        return _record(case, number, objects, middle, kernel, self.operations, self.peak)


def _reference(declared: Declared, changed: Declared) -> Iterator[tuple[str, list[str], str]]:
    """Case, command, and what it reads."""
    lines = "\n".join([*ipvsadm_lines(declared.services, declared.servers), ""])
    server = next(one for one, other in zip(changed.servers, declared.servers, strict=True) if one != other)
    place = server.service.partition(" ")[2]
    yield "program", ["ipvsadm", "--restore"], lines
    yield "noop", ["ipvsadm", "-Ln"], ""
    yield "change_one", ["ipvsadm", "-e", "-t", place, "-r", server.address, "-m", "-w", str(server.weight)], ""


def _connecting(number: int, runs: int) -> Record:
    """A client connects through one of so many services, which is not among the others."""
    others = table(number - 1)
    service = VirtualService(service_name("tcp", ADDRESS, SERVICE_PORT))
    behind = RealServer(service.service, f"{SERVER}:{PORT}")
    declared = Declared((*others.services, service), (*others.servers, behind), device="")
    through, direct = [], []
    with _fresh() as node, server(node):
        with inside(node):
            Engine(declared).converge()
        for _run in range(runs):
            direct.append(seconds_of_one(node, SERVER, PORT))
            through.append(seconds_of_one(node, ADDRESS, SERVICE_PORT))
    middle = {"ours": statistics.median(through), "reference": statistics.median(direct)}
    return _record("connect", number, len(declared.services) + len(declared.servers), middle, None, 0, 0.0)


def _record(
    case: str, number: int, objects: int, seconds: dict[str, float], kernel: float | None, operations: int, peak: float
) -> Record:
    engine = seconds.get("engine")
    return {
        "case": case,
        "services": number,
        "objects": objects,
        "engine_s": None if engine is None else round(engine, 6),
        "ours_s": round(seconds["ours"], 6),
        "reference_s": round(seconds["reference"], 6),
        "engine_ratio": None if engine is None else round(engine / seconds["reference"], 3),
        "ratio": round(seconds["ours"] / seconds["reference"], 3),
        "kernel_s": None if kernel is None else round(kernel, 6),
        "operations": operations,
        "peak_mib": round(peak, 1),
    }


def row(record: Record) -> str:
    def shown(key: str, width: int, digits: int) -> str:
        value: Any = record[key]
        return f"{'-' if value is None else f'{value:.{digits}f}':>{width}}"

    return (
        f"{record['case']:<11} {record['services']:>8} {record['objects']:>7} {shown('engine_s', 10, 5)} "
        f"{shown('ours_s', 10, 5)} {shown('reference_s', 12, 5)} {shown('engine_ratio', 13, 3)} {shown('ratio', 6, 3)} "
        f"{shown('kernel_s', 10, 5)} {record['operations']:>10} {shown('peak_mib', 9, 1)}"
    )


def in_a_guest(arguments: Sequence[str]) -> list[Record]:
    environment = ["env", f"PYTHONPATH={TOP}:{TOP / 'collections'}"]
    command = [*environment, sys.executable, "-m", "tests.bench.services", "--here", *arguments]
    with tempfile.TemporaryDirectory() as directory:
        output = guest.run_command(UserModeLinux(memory=1024), command, MODULES, Path(directory), TIMEOUT)
    line = next(line for line in output.splitlines() if line.startswith(_MARK))
    found: list[Record] = json.loads(line[len(_MARK) :])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, nargs="+", default=SERVICES, help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=RUNS, help="alternating runs each (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=TOP / "build" / "bench" / "services.json")
    parser.add_argument("--here", action="store_true", help="in this very kernel and namespace; print records only")
    arguments = parser.parse_args()
    if arguments.here:
        print(_MARK + json.dumps(list(measured(arguments.services, arguments.runs))), flush=True)
        return
    passed = ["--runs", str(arguments.runs), "--services", *map(str, arguments.services)]
    records = in_a_guest(passed)
    print("\n".join([HEADER, *map(row, records)]))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(records, indent=1) + "\n")
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
