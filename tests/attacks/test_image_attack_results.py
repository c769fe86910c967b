"""What an attack hands back: evidence beside the images, tables, and several attacks at once."""

import math
from dataclasses import replace

import pytest
import torch
from small_images import ATTACKS, digits
from torch import nn

from nlp_adv.attacks import (
    FGM,
    FGSM,
    PGD,
    CarliniWagner,
    DeepFool,
    OptimizerAttack,
    compare,
    summary_table,
)
from nlp_adv.attacks.entering import pixel_rows
from nlp_adv.attacks.losses import margin
from nlp_adv.attacks.quiet import quiet
from nlp_adv.attacks.result import to_8_bit
from nlp_adv.perturbation import L2Ball, LInfBall
from nlp_adv.report import history_curves

CE = nn.functional.cross_entropy
SGD, Adam = torch.optim.SGD, torch.optim.Adam


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_said_of_the_images_is_true(name):
    model, x, y = digits(12)
    result = ATTACKS[name](model, x, y)
    before, after = model(x).detach(), model(result.adv).detach()
    assert torch.equal(result.x, x)
    assert torch.equal(result.delta, result.adv - x)
    assert torch.equal(result.answers, after.argmax(1))
    assert torch.equal(result.success, after.argmax(1) != y)
    assert torch.equal(result.attackable, before.argmax(1) == y)
    assert torch.equal(result.survives_8_bit, model(result.quantized).argmax(1) != y)
    levels = 255 * result.quantized
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-9)
    assert (result.quantized - result.adv).abs().max() <= 0.5 / 255 + 1e-12
    for got, want in (
        (result.clean_confidences, before.softmax(1).amax(1)),
        (result.confidences, after.softmax(1).amax(1)),
        (result.label_confidences, after.softmax(1)[range(12), y]),
        (result.norm(2), result.delta.flatten(1).norm(dim=1)),
        (result.norm(1), result.delta.flatten(1).abs().sum(1)),
        (result.norm(torch.inf), result.delta.flatten(1).abs().amax(1)),
    ):
        torch.testing.assert_close(got, want)
    assert torch.equal(result.norm(0), (result.adv != x).flatten(1).sum(1))


@pytest.mark.parametrize("name", ATTACKS)
def test_the_way_begins_at_the_start_and_ends_at_the_result(name):
    model, x, y = digits(12)
    attack = ATTACKS[name]
    result = attack(model, x, y)
    assert result.losses.shape == result.norms_along.shape
    assert torch.equal(result.losses.isnan(), result.norms_along.isnan())
    torch.testing.assert_close(result.norms_along[-1], result.norm(2))
    own = getattr(attack, "loss", "margin")
    after = model(result.adv).detach()
    want = {"cross_entropy": CE(after, y, reduction="none"), "margin": margin(after, y)}
    if own in want:
        torch.testing.assert_close(result.losses[-1], want[own])
    if not getattr(attack, "random_start", False) and name != "cw":
        assert (result.norms_along[0] == 0).all()
    looks = (~result.losses[:-1].isnan()).sum(0)
    passes = 9 * looks if "deepfool" in name else looks
    assert torch.equal(result.gradient_passes, passes)


def test_every_step_is_written_down():
    """Against a loop that writes down by itself."""
    model, x, y = digits(4)
    result = PGD(LInfBall(0.1), 0.03, 5, random_start=False)(model, x, y)
    at, losses, norms = x.clone(), [], []
    for _ in range(6):
        leaf = at.clone().requires_grad_()
        loss = CE(model(leaf), y, reduction="none")
        loss.sum().backward()
        losses.append(loss.detach())
        norms.append((at - x).flatten(1).norm(dim=1))
        at = (x + (at + 0.03 * leaf.grad.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    torch.testing.assert_close(result.losses, torch.stack(losses))
    torch.testing.assert_close(result.norms_along, torch.stack(norms))
    torch.testing.assert_close(result.first_steps, torch.full((4,), 0.03, dtype=x.dtype))


@pytest.mark.parametrize(
    ("attack", "want"),
    [
        (FGSM(0.1), 0.1),
        (PGD(LInfBall(0.1), 0.02, 1, random_start=False), 0.02),
        (PGD(LInfBall(0.1), 0.02, 4, until_fooled=True, random_start=False), 0.02),
        (PGD(LInfBall(0.1), 0.02, 0), 0.0),
        (OptimizerAttack(Adam, 0.05, 3), 0.05),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_first_steps(attack, want):
    model, x, y = digits(6)
    steps = attack(model, x, y).first_steps
    torch.testing.assert_close(steps, torch.full((6,), want, dtype=x.dtype), rtol=1e-3, atol=0)


def test_an_attack_without_steps_is_no_attack():
    model, x, y = digits(3)
    for attack in (PGD(LInfBall(0.1), 0.02, 0), DeepFool(steps=0), OptimizerAttack(SGD, steps=0)):
        result = attack(model, x, y)
        assert torch.equal(result.adv, x)
        assert result.losses.shape == (1, 3)
        assert (result.gradient_passes == 0).all()


def test_images_that_were_wrong_already_are_not_due():
    model, x, y = digits(6)
    y[:2] = (y[:2] + 1) % 10
    result = FGSM(0.1)(model, x, y)
    fell = result.success[2:]
    summary = result.summary()
    assert summary["examples"] == 6
    assert summary["attackable"] == 4
    assert summary["success"] == fell.double().mean()
    fallen = result.norm(2)[2:][fell]
    assert math.isclose(summary["l2"], fallen.mean()) if len(fallen) else math.isnan(summary["l2"])


@pytest.mark.parametrize("attack", [DeepFool(), DeepFool("linf"), CarliniWagner(steps=5)], ids=repr)
def test_the_smallest_change_of_a_wrong_image_is_none(attack):
    model, x, y = digits(4)
    y[1] = (y[1] + 1) % 10
    result = attack(model, x, y)
    assert torch.equal(result.adv[1], x[1])
    assert result.success[1]
    assert result.gradient_passes[1] == 0


def test_an_image_that_is_not_fooled_comes_back_from_carlini_and_wagner():
    model, x, y = digits(4)
    result = CarliniWagner(steps=3, search_steps=1)(model, x, y)
    assert not result.success.any()
    assert torch.equal(result.adv, x)


def test_the_right_class_as_target_makes_a_model_surer():
    model, x, y = digits(64, torch.float32)
    with torch.no_grad():
        sure = model(x).softmax(1)[range(64), y].mean()
    means = [FGSM(e)(model, x, target=y).label_confidences.mean() for e in (0.01, 0.05, 0.1)]
    assert sure < means[0] < means[1] < means[2]


def test_rounding_stays_in_the_range_of_a_picture():
    x = torch.tensor([-0.2, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.7])
    assert torch.equal(255 * to_8_bit(x), torch.tensor([0.0, 0.0, 0.0, 1.0, 255.0, 255.0]))


def test_a_table_has_a_row_an_attack():
    model, x, y = digits(8)
    results = [FGSM(0.1)(model, x, y), DeepFool()(model, x, y)]
    head, rule, fgsm, deepfool = summary_table(results).splitlines()
    assert head.count("|") == rule.count("|") == fgsm.count("|") == deepfool.count("|")
    assert deepfool.startswith("| deepfool-l2 | 8 of 8 | 100.0 |")
    assert f"{results[0].summary()['linf']:.4g}" in fgsm
    assert results[0].table().splitlines() == [head, rule, fgsm]


# Several attacks side by side.


def test_attacks_are_compared_on_the_same_images():
    model, x, y = digits(6)
    mask = torch.ones(1, 8, 8)
    mask[:, :2] = 0
    attacks = {"mine": OptimizerAttack(SGD, 0.1, 12), "yours": OptimizerAttack(Adam, 0.02, 3)}
    comparison = compare(attacks, model, x, target=(y + 1) % 10, mask=mask)
    assert list(comparison.results) == ["mine", "yours"]
    for name, attack in attacks.items():
        result = comparison.results[name]
        alone = attack(model, x, target=(y + 1) % 10, mask=mask)
        assert result.attack == name
        assert torch.equal(result.adv, alone.adv)


def test_attacks_of_one_name_are_numbered():
    model, x, y = digits(2)
    attacks = [OptimizerAttack(Adam, lr, 1) for lr in (0.01, 0.02, 0.03)]
    comparison = compare([*attacks, FGSM(0.1)], model, x, y)
    assert list(comparison.results) == ["adam", "adam (2)", "adam (3)", "fgsm"]
    firsts = [float(result.first_steps.mean()) for result in comparison.results.values()]
    assert firsts == pytest.approx([0.01, 0.02, 0.03, 0.1], rel=1e-3)


def test_the_table_of_a_comparison():
    model, x, y = digits(6)
    attacks = [OptimizerAttack(SGD, 0.1, 12), OptimizerAttack(Adam, 0.02, 3)]
    comparison = compare(attacks, model, x, y)
    head, rule, sgd, adam, empty, legend = comparison.table(steps=(1, 5)).splitlines()
    assert head.split(" | ")[3:] == ["at the start", "after 1", "after 5", "at the end |"]
    cells = [cell.strip() for cell in adam.split("|")[1:-1]]
    result = comparison.results["adam"]
    losses, norms = result.losses.mean(1), result.norms_along.mean(1)
    assert cells[0] == "adam"
    assert cells[1] == f"{100 * result.summary()['success']:.1f}"
    assert cells[2] == f"{result.first_steps.mean():.4g}"
    assert cells[3] == f"{losses[0]:.4g}; 0"
    assert cells[4] == f"{losses[1]:.4g}; {norms[1]:.4g}"
    assert cells[5] == ""
    assert cells[6] == f"{losses[3]:.4g}; {norms[3]:.4g}"
    assert len(sgd.split("|")) == len(head.split("|")) == len(rule.split("|"))
    assert sgd.split("|")[6].strip()
    assert empty == ""
    assert "loss" in legend


def test_images_that_have_left_keep_their_last_values_in_the_table():
    model, x, y = digits(16)
    attack = PGD(L2Ball(0.9), 0.15, 20, random_start=False, until_fooled=True)
    comparison = compare([attack], model, x, y)
    result = comparison.results["bim-l2"]
    left = result.norms_along[10].isnan()
    assert 0 < left.sum() < 16
    values = result.norms_along[10].clone()
    for row in left.nonzero().flatten().tolist():
        known = result.norms_along[:11, row]
        values[row] = known[~known.isnan()][-1]
    cells = comparison.table(steps=(10,)).splitlines()[2].split("|")
    assert cells[5].split(";")[1].strip() == f"{values.mean():.4g}"


def test_the_picture_of_a_comparison(tmp_path):
    pytest.importorskip("matplotlib")
    model, x, y = digits(3)
    path = tmp_path / "curves.svg"
    attacks = [FGM(L2Ball(0.5)), OptimizerAttack(Adam, 0.02, 3)]
    figure = history_curves(list(compare(attacks, model, x, y).results.values()), str(path))
    assert len(figure.axes) == 2
    assert path.stat().st_size > 1000


def test_results_of_several_radii_are_those_of_several_attacks():
    """`sweep` is what `run` does at one radius."""
    model, x, y = digits(6)
    radii = [0.0, 0.02, 0.1, torch.linspace(0, 0.2, 6, dtype=x.dtype)]
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    with quiet(model):
        results = FGSM(0.1).sweep(pixel_rows(model, x, y), radii)
    assert len(calls) == 1 + 1 + 2 * len(radii)  # a check, the gradient, each radius twice
    handle.remove()
    for radius, result in zip(radii, results, strict=True):
        alone = replace(FGSM(0.1), epsilon=radius)(model, x, y)
        assert torch.equal(result.adv, alone.adv)
        assert torch.equal(result.losses, alone.losses)
