"""The report says what the records say, and the same in every file."""

from __future__ import annotations

import csv
import json
import re
import statistics
from dataclasses import replace

import pytest
from report_sample import (
    ATTACKS,
    RADII,
    Page,
    accuracy,
    markdown_tables,
    right_under,
    sample,
    wilson,
    written,
)
from scipy.stats import binomtest

from nlp_adv.report import Report
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.statistics import _changed, queries_of


@pytest.fixture(scope="module")
def report() -> Report:
    return sample()


@pytest.fixture(scope="module")
def files(report, tmp_path_factory) -> dict[str, str]:
    return written(report, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(files) -> Page:
    return Page(files["report.html"])


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory) -> tuple[Report, dict[str, str]]:
    report = sample(seeds=(0,))
    return report, written(report, tmp_path_factory.mktemp("one"))


MEASURES = ["clean", *ATTACKS, "worst case"]


def _stopped(record) -> bool:
    return getattr(record.found, "budget_stopped", False)


class TestNumbers:
    def test_the_page_shows_mean_and_sd_of_what_the_records_say(self, report, page):
        table, clean = page.table("method", "clean"), page.table("largest answer")
        assert table[0] == ["method", *MEASURES]
        assert clean[0] == ["method", "clean, all test texts", "largest answer"]
        both = zip(table[1:], clean[1:], report.methods().items(), strict=True)
        for row, other, (name, seeds) in both:
            assert row[0].split("|")[0] == other[0] == name
            everywhere = [100 * model.clean.value for model in seeds]
            shown = [cell.split("|")[0].split(" ± ") for cell in (other[1], *row[1:])]
            want = [everywhere, *([100 * accuracy(m, x) for m in seeds] for x in MEASURES)]
            for (mean, sd), values in zip(shown, want, strict=True):
                assert float(mean) == pytest.approx(statistics.mean(values), abs=0.0501)
                assert float(sd) == pytest.approx(statistics.stdev(values), abs=0.0501)

    def test_the_difference_is_that_of_the_means(self, report, page):
        plain, *others = report.methods().values()
        table = page.table("method", "clean")
        for row, seeds in zip(table[2:], others, strict=True):
            for cell, measure in zip(row[1:], MEASURES, strict=True):
                gap = 100 * (
                    statistics.mean(accuracy(m, measure) for m in seeds)
                    - statistics.mean(accuracy(m, measure) for m in plain)
                )
                notes = cell.split("|")[2:]
                sign, value, low, high = re.fullmatch(
                    r"([▲▼Δ]) (\S+) \[(\S+), (\S+)\]", notes[0]
                ).groups()
                value, low, high = (float(x.replace("−", "-")) for x in (value, low, high))
                assert value == pytest.approx(gap, abs=0.0501)
                assert low < value < high
                assert high - low > 5
                assert sign == "Δ"  # two seeds are too few for any other
        assert not re.search("[▲▼Δ]", " ".join(table[1]))

    def test_the_interval_over_seeds_holds_the_mean_and_is_no_point(self, report, files):
        for method in json.loads(files["report.json"])["methods"]:
            for score in method["accuracy"].values():
                assert score["low"] < score["mean"] < score["high"]

    def test_one_seed_has_wilsons_interval_and_mcnemars_p(self, one_seed):
        report, files = one_seed
        content = json.loads(files["report.json"])
        plain, *others = report.models
        p_values = {}
        for model, method in zip(report.models, content["methods"], strict=True):
            for measure in MEASURES:
                score = method["accuracy"][measure]
                share = accuracy(model, measure)
                assert score["mean"] == share
                assert score["sd"] is None
                assert (score["low"], score["high"]) == pytest.approx(wilson(share, 60))
        for model, method in zip(others, content["methods"][1:], strict=True):
            for measure in MEASURES:
                first, second = right_under(plain, measure), right_under(model, measure)
                pairs = [(first[i], second[i]) for i in first]
                b, c = pairs.count((True, False)), pairs.count((False, True))
                p_values[model.name, measure] = binomtest(b, b + c).pvalue if b + c else 1.0
                score = method["accuracy"][measure]
                assert score["p"] == pytest.approx(p_values[model.name, measure])
                assert score["difference"]["difference"] == pytest.approx((c - b) / 60)
        # Holm: step down from the smallest, never falling, over the whole table.
        running = 0.0
        for rank, key in enumerate(sorted(p_values, key=p_values.get)):
            running = max(running, min(1.0, (len(p_values) - rank) * p_values[key]))
            method = next(m for m in content["methods"] if m["name"] == key[0])
            assert method["accuracy"][key[1]]["p_holm"] == pytest.approx(running)
        assert len(p_values) == 10
        assert min(p_values.values()) < 0.1
        smallest = min(p_values, key=p_values.get)
        table = Page(files["report.html"]).table("method", "clean")
        row = next(r for r in table if r[0].startswith(smallest[0]))
        shown = row[1 + MEASURES.index(smallest[1])].split("|")[-1]
        assert shown == f"p = {min(1, 10 * p_values[smallest]):.3f}"

    def test_the_attacks_in_detail(self, report, page):
        head, *rows = page.table("attack: method")
        assert head[1:] == [
            "clean, %", "accuracy, %", "attack succeeds, %", "queries a text", "words changed, %",
            "stopped by the budget, %", "texts",
        ]  # fmt: skip
        keys = [(attack, name) for attack in ATTACKS for name in report.methods()]
        for row, (attack, name) in zip(rows, keys, strict=True):
            assert row[0] == f"{attack}: {name}"
            seeds = [
                [r for r in model.records if r.title == attack and r.outcome != "wrong"]
                for model in report.methods()[name]
            ]
            fallen = [[r for r in seed if r.outcome == "fooled"] for seed in seeds]
            success = [100 * len(f) / len(s) for f, s in zip(fallen, seeds, strict=True)]
            queries = [statistics.mean(queries_of(r) for r in seed) for seed in seeds]
            words = [100 * statistics.mean(map(_changed, one)) for one in fallen]
            stopped = [100 * statistics.mean(map(_stopped, one)) for one in seeds]
            for cell, values in zip(row[3:7], (success, queries, words, stopped), strict=True):
                shown = [float(x.replace(",", "")) for x in cell.split(" ± ")]
                want = [statistics.mean(values), statistics.stdev(values)]
                assert shown == pytest.approx(want, abs=0.0501 if want[0] < 100 else 0.501)
            assert row[7] == "60"

    def test_csv_has_a_row_a_model_and_attack(self, report, files):
        rows = list(csv.DictReader(files["report.csv"].splitlines()))
        keys = [(m, attack) for m in report.models for attack in ATTACKS]
        for row, (model, attack) in zip(rows, keys, strict=True):
            assert (row["method"], row["seed"]) == (model.name, str(model.seed))
            assert (row["attack"], row["protocol_hash"]) == (attack, "0123456789ab")
            for column, measure in {
                "clean": "clean", "under_attack": attack, "worst_case": "worst case"
            }.items():  # fmt: skip
                share = accuracy(model, measure)
                low, high = float(row[f"{column}_low"]), float(row[f"{column}_high"])
                assert float(row[column]) == share
                assert (low, high) == pytest.approx(wilson(share, 60))
            assert float(row["clean_all_texts"]) == model.clean.value
            assert float(row["under_attack"]) == pytest.approx(
                float(row["clean"]) * (1 - float(row["success"]))
            )
            tokens = sum(r.found.tokens for r in model.records if r.title == attack)
            assert float(row["tokens"]) == tokens

    def test_json_agrees_with_csv(self, report, files):
        content = json.loads(files["report.json"])
        rows = iter(csv.DictReader(files["report.csv"].splitlines()))
        for model in content["models"]:
            for summary in model["attacks"].values():
                row = next(rows)
                for name in ("clean", "under_attack", "success", "budget_stopped"):
                    share = summary[name]
                    assert share["value"] == share["count"] / share["total"] == float(row[name])
                    assert share["low"] == float(row[f"{name}_low"])
                for name in ("queries", "forwards", "tokens", "words_changed"):
                    assert summary[name] == float(row[name])
                assert model["worst_case"]["value"] == float(row["worst_case"])
        assert next(rows, None) is None
        assert content["protocol"] == report.protocol
        assert [len(model["checks"]) for model in content["models"]] == [3] * 6
        assert [p["x"] for p in content["models"][0]["curves"][0]["points"]] == RADII
        assert content["published"][0]["value"] == 88.96

    def test_markdown_has_the_same_cells_as_the_page(self, files, page):
        pages, marks = page.tables, markdown_tables(files["report.md"])
        found = {tuple(map(tuple, table[1:])) for table in pages}
        facts = {tuple(map(tuple, table)) for table in pages}
        assert marks[0] == page.table("method", "clean")
        assert marks[1] == page.table("largest answer")
        assert tuple(map(tuple, marks[2][1:])) in found  # checks that do not pass
        # Those that do are folded on the page, and counted where nothing folds.
        passed = [row for table in pages for row in table if row[0] == "✓ passes"]
        assert sum(int(row[1].split(" ")[0]) for row in marks[3][1:]) == len(passed) == 15
        assert marks[4] == page.table("attack: method")
        assert tuple(map(tuple, marks[5][1:])) in found  # the numbers of a figure
        assert tuple(map(tuple, marks[6][1:])) in facts  # protocol, without a head on the page
        assert tuple(map(tuple, marks[7][1:])) in found  # published
        assert tuple(map(tuple, marks[8][1:])) in found  # cost
        assert all(tuple(map(tuple, one[1:])) in facts for one in marks[9:])  # the run, how trained

    def test_published_values_stand_beside_ours(self, report, files):
        head, *rows = markdown_tables(files["report.md"])[7]
        assert head[3:6] == ["published", "here", "here − published"]
        clean = 100 * statistics.mean(m.clean.value for m in report.methods()["plain"])
        freelb = [100 * accuracy(m, "textfooler") for m in report.methods()["freelb"]]
        assert rows[0][3] == "88.96 ± 0.3"
        assert float(rows[0][5].replace("−", "-")) == pytest.approx(clean - 88.96, abs=0.0501)
        assert float(rows[1][5].replace("−", "-")) == pytest.approx(
            statistics.mean(freelb) - 19.51, abs=0.0501
        )
        assert float(rows[2][4].split(" ")[0]) + 90 > 166 - 90  # queries are no percentages
        assert rows[3][4:6] == ["–", "–"]
        assert [row[6] for row in rows] == ["read in the paper"] * 2 + ["unverified"] * 2


class TestWhatCannotBeMissed:
    def test_a_failed_check_stands_above_the_numbers(self, files):
        words = "Texts made for another model fool this one better than its own attack does"
        for name, first in {"report.html": "<table", "report.md": "\n|"}.items():
            text = files[name]
            alarm = text.index("1 of 18 checks failed")
            assert alarm < text.index(words) < text.index(first)
            assert "pgd" in text[alarm : text.index(first)]
        page = Page(files["report.html"])
        assert page.table("method", "clean")[3][0] == "pgd|2 seeds|⚠ 1 failed check"
        assert page.table("verdict")[1][0] == "✗ fails"
        assert [row[0] for row in page.table("verdict")[2:]] == ["? undecided"] * 2
        _, passed = (table for table in page.tables if table[0][:1] == ["verdict"])
        assert len(passed) == 16

    def test_the_summary_does_not_praise_a_model_that_fails(self, report, files):
        text = files["report.md"].splitlines()[2]
        best = max(report.methods(), key=lambda name: statistics.mean(
            accuracy(model, "worst case") for model in report.methods()[name]))  # fmt: skip
        assert best == "pgd"
        assert "Of 3 methods pgd answers most" in text
        assert "fails a check" in text

    @pytest.mark.parametrize(
        ("verdicts", "want"),
        [
            ([], "? No checks were run"),
            ([True, True], "✓ 2 of 2 checks passed, 0 undecided."),
            ([True, None], "? 1 of 2 checks passed, 1 undecided."),
            ([False, None], "✗ 1 of 2 checks failed: do not read the accuracy of plain"),
        ],
    )
    def test_the_verdict(self, verdicts, want, tmp_path):
        checks = [Check("c", verdict, "found", "meant") for verdict in verdicts]
        report = sample({"plain": 1.0}, (None,))
        report = replace(report, models=[replace(report.models[0], checks=checks)])
        for name in ("report.html", "report.md"):
            text = Page(written(report, tmp_path)[name]).words.replace("\xa0", " ")
            assert want in text
