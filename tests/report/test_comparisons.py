"""What a report compares, what it marks, and what it refuses to put into one table."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace

import pytest
from made_records import changed
from report_sample import Page, record, result, sample, written
from scipy.stats import norm

from nlp_adv.errors import UserError
from nlp_adv.perturbation.units import token_share
from nlp_adv.report import ModelResult, Report

pytestmark = pytest.mark.fault("S1")


def model(name: str, seed: int, rate: float, *, texts: int = 200) -> ModelResult:
    """Falls to textfooler at this rate, and has all texts right without it."""
    rng = random.Random(f"{name} {seed}")
    outcomes = ["fooled" if rng.random() < rate else "robust" for _ in range(texts)]
    records = [record(i, "textfooler", one, rng) for i, one in enumerate(outcomes)]
    return ModelResult(name=name, seed=seed, records=records)


def report(*models: ModelResult) -> Report:
    return replace(sample(), models=models, published=())


def methods(found: dict[str, str]) -> dict[str, dict]:
    content = json.loads(found["report.json"])
    return {method["name"]: method["accuracy"] for method in content["methods"]}


class TestMarks:
    @pytest.mark.parametrize(
        ("numbers", "marked"),
        [((1, 1), 0), ((2, 2), 0), ((2, 3), 0), ((3, 2), 0), ((3, 3), 1), ((5, 3), 1)],
    )
    def test_stand_where_three_seeds_do(self, numbers, marked, tmp_path):
        plain = [model("plain", seed, 0.8) for seed in range(numbers[0])]
        better = [model("better", seed, 0.3) for seed in range(numbers[1])]
        files = written(report(*plain, *better), tmp_path)
        accuracy = methods(files)["better"]["textfooler"]
        assert accuracy["difference"]["difference"] > 0.3
        assert accuracy["told_from_0"] is bool(marked)
        table = Page(files["report.html"]).tables[0]
        assert "".join(map("".join, table)).count("▲") == marked
        said = files["report.md"].splitlines()[2]
        assert ("too few to tell it from 0" in said) is not bool(marked)

    def test_a_worse_method_is_marked_down(self, tmp_path):
        models = [
            model(n, s, rate) for n, rate in (("plain", 0.3), ("worse", 0.8)) for s in (0, 1, 2)
        ]
        table = Page(written(report(*models), tmp_path)["report.html"]).tables[0]
        assert "".join(map("".join, table)).count("▼") == 1

    def test_are_adjusted_together(self, tmp_path):
        """Of twenty methods one would be marked if it were the only one; the table marks none."""
        rates = [0.5] * 20 + [0.42]
        models = [
            model(f"m{n}", s, rate, texts=100) for n, rate in enumerate(rates) for s in range(3)
        ]
        found = methods(written(report(*models), tmp_path))
        scores = [found[f"m{n}"]["textfooler"] for n in range(1, 21)]
        assert min(score["p"] for score in scores) < 0.05
        assert not any(score["told_from_0"] for score in scores)
        running = 0.0
        p_values = sorted(
            (score["p"], score["p_holm"])
            for one in found.values()
            for score in one.values()
            if score["p"] is not None
        )
        for rank, (p, adjusted) in enumerate(p_values):
            running = max(running, min(1.0, (len(p_values) - rank) * p))
            assert adjusted == pytest.approx(running)

    def test_the_p_of_several_seeds_is_the_intervals(self, tmp_path):
        models = [model(n, s, 0.5) for n in ("plain", "other") for s in range(3)]
        score = methods(written(report(*models), tmp_path))["other"]["textfooler"]
        gap = score["difference"]
        assert score["p"] == gap["p"]
        assert (score["p"] < 0.05) == (gap["low"] > 0 or gap["high"] < 0)


@pytest.mark.fault("S2")
def test_the_mean_over_seeds_has_an_interval_that_holds_the_seeds(tmp_path):
    """Two seeds far apart: Wilson's interval around their mean would hold neither."""
    models = [model("plain", 0, 0.157, texts=1000), model("plain", 1, 0.303, texts=1000)]
    models = [replace(m, clean=None) for m in models]
    score = methods(written(report(*models), tmp_path))["plain"]["textfooler"]
    low, high = score["low"], score["high"]
    assert low < 0.25
    assert high > 0.95
    z = norm.ppf(0.975)
    assert high - low > 10 * 2 * z * (0.77 * 0.23 / 1000) ** 0.5


@pytest.mark.fault("U1")
def test_clean_accuracy_of_the_same_texts_stands_in_every_cell(tmp_path):
    plain = result("plain", 0)
    fewer = [r for r in plain.records if r.attack != "deepwordbug" or r.id >= 40]
    files = written(report(replace(plain, records=fewer)), tmp_path)
    page = Page(files["report.html"])
    head, row = page.table("method", "clean")
    shown = {}
    for attack in ("textfooler", "deepwordbug"):
        mine = [r for r in fewer if r.attack == attack]
        clean = 100 * sum(r.outcome != "wrong" for r in mine) / len(mine)
        shown[attack] = f"|of {clean:.1f} clean|" in row[head.index(attack)]
        assert shown[attack] == (f"{clean:.1f}" != row[head.index("clean")].split("|")[0])
    assert any(shown.values())
    assert page.table("largest answer")[1][-1].endswith("|of the labels 50.0")


def on_embeddings(name: str, tokens: int, attack: str, *, first: int = 0) -> ModelResult:
    rng = random.Random(0)
    records = [
        changed(record(i, attack, "robust", rng), tokens=7 * (tokens + i % 2), forwards=7)
        for i in range(first, first + 40)
    ]
    return ModelResult(name=name, records=records)


@pytest.mark.fault("S3")
class TestThreat:
    @pytest.mark.parametrize(
        ("attack", "power"),
        [
            ("embedding-pgd-l2@0.03", 0.5),
            ("embedding-pgd-l1@0.03", 1),
            ("embedding-pgd-linf@0.03", 0),
            ("embedding-pgd-l2-token@0.03", 0),
            ("embedding-noise-l2@0.03", 0.5),
        ],
    )
    def test_the_share_of_a_token_stands_beside_epsilon(self, attack, power, tmp_path):
        files = written(report(on_embeddings("plain", 20, attack)), tmp_path)
        share = 100 * 0.03 * 20.5**power
        head = Page(files["report.html"]).tables[0][0]
        assert f"{attack} (up to {share:.2g} % of a token)" in head
        assert "in a text of 20.5 tokens, the median here" in files["report.md"]
        assert ("a longer text is attacked harder" in files["report.md"]) == (power > 0)

    @pytest.mark.parametrize("unit", ["absolute", "per_coordinate"])
    def test_other_units_have_no_such_share(self, unit, tmp_path):
        attack = f"embedding-pgd-l2-{unit}@0.5"
        files = written(report(on_embeddings("plain", 20, attack)), tmp_path)
        assert "of a token" not in files["report.md"]

    @pytest.mark.parametrize(
        ("attack", "refused"),
        [
            ("embedding-pgd-l2@0.03", True),
            ("embedding-pgd-l1@0.03", True),
            ("embedding-pgd-l2-per_coordinate@0.03", True),
            ("embedding-pgd-linf@0.03", False),
            ("embedding-pgd-l2-token@0.03", False),
            ("embedding-pgd-l2-absolute@0.03", False),
        ],
    )
    def test_data_of_another_length_is_refused(self, attack, refused, tmp_path):
        """Sentences of 21 tokens and texts of 120: 14 and 33 % of a token's norm."""
        short = on_embeddings("sst2", 21, attack)
        long = on_embeddings("imdb", 120, attack, first=40)
        if not refused:
            written(report(short, long), tmp_path)
            return
        with pytest.raises(
            UserError, match=r"21\.5 tokens in the median, than to imdb, with 120\.5"
        ):
            written(report(short, long), tmp_path)
        assert not list(tmp_path.iterdir())

    def test_another_tokenizer_is_not(self, tmp_path):
        attack = "embedding-pgd-l2@0.03"
        models = [on_embeddings("bert", 21, attack), on_embeddings("roberta", 24, attack)]
        assert "report.md" in written(report(*models), tmp_path)

    def test_other_texts_under_the_same_ids_are_refused(self, tmp_path):
        first, second = model("plain", 0, 0.5), model("other", 0, 0.5)
        swapped = [changed(r, original=second.records[r.id - 1].text) for r in second.records]
        with pytest.raises(UserError, match="the same texts"):
            written(report(first, replace(second, records=swapped)), tmp_path)
        relabelled = [replace(r, outcome="wrong", label=1 - r.label) for r in second.records]
        with pytest.raises(UserError, match="the same texts"):
            written(report(first, replace(second, records=relabelled)), tmp_path)

    def test_the_numbers_that_are_given(self):
        assert token_share(0.03, 21.8) == pytest.approx(0.14, abs=0.001)
        assert token_share(0.03, 121) == pytest.approx(0.33)
        assert token_share(0.03, 121, norm="linf") == token_share(0.03, 121, per="token") == 0.03

    def test_is_that_of_all_of_delta_on_one_token(self):
        """By a ball: T tokens of norm 1, and δ of the allowed norm on one of them."""
        import torch

        from nlp_adv.perturbation import BALLS

        tokens, dim = 9, 4
        x = torch.randn(1, tokens, dim, dtype=torch.float64)
        for name, ball in BALLS.items():
            flat = torch.full((1, tokens, dim), x.square().mean().sqrt().item())
            allowed = 0.05 * float(ball(1.0, "example").norm(flat).max())
            of_one = float(ball(1.0, "example").norm(flat[:, :1]).max())
            assert token_share(0.05, tokens, norm=name) == pytest.approx(allowed / of_one)


def test_the_summary_names_clean_accuracy(tmp_path):
    text = written(report(result("plain", 0)), tmp_path)["report.md"].splitlines()[2]
    assert re.search(r"under .* \([\d.]+ % without attack\)", text.replace("\\", ""))
