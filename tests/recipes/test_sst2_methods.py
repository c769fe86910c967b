"""The SST-2 recipe: its commands are commands, and its table is arithmetic."""

import argparse
import importlib.util
import json
import statistics
from pathlib import Path

import pytest

from nlp_adv.cli import arguments
from nlp_adv.cli.train import demo_flags
from nlp_adv.methods import METHODS, describe

PATH = Path(__file__).parents[2] / "recipes" / "sst2_methods.py"
_spec = importlib.util.spec_from_file_location("sst2_methods", PATH)
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)


def given(folder: Path, *extra: str) -> argparse.Namespace:
    return argparse.Namespace(
        model_name_or_path="MODEL",
        dataset_name="DATA",
        output_dir=str(folder),
        extra=list(extra),
        all_seeds=[0, 1, 2],
        title="A model",
    )


def settings(method: str) -> dict[str, str]:
    flags = recipe.METHODS[method]
    return dict(zip(flags[::2], flags[1::2], strict=True))


def run(seed: int, accuracy: float, under: list[float], seconds: float) -> dict:
    return {
        "seed": seed,
        "train_seconds": seconds,
        "metrics": {"test_accuracy": accuracy},
        "attacked_examples": 7,
        "accuracy_under_attack": dict(zip(map(str, recipe.EPSILONS), under, strict=True)),
    }


def rows(table: str) -> dict[str, dict[str, str]]:
    """The table's cells, by method and column."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    header, rule, *body = lines
    assert set(rule) == {"---"}
    assert all(len(line) == len(header) for line in [rule, *body])
    return {line[0]: dict(zip(header, line, strict=True)) for line in body}


@pytest.mark.parametrize("method", recipe.METHODS)
def test_a_command_parses_to_what_it_says(tmp_path, method):
    line = recipe.command(given(tmp_path), method, seed=2)
    assert line[1:4] == ["-m", "nlp_adv.cli.main", "train"]
    parsed = arguments.parse([*line[4:], "--use_cpu", "true"], demo_flags)
    assert not parsed.demo
    assert parsed.training.seed == 2
    assert Path(parsed.training.output_dir) == recipe.folder(given(tmp_path), method, 2)
    assert parsed.report.attack_epsilons == list(recipe.EPSILONS)
    assert parsed.report.overwrite_output_dir is True
    assert parsed.data.dataset_name == "DATA"
    assert parsed.data.max_train_samples == int(recipe.TRAINING["max_train_samples"])
    described = describe(parsed.training.adversarial_schedule().method)
    wanted = settings(method)
    assert described["method"] == wanted.pop("--adv")
    for flag, value in wanted.items():
        assert described[flag.removeprefix("--adv_")] == float(value)
    assert described.get("unit", "relative") == "relative"


def test_methods_exist_and_cells_differ(tmp_path):
    assert {settings(method)["--adv"] for method in recipe.METHODS} <= set(METHODS)
    folders = {
        recipe.folder(given(tmp_path), method, seed) for method in recipe.METHODS for seed in (0, 1)
    }
    assert len(folders) == 2 * len(recipe.METHODS)


def test_further_flags_go_before_the_recipes(tmp_path):
    line = recipe.command(given(tmp_path, "--learning_rate", "1e-3"), "pgd", 0)
    parsed = arguments.parse([*line[4:], "--use_cpu", "true"], demo_flags)
    assert parsed.training.learning_rate == 1e-3


def test_a_table_of_means_spreads_and_ratios():
    cells = {
        "none": [run(0, 0.80, [0.5, 0.3, 0.1], 10), run(1, 0.90, [0.7, 0.3, 0.0], 20)],
        "noise": [],
        "pgd": [run(0, 0.70, [0.6, 0.5, 0.2], 30), run(1, 0.75, [0.8, 0.5, 0.4], 50)],
        "freelb": [run(1, 0.875, [0.7, 0.6, 0.5], 60)],
    }
    table = rows(recipe.table(cells))
    assert list(table) == ["none", "pgd", "freelb"]
    plain, pgd, freelb = table.values()
    assert [row["seeds"] for row in table.values()] == ["2", "2", "1"]
    assert plain["test accuracy, %"] == f"85.0 ± {statistics.stdev([80, 90]):.1f}" == "85.0 ± 7.1"
    assert pgd["test accuracy, %"] == "72.5 ± 3.5"
    assert freelb["test accuracy, %"] == "87.5"
    assert [pgd[f"PGD-20, ε = {e}"] for e in recipe.EPSILONS] == [
        "70.0 ± 14.1",
        "50.0 ± 0.0",
        "30.0 ± 14.1",
    ]
    assert plain["÷ plain"] == "1.00 ± 0.00"
    # per seed: 30/10 and 50/20, not 40/15
    assert pgd["÷ plain"] == "2.75 ± 0.35"
    assert pgd["seconds"] == "40 ± 14"
    assert freelb["÷ plain"] == "3.00"
    assert plain["setting"] == ""
    assert pgd["setting"] == "epsilon 0.03 clean_weight 0.5"


def test_a_seed_without_its_plain_run_has_no_ratio():
    cells = {
        "none": [run(0, 0.8, [0.5, 0.3, 0.1], 10)],
        "fgm": [run(5, 0.8, [0.5, 0.3, 0.1], 40)],
        "pgd": [run(0, 0.8, [0.5, 0.3, 0.1], 40), run(5, 0.8, [0.5, 0.3, 0.1], 90)],
    }
    table = rows(recipe.table(cells))
    assert table["fgm"]["÷ plain"] == ""
    assert table["pgd"]["÷ plain"] == "4.00"
    assert rows(recipe.table({"fgm": cells["fgm"]}))["fgm"]["÷ plain"] == ""


def test_a_cell_is_the_last_run_of_its_report(tmp_path):
    args = given(tmp_path)
    assert recipe.report_of(args, "pgd", 1) is None
    folder = recipe.folder(args, "pgd", 1)
    folder.mkdir(parents=True)
    runs = [{"method": "none", "train_seconds": 1.0}, {"method": "pgd", "train_seconds": 2.0}]
    (folder / "nlp_adv_report.json").write_text(json.dumps({"runs": runs}), encoding="utf-8")
    assert recipe.report_of(args, "pgd", 1) == {"method": "pgd", "train_seconds": 2.0, "seed": 1}


def test_results_name_no_path_of_this_machine(tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(recipe, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(recipe, "draw", lambda cells, path: drawn.append(path))  # needs matplotlib
    args = given(tmp_path / "runs", "--use_cpu", "true")
    for method, seconds in (("none", 4.0), ("freelb", 10.0)):
        folder = recipe.folder(args, method, 0)
        folder.mkdir(parents=True)
        one = run(0, 0.8, [0.5, 0.3, 0.1], seconds)
        del one["seed"]
        (folder / "nlp_adv_report.json").write_text(json.dumps({"runs": [one]}), encoding="utf-8")
    recipe.write_results(args)
    page = (tmp_path / "results" / "sst2_methods.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in page
    assert "| freelb |" in page
    assert "first\n7 of them" in page
    assert "Model: A model." in page
    assert "| 2.50 |" in page
    (shown,) = (line for line in page.splitlines() if "nlp-adv train --" in line)
    argv = shown.split("nlp-adv train ", 1)[1].split()
    parsed = arguments.parse(argv, demo_flags)
    assert parsed.training.adv == "freelb"
    saved = json.loads((tmp_path / "results" / "sst2_methods.json").read_text(encoding="utf-8"))
    assert saved["freelb"] == [run(0, 0.8, [0.5, 0.3, 0.1], 10.0)]
    assert "| freelb |" in capsys.readouterr().out
    assert drawn == [tmp_path / "results" / "sst2_methods.svg"]
    assert f"]({drawn[0].name})" in page
