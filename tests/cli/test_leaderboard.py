"""What others can join and show: the leaderboard, and results for the Hub's model pages."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from commands import TEXTS, refused_last, write
from commands import typed as call

from nlp_adv.report.leaderboard import leaderboard, trained
from nlp_adv.robustness.saved import load


@pytest.fixture(scope="module")
def evaluated(reader, tmp_path_factory) -> dict[str, Path]:
    """One model that says how it was trained, one that does not, and one measured otherwise."""
    root = tmp_path_factory.mktemp("leaderboard")
    texts = write(root / "texts.jsonl", TEXTS)
    for name in ("robust", "unknown"):
        shutil.copytree(reader, root / name)
    described = {"method": "freelb", "epsilon": 0.03, "unit": "relative", "steps": 3}
    (root / "robust" / "adversarial_config.json").write_text(json.dumps(described))
    (root / "unknown" / "adversarial_config.json").unlink(missing_ok=True)
    (root / "loose.json").write_text(json.dumps({"name": "loose", "max_changed": 1.0}))
    folders = {}
    rules = {"robust": "default", "unknown": "default", "other": root / "loose.json"}
    for name, protocol in rules.items():
        folders[name] = root / "found" / name
        run = call(
            "attack",
            model_name_or_path=root / ("robust" if name == "other" else name),
            test_file=texts,
            protocol=protocol,
            max_examples=8,
            hub_dataset_id="someone/adjectives",
            output_dir=folders[name],
        )
        assert run.code == 0, run
    return folders


def test_a_table_for_each_protocol_with_all_that_a_number_needs(evaluated, tmp_path):
    run = call("report", *evaluated.values(), "--leaderboard", output_dir=tmp_path / "board")
    assert run.code == 0, run
    page = (tmp_path / "board" / "leaderboard.md").read_text(encoding="utf-8")
    assert page.count("| model | training |") == 2
    first, second = page.split("\n## ")[1:]
    assert "Protocol default" in first
    assert "Protocol loose" in second
    assert len([line for line in first.splitlines() if line.startswith("| ")]) == 3
    hashes = {digest for one in evaluated.values() for digest in load(one).hashes.values()}
    assert all(digest in page for digest in hashes)
    assert "freelb (epsilon 0.03, unit relative, steps 3)" in first
    assert "unknown |" in first
    share = load(evaluated["robust"]).summaries["deepwordbug"].under_attack
    assert f"{100 * share.value:.1f}<br>" in first
    assert "2 of 3 checks passed" in first
    assert "stronger attack" in page


def test_rows_are_sorted_and_what_fails_a_check_is_marked(evaluated):
    from dataclasses import replace

    from nlp_adv.robustness.check_result import Check

    one = load(evaluated["robust"])
    outcomes = [r for r in one.records if r.outcome == "robust"]
    better = [replace(r, outcome="robust") if r.outcome == "fooled" else r for r in one.records]
    failing = replace(one, records=better, checks=[Check("noise", False, "found", "meaning")])
    page = leaderboard({"weak": one, "strong": failing})
    rows = [line for line in page.splitlines() if re.match(r"\| (weak|strong)", line)]
    assert len(outcomes) < len(one.records)
    assert rows[0].startswith("| strong<br>⚠ fails a check")
    assert "0 of 1 checks passed, failed: noise" in rows[0]


def test_other_draws_are_other_tables(evaluated):
    from dataclasses import replace

    one = load(evaluated["robust"])
    page = leaderboard({"a": one, "b": replace(one, seed=7), "c": replace(one, data="else")})
    assert page.count("\n## ") == 3


def test_the_leaderboard_in_the_repository_is_what_the_command_makes_of_its_records(tmp_path):
    results = Path(__file__).parents[2] / "recipes" / "results"
    for cell in sorted((results / "main_small" / "finished").glob("*.zip")):
        zipfile.ZipFile(cell).extractall(tmp_path / "cells" / cell.stem)
    cells = sorted((tmp_path / "cells").iterdir())
    assert len(cells) == 8
    title = "Robust text classifiers"
    run = call("report", *cells, "--leaderboard", title=title, output_dir=tmp_path / "board")
    assert run.code == 0, run
    made = (tmp_path / "board" / "leaderboard.md").read_text(encoding="utf-8")
    committed = (results / "leaderboard.md").read_text(encoding="utf-8")
    assert committed.split("\n## How to read it")[0] == made


def test_training_in_a_line():
    assert trained({}) == "unknown"
    assert trained({"method": "none", "epsilon": 3}) == "plain"
    assert trained({"method": "pgd", "steps": 3, "exclude_special_tokens": True}) == "pgd (steps 3)"


def test_results_for_the_hub_are_what_the_hub_reads(evaluated):
    from huggingface_hub import parse_eval_result_entries

    folder = evaluated["robust"]
    text = (folder / ".eval_results" / "nlp_adv.yaml").read_text(encoding="utf-8")
    entries = {one.task_id: one for one in parse_eval_result_entries(yaml.safe_load(text))}
    found = load(folder)
    assert set(entries) == {"clean", "deepwordbug"}
    assert {one.dataset_id for one in entries.values()} == {"someone/adjectives"}
    assert entries["clean"].value == pytest.approx(100 * found.clean.value, abs=0.01)
    under = found.summaries["deepwordbug"].under_attack.value
    assert entries["deepwordbug"].value == pytest.approx(100 * under, abs=0.01)
    notes = entries["deepwordbug"].notes
    assert f"{100 * found.clean.value:.1f} % without" in notes
    assert found.hashes["deepwordbug"] in notes
    assert "2 of 3 checks passed" in notes


def test_bad_requests(reader, evaluated, tmp_path):
    texts = write(tmp_path / "texts.jsonl", TEXTS)
    given = {"model_name_or_path": reader, "output_dir": tmp_path / "out"}
    for name in ("adjectives", "a/b/c", "https://hf.co/a/b", "../x"):
        run = call("attack", **given, test_file=texts, hub_dataset_id=name)
        refused_last(run, "OWNER/NAME", name)
    run = call("augment", **given, train_file=texts, hub_dataset_id="a/b")
    refused_last(run, "attack and evaluate")
    run = call("report", *evaluated.values(), "--leaderboard", "--shards", output_dir=tmp_path)
    refused_last(run, "join the shards")
    assert not (tmp_path / "out").exists()
