# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The page of figures that ``make bench`` writes: complete, and the same when it is written again."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import services_page
from tests.bench.page import BEGIN, END, PAGE, panels, with_figures
from tests.bench.plot import svg
from tests.bench.records import Record, Samples

SVG = "{http://www.w3.org/2000/svg}"


def record(case: str, family: str, peers: int, engine: float | None, ours: float, reference: float) -> Record:
    samples = Samples([] if engine is None else [engine], [ours], [reference], [50.0])
    return samples.record(case, family, peers, 4 * peers)


RECORDS = [
    record("apply", "ipv4", 20000, 0.8, 1.2, 6.0),
    record("apply", "ipv4", 200, 0.02, 0.1, 0.01),
    record("apply", "ipv4", 2000, 0.08, 0.2, 0.1),
    record("noop", "ipv4", 200, 0.01, 0.1, 0.01),
    record("apply", "dual", 200, 0.04, 0.1, 0.02),
    record("start", "ipv4", 200, None, 0.4, 0.2),
]


@pytest.mark.parametrize("path", [PAGE, services_page.PAGE], ids=lambda path: path.name)
def test_the_page_has_its_place_for_figures(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1 and page.index(BEGIN) < page.index(END)


def test_each_record_has_a_row_and_the_words_around_stay() -> None:
    page = with_figures(f"before\n{BEGIN}\nold\n{END}\nafter\n", RECORDS, "Measured on a machine.")
    assert page.startswith("before\n") and page.endswith("after\n") and "old" not in page
    assert "| apply | 20,000 | 80,000 | 0.8000 | 1.2000 | 6.0000 | 0.13 | 0.20 | 50 |" in page
    assert "| start | 200 | 800 |  | 0.4000 | 0.2000 |  | 2.00 | 50 |" in page
    assert len(re.findall(r"^\| (apply|noop|start) ", page, re.MULTILINE)) == len(RECORDS)
    assert with_figures(page, RECORDS, "Measured on a machine.") == page


def test_records_of_services_have_their_rows() -> None:
    record = {
        **{"case": "program", "services": 10000, "objects": 40000, "engine_s": 1.5, "ours_s": 2.0, "reference_s": 36.0},
        **{"engine_ratio": 0.042, "ratio": 0.056, "kernel_s": 0.7, "operations": 40000, "peak_mib": 120.4},
    }
    page = services_page.with_figures(f"{BEGIN}\n{END}\n", [record], "Measured on a machine.")
    assert "| program | 10,000 | 40,000 | 1.5000 | 2.0000 | 36.0000 | 0.042 | 0.056 | 0.7000 | 40,000 | 120 |" in page


def test_a_page_without_its_marks_is_left_alone() -> None:
    with pytest.raises(AssertionError, match="lost its marks"):
        with_figures("words\n", RECORDS, "")


def test_the_picture_has_a_panel_for_each_case_and_family_that_was_measured() -> None:
    drawn = ElementTree.fromstring(svg(panels(RECORDS)))
    assert (drawn.attrib["width"], drawn.attrib["height"]) == ("680", "600")
    groups = drawn.findall(f"{SVG}g")
    assert [group[0].text for group in groups] == ["Apply, IPv4", "Apply, IPv4 and IPv6", "Start, IPv4"]
    assert [len(group.findall(f"{SVG}polyline")) for group in groups] == [3, 3, 2]


def test_axes_are_logarithmic_and_lines_in_the_order_of_peers() -> None:
    group = ElementTree.fromstring(svg(panels(RECORDS)))[1]
    line = group.findall(f"{SVG}polyline")[2].attrib["points"].split()
    (x1, y1), (x2, y2), (x3, y3) = (map(float, point.split(",")) for point in line)
    # Ten times as many peers each; ten times, then sixty times as many seconds.
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2) and x2 > x1
    assert (y2 - y3) / (y1 - y2) == pytest.approx(1.778, abs=0.01)
