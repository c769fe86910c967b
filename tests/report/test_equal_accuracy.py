"""The part of a report that compares methods at equal clean accuracy."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from report_sample import Page, record, sample, written

from nlp_adv.report import ModelResult
from nlp_adv.robustness.matched import Outcome, constant_answers, gain_at_equal_accuracy

TEXTS = 120
OF = {"plain": (0.9, 0.5), "plain at 0.5": (0.75, 0.3), "fgm": (0.8, 0.1), "shy": (0.55, 0.2)}


def model(name: str, seed: int, *, plain: bool = False, texts: int = TEXTS) -> ModelResult:
    """Right and then fooled at these rates."""
    rng, (clean, fooled) = random.Random(f"{name} {seed}"), OF[name]
    outcomes = [
        "wrong" if rng.random() > clean else "fooled" if rng.random() < fooled else "robust"
        for _ in range(texts)
    ]
    records = [record(i, "textfooler", one, rng) for i, one in enumerate(outcomes)]
    return ModelResult(name=name, seed=seed, records=records, plain=plain)


def models(*, plain: tuple[str, ...] = ("plain", "plain at 0.5"), seeds=(0, 1, 2)):
    return [model(name, seed, plain=name in plain) for name in OF for seed in seeds]


def content(tmp_path, *found: ModelResult) -> tuple[dict, dict[str, str]]:
    files = written(replace(sample(), models=found, published=()), tmp_path)
    return json.loads(files["report.json"])["equal_clean_accuracy"], files


def outcome(one: ModelResult) -> Outcome:
    right = [r.outcome != "wrong" for r in one.records]
    return Outcome(np.array(right), np.array([r.outcome == "robust" for r in one.records]))


def test_gains_are_over_the_curve_of_the_same_seed(tmp_path):
    found = models()
    (equal,), files = content(tmp_path, *found)
    assert equal["measure"] == "textfooler"
    assert equal["plain"] == ["plain", "plain at 0.5"]
    assert equal["methods"]["plain"] is equal["methods"]["plain at 0.5"] is None
    by_name = {name: [outcome(one) for one in found if one.name == name] for name in OF}
    constant = constant_answers([r.label for r in found[0].records])
    curves = [
        [*pair, *constant]
        for pair in zip(*map(by_name.get, ("plain", "plain at 0.5")), strict=True)
    ]
    for name in ("fgm", "shy"):
        expected = gain_at_equal_accuracy(by_name[name], curves)
        assert equal["methods"][name]["gain"]["difference"] == pytest.approx(expected.difference)
        assert equal["methods"][name]["gain"]["low"] == pytest.approx(expected.low)
        assert equal["methods"][name]["seeds"] == 3
    # Far above the curve, and below it: the second is robust because it is seldom right.
    assert equal["methods"]["fgm"]["gain"]["low"] > 0
    assert "equal_accuracy.svg" in files
    assert "At equal clean accuracy" in files["report.md"]
    assert any("▲" in "".join(map("".join, table)) for table in Page(files["report.html"]).tables)


def test_a_constant_model_gains_nothing(tmp_path):
    """However many of its answers no attack changes."""
    rng = random.Random(0)
    labels = [id % 2 for id in range(TEXTS)]
    records = [
        record(i, "textfooler", "robust" if one else "wrong", rng) for i, one in enumerate(labels)
    ]
    constant = ModelResult(name="constant", seed=0, records=records)
    (equal,), _ = content(tmp_path, model("plain", 0, plain=True), constant)
    assert equal["methods"]["constant"]["gain"]["difference"] <= 0


@pytest.mark.parametrize("plain", [(), tuple(OF)])
def test_without_a_plain_model_or_another_one_there_is_nothing_to_show(plain, tmp_path):
    equal, files = content(tmp_path, *models(plain=plain, seeds=(0,)))
    assert equal == []
    assert "At equal clean accuracy" not in files["report.md"]
    assert "equal_accuracy.svg" not in files


def test_a_curve_of_one_model_says_so(tmp_path):
    _, files = content(tmp_path, *models(plain=("plain",), seeds=(0,)))
    assert "coarse line" in files["report.md"]
    assert "{of: plain, at: 0.5}" in files["report.html"]


def test_a_seed_without_a_plain_model_is_not_compared(tmp_path):
    found = [model("plain", 0, plain=True), model("fgm", 0), model("fgm", 1), model("shy", 1)]
    (equal,), files = content(tmp_path, *found)
    assert equal["methods"]["fgm"]["seeds"] == 1
    assert equal["methods"]["shy"] is None
    assert "no plain model of its seeds" in files["report.html"]


def test_only_what_was_named_before_the_run_has_a_p(tmp_path):
    """A correction over the comparisons that were named is not one over all that are shown."""
    found = models()
    whole = written(replace(sample(), models=found, published=()), tmp_path / "all")
    primary = [("fgm", "textfooler"), ("shy", "unheard of")]
    named = replace(sample(), models=found, published=(), primary=primary)
    files = written(named, tmp_path / "named")
    scores = {
        key: {m["name"]: m["accuracy"] for m in json.loads(one["report.json"])["methods"]}
        for key, one in (("all", whole), ("named", files))
    }
    assert scores["named"]["shy"]["textfooler"]["p_holm"] is None
    assert scores["named"]["fgm"]["clean"]["p_holm"] is None
    alone = scores["named"]["fgm"]["textfooler"]
    assert alone["p_holm"] == alone["p"] <= scores["all"]["fgm"]["textfooler"]["p_holm"]
    assert scores["all"]["shy"]["textfooler"]["p_holm"] is not None
    text = files["report.md"]
    assert "fgm under textfooler" in text
    assert "shy under unheard of (not measured yet)" in " ".join(text.replace("\\", "").split())
    assert "all comparisons of the table" in " ".join(whole["report.md"].split())
