# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What a benchmark yields: records as ``build/bench/datapath.json`` holds them, and their lines for people."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]
HEADER = (
    "case        family   peers objects   engine_s     ours_s  reference_s  engine_ratio  ratio  peak_mib"  # fmt: skip
)


@dataclass
class Samples:
    """Seconds of each run of a case, and peak memory in MiB. ``engine`` is empty where it is not measured alone."""

    engine: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)

    def record(self, case: str, family: str, peers: int, objects: int) -> Record:
        reference, whole = statistics.median(self.reference), statistics.median(self.ours)
        engine = statistics.median(self.engine) if self.engine else None
        return {
            "case": case,
            "family": family,
            "peers": peers,
            "objects": objects,
            "engine_s": None if engine is None else round(engine, 5),
            "ours_s": round(whole, 5),
            "reference_s": round(reference, 5),
            "engine_ratio": None if engine is None else round(engine / reference, 3),
            "ratio": round(whole / reference, 3),
            "peak_mib": round(max(self.peak), 1),
        }


def row(record: Record) -> str:
    engine, ratio = record["engine_s"], record["engine_ratio"]
    return (
        f"{record['case']:<11} {record['family']:<6} {record['peers']:>7} {record['objects']:>7} "
        f"{'-' if engine is None else f'{engine:.4f}':>10} {record['ours_s']:>10.4f} {record['reference_s']:>12.4f} "
        f"{'-' if ratio is None else f'{ratio:.2f}':>13} {record['ratio']:>6.2f} {record['peak_mib']:>9.1f}"
    )
