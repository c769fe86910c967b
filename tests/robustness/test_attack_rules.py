"""Rules that hold for every accuracy under attack on texts: steps, ties, chance, gradients, nan."""

import copy
import math

import pytest
import test_checks
import torch
from embedding_results import left
from models import tiny
from test_checks import Reader, opinions
from test_embedding_attack import TextModel, answered, attacked, sentences, split
from torch import nn

from nlp_adv.attacks.words.example import Goal
from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import answers
from nlp_adv.robustness.checks import check_step_size, embedding_checks
from nlp_adv.robustness.embedding import EmbeddingNoise, EmbeddingPGD
from nlp_adv.robustness.white_box import WhiteBox

reader, batches = test_checks.reader, test_checks.batches  # fixtures
NAN, INF = math.nan, math.inf
# Logits, label, whether the model is right.
RULE = [
    ([2.0, 1.0, 0.0], 0, True),
    ([2.0, 1.0, 0.0], 1, False),
    ([0.0, 0.0, 0.0], 0, False),
    ([0.0, 0.0, 0.0], 2, False),
    ([1.0, 1.0, 0.0], 0, False),
    ([1.0, 1.0, 0.0], 1, False),
    ([1.0, 0.0, 0.0], 0, True),  # a tie below the largest is none
    ([INF, 0.0, 0.0], 0, False),
    ([1.0, 0.0, -INF], 0, False),
    ([NAN, 0.0, 0.0], 0, False),
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


class Restless(Reader):
    """Dropout that evaluation does not switch off."""

    rate = 0.2

    def forward(self, input_ids, attention_mask, labels=None):
        output = super().forward(input_ids, attention_mask, labels)
        kept = nn.functional.dropout(torch.ones_like(output["logits"]), self.rate, training=True)
        return {**output, "logits": output["logits"] * kept}


class CutOff(Reader):
    """Learns nothing through its embeddings."""

    def forward(self, input_ids, attention_mask, labels=None):
        output = super().forward(input_ids, attention_mask, labels)
        return {**output, "logits": output["logits"].detach()}


def batch_of(model: nn.Module, count: int = 40) -> list[dict[str, torch.Tensor]]:
    return split(answered(model, opinions(count, seed=3)), 20)


@pytest.mark.fault("E10")
class TestOneRuleForTies:
    @pytest.mark.parametrize(("row", "label", "right"), RULE)
    def test_without_attack_and_under_it(self, row, label, right):
        data = {**sentences(3), "labels": torch.full((3,), label)}
        if not torch.tensor(row).isfinite().all():
            data = sentences(3)
            assert int(answers(torch.tensor(row))) == -1
            with pytest.raises(UserError, match="inf or nan"):
                attacked(Fixed(row), data, EmbeddingPGD((0.1,), steps=2))
            return
        for radii in ((0.1,), (0.0, 0.1), (0.0,)):
            for attack in (EmbeddingPGD(radii, steps=2), EmbeddingNoise(radii, draws=2)):
                result = attacked(Fixed(row), data, attack)
                assert result.clean_accuracy == float(right)
                assert [result.accuracy(e) for e in radii] == [float(right)] * len(radii)
                assert set((result.predictions == label).tolist()) == {right}

    @pytest.mark.parametrize(("row", "label", "right"), RULE)
    def test_of_words(self, row, label, right):
        logits = torch.tensor([row])
        ((_, reached),) = Goal().judged(logits, label)
        assert reached is not right  # any answer but the label, or none at all
        ((_, there),) = Goal(label).judged(logits, (label + 1) % 3)
        assert there is right

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
        """Whatever K: the first is 2ε, the way across the ball; all shorten to nothing."""
        for steps in (1, 5, 20, 100):
            shares = EmbeddingPGD((0.1,), steps=steps).shares
            assert len(shares) == steps
            assert shares[0] == 2.0
            assert sum(shares) == pytest.approx(2 * (steps + 1) / 2)
            falls = [a - b for a, b in zip(shares, [*shares[1:], 0.0], strict=True)]
            assert falls == pytest.approx([2 / steps] * steps)

    def test_the_first_step_crosses_the_ball(self):
        """From a start on the far side of it, against the gradient."""
        model = TextModel()
        data = answered(model, sentences(4))
        model.seen.clear()
        attack = EmbeddingPGD((1e-4,), steps=2, restarts=8, unit="absolute")
        attacked(model, data, attack)
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

        class Short(EmbeddingPGD):
            shares = (2.5 / steps,) * steps

        model = Winding()
        data = {**sentences(1, columns=2), "labels": torch.zeros(1, dtype=torch.long)}
        with torch.no_grad():
            model.at = model.pooled(model.table(data["input_ids"]), data["attention_mask"])
        settings = {"steps": steps, "unit": "absolute"}
        assert attacked(model, data, EmbeddingPGD((epsilon,), **settings)).accuracy(epsilon) == 0
        assert attacked(model, data, Short((epsilon,), **settings)).accuracy(epsilon) == 1

    @pytest.mark.parametrize("step_size", [0, -1.0, NAN, INF])
    def test_a_step_that_is_none_is_refused(self, step_size):
        with pytest.raises(ValueError, match="step_size"):
            EmbeddingPGD((0.1,), step_size=step_size)

    def test_it_belongs_to_the_fingerprint(self):
        default, other = EmbeddingPGD((0.1,)), EmbeddingPGD((0.1,), step_size=0.5)
        assert WhiteBox(default).hash != WhiteBox(other).hash
        assert WhiteBox(default).hash == WhiteBox(EmbeddingPGD((0.1,), step_size=2.0)).hash
        assert WhiteBox(default).curve([]).title != WhiteBox(other).curve([]).title

    def test_the_check_finds_an_attack_of_short_steps(self, reader, batches):
        short = {"epsilon": 0.3, "steps": 4, "step_size": 0.05}
        found = {one.name: one for one in embedding_checks(reader, batches, **short)}
        assert found["step size"].passed is False
        longer = attacked(reader, batches, EmbeddingPGD((0.3,), steps=4, step_size=0.1))
        assert f"{100 * longer.accuracy(0.3):.1f} % (×2)" in found["step size"].finding

    def test_the_check_judges_by_what_other_steps_gain(self):
        own = left(60, 40)
        assert check_step_size(own, {0.5: left(70, 30), 2.0: left(59, 41)}).passed is True
        assert check_step_size(own, {0.5: left(70, 30), 2.0: left(40, 60)}).passed is False
        assert check_step_size(own, {0.5: left(57, 43), 2.0: left(60, 40)}).passed is None
        assert check_step_size(left(9, 0), {2.0: left(9, 0)}).passed is None


@pytest.mark.fault("S5")
class TestModelsThatAnswerAtRandom:
    @pytest.mark.parametrize("rate", [0.01, 0.2])
    def test_the_checks_say_so_and_nothing_else(self, reader, rate):
        model = Restless(90)
        model.load_state_dict(reader.state_dict())
        model.rate = rate
        torch.manual_seed(0)
        found = embedding_checks(model, batch_of(reader), epsilon=0.1, steps=3, draws=2)
        assert found[0].name == "repeatable"
        assert found[0].passed is False
        assert not {one.name for one in found} & {"steps", "restarts", "noise", "radius"}

    @pytest.mark.parametrize("draw", ["torch", "numpy", "python"])
    def test_whatever_draws(self, reader, draw):
        import random

        import numpy as np

        laws = {
            "torch": lambda: float(torch.rand(())),
            "numpy": lambda: float(np.random.rand()),
            "python": random.random,
        }

        class Shaken(Reader):
            def forward(self, input_ids, attention_mask, labels=None):
                output = super().forward(input_ids, attention_mask, labels)
                return {**output, "logits": output["logits"] * (1 + 0.5 * laws[draw]())}

        model = Shaken(90)
        model.load_state_dict(reader.state_dict())
        result = attacked(model, batch_of(reader), EmbeddingPGD((1e-6,), steps=2))
        assert not result.repeatable
        assert any("at random" in doubt for doubt in result.doubts)

    def test_an_ordinary_model_is_not_suspected(self, reader, batches):
        result = attacked(reader, batches, EmbeddingPGD((0.1,), steps=2))
        assert result.repeatable
        assert result.doubts == []
        half = attacked(tiny("bert").eval().bfloat16(), sentences(20), EmbeddingPGD((0.1,)))
        assert half.repeatable

    def test_the_random_streams_stay_where_they_were(self, reader):
        model = Restless(90)
        before = torch.get_rng_state()
        attacked(model, batch_of(reader), EmbeddingPGD((0.1,), steps=2))
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.fault("S6")
class TestModelsWithoutGradient:
    @pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
    def test_nothing_is_fooled_and_it_is_said(self, reader, loss):
        model = CutOff(90)
        model.load_state_dict(reader.state_dict())
        result = attacked(model, batch_of(reader), EmbeddingPGD((0.5,), steps=2, loss=loss))
        assert result.accuracy(0.5) == result.clean_accuracy == 1.0
        assert not result.gradient_norms.any()
        assert any("no gradient" in doubt for doubt in result.doubts)

    def test_without_grad_inside_the_model(self, reader):
        class Frozen(Reader):
            forward = torch.no_grad()(Reader.forward)

        model = Frozen(90)
        model.load_state_dict(reader.state_dict())
        found = {o.name: o for o in embedding_checks(model, batch_of(reader), epsilon=0.3, steps=2)}
        for loss in ("margin", "cross entropy"):
            assert found[f"zero gradients, {loss}"].passed is False
        assert found["repeatable"].passed is True


@pytest.mark.fault("D5")
class TestModelsThatAreNoNumbers:
    @pytest.mark.parametrize("value", [NAN, INF, -INF])
    @pytest.mark.parametrize("name", ["table.weight", "head.bias"])
    def test_weights(self, name, value):
        model = TextModel()
        model.get_parameter(name).data.flatten()[0] = value  # a view
        with pytest.raises(UserError, match=f"{name} holds inf or nan"):
            attacked(model, sentences(3), EmbeddingPGD((0.1,), steps=2))
        with pytest.raises(UserError, match="diverged"):
            embedding_checks(model, [sentences(3)], epsilon=0.1)

    def test_logits_that_overflow_when_scaled_fail_a_check(self, reader, batches):
        model = copy.deepcopy(reader)
        model.head.weight.data.mul_(3e37)
        model.head.bias.data.mul_(3e37)
        found = {one.name: one for one in embedding_checks(model, batches, epsilon=0.3, steps=2)}
        assert found["logit scale, margin"].passed is False

    def test_a_buffer_may_hold_infinities_and_no_nan(self):
        model = TextModel()
        model.register_buffer("causal", torch.tensor([0.0, -INF]))
        data = answered(model, sentences(3))
        assert attacked(model, data, EmbeddingPGD((1e-9,), steps=1)).clean_accuracy == 1.0
        model.causal[0] = NAN
        with pytest.raises(UserError, match="causal"):
            attacked(model, data, EmbeddingPGD((1e-9,), steps=1))

    def test_a_few_such_answers_count_as_wrong_and_are_named(self):
        class Some(TextModel):
            def logits(self, pooled):
                return super().logits(pooled).where(pooled[:, :1] > 0, NAN)

        model = Some()
        data = sentences(30)
        with torch.no_grad():
            broken = int(model(**data)["logits"].isnan().any(1).sum())
        result = attacked(model, answered(model, data), EmbeddingPGD((1e-9,), steps=1))
        assert 0 < broken < 30
        assert result.clean_accuracy == pytest.approx(1 - broken / 30)
        assert any(f"{broken} of 30" in doubt for doubt in result.doubts)


@pytest.mark.fault("U3")
@pytest.mark.parametrize("radii", [(-1.0,), (NAN,), (INF,), (), (0.1, -0.1), (0.1, NAN), 0.1])
def test_radii_that_are_none(radii):
    for attack in (EmbeddingPGD, EmbeddingNoise):
        with pytest.raises(ValueError, match=r"epsilons"):
            attack(radii)


@pytest.mark.fault("U3")
@pytest.mark.parametrize("radii", [(0.0,), (0.1, 0.1), (0.1, 0.1 + 1e-12)])
def test_an_evaluation_needs_radii_to_tell_apart(radii):
    with pytest.raises(UserError, match="radi"):
        WhiteBox(EmbeddingPGD(radii))


@pytest.mark.fault("U3")
@pytest.mark.parametrize("epsilon", [0.0, -0.1, NAN, INF])
def test_checks_need_a_radius(reader, batches, epsilon):
    with pytest.raises(UserError, match="finite radius above 0"):
        embedding_checks(reader, batches, epsilon=epsilon)


def test_no_two_batches_start_alike():
    """The seed is one for the run; equal batches in a row have starts of their own."""
    model = TextModel()
    data = answered(model, sentences(5))
    model.seen.clear()
    attacked(model, [data, data], EmbeddingPGD((1e-6,), steps=1, restarts=2, unit="absolute"))
    clean = model.table(data["input_ids"]).detach()
    moved = [seen - clean for seen in model.seen]
    first, second = moved[: len(moved) // 2], moved[len(moved) // 2 :]
    same = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert same[:3] == [True] * 3  # without attack, at 0, after the step from there
    assert not same[3]  # a random start
