# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Put the figures of the last benchmark of services into docs/reference/benchmarks_services.md."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.bench.page import TOP, line, machine, shown, with_tables
from tests.bench.records import Record

FIGURES = TOP / "build" / "bench" / "services.json"
PAGE = TOP / "docs" / "reference" / "benchmarks_services.md"
_COLUMNS = (
    "case",
    "services",
    "objects",
    "engine s",
    "whole s",
    "reference s",
    "engine / ref.",
    "whole / ref.",
    "kernel s",
    "sent",
    "MiB",
)


def with_figures(page: str, records: Sequence[Record], measured_on: str) -> str:
    head = [line(_COLUMNS), line(["---", *["--:"] * (len(_COLUMNS) - 1)])]
    return with_tables(page, measured_on, ["", *head, *map(_row, records)])


def _row(record: Record) -> str:
    digits = 6 if record["case"] == "connect" else 4
    numbers = [f"{record[key]:,}" for key in ("services", "objects")]
    seconds = [shown(record[key], digits) for key in ("engine_s", "ours_s", "reference_s")]
    ratios = [shown(record[key], 3) for key in ("engine_ratio", "ratio")]
    rest = [shown(record["kernel_s"], 4), f"{record['operations']:,}", f"{record['peak_mib']:.0f}"]
    return line([record["case"], *numbers, *seconds, *ratios, *rest])


def main() -> None:
    records = json.loads(FIGURES.read_text())
    PAGE.write_text(with_figures(PAGE.read_text(), records, machine()))
    print(f"written: {PAGE.relative_to(TOP)}")


if __name__ == "__main__":
    main()
