"""The recipe of training on images: its cells, that it goes on, its page, and the alarm."""

import argparse
import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
import image_training as recipe
import image_training_report as report

from nlp_adv.cli.arguments import parse

TINY = "--max_train_samples 64 --num_train_epochs 2 --validation_examples 20 --disable_tqdm true"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in {"WATCH_STEPS": 2, "TEST_STEPS": 3, "RESTARTS": 2, "TESTED": 20}.items():
        monkeypatch.setattr(recipe, name, value)


@pytest.fixture
def trained(monkeypatch) -> list[tuple[str, int]]:
    """The cells that were trained."""
    made, train = [], recipe.train
    monkeypatch.setattr(recipe, "train", lambda *a: made.append(a[1:]) or train(*a))
    return made


def run(folder: Path, *flags: str, names: str = "plain,pgd mixed", seeds: str = "0") -> Path:
    """The recipe on digits, with one experiment of these cells; its page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipe.EXPERIMENTS, "convergence", names.split(","))
        given = ["--experiments", "convergence", "--seeds", *seeds.split()]
        recipe.main([*given, "--output_dir", str(folder), *flags, *TINY.split()])
    return folder / "image_training.md"


def cell_of(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def numbers(page: Path, title: str, first: str) -> list[str]:
    """The cells of the first line that begins so, after a heading."""
    text = page.read_text(encoding="utf-8").partition(f"## {title}\n")[2]
    return (
        next(line for line in text.splitlines() if line.startswith(first)).strip("| ").split(" | ")
    )


@pytest.mark.parametrize("name", recipe.SETTINGS)
def test_every_setting_is_one_that_the_command_takes(name, tmp_path):
    args = argparse.Namespace(data_dir=None, extra=[])
    command = recipe.command(args, name, 3)
    assert command[0] == "train"
    arguments = parse([*command[1:], "--output_dir", str(tmp_path / "run")])
    method = arguments.training.adversarial_schedule("image").method
    assert method.name == recipe.SETTINGS[name]["adv"]
    assert arguments.training.seed == 3
    assert arguments.report.watch_epsilon == recipe.epsilon_of(name)
    if method.name != "none":
        assert method.ball.epsilon == recipe.epsilon_of(name)


def test_every_setting_belongs_to_an_experiment():
    assert {name for names in recipe.EXPERIMENTS.values() for name in names} == set(recipe.SETTINGS)


def test_cells_hold_every_epoch_and_the_page_holds_their_numbers(tmp_path, trained):
    page = run(tmp_path, seeds="0 1")
    assert trained == [("plain", 0), ("pgd mixed", 0), ("plain", 1), ("pgd mixed", 1)]
    plain, mixed = (
        [cell_of(tmp_path, f"{name}-seed{seed}.json") for seed in (0, 1)]
        for name in ("plain", "pgd_mixed")
    )
    for cell in [*plain, *mixed]:
        assert cell["optimizer_steps"] == 2
        assert cell["epsilon"] == recipe.USUAL
        assert cell["cpu_seconds"] > 0
        for key in (report.LOSS, report.CLEAN, report.PGD, report.FGSM):
            assert list(report.series(cell, key)) == [1.0, 2.0]
        test = cell["test"]
        assert test["images"] == 20
        assert test["worst_case"] <= min(test["fgsm"], test["pgd"])
        assert max(test["fgsm"], *test["sweep"].values()) <= test["clean"]
        under = list(test["sweep"].values())
        assert under == sorted(under, reverse=True)  # a larger ball holds the same δ
    assert [cell["floor_cost"] for cell in (plain[0], mixed[0])] == pytest.approx([1, 2 + 14 / 3])

    _, at, seeds, *shares, steps, seconds, ratio, floor = numbers(
        page, "How it converges", "| pgd mixed | 0.1"
    )
    assert (at, seeds, steps, floor) == ("0.1", "2", "2", "6.67")
    for found, key in zip(shares, ("clean", "fgsm", "worst_case"), strict=True):
        assert found == report.shown([100 * cell["test"][key] for cell in mixed])
    assert seconds == report.shown([cell["cpu_seconds"] for cell in mixed], 0)
    of_plain = sum(cell["cpu_seconds"] for cell in plain) / 2
    assert ratio == report.shown([cell["cpu_seconds"] / of_plain for cell in mixed], 1)
    losses = numbers(page, "How it converges", "| plain | training loss")[2:]
    expected = [[report.series(cell, "loss")[epoch] for cell in plain] for epoch in (1, 2)]
    assert losses == [report.shown(values, 2) for values in expected]
    part = numbers(page, "How it converges", "| pgd mixed | its adversarial part")[2:]
    expected = [[report.series(cell, "adv_loss")[epoch] for cell in mixed] for epoch in (1, 2)]
    assert part == [report.shown(values, 2) for values in expected]
    assert all((tmp_path / f"{name}.svg").is_file() for name in ("convergence", "settings"))


@pytest.mark.slow
def test_only_a_lost_or_changed_cell_is_trained_again(tmp_path, trained, monkeypatch):
    for draw in ("draw_convergence", "draw_settings"):
        monkeypatch.setattr(report, draw, lambda *_: None)
    page = run(tmp_path)
    first = cell_of(tmp_path, "plain-seed0.json")
    page.write_text(page.read_text() + "\n## What came out\n\nLittle.\n")
    trained.clear()
    run(tmp_path)
    run(tmp_path, "--report_only", seeds="0 1")
    assert trained == []
    assert page.read_text().count("\n## What came out\n\nLittle.\n") == 1
    (tmp_path / "plain-seed0.json").unlink()
    run(tmp_path)
    assert trained == [("plain", 0)]
    again = cell_of(tmp_path, "plain-seed0.json")
    assert again["test"] == first["test"]  # the seed decides it all
    assert report.series(again, "loss") == report.series(first, "loss")
    run(tmp_path, "--learning_rate", "0.001", names="plain")
    assert trained == [("plain", 0)] * 2


def test_a_cell_that_another_process_is_at_is_left_to_it(tmp_path, trained):
    args = argparse.Namespace(output_dir=tmp_path, data_dir=None, extra=[])
    with recipe.FileLock(recipe.path_of(args, "plain", 0).with_suffix(".lock")):
        recipe.run(args, "plain", 0)
    assert trained == []


def test_a_fall_of_more_than_a_fifth_raises_the_alarm_and_stands_on_the_page(tmp_path, monkeypatch):
    under_pgd = iter([0.6, 0.5, 0.45, 0.39, 0.1])
    scores = {"clean_accuracy": 0.8, "fgsm_accuracy": 0.7, "constant_answer": 0.0}
    evaluate = lambda model: scores | {"robust_accuracy": next(under_pgd)}  # noqa: E731
    monkeypatch.setattr(recipe, "watch_of", lambda task, epsilon: evaluate)
    monkeypatch.setitem(recipe.SETTINGS, "fgsm", {"adv": "fgsm"})
    monkeypatch.setitem(recipe.EXPERIMENTS, "fast", ["fgsm"])
    args = ["--experiments", "fast", "--seeds", "0", "--output_dir", str(tmp_path)]
    recipe.main([*args, *TINY.split(), "--num_train_epochs", "5"])
    warned = cell_of(tmp_path, "fgsm-seed0.json")["warnings"]
    assert [one["epoch"] for one in warned] == [4.0, 5.0]
    falls = [re.search(r"is (\S+), (\S+) below its best", one["text"]) for one in warned]
    assert [fall.groups() for fall in falls] == [("0.390", "0.210"), ("0.100", "0.500")]
    page = (tmp_path / "image_training.md").read_text(encoding="utf-8")
    assert "- `fgsm`, seed 0, epoch 4.0:" in page
    assert warned[0]["text"] in page
    assert (tmp_path / "collapse.svg").is_file()
