"""Pictures of attacks: what stands in them, and what cannot be drawn."""

import sys
from dataclasses import dataclass, replace
from importlib import import_module

import forked
import pytest
import torch
from PIL import Image
from torch import nn

from nlp_adv.attacks import FGSM, PGD, AttackResult, DeepFool
from nlp_adv.drawing import svg_bytes
from nlp_adv.errors import UserError
from nlp_adv.perturbation import LInfBall
from nlp_adv.report.pictures import history_curves, picture_grid, sweep_curves

NAMES = ("cat", "a dog of a breed with a long name", "bird")


def attacked(channels: int = 1, count: int = 4, **settings) -> AttackResult:
    with torch.random.fork_rng():
        torch.manual_seed(channels)
        layers = nn.Sequential(nn.Flatten(), nn.Linear(channels * 36, 3))
        x = torch.rand(count, channels, 6, 6)
    y = layers(x).argmax(1)
    y[1] = (y[1] + 1) % 3  # wrong without attack
    attack = PGD(LInfBall(0.05), 0.02, 5, seed=3, **settings)
    return attack(layers, x, y)


def texts(figure) -> str:
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
    return "\n".join(found)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_shows_before_delta_and_after(channels):
    result = attacked(channels)
    figure = picture_grid(result, rows=3, label_names=NAMES)
    assert len(figure.axes) == 9
    fell = int((result.success & result.attackable).sum())
    assert figure.get_suptitle() == f"pgd-linf: {fell} of 3 fooled"
    shown = [axes.images[0].get_array() for axes in figure.axes]
    for row in range(3):
        clean, delta, adv = (torch.as_tensor(shown[3 * row + place]) for place in range(3))
        if channels == 3:
            clean, delta, adv = (one.permute(2, 0, 1) for one in (clean, delta, adv))
        assert torch.allclose(clean.float().squeeze(), result.x[row].squeeze())
        assert torch.allclose(adv.float().squeeze(), result.adv[row].squeeze())
        scale = 0.5 / result.delta[row].abs().max()
        assert torch.allclose(delta.float().squeeze(), 0.5 + scale * result.delta[row].squeeze())
        assert f"δ × {float(scale):.3g}" in figure.axes[3 * row + 1].get_title()
        assert f"{float(result.norm(2)[row]):.3g}" in figure.axes[3 * row + 1].get_title()
        answer = NAMES[int(result.answers[row])][:10]
        sure = f"{100 * float(result.confidences[row]):.1f}\xa0%"
        assert answer in figure.axes[3 * row + 2].get_title()
        assert sure in figure.axes[3 * row + 2].get_title()
    assert figure.axes[5].get_title().startswith("wrong before")
    assert "label:" in figure.axes[0].get_title()


def test_names_that_are_too_long_are_cut_and_classes_without_names_are_numbers():
    result = attacked()
    named = replace(result, labels=torch.ones_like(result.labels))
    assert "label: a dog of a breed…" in texts(picture_grid(named, label_names=NAMES))
    assert "label: 1\n" in texts(picture_grid(named))
    assert "label: 1\n" in texts(picture_grid(named, label_names=["only one"]))
    dollars = picture_grid(named, label_names=["$", "$\\frac$", "$$"])
    svg_bytes(dollars)
    assert "label: $\\frac$" in texts(dollars)


def test_a_target_and_an_image_that_did_not_move_are_told():
    result = replace(attacked(), towards=True)
    still = replace(
        result, adv=result.x, delta=0 * result.delta, success=torch.zeros(4, dtype=torch.bool)
    )
    assert "target: " in texts(picture_grid(still))
    assert "δ × 1, grey is 0" in texts(picture_grid(still))
    assert "not fooled" in texts(picture_grid(still)) or "there already" in texts(
        picture_grid(still)
    )


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_suffix_says_the_format_and_equal_pictures_are_equal_files(tmp_path, suffix):
    result = attacked()
    paths = [str(tmp_path / f"{name}.{suffix}") for name in "ab"]
    for path in paths:
        picture_grid(result, path, rows=1)
    first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first == second
    if suffix == "png":
        with Image.open(paths[0]) as image:
            assert min(image.size) > 300
            assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    else:
        assert first.lstrip().startswith(b"<?xml")
        assert b"<svg" in first


def test_what_cannot_be_drawn_is_refused_in_a_sentence(tmp_path):
    result = attacked()
    with pytest.raises(UserError, match=r"must end in \.png, \.svg or \.pdf"):
        picture_grid(result, str(tmp_path / "picture.gif"), rows=1)
    with pytest.raises(UserError, match="cannot be written"):
        picture_grid(result, str(tmp_path / "none" / "picture.png"), rows=1)
    with pytest.raises(UserError, match="4 images, 0 rows"):
        picture_grid(result, rows=0)
    flat = replace(result, x=result.x.flatten(1), adv=result.adv.flatten(1))
    with pytest.raises(UserError, match=r"not \(4, 36\)"):
        picture_grid(flat)
    with pytest.raises(UserError, match="no history"):
        history_curves([])
    with pytest.raises(UserError, match="no curve"):
        sweep_curves({"pgd": []})


def test_a_history_is_the_mean_over_images_and_fooled_ones_keep_their_last_value():
    result = attacked(until_fooled=True)
    assert result.losses.isnan().any()
    losses, norms = history_curves([result]).axes
    for axes, values in ((losses, result.losses), (norms, result.norms_along)):
        kept = values.clone()
        for step in range(1, len(kept)):
            kept[step] = torch.where(kept[step].isnan(), kept[step - 1], kept[step])
        drawn = torch.tensor(axes.lines[0].get_ydata())
        assert torch.allclose(drawn.float(), kept.mean(1), atol=1e-6)
        assert axes.lines[0].get_xdata()[-1] == len(values) - 1
    assert (losses.get_ylabel(), norms.get_ylabel()) == ("the attack's loss", "‖δ‖₂")
    assert losses.get_xscale() == "linear"


def test_histories_of_several_attacks_have_a_colour_and_a_name_each():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    x = torch.rand(4, 1, 6, 6)
    attacks = [FGSM(0.1), PGD(LInfBall(0.1), 0.01, 5), PGD(LInfBall(0.1), 0.01, 60), DeepFool()]
    results = [attack(layers, x) for attack in attacks]
    for stacked in (False, True):
        figure = history_curves(results, stacked=stacked)
        losses = figure.axes[0]
        assert len({line.get_color() for line in losses.lines}) == 4
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [
            result.attack for result in results
        ]
        assert losses.get_xscale() == "symlog"  # 60 steps beside 5


@dataclass
class Point:
    epsilon: float
    accuracy: float
    interval: tuple[float, float]


def test_a_sweep_is_drawn_in_percent_by_growing_radius(tmp_path):
    points = [Point(8 / 255, 0.25, (0.2, 0.3)), Point(0.0, 1.0, (0.9, 1.0))]
    figure = sweep_curves({"pgd": points, "fgsm": points[1:]}, str(tmp_path / "sweep.svg"))
    (axes,) = figure.axes
    assert axes.lines[0].get_ydata().tolist() == [100, 25]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "8"]
    assert "grey levels" in axes.get_xlabel()
    assert (tmp_path / "sweep.svg").stat().st_size > 1000
    other = sweep_curves({"pgd": points}, norm="L2")
    assert other.axes[0].get_xlabel() == "ε, L2, pixels in [0, 1]"


def draw_without_pyplot() -> None:
    drawing = {name: module for name, module in sys.modules.items() if "matplotlib" in name}
    forked.forget("nlp_adv", "matplotlib")
    pictures = import_module("nlp_adv.report.pictures")
    assert "matplotlib" not in sys.modules
    sys.modules |= drawing
    sys.modules.pop("matplotlib.pyplot", None)
    pictures.picture_grid(attacked(), rows=1)
    assert "matplotlib.pyplot" not in sys.modules


def test_no_window_is_opened_and_matplotlib_is_loaded_late():
    assert forked.code_of(draw_without_pyplot) == 0
