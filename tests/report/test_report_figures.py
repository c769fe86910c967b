"""Every point of a figure stands where its number says, and a page can colour it."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from made_records import point_record
from report_sample import sample

from nlp_adv.drawing import new_figure
from nlp_adv.report import ModelResult, drawn
from nlp_adv.report.charts import (
    Chart,
    Line,
    Mark,
    chart_table,
    epsilon_charts,
    query_charts,
    radius_charts,
    radius_table,
    robust_radii,
)
from nlp_adv.robustness.statistics import Share

SVG = "{http://www.w3.org/2000/svg}"
POINTS = [Mark(0, 90, 80, 95), Mark(1, 50, 40, 60), Mark(4, 10, 5, 20)]


def chart(*lines: Line, **changes) -> Chart:
    return Chart(**{"title": "t", "x_label": "x", "lines": lines or [Line("a", POINTS)]} | changes)


def axes_of(one: Chart):
    """As matplotlib holds what is drawn."""
    figure = new_figure(5, 4)
    axes = figure.subplots()
    drawn._draw(axes, one)
    return axes


class TestLines:
    def test_points_and_bands_stand_at_their_values(self):
        axes = axes_of(chart())
        (line,) = axes.lines
        assert line.get_xydata().tolist() == [[p.x, p.value] for p in POINTS]
        corners = axes.collections[0].get_paths()[0].vertices.tolist()
        for point in POINTS:
            assert [point.x, point.low] in corners
            assert [point.x, point.high] in corners
        assert axes.get_ylim() == (0, 100)

    def test_a_step_holds_its_value_until_the_next_x(self):
        (line,) = axes_of(chart(steps=True)).lines
        assert line.get_drawstyle() == "steps-post"

    def test_a_wide_axis_is_logarithmic_and_has_zero_at_its_left_end(self):
        wide = [Mark(x, 50) for x in (0, 0.01, 0.1, 1)]
        axes = axes_of(chart(Line("a", wide)))
        places = [axes.transData.transform((x, 0))[0] for x in (0, 0.01, 0.1, 1)]
        assert places == sorted(places)
        assert places[3] - places[2] == pytest.approx(places[2] - places[1], rel=0.05)
        assert axes_of(chart()).get_xscale() == "linear"

    def test_grey_levels_are_ticks(self):
        axes = axes_of(chart(Line("a", [Mark(x, 50) for x in (0, 2, 8)]), levels=True))
        assert axes.get_xticks().tolist() == [0, 2, 8]

    @pytest.mark.parametrize("points", [[], POINTS[:1], [*POINTS, Mark(5, math.nan)]])
    def test_few_points_and_unknown_ones_are_drawn_without_failing(self, points):
        assert "nan" not in drawn.inline(chart(Line("a", points)), 0)

    def test_lines_differ_in_more_than_colour(self):
        lines = axes_of(chart(*(Line(f"m{i}", POINTS) for i in range(9)))).lines
        assert len({(one.get_color(), one.get_linestyle()) for one in lines}) == 9
        same = {}
        for one in lines:
            same.setdefault(one.get_linestyle(), set()).add(one.get_marker())
        assert all(len(marks) > 1 for style, marks in same.items() if style == "-")


class TestInline:
    @pytest.fixture(scope="class")
    @classmethod
    def text(cls) -> str:
        return drawn.inline(chart(title="<&\x00\"'" + "w" * 99, x_label="$x$ </svg>"), 7)

    def test_is_xml_whose_words_are_text(self, text):
        root = ElementTree.fromstring(text)
        words = ["".join(one.itertext()).strip() for one in root.iter(f"{SVG}text")]
        assert any(one.startswith("<&\ufffd\"'www") and one.endswith("…") for one in words)
        assert "$x$ </svg>" in words
        assert "a" in words
        assert root.get("role") == "img"
        assert root.get("width") is None

    def test_takes_the_colours_of_its_page(self, text):
        assert "var(--series-0, #0072b2)" in text
        assert "currentColor" in text
        assert not re.search(r"(?<!, )#(000000|0072b2|dddddd|ffffff)", text)
        assert "<style" not in text

    def test_its_names_are_no_other_charts(self, text):
        other = drawn.inline(chart(), 8)
        assert re.findall(r'id="([^"]*)"', text)
        assert not set(re.findall(r'id="([^"]*)"', text)) & set(re.findall(r'id="([^"]*)"', other))
        for place in re.findall(r'(?:url\(|href=")#([^)"]*)', text):
            assert f'id="{place}"' in text

    def test_equal_charts_are_equal(self):
        assert drawn.inline(chart(), 1) == drawn.inline(chart(), 1)
        assert drawn.sheet([chart()]) == drawn.sheet([chart()])

    def test_a_sheet_holds_all_charts(self):
        text = drawn.sheet([chart(title="first"), chart(title="second")])
        words = {one.text for one in ElementTree.fromstring(text).iter(f"{SVG}text")}
        assert {"first", "second"} <= words


class TestRadii:
    """The smallest δ that changes an answer: of 4 attacked examples, one that was not fooled."""

    def report(self):
        rows = [("wrong", 0.0), ("fooled", 0.3), ("fooled", 0.1), ("robust", 0.0), ("fooled", 0.2)]
        records = [
            point_record(n, outcome, attack="deepfool-l2", l2=length, text="a film")
            for n, (outcome, length) in enumerate(rows)
        ]
        at_radius = [point_record(n, "robust", attack="pgd-l2", epsilon=0.1) for n in range(2)]
        models = [ModelResult(name="plain", records=[*records, *at_radius])]
        return replace(sample(), models=models)

    def test_are_those_of_the_attacks_that_seek_them(self):
        (found,) = robust_radii(self.report(), ["deepfool-l2, any δ", "pgd-l2@0.1"])
        assert found.values == (0.1, 0.2, 0.3, math.inf)
        assert found.quartiles == (0.1, 0.2, 0.3)

    def test_are_drawn_and_told(self):
        radii = robust_radii(self.report(), ["deepfool-l2, any δ"])
        (one,) = radius_charts(radii)
        points = [(point.x, point.value) for point in one.lines[0].points]
        assert points == [(0.0, 0.0), (0.1, 25.0), (0.2, 50.0), (0.3, 75.0)]
        ((name, norm, *quartiles, share, count),) = radius_table(radii).rows
        assert (name.text, norm.text) == ("deepfool-l2, any δ: plain", "L2")
        assert [cell.text for cell in quartiles] == ["0.1", "0.2", "0.3"]
        assert (share.text, count.text) == ("75.0", "4")

    def test_unknown_lengths_are_no_radii(self):
        report = self.report()
        unknown = point_record(9, "fooled", attack="deepfool-l2", l2=math.nan)
        models = [replace(report.models[0], records=[unknown])]
        assert robust_radii(replace(report, models=models), ["deepfool-l2, any δ"]) == []

    def test_the_smallest_of_several_attacks_bounds_best(self):
        report = self.report()
        lengths = [0.0, 0.2, 0.4, 0.5, 0.2]
        other = [
            point_record(
                n, "fooled" if n else "wrong", attack="smallest-pgd-l2", l2=length, text="a film"
            )
            for n, length in enumerate(lengths)
        ]
        models = [replace(report.models[0], records=[*report.models[0].records, *other])]
        names = ["deepfool-l2, any δ", "smallest-pgd-l2, any δ"]
        *_, best = robust_radii(replace(report, models=models), names)
        assert best.values == (0.1, 0.2, 0.2, 0.5)


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
        points = chart.lines[0].points
        assert table.head == (
            "ε ÷ norm of the embeddings", *(f"{one.x:g}" for one in points), "area",
        )  # fmt: skip
        assert [row[0].text for row in table.rows] == ["plain", "b"]
        for row, line in zip(table.rows, chart.lines, strict=True):
            for cell, point in zip(row[1:], line.points, strict=False):
                assert cell.text == f"{point.value:.1f}"
                assert cell.notes == (f"[{point.low:.1f}, {point.high:.1f}]",)
        (model, _) = sample({"plain": 1.0, "b": 0.5}, (0,)).models
        assert table.rows[0][-1].text == f"{100 * model.curves[0].accuracy.area:.1f}"

    def test_one_methods_curves_stand_in_one_chart(self):
        report = sample({"plain": 1.0}, (0,))
        curve = report.models[0].curves[0]
        both = [replace(curve, title=name, scale=255.0) for name in ("pgd", "fgsm")]
        (chart,) = epsilon_charts(replace(report, models=[replace(report.models[0], curves=both)]))
        assert [line.name for line in chart.lines] == ["pgd", "fgsm"]
        assert chart.levels
        assert chart.lines[0].points[-1].x == 255.0
