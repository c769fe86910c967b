"""The image recipe: closed forms on a linear model, tables that equal results, going on."""

import argparse
import functools
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import ViTImageProcessor

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
import image_attacks as recipe
import image_attacks_experiments as experiments
import image_attacks_report as report

from nlp_adv.attacks import FGSM, PGD, OptimizerAttack
from nlp_adv.data.image_demo import demo_images, small_resnet
from nlp_adv.perturbation import LInfBall

each_optimizer = pytest.mark.parametrize("name", experiments.OPTIMIZERS)


class Linear(nn.Module):
    """Logits W·x of two classes."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight.T


def subject(rows: int = 12, classes: int = 2) -> experiments.Subject:
    """Pixels in [0.3, 0.7], so that the box is far from them."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(rows, 1, 4, 4, generator=generator)
    model = Linear(torch.randn(classes, 16, generator=generator))
    with torch.no_grad():
        y = model(x).argmax(1)
    names = tuple(f"class {k}" for k in range(classes))
    return experiments.Subject(model, x, y, torch.arange(rows), names, "a linear model")


def arguments(*flags: str) -> argparse.Namespace:
    return recipe.arguments(["--data_dir", "data", "--batch_size", "5", *flags])[0]


def test_fgsm_lowers_and_its_inverse_raises_the_margin_by_epsilon_times_the_l1_norm():
    given = subject()
    made = experiments.over_epsilon(given, arguments())
    weight = given.model.weight.detach()
    sign = 2.0 * given.y - 1
    margin = sign * (given.x.flatten(1) @ (weight[1] - weight[0]))
    reach = torch.tensor(experiments.EPSILONS) * (weight[1] - weight[0]).abs().sum()
    for name, way in (("fgsm", -1), ("inverse", 1)):
        margins = margin[:, None] + way * reach
        torch.testing.assert_close(made[f"{name} probability"], margins.sigmoid())
        right = made[f"{name} answers"] == given.y[:, None]
        assert torch.equal(right, margins > 0)
    rises = made["inverse probability"].diff(dim=1)
    assert (rises > 0).all()


@functools.cache
def at_one_rate(lr: float) -> tuple[experiments.Subject, dict[str, dict]]:
    """What each optimizer did."""
    given, args = subject(), arguments("--learning_rate", str(lr))
    return given, experiments.at_one_rate(given, torch.arange(12), args)


@each_optimizer
def test_the_first_step_of_an_optimizer_is_its_formula(name):
    lr = 0.003
    given, runs = at_one_rate(lr)
    run = runs[name]
    torch.testing.assert_close(run["first"], run["formula"], atol=1e-6, rtol=1e-4)
    target = 1 - given.y
    with torch.no_grad():
        chance = given.model(given.x).softmax(1).gather(1, target[:, None])[:, 0]
    weight = given.model.weight.detach()
    steepest = (1 - chance) * (weight[1] - weight[0]).abs().max()  # ∇ = (1 − p_t)·(w_t − w_y)
    expected = {"rmsprop": 10 * lr, "adagrad": lr, "adam": lr}.get(name, lr * steepest)
    torch.testing.assert_close(run["first"], torch.as_tensor(expected).expand(12), **close())


def close() -> dict[str, float]:
    return {"atol": 1e-6, "rtol": 1e-3}


def test_a_first_step_ends_at_the_pixels_range():
    given = subject()
    x, target = torch.full_like(given.x, 0.999), 1 - given.y
    steps = experiments.first_steps("rmsprop", given.model, x, target, 0.1)
    torch.testing.assert_close(steps, torch.full((12,), 0.999))  # the other pixels go down by 1
    one_way = Linear(-given.model.weight.detach().abs() * torch.tensor([[1.0], [-1.0]]))
    steps = experiments.first_steps("rmsprop", one_way, x, torch.ones(12).long(), 0.1)
    torch.testing.assert_close(steps, torch.full((12,), 0.001), atol=1e-6, rtol=0)


def test_what_is_written_down_on_the_way_is_what_the_model_says_there():
    given, rows = subject(classes=3), torch.arange(6)
    target = (given.y[rows] + 1) % 3
    attacks = {
        "far": OptimizerAttack(torch.optim.Adam, 0.02, 30),
        "near": OptimizerAttack(torch.optim.SGD, 0.0, 2),
    }
    made = experiments.descend(given, rows, attacks, target)
    for name, attack in attacks.items():
        run = made[name]
        result = attack(given.model, given.x[rows], target=target)
        losses = cross_entropy(given.model(result.adv), target, reduction="none")
        torch.testing.assert_close(run["losses"][-1], losses.detach())
        assert run["norms"][0].eq(0).all()
        assert torch.equal(run["reached"][-1], result.success)
        assert run["reached"].shape == run["losses"].shape == (attack.steps + 1, 6)
        assert not run["reached"][0].any()
    # A class is the answer where its probability is above one half, and never below a third.
    chances = (-made["far"]["losses"]).exp()
    assert made["far"]["reached"][chances > 0.5].all()
    assert not made["far"]["reached"][chances < 1 / 3].any()
    assert made["far"]["reached"][-1].all()
    assert report.arrived(made["near"]["reached"]).isinf().all()


def test_arrival_is_the_first_step_at_the_target():
    reached = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 0, 1]]).bool()
    assert report.arrived(reached).tolist() == [1, math.inf, 0]
    assert report.steps_shown(report.median(report.arrived(reached))) == "1"
    assert report.steps_shown(math.inf) == "never"


def test_the_best_rate_is_the_one_that_reaches_most_and_then_the_one_of_the_lowest_loss(
    monkeypatch,
):
    monkeypatch.setattr(experiments, "RATES", (1e-6, 0.005, 0.05))
    args = arguments("--epsilon_target", "0.3", "--tuning_examples", "6")
    adam = experiments.in_ball(args)["adam"]
    made = experiments.at_best_rate(subject(), adam, args)
    assert made["shares"] == sorted(made["shares"])
    assert made["shares"][0] < made["shares"][-1]
    assert made["rate"] == 0.05
    assert made["linf"].shape == (6,)
    assert (made["linf"] <= 0.3).all()
    still = lambda lr: OptimizerAttack(torch.optim.SGD, min(lr, 1e-5), 1)  # noqa: E731
    assert experiments.at_best_rate(subject(), still, args)["rate"] == 0.005  # the first of equals


def test_rates_are_chosen_with_other_images_than_those_reported():
    given = subject()
    rows, others = experiments.optimizer_rows(given, arguments(), most=100)
    assert rows.tolist() == list(range(6))
    assert others.tolist() == list(range(6, 12))
    args = arguments("--target", "1")
    rows, others = experiments.optimizer_rows(given, args, most=2)
    assert (given.y[torch.cat([rows, others])] == 0).all()
    assert (experiments.targets(given, rows, args) == 1).all()


@pytest.mark.parametrize("steps", [1, 5])
def test_a_row_of_the_table_is_the_attack_s_own_result(steps):
    given = subject()
    weight = given.model.weight.detach()
    margins = (given.x.flatten(1) @ (weight[1] - weight[0])).abs()
    half = (margins.median() / (weight[1] - weight[0]).abs().sum()).item() + 1e-4
    attack = FGSM(half) if steps == 1 else PGD(LInfBall(half), half, steps)
    made = experiments.fooled(given, attack, [0, 7], 5)
    result = attack(given.model, given.x, given.y)
    found = result.summary()
    assert found["success"] == 0.5
    assert torch.equal(made["adv"], result.adv[[0, 7]])
    cells = report.attack_table({"it": made}).splitlines()[2].split(" | ")
    assert cells[0] == "| it"
    assert cells[1].startswith(f"{100 * found['success']:.1f} [")
    assert float(cells[2]) == pytest.approx(100 * found["success_8_bit"], abs=0.05)
    assert float(cells[3]) == pytest.approx(found["l2"], abs=5e-4)
    assert float(cells[5]) == pytest.approx(found["linf"], abs=5e-5)
    assert float(cells[6]) == steps


def test_nothing_fooled_has_no_norms():
    row = report.attack_table({"it": experiments.fooled(subject(), FGSM(0.0), [0], 5)})
    assert "| 0.0 [0.0, 24.2] | 0.0 | – | – | – | 1.0 |" in row  # Wilson's of 0 of 12


def test_the_table_of_epsilons_counts_what_was_measured():
    given = subject()
    made = experiments.over_epsilon(given, arguments())
    lines = report.epsilon_table(made, given.y).splitlines()[2:]
    assert len(lines) == len(experiments.EPSILONS)
    assert lines[0].startswith("| 0 | 100.0 [")
    last = lines[-1].split(" | ")
    right = (made["fgsm answers"][:, -1] == given.y).double().mean()
    assert last[1].startswith(f"{100 * right:.1f} [")
    assert float(last[4]) == pytest.approx(
        made["inverse probability"][:, -1].mean().item(), abs=5e-4
    )
    assert last[5] == "100.0 |"


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The demo's digits as IDX files, and a model that has some of them right."""
    folder, generator = tmp_path_factory.mktemp("digits"), torch.Generator().manual_seed(0)
    for split, name in (("train", "train"), ("test", "t10k")):
        x, y = next(demo_images()[split].head(200).batches(200))
        header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (200, 32, 32))
        levels = bytes((255 * x).round().byte().flatten().tolist())
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + levels)
        header = b"\0\0\x08\x01" + (200).to_bytes(4, "big")
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(header + bytes(y.tolist()))
    model = small_resnet(10, 1, 0)
    x, y = next(demo_images()["train"].head(200).batches(200))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        rows = torch.randint(200, (64,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(model(2 * x[rows] - 1).logits, y[rows]).backward()
        optimizer.step()
    model.save_pretrained(folder / "model")
    size = {"height": 32, "width": 32}
    ViTImageProcessor(size=size, image_mean=[0.5], image_std=[0.5]).save_pretrained(
        folder / "model"
    )
    return folder


def run(digits: Path, out: Path, *flags: str) -> str:
    """The page."""
    given = ["--data_dir", str(digits), "--model_name_or_path", str(digits / "model")]
    given += ["--examples", "24", "--optimizer_examples", "3", "--tuning_examples", "3"]
    recipe.main([*given, "--steps", "2", "--output_dir", str(out), *flags])
    return (out / "image_attacks.md").read_text(encoding="utf-8")


@pytest.fixture
def short(monkeypatch) -> None:
    pytest.importorskip("matplotlib").use("agg")
    for module in (experiments, report):
        monkeypatch.setattr(module, "STEPS", 3)
        monkeypatch.setattr(module, "TUNED_STEPS", 2)
        monkeypatch.setattr(module, "RATES", (0.01, 0.1))
    monkeypatch.setattr(report, "LOOKS", (1, 3))


def test_all_experiments_end_in_a_page_with_its_figures(digits, tmp_path, short):
    page = run(digits, tmp_path, "--attacks", "fgsm", "deepfool-l2", "noise-l2")
    assert re.findall(r"\n## (.*)", page) == [
        "FGSM over ε, and its inverse",
        "Optimizers on pixels",
        "Attacks",
        "How it was run",
    ]
    figures = re.findall(r"\]\((.*)\)", page)
    assert len(figures) == 5
    assert all((tmp_path / figure).stat().st_size > 1000 for figure in figures)
    assert re.findall(r"\n\| (deepfool-l2|fgsm|noise-l2|pgd-linf) \|", page) == [
        "noise-l2",
        "fgsm",
        "deepfool-l2",
    ]
    assert "Model: model.\n" in page
    assert str(tmp_path) not in page
    assert str(digits) not in page
    assert "--data_dir FASHION_MNIST_FOLDER --model_name_or_path MODEL_FOLDER --exp" in page
    assert "--epsilon_linf 8/255" in page


@pytest.mark.slow
def test_only_what_is_lost_or_changed_is_made_again(digits, tmp_path, short, monkeypatch):
    made, fooled = [], recipe.fooled

    def counted(given, attack, *more):
        made.append(attack.name)
        return fooled(given, attack, *more)

    monkeypatch.setattr(recipe, "fooled", counted)
    monkeypatch.setattr(report, "draw_attacks", lambda *_: None)
    flags = ("--experiments", "table", "--attacks", "fgsm", "fgm-l2")
    first = run(digits, tmp_path, *flags)
    page = tmp_path / "image_attacks.md"
    page.write_text(first + "\n## What came out\n\nLittle.\n", encoding="utf-8")
    assert run(digits, tmp_path, *flags) == first + "\n## What came out\n\nLittle.\n"
    assert made == ["fgsm", "fgm-l2"]
    (tmp_path / "table-fgsm.pt").unlink()
    run(digits, tmp_path, *flags, "--epsilon_l2", "0.3")
    assert made == ["fgsm", "fgm-l2"] * 2
    run(digits, tmp_path, *flags, "--epsilon_l2", "0.3", "--examples", "20")
    assert made == ["fgsm", "fgm-l2"] * 3


def test_what_is_cut_short_while_it_is_saved_is_not_finished(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        recipe.kept(tmp_path / "fgsm.pt", {"seed": 0}, lambda: {"made": 1})
    monkeypatch.undo()
    assert recipe.kept(tmp_path / "fgsm.pt", {"seed": 0}, lambda: {"made": 2})["made"] == 2


@pytest.mark.slow
def test_without_a_model_one_is_trained_and_kept(digits, tmp_path, short):
    command = ["--data_dir", str(digits), "--epochs", "4", "--examples", "50"]
    command += ["--experiments", "fgsm", "--output_dir", str(tmp_path)]
    (digits / "labels.txt").write_text("\n".join(f"digit {k}" for k in range(10)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "nlp_adv_command", few_held_out(recipe.nlp_adv_command))
        recipe.main(command)
    weights = tmp_path / "model-4-epochs-seed-0" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    recipe.main(command)
    assert weights.stat().st_mtime_ns == made
    (digits / "labels.txt").unlink()
    page = (tmp_path / "image_attacks.md").read_text(encoding="utf-8")
    assert "a small ResNet, trained here without attack for 4 epochs" in page


def few_held_out(command):
    """The data of the test are fewer than what is held out of Fashion-MNIST."""
    return lambda argv: command([*argv, "--validation_examples", "20"])


def test_pictures_without_a_class_are_what_the_model_says(digits, tmp_path):
    for number in range(3):
        pixels = torch.randint(256, (40, 30, 3), generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.byte().numpy()).save(tmp_path / f"{number}.png")
    (tmp_path / "README.txt").write_text("no picture")
    args = arguments("--model_name_or_path", str(digits / "model"), "--images", str(tmp_path))
    given = recipe.load(args)
    assert given.x.shape == (3, 1, 32, 32)
    assert given.right.tolist() == [0, 1, 2]
    args.images = [str(tmp_path / "0.png"), str(tmp_path / "2.png")]
    assert torch.equal(recipe.load(args).x, given.x[[0, 2]])


def test_pictures_in_folders_have_their_classes(digits, tmp_path):
    x, y = next(demo_images()["train"].head(60).batches(60))
    for number, (pixels, label) in enumerate(zip(x, y.tolist(), strict=True)):
        folder = tmp_path / f"LABEL_{label}"
        folder.mkdir(exist_ok=True)
        levels = (255 * pixels[0]).round().byte().numpy()
        Image.fromarray(levels).save(folder / f"{number:02}.png")
    args = arguments("--model_name_or_path", str(digits / "model"), "--images", str(tmp_path))
    given = recipe.load(args)
    assert given.y.bincount().tolist() == y.bincount().tolist()
    assert 2 <= len(given.right) <= 60


def test_the_images_that_are_shown_are_right_and_of_different_classes():
    given = subject(classes=3)
    shown = recipe.handful(given, 2)
    assert min(shown) >= 2
    assert len({int(given.y[index]) for index in shown}) == len(shown)
    assert recipe.handful(given, 2, count=1) == shown[:1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data_dir", "nowhere"], "nowhere"),
        (["--data_dir", "x", "--steps", "0"], "least 1"),
        (["--images", "x"], "give --data_dir, or"),
        (["--data_dir", "x", "--attacks", "pdg"], "not pdg"),
        (["--data_dir", "x", "--epsilon_linf", "8/0"], "epsilon_linf"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_sentence(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit):
        recipe.main([*flags, "--output_dir", str(tmp_path)])
    assert message in capsys.readouterr().err


def test_a_target_or_an_image_that_is_none_is_said(digits, tmp_path, capsys):
    for flags, message in (
        (["--target", "10"], "from 0 to 9"),
        (["--target", str(demo_images()["test"][0][1])], "is of the class --target"),
        (["--image", "24"], "no image right from --image 24 on"),
    ):
        with pytest.raises(SystemExit):
            run(digits, tmp_path, *flags)
        assert message in capsys.readouterr().err
