"""Every point of a figure stands where its number says."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_sample import sample

from nlp_adv.report.axes import axis
from nlp_adv.report.chart import Chart, Line, Point
from nlp_adv.report.curves import chart_table, epsilon_charts, query_charts
from nlp_adv.report.figures import sheet, svg
from nlp_adv.robustness.statistics import Share

SVG = "{http://www.w3.org/2000/svg}"
VALUES = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20, unique=True)


@given(VALUES, st.booleans())
def test_an_axis_keeps_the_order_and_its_ends(values, with_zero):
    values = sorted([0.0, *values] if with_zero else values)
    place, ticks = axis(values)
    places = [place(value) for value in values]
    assert places == sorted(places)
    assert len({round(p, 12) for p in places}) > 1 or len(values) == 1
    assert all(-1e-9 <= p <= 1 + 1e-9 for p in [*places, *map(place, ticks)])
    assert places[0] == pytest.approx(0, abs=1e-9)
    if len(values) > 1:
        assert places[-1] == pytest.approx(1)
    assert 1 <= len(ticks) <= 10 or values[-1] < 10 * values[0]
    assert ticks == sorted(set(ticks))


def test_ticks_are_round_numbers():
    assert axis([0, 10])[1] == [0, 2, 4, 6, 8, 10]
    assert axis([0, 0.3])[1] == [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    assert axis([0, 0.01, 1])[1] == [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    assert axis([1, 700])[1] == [1, 2, 5, 10, 20, 50, 100, 200, 500]
    assert axis([1, 1e5])[1] == [1, 10, 100, 1000, 1e4, 1e5]


def test_a_logarithmic_axis_is_one():
    place, _ = axis([1, 10, 100])
    assert place(10) == pytest.approx(0.5)
    with_zero, _ = axis([0, 1, 10, 100])
    assert with_zero(0) == 0
    assert 0 < with_zero(1) < 0.2
    assert with_zero(10) == pytest.approx((with_zero(1) + 1) / 2)


def corners(element: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]


def drawn(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(svg(chart))


def scales(root: ElementTree.Element) -> tuple[float, float, float, float]:
    """x of the left and right end, y of 0 and of 100 %, read off the grid."""
    rules = root.findall(f"{SVG}line")
    grid = [rule for rule in rules if rule.get("x1") != rule.get("x2")]
    ys = sorted(float(rule.get("y1")) for rule in grid)
    return float(grid[0].get("x1")), float(grid[0].get("x2")), ys[-1], ys[0]


POINTS = [Point(0, 90, 80, 95), Point(1, 50, 40, 60), Point(4, 10, 5, 20)]


class TestLines:
    def test_points_and_bands_stand_at_their_values(self):
        root = drawn(Chart(title="t", x_label="x", lines=[Line("a", POINTS)]))
        left, right, zero, full = scales(root)
        assert zero - full > 100

        def at(x, percent):
            return left + x / 4 * (right - left), zero + percent / 100 * (full - zero)

        line = next(iter(root.iter(f"{SVG}polyline")))
        want = [at(p.x, p.value) for p in POINTS]
        assert corners(line) == [pytest.approx(xy, abs=0.06) for xy in want]
        band = next(iter(root.iter(f"{SVG}polygon")))
        want = [at(p.x, p.high) for p in POINTS] + [at(p.x, p.low) for p in reversed(POINTS)]
        assert corners(band) == [pytest.approx(xy, abs=0.06) for xy in want]
        circles = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle")]
        assert circles[:3] == [pytest.approx(xy, abs=0.06) for xy in corners(line)]
        titles = [title.text for title in root.iter(f"{SVG}title")]
        assert titles[1] == "a, x 1: 50.0 % [40.0, 60.0]"

    def test_a_step_holds_its_value_until_the_next_x(self):
        root = drawn(Chart(title="t", x_label="x", lines=[Line("a", POINTS)], steps=True))
        line = corners(next(iter(root.iter(f"{SVG}polyline"))))
        flat = corners(
            next(
                iter(
                    drawn(Chart(title="t", x_label="x", lines=[Line("a", POINTS)])).iter(
                        f"{SVG}polyline"
                    )
                )
            )
        )
        (x0, y0), (x1, y1), (x2, y2) = flat
        assert line == [(x0, y0), (x1, y0), (x1, y1), (x2, y1), (x2, y2)]

    def test_nan_leaves_a_gap_and_no_number(self):
        lines = [Line("a", [*POINTS, Point(5, math.nan, math.nan, math.nan)])]
        text = svg(Chart(title="t", x_label="x", lines=lines))
        assert "nan" not in text
        assert len(corners(next(iter(ElementTree.fromstring(text).iter(f"{SVG}polyline"))))) == 3

    @pytest.mark.parametrize("points", [[], POINTS[:1], [Point(0, 0, 0, 0)]])
    def test_few_points_are_drawn_without_failing(self, points):
        assert "nan" not in svg(Chart(title="t", x_label="x", lines=[Line("a", points)]))

    def test_lines_differ_in_more_than_colour(self):
        lines = [Line(f"m{i}", POINTS) for i in range(9)]
        root = drawn(Chart(title="t", x_label="x", lines=lines))
        groups = [g for g in root.findall(f"{SVG}g") if g.find(f"{SVG}polyline") is not None]
        assert len({g.get("color") for g in groups}) == 7
        looks = [(g.get("color"), g.find(f"{SVG}polyline").get("stroke-dasharray")) for g in groups]
        assert len(set(looks)) == 9
        assert len({dashes for _, dashes in looks[:7]}) == 7
        texts = [text.text for text in root.findall(f"{SVG}text")]
        assert [f"m{i}" for i in range(9)] == texts[-9:]

    def test_names_are_escaped_and_cut(self):
        chart = Chart(title="<&\x00\"'" + "w" * 99, x_label="<x>", lines=[Line("</svg>", POINTS)])
        texts = [text.text for text in drawn(chart).iter(f"{SVG}text")]
        assert texts[0].startswith("<&\ufffd\"'www")
        assert texts[0].endswith("…")
        assert "</svg>" in texts
        ElementTree.fromstring(sheet([chart, chart]))

    def test_a_sheet_holds_all_charts_without_overlap(self):
        charts = [
            Chart(title=t, x_label="x", lines=[Line("a", POINTS)] * n)
            for t, n in [("p", 1), ("q", 5)]
        ]
        root = ElementTree.fromstring(sheet(charts))
        heights = [float(drawn(chart).get("viewBox").split()[3]) for chart in charts]
        panels = [g for g in root.findall(f"{SVG}g")]
        tops = [float(re.search(r" ([\d.]+)\)", g.get("transform"))[1]) for g in panels]
        assert tops == [0, heights[0]]
        assert float(root.get("height")) == sum(heights)


class TestCurves:
    def test_epsilon_curves_are_the_shares(self):
        report = sample(seeds=(0, 1))
        models = [
            replace(
                m,
                curves=[
                    replace(m.curves[0], points={0.0: Share(9, 10), 0.5: Share(3 + m.seed, 10)})
                ],
            )
            for m in report.models
        ]
        (chart,) = epsilon_charts(replace(report, models=models))
        assert [line.name for line in chart.lines] == ["plain", "freelb", "pgd"]
        zero, half = chart.lines[0].points
        assert (zero.x, zero.value, zero.low, zero.high) == (0, 90, 90, 90)
        assert (half.x, half.value) == (0.5, pytest.approx(35))
        assert (half.low, half.high) == (30, 40)  # the two seeds

    def test_one_seed_has_wilsons_band(self):
        (chart,) = epsilon_charts(sample({"plain": 1.0}, (0,)))
        low, high = Share(54, 60).interval()
        first = chart.lines[0].points[0]
        assert (first.value, first.low, first.high) == pytest.approx((90, 100 * low, 100 * high))

    def test_query_curves_count_the_texts_that_fell_in_time(self):
        report = sample()
        charts = query_charts(report, ["textfooler", "deepwordbug", "pgd eps=0.2"])
        # An attack that leaves the texts alone asks no queries of this kind.
        assert [chart.title for chart in charts] == ["textfooler", "deepwordbug"]
        for chart in charts:
            assert chart.steps
            for line in chart.lines:
                seeds = report.methods()[line.name]
                assert 20 < len(line.points) < 60
                for point in line.points:
                    shares = []
                    for model in seeds:
                        mine = [r for r in model.records if r.attack == chart.title]
                        right = [
                            r.prediction == r.label
                            and (r.adversarial_prediction == r.label or r.found.queries > point.x)
                            for r in mine
                        ]
                        shares.append(100 * sum(right) / len(mine))
                    assert point.value == pytest.approx(sum(shares) / len(shares))
                    assert (point.low, point.high) == pytest.approx((min(shares), max(shares)))
                last = [
                    r.found.queries
                    for m in report.models
                    for r in m.records
                    if r.attack == chart.title
                ]
                assert line.points[-1].x == max(last)

    def test_the_table_below_a_figure_has_its_numbers(self):
        (chart,) = epsilon_charts(sample({"plain": 1.0, "b": 0.5}, (0,)))
        table = chart_table(chart)
        assert table.head == ("ε ÷ norm of the embeddings", "plain", "b")
        for row, point, other in zip(
            table.rows, chart.lines[0].points, chart.lines[1].points, strict=True
        ):
            assert row[0].text == f"{point.x:g}"
            assert row[1].text == f"{point.value:.1f}"
            assert row[2].notes == (f"[{other.low:.1f}, {other.high:.1f}]",)
