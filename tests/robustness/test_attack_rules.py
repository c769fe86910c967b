"""Rules that hold for every accuracy under attack: ties, steps, chance, gradients, nan."""

import math
import random
from itertools import pairwise

import faulty_models as small
import numpy as np
import pytest
import torch
from faulty_models import Changed
from models import tiny
from small_texts import (
    Reader,
    TextModel,
    answered,
    attacked,
    opinion_batches,
    reader,
    sentences,
    split,
)
from torch import nn

from nlp_adv.attacks import APGD, FGSM, PGD, DeepFool, Noise, ladder
from nlp_adv.attacks.subject import Subject
from nlp_adv.attacks.words.example import Goal
from nlp_adv.errors import UserError
from nlp_adv.perturbation import L2Ball, LInfBall
from nlp_adv.perturbation.evaluating import answers
from nlp_adv.robustness import (
    WhiteBox,
    embedding_pgd,
    epsilon_sweep,
    evaluate_images,
    masking_checks,
)
from nlp_adv.robustness.fingerprint import attack_fingerprint
from nlp_adv.robustness.masking import answers_alike
from nlp_adv.robustness.runners import doubts_of

NAN, INF = math.nan, math.inf
PIXELS = PGD(LInfBall(0.05), 0.01, 3)
ATTACKS = [
    FGSM(0.01),
    PGD(LInfBall(0.01), 0.005, 2),
    APGD(L2Ball(0.1), 2),
    DeepFool(steps=2),
    Noise(LInfBall(0.01), draws=2),
]
# Logits, label, whether the model is right.
RULE = [
    ([2.0, 1.0, 0.0], 0, True),
    ([2.0, 1.0, 0.0], 1, False),
    ([0.0, 0.0, 0.0], 0, False),
    ([0.0, 0.0, 0.0], 2, False),
    ([1.0, 1.0, 0.0], 1, False),
    ([1.0, 0.0, 0.0], 0, True),  # a tie below the largest is none
    ([INF, 0.0, 0.0], 0, False),
    ([1.0, 0.0, -INF], 0, False),
    ([1.0, NAN, 0.0], 0, False),
    ([NAN, NAN, NAN], 0, False),
]


class Fixed(TextModel):
    """Answers every row with the same logits, whatever is read."""

    def __init__(self, row: list[float]) -> None:
        super().__init__(classes=len(row))
        self.row = row

    def logits(self, pooled):
        return pooled.new_tensor(self.row) + 0 * pooled.sum(-1, keepdim=True)


def says(row: list[float]):
    """The same of images."""
    return Changed(after=lambda logits: logits.new_tensor(row) + 0 * logits)


def checks_of(model, epsilon: float = 0.3, **changes) -> dict:
    """The masking checks by name: of a model of texts, or of images."""
    if isinstance(model, Reader):
        attack = embedding_pgd((epsilon,), 2).attack
        attack = PGD(L2Ball(epsilon), 2 * epsilon, 2, unit=attack.unit, shorten=True)
        found = masking_checks(Subject(model), opinion_batches(), attack, draws=2)
    else:
        found = masking_checks(Subject(model), [small.images(20)], PIXELS, draws=2)
    return {one.name: one for one in found}


@pytest.mark.fault("E10")
class TestOneRuleForTies:
    @pytest.mark.parametrize(("row", "label", "right"), RULE)
    def test_of_texts(self, row, label, right):
        data = {**sentences(3), "labels": torch.full((3,), label)}
        if not torch.tensor(row).isfinite().all():
            assert int(answers(torch.tensor(row))) == -1
            with pytest.raises(UserError, match="inf or nan"):
                attacked(Fixed(row), data, embedding_pgd((0.1,), 2))
            return
        for radii in ((0.0, 0.1), (0.0,)):
            for attack in (embedding_pgd(radii, 2), ladder(Noise(L2Ball(1.0), 2), radii)):
                found = attacked(Fixed(row), data, attack)
                assert found.clean_accuracy == float(right)
                assert [found.accuracy(e) for e in radii] == [float(right)] * len(radii)
                assert set((found.predictions == label).tolist()) == {right}

    @pytest.mark.parametrize(("row", "label", "right"), RULE)
    def test_of_images(self, row, label, right):
        x, _ = small.images(3)
        y, model = torch.full((3,), label), says(row)
        for attack in ATTACKS:
            found = attack(model, x, y)
            assert (~found.success).tolist() == [right] * 3
            assert found.attackable.tolist() == [right] * 3
        if torch.tensor(row).isfinite().all():
            assert evaluate_images(model, [(x, y)], ATTACKS[:1]).clean.count == 3 * right
            swept = epsilon_sweep(ATTACKS[1], model, [(x, y)], (0.0, 0.01))
            assert swept.right.tolist() == [right] * 3
            assert swept.robust(0.01).tolist() == [right] * 3

    @pytest.mark.parametrize(("row", "label", "right"), RULE)
    def test_of_words(self, row, label, right):
        logits = torch.tensor([row])
        ((_, reached),) = Goal().judged(logits, label)
        assert reached is not right  # any answer but the label, or none at all
        ((_, there),) = Goal(label).judged(logits, (label + 1) % 3)
        assert there is right

    @pytest.mark.parametrize("attack", ATTACKS[:2], ids=repr)
    def test_a_tie_reaches_no_target(self, attack):
        x, _ = small.images(3)
        for target in range(3):
            assert not attack(says([0.0, 0.0, 0.0]), x, target=target).success.any()

    def test_a_tie_in_half_precision_is_one_too(self):
        logits = torch.tensor([[1.0, 1.0004]], dtype=torch.float16)
        assert answers(logits).tolist() == [-1]
        assert answers(torch.tensor([[1.0, 1.0004]])).tolist() == [1]

    def test_rows_of_any_shape(self):
        logits = torch.tensor([[[0.0, 1.0], [1.0, 1.0]], [[NAN, 1.0], [3.0, 2.0]]])
        assert answers(logits).tolist() == [[1, -1], [-1, 0]]


@pytest.mark.fault("S4")
class TestSteps:
    def test_more_steps_are_not_shorter_ones(self):
        """Whatever K: the first is α, and all shorten linearly to nothing."""
        model, step = TextModel(), 1e-5
        data = answered(model, sentences(1))
        clean = model.table(data["input_ids"]).detach()
        attacked(model, data, embedding_pgd((step,), 1))  # the first look counts the model's calls
        for steps in (1, 5, 20):
            model.seen.clear()
            far = PGD(L2Ball(1.0), step, steps, random_start=False, loss="margin", shorten=True)
            attacked(model, data, ladder(far))
            way = [float((point - clean).norm()) / step for point in model.seen]
            assert way[:2] == [0.0, 0.0]  # without attack, and at the first gradient
            lengths = [after - before for before, after in pairwise(way[1:])]
            assert lengths == pytest.approx([1 - k / steps for k in range(steps)])

    def test_the_first_step_crosses_the_ball(self):
        """From a start on the far side of it, against the gradient."""
        model = TextModel()
        data = answered(model, sentences(4))
        attacked(model, data, embedding_pgd((1e-4,), 1))  # the first look counts the model's calls
        model.seen.clear()
        attacked(model, data, embedding_pgd((1e-4,), 2, restarts=8, unit="absolute"))
        clean = model.table(data["input_ids"]).detach()
        weight = model.head.weight.detach()
        along = (weight[1 - data["labels"]] - weight[data["labels"]])[:, None]
        along = along * data["attention_mask"][..., None]
        along = along / along.flatten(1).norm(dim=1)[:, None, None]
        deltas = [seen - clean for seen in model.seen[1:]]
        # A start, a step, another: 2ε from any point of the ball leads within 30° of the worst one.
        for after in deltas[1::3]:
            reached = (after * along).flatten(1).sum(1) / 1e-4
            assert (reached > 0.86).all()

    @pytest.mark.parametrize("steps", [20, 60])
    def test_a_surface_that_bends_is_crossed_however_many_the_steps(self, steps):
        """The gradient leads to the surface at angle 0, and the wrong answers lie at 2.6 and more.

        That is ε·(1 + 2.6) to go; a constant step of 2.5·ε/K ends before, whatever K.
        """
        epsilon = 0.1

        class Winding(TextModel):
            def logits(self, pooled):
                a, b = ((pooled - self.at)[:, :2] / (epsilon * 2**0.5)).unbind(1)
                away = a.square() + b.square()
                angle = torch.atan2(b, torch.where(away > 0, a, 1.0))
                return torch.stack([2.65 - 0.05 * a - away * angle, torch.zeros_like(a)], -1)

        model = Winding()
        data = {**sentences(1, columns=2), "labels": torch.zeros(1, dtype=torch.long)}
        with torch.no_grad():
            model.at = model.pooled(model.table(data["input_ids"]), data["attention_mask"])
        attack = embedding_pgd((epsilon,), steps, unit="absolute")
        assert attacked(model, data, attack).accuracy(epsilon) == 0
        constant = PGD(L2Ball(epsilon), 2.5 * epsilon / steps, steps, False, loss="margin")
        assert attacked(model, data, ladder(constant)).accuracy() == 1

    def test_the_length_belongs_to_the_fingerprint(self):
        default, other = embedding_pgd((0.1,)), embedding_pgd((0.1,), step_size=0.5)
        assert attack_fingerprint(default) != attack_fingerprint(other)
        assert attack_fingerprint(default) == attack_fingerprint(embedding_pgd([0.1]))
        assert WhiteBox(default).curve().title != WhiteBox(other).curve().title


class Restless(Reader):
    """Dropout that evaluation does not switch off."""

    rate = 0.2

    def after(self, logits):
        return logits * nn.functional.dropout(torch.ones_like(logits), self.rate, training=True)


@pytest.mark.fault("S5")
class TestModelsThatAnswerAtRandom:
    @pytest.mark.parametrize("rate", [0.01, 0.2])
    def test_the_checks_say_so_and_nothing_else(self, rate):
        model = reader(Restless)
        model.rate = rate
        torch.manual_seed(0)  # some stream in which a rate of 1 % shows in 160 numbers
        stream = torch.get_rng_state()
        blind = {"zero gradients, margin", "zero gradients, cross entropy"}
        pixels = Changed(after=lambda logits: logits * (1 + 0.1 * torch.rand_like(logits)))
        for found in (checks_of(model), checks_of(pixels)):
            assert found["repeatable"].passed is False
            assert set(found) == {"repeatable", "adaptive"} | blind
        assert torch.equal(torch.get_rng_state(), stream)

    @pytest.mark.parametrize(
        "law",
        [lambda: float(torch.rand(())), np.random.rand, random.random],
        ids=["torch", "numpy", "python"],
    )
    def test_whatever_draws(self, law):
        class Shaken(Reader):
            def after(self, logits):
                return logits * (1 + 0.5 * law())

        found = attacked(reader(Shaken), opinion_batches(), embedding_pgd((1e-6,), 2))
        assert not answers_alike(found)
        assert any("at random" in doubt for doubt in doubts_of(found))

    def test_an_ordinary_model_is_not_suspected(self):
        found = attacked(reader(), opinion_batches(), embedding_pgd((0.1,), 2))
        assert doubts_of(found) == []
        half = attacked(tiny("bert").eval().bfloat16(), sentences(20), embedding_pgd((0.1,), 2))
        assert doubts_of(half) == []
        dropout = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)).double().train()
        found = Subject(dropout).measure(ladder(PIXELS), [small.images(6)])
        assert doubts_of(found) == []  # in eval mode it has none
        assert dropout.training


class CutOff(Reader):
    """Learns nothing through its embeddings."""

    def after(self, logits):
        return logits.detach()


class WithoutGrad(Reader):
    forward = torch.no_grad()(Reader.forward)


@pytest.mark.fault("S6")
class TestModelsWithoutGradient:
    @pytest.mark.parametrize("kind", [CutOff, WithoutGrad])
    @pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
    def test_nothing_is_fooled_and_it_is_said(self, kind, loss):
        found = attacked(reader(kind), opinion_batches(), embedding_pgd((0.5,), 2, loss=loss))
        assert found.accuracy(0.5) == found.clean_accuracy > 0.9
        assert not found.first_gradients[found.right].any()
        assert any("no gradient" in doubt for doubt in doubts_of(found))

    @pytest.mark.parametrize(
        "model",
        [
            lambda: reader(CutOff),
            lambda: reader(WithoutGrad),
            lambda: Changed(after=lambda logits: logits.detach()),
            lambda: torch.no_grad()(small.trained()),
        ],
    )
    def test_the_checks_fail(self, model):
        found = checks_of(model())
        for loss in ("margin", "cross entropy"):
            assert found[f"zero gradients, {loss}"].passed is False
        assert found["repeatable"].passed is True

    def test_an_evaluation_of_images_says_so(self):
        model = Changed(after=lambda logits: logits.detach())
        x, y = small.images(6)
        with pytest.raises(UserError, match="do not depend on the input"):
            PIXELS(model, x, y)
        found = evaluate_images(model, [(x, y)], {"pgd": PIXELS})
        assert found.summaries["pgd"].under_attack == found.clean
        assert {one.found.first_gradient for one in found.records if one.attacked} == {0.0}


@pytest.mark.fault("D5")
class TestModelsThatAreNoNumbers:
    @pytest.mark.parametrize("value", [NAN, INF, -INF])
    @pytest.mark.parametrize("name", ["table.weight", "head.bias"])
    def test_weights_of_texts(self, name, value):
        model = TextModel()
        model.get_parameter(name).data.flatten()[0] = value  # a view
        with pytest.raises(UserError, match=f"{name} holds inf or nan"):
            attacked(model, sentences(3), embedding_pgd((0.1,), 2))

    @pytest.mark.parametrize("value", [NAN, INF])
    def test_weights_of_images(self, value):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
        model[1].weight.data[0, 0] = value
        x, y = small.images(4)
        for attack in ATTACKS:
            with pytest.raises(UserError, match=r"1\.weight holds inf or nan"):
                attack(model, x, y)
        for run in (
            lambda: evaluate_images(model, [(x, y)], ATTACKS[:1]),
            lambda: epsilon_sweep(FGSM(0.01), model, [(x, y)], (0.01,)),
            lambda: masking_checks(Subject(model), [(x, y)], PIXELS),
        ):
            with pytest.raises(UserError, match="diverged"):
                run()

    def test_weights_are_looked_at_by_the_checks(self):
        model = reader()
        model.head.bias.data[0] = NAN
        with pytest.raises(UserError, match="diverged"):
            checks_of(model)

    def test_logits_that_overflow_when_scaled_fail_a_check(self):
        assert checks_of(reader(factor=3e37))["logit scale, margin"].passed is False

    def test_a_buffer_may_hold_infinities_and_no_nan(self):
        model = TextModel()
        model.register_buffer("causal", torch.tensor([0.0, -INF]))
        data = answered(model, sentences(3))
        assert attacked(model, data, embedding_pgd((1e-9,), 1)).clean_accuracy == 1.0
        model.causal[0] = NAN
        with pytest.raises(UserError, match="causal"):
            attacked(model, data, embedding_pgd((1e-9,), 1))

    def test_a_few_such_answers_of_texts_count_as_wrong_and_are_named(self):
        class Some(TextModel):
            def logits(self, pooled):
                return super().logits(pooled).where(pooled[:, :1] > 0, NAN)

        model, data = Some(), sentences(30)
        with torch.no_grad():
            broken = model(**data)["logits"].isnan().any(1)
        found = attacked(model, split(answered(model, data), 7), embedding_pgd((1e-9,), 1))
        assert 0 < broken.sum() < 30
        assert torch.equal(found.right, ~broken)
        assert torch.equal(found.predictions == -1, broken)
        assert found.accuracy(1e-9) == found.clean_accuracy
        assert any(f"{int(broken.sum())} of 30" in doubt for doubt in found.doubts)

    def test_a_few_such_answers_of_images(self):
        x, y = small.images(12)
        half = Changed(after=lambda logits: logits.where(logits[:, :1] > 0, NAN))
        broken = int((small.trained()(x)[:, 0] <= 0).sum())
        found = evaluate_images(half, [(x, y)], [FGSM(1e-6)])
        assert 0 < broken < 12
        assert found.unanswered == broken
        assert found.clean.count <= 12 - broken
        with pytest.raises(UserError, match="every example with inf or nan"):
            evaluate_images(Changed(after=lambda logits: logits * NAN), [(x, y)], [FGSM(1e-6)])

    def test_a_model_that_turns_nan_under_attack_is_fooled(self):
        class Brittle(TextModel):
            def logits(self, pooled):
                moved = (pooled - self.clean).abs().sum() > 0 if hasattr(self, "clean") else False
                return super().logits(pooled) * (NAN if moved else 1.0)

        model = Brittle()
        data = answered(model, sentences(1))
        with torch.no_grad():
            model.clean = model.pooled(model.table(data["input_ids"]), data["attention_mask"])
        found = attacked(model, data, embedding_pgd((1e-6,), 2, unit="absolute"))
        assert found.clean_accuracy == 1.0
        assert found.accuracy(1e-6) == 0.0


@pytest.mark.fault("U3")
@pytest.mark.parametrize("radii", [(0.0,), (0.1, 0.1 + 1e-12)])
def test_an_evaluation_needs_radii_to_tell_apart(radii):
    with pytest.raises(UserError, match="radi"):
        WhiteBox(embedding_pgd(radii))
