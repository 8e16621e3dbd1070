# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Put the figures of the last benchmark, and a plot of them, into docs/reference/benchmarks.md.

The words of the page are written by hand; what stands between its two marks is replaced.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.bench.plot import BLUE, GREEN, ORANGE, Line, Panel, svg
from tests.bench.records import Record
from tests.upstream.builds import FLANNEL_VERSION

TOP = Path(__file__).resolve().parents[2]
FIGURES = TOP / "build" / "bench" / "datapath.json"
PAGE = TOP / "docs" / "reference" / "benchmarks.md"
BEGIN, END = "<!-- written by make bench -->", "<!-- end of what make bench wrote -->"
_COLORS = {"engine_s": GREEN, "ours_s": BLUE, "reference_s": ORANGE}
_FAMILY_NAMES = {"ipv4": "IPv4", "dual": "IPv4 and IPv6"}
_COLUMNS = ("case", "peers", "objects", "engine s", "whole s", "reference s", "engine / ref.", "whole / ref.", "MiB")


def with_figures(page: str, records: Sequence[Record], machine: str) -> str:
    return with_tables(page, machine, [part for family in _FAMILY_NAMES for part in _table(family, records)])


def with_tables(page: str, machine: str, tables: Sequence[str]) -> str:
    """A page with lines of tables between its marks."""
    before, _mark, rest = page.partition(BEGIN)
    _old, mark, after = rest.partition(END)
    assert mark, "the page has lost its marks"
    return before + "\n".join([BEGIN, "", machine, *tables, "", END]) + after


def _table(family: str, records: Iterable[Record]) -> list[str]:
    rows = [_row(record) for record in records if record["family"] == family]
    if not rows:
        return []
    return ["", f"### {_FAMILY_NAMES[family]}", "", line(_COLUMNS), line(["---", *["--:"] * 8]), *rows]


def _row(record: Record) -> str:
    numbers = [f"{record[key]:,}" for key in ("peers", "objects")]
    seconds = [shown(record[key], 4) for key in ("engine_s", "ours_s", "reference_s")]
    ratios = [shown(record[key], 2) for key in ("engine_ratio", "ratio")]
    return line([record["case"], *numbers, *seconds, *ratios, f"{record['peak_mib']:.0f}"])


def shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def panels(records: Sequence[Record]) -> list[Panel]:
    """One for each family's apply and start."""
    applied = {"engine_s": "engine", "ours_s": "whole process", "reference_s": "ip -batch, bridge -batch"}
    started = {"ours_s": "our modules", "reference_s": "flanneld"}
    made = [
        _panel(f"{case.capitalize()}, {name}", case, family, lines, records)
        for case, lines in (("apply", applied), ("start", started))
        for family, name in _FAMILY_NAMES.items()
    ]
    return [panel for panel in made if panel.lines[0].points]


def _panel(title: str, case: str, family: str, names: Mapping[str, str], records: Iterable[Record]) -> Panel:
    found = [record for record in records if (record["case"], record["family"]) == (case, family)]
    ordered = sorted(found, key=lambda record: int(record["peers"]))
    points = {key: [(record["peers"], record[key]) for record in ordered] for key in names}
    return Panel(title, [Line(name, _COLORS[key], points[key]) for key, name in names.items()])


def machine() -> str:
    """What the figures were measured on."""
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    version = subprocess.run(["ip", "-V"], capture_output=True, text=True, check=True).stdout
    tools = re.search(r"iproute2-[\w.]+", version)
    parts = [
        f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores",
        f"Linux {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
        tools[0] if tools else version.strip(),
        f"flanneld {FLANNEL_VERSION}",
    ]
    return f"Measured on {datetime.date.today()}: {', '.join(parts)}."


def main() -> None:
    records = json.loads(FIGURES.read_text())
    PAGE.write_text(with_figures(PAGE.read_text(), records, machine()))
    PAGE.with_suffix(".svg").write_text(svg(panels(records)))
    print(f"written: {PAGE.relative_to(TOP)}, {PAGE.with_suffix('.svg').relative_to(TOP)}")


if __name__ == "__main__":
    main()
