"""The masking checks: an ordinary model passes each, a model with a fault fails those it must.

The control is a model that learns and the same model with its logits multiplied by 30: the same
answers, but a softmax that shows an attack nothing.
"""

import functools
import json
from dataclasses import asdict, replace

import faulty_models as small
import pytest
import torch
from faulty_models import EPSILON
from small_texts import Reader, answered, opinion_batches, reader
from torch import nn

from nlp_adv.attacks import FGM, PGD, ladder
from nlp_adv.attacks.subject import Subject
from nlp_adv.errors import UserError
from nlp_adv.perturbation import BALLS, L2Ball, LInfBall
from nlp_adv.robustness import embedding_pgd, masking_checks

ON_TEXT = embedding_pgd((1.0,), 8).attack
ON_PIXELS = PGD(LInfBall(EPSILON), step_size=EPSILON / 5, steps=8)
FACTOR = ON_TEXT.step_size  # of the step, in shares of ε
TEXT_NAMES = [
    "answers", "logits", "repeatable", "adaptive", "large radius", "radius", "steps", "step size",
    "restarts", "one step", "noise", "black box", "cross entropy", "logit scale, softmax",
    "logit scale, margin", "zero gradients, margin", "zero gradients, cross entropy", "confidence",
    "ascent",
]  # fmt: skip
SEES_NOTHING = {
    "cross entropy", "logit scale, softmax", "zero gradients, cross entropy", "confidence",
}  # fmt: skip


def on_text(model, epsilon: float = 0.3, *, batches=None, norm="l2", unit="relative", **changes):
    """The checks by name; two batches of 40 opinions without others."""
    ball, options = (
        BALLS[norm](epsilon, "example"),
        {"draws": changes.pop("draws", 10), "queries": 20},
    )
    if "progress" in changes:
        options["progress"] = changes.pop("progress")
    changes = {"step_size": FACTOR * epsilon, "ball": ball, "unit": unit, **changes}
    attack, data = replace(ON_TEXT, **changes), batches or opinion_batches()
    return {one.name: one for one in masking_checks(Subject(model), data, attack, **options)}


def on_pixels(model, epsilon: float = EPSILON, draws: int = 4, queries: int = 20):
    """The same of 60 images."""
    x, y = small.images()
    attack = replace(ON_PIXELS, ball=LInfBall(epsilon), step_size=epsilon / 5)
    batches = [(x[:40], y[:40]), (x[40:], y[40:])]
    return {
        one.name: one
        for one in masking_checks(
            Subject(model), batches, attack, draws=draws, restarts=2, queries=queries
        )
    }


def failed(found) -> set[str]:
    return {name for name, check in found.items() if check.passed is False}


@functools.cache
def plain():
    return on_text(reader())


@functools.cache
def sharp():
    return on_text(reader(factor=30.0))


@functools.cache
def ordinary():
    return on_pixels(small.trained())


class TestOrdinaryModels:
    def test_of_texts(self):
        assert list(plain()) == TEXT_NAMES
        assert failed(plain()) == set()
        assert [name for name, one in plain().items() if one.passed is None] == []

    def test_of_images(self):
        assert list(ordinary()) == [*TEXT_NAMES, "rounding to 8 bits"]
        assert {check.passed for check in ordinary().values()} == {True}

    def test_findings_are_sentences_of_plain_values(self):
        for check in (*plain().values(), *sharp().values(), *ordinary().values()):
            assert check.finding.endswith(".")
            assert check.meaning.endswith(".")
            assert json.loads(json.dumps(asdict(check))) == asdict(check)


class TestMaskedModels:
    def test_a_sharpened_one_fails_where_the_softmax_is_asked(self):
        assert failed(sharp()) == SEES_NOTHING

    def test_and_is_no_other_model_to_the_margin(self):
        for name in ("large radius", "radius", "steps", "step size", "restarts", "noise"):
            assert sharp()[name] == plain()[name]
        assert sharp()["logit scale, margin"] == plain()["logit scale, margin"]

    def test_no_sharpening_is_too_much_to_be_found(self):
        """×0.01 does not take this one back; the fitted factor does."""
        assert on_text(reader(factor=1e6), steps=2)["logit scale, softmax"].passed is False

    @pytest.mark.parametrize(
        ("fault", "names"),
        [
            (small.saturated, SEES_NOTHING),
            (small.probabilities, {"logits"}),
            (small.rounding, {"large radius", "zero gradients, margin"}),
            (small.noisy, {"repeatable"}),
            (small.backwards, {"large radius", "ascent"}),
            (small.flat_at_pictures, {"restarts", "zero gradients, margin"}),
            (small.true_at_pictures, {"one step", "ascent"}),
            (small.remembering, {"radius", "large radius"}),
            (small.huge, {"logit scale, margin"}),
            (small.fitted, {"adaptive"}),
        ],
    )
    def test_a_model_of_images_with_a_fault(self, fault, names):
        assert names <= failed(on_pixels(fault()))

    def test_noise_beats_an_attack_that_goes_backwards(self):
        assert on_pixels(small.backwards(), 0.35, draws=10)["noise"].passed is False

    @pytest.mark.parametrize("fault", [small.backwards, small.rounding])
    def test_a_search_without_gradients_beats_one_that_they_mislead(self, fault):
        found = on_pixels(fault(), 0.2, queries=100)["black box"]
        assert found.passed is False
        assert "a random search of 100 queries" in found.finding

    def test_there_is_no_search_in_l1(self):
        names = on_text(reader(), 0.3, norm="l1", steps=1, batches=opinion_batches()[:1])
        assert [name for name in TEXT_NAMES if name not in names] == ["black box"]

    def test_a_model_that_reads_nothing_fails_at_the_large_radius(self):
        model = reader(factor=0.0)
        model.head.bias.data.copy_(torch.tensor([1.0, 0.0]))
        found = on_text(model, steps=2)
        assert {"answers", "large radius", "zero gradients, margin"} <= failed(found)
        assert found["noise"].passed is None

    def test_a_start_without_gradient_is_found_by_restarts(self):
        """The margin of class 0 is 1 − 100·|mean|²: flat where the embeddings are 0."""

        class Flat(Reader):
            def forward(self, input_ids, attention_mask, labels=None):
                square = 100 * self.table(input_ids).mean(1).square().sum(-1)
                return {"logits": torch.stack([1 - square, torch.zeros_like(square)], -1)}

        model = Flat()
        model.table.weight.data.zero_()
        batches = [answered(model, batch) for batch in opinion_batches()]
        found = on_text(model, 5.0, batches=batches, unit="absolute")
        assert {"restarts", "zero gradients, margin"} <= failed(found)

    @pytest.mark.fault("S4")
    def test_an_attack_of_short_steps(self):
        """It loses what steps of twice the length find, and the finding says how much."""
        short = replace(ON_TEXT, ball=L2Ball(0.3), steps=4, step_size=0.05 * 0.3)
        check = on_text(reader(), steps=4, step_size=short.step_size)["step size"]
        longer = ladder(replace(short, step_size=0.1 * 0.3))
        left = Subject(reader()).measure(longer, opinion_batches()).accuracy()
        assert check.passed is False
        assert f"{100 * left:.1f} % (×2)" in check.finding

    def test_one_step_is_no_weaker_where_the_model_is_linear(self):
        x, _ = small.images(30)
        torch.manual_seed(0)
        linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
        batches = [(x, linear(x).argmax(1))]
        one, pgd = (
            Subject(linear).measure(ladder(attack), batches)
            for attack in (FGM(LInfBall(0.05), "margin"), replace(ON_PIXELS, loss="margin"))
        )
        assert torch.equal(one.fooled, pgd.fooled)
        assert one.fooled.any()


class TestTheDriver:
    @pytest.mark.fault("U3")
    @pytest.mark.parametrize("epsilon", [0.0, torch.inf])
    def test_what_cannot_be_compared_is_refused(self, epsilon):
        for subject, attack, batches in (
            (Subject(reader()), replace(ON_TEXT, ball=L2Ball(epsilon)), opinion_batches()),
            (Subject(small.trained()), replace(ON_PIXELS, ball=L2Ball(epsilon)), [small.images(3)]),
        ):
            with pytest.raises(UserError, match="a finite radius above 0"):
                masking_checks(subject, batches, attack)

    def test_nothing_and_a_single_start_are_refused(self):
        for batches, restarts in (([], 2), (opinion_batches(), 1)):
            with pytest.raises(UserError, match=r"need examples.*at least 2 restarts"):
                masking_checks(Subject(reader()), batches, ON_TEXT, restarts=restarts)

    def test_batches_may_come_once_and_nothing_is_left_behind(self, capsys):
        model, once = reader().train(), iter(opinion_batches())
        before = {name: value.clone() for name, value in model.state_dict().items()}
        stream = torch.get_rng_state()
        found = on_text(model, batches=once, steps=1, progress="Checking")
        assert found == on_text(model, steps=1)
        assert "Checking: 100%" in capsys.readouterr().err.split("\r")[-1]
        assert torch.equal(torch.get_rng_state(), stream)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any(module._forward_hooks for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert model.training

    @pytest.mark.parametrize(
        ("factor", "norm", "runs"), [(1e-3, "l2", 15), (1e3, "l1", 15), (1e3, "linf", 16)]
    )
    def test_the_bar_ends_full(self, capsys, factor, norm, runs):
        """Also where the logits need no calibration, or the norm has no search."""
        model, options = reader(factor=factor), {"steps": 1, "progress": "Checking"}
        on_text(model, batches=opinion_batches()[:1], norm=norm, **options)
        assert f"100%|██████████| {runs}/{runs} " in capsys.readouterr().err.split("\r")[-1]

    def test_the_confidence_is_of_fooled_examples_alone(self):
        """Neither of those that are robust nor of those that were wrong without attack."""
        batch = dict(opinion_batches()[0])
        batch["labels"] = torch.where(torch.arange(40) < 5, 1 - batch["labels"], batch["labels"])
        short = embedding_pgd((0.2,), 4, step_size=2.5 / 4)  # they end close to the border
        seen = Subject(reader()).measure(short, [batch])
        fooled = seen.fooled[:, 0]
        assert 10 <= fooled.sum() < 30
        assert (~seen.right).sum() >= 5
        found = on_text(reader(), 0.2, batches=[batch], steps=4, draws=3)
        mean = 100 * float(seen.confidences[fooled, 0].mean())
        expected = f"{mean:.1f} % in the {int(fooled.sum())} wrong answers"
        assert expected in found["confidence"].finding
        assert "the best of 3 random directions" in found["noise"].finding

    @pytest.mark.parametrize("norm", ["linf", "l1"])
    @pytest.mark.parametrize("unit", ["absolute", "per_coordinate"])
    def test_large_is_what_erases_the_embeddings_in_any_unit(self, norm, unit):
        found = on_text(reader(), 1e-3, norm=norm, unit=unit, steps=1, draws=1)
        seen = Subject(reader()).measure(
            embedding_pgd((1e-3,), 1, norm=norm, unit=unit), opinion_batches()
        )
        assert found["large radius"].passed is not None
        assert f"(from ε = {seen.erasing:.3g} on)" in found["large radius"].finding

    @pytest.mark.parametrize("ball", [LInfBall(0.1), L2Ball(0.1)], ids=repr)
    def test_every_pixel_can_become_grey_at_the_large_radius(self, ball):
        x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
        y = torch.zeros(3, dtype=torch.long)
        seen = Subject(small.trained()).measure(ladder(PGD(ball, 0.1, 1)), [(x, y)])
        away = ball.norm(0.5 - x).max()
        assert away <= seen.erasing <= 2 * away


def test_rounding_undoes_what_is_no_picture():
    found = on_pixels(small.off_grid())
    assert "rounding to 8 bits" in failed(found)
