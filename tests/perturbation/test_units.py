"""Units: how long 1 is, and what does not change when embeddings are scaled or padded."""

import math

import pytest
import torch
from models import LinearClassifier, linear_objective
from torch import Tensor

from nlp_adv.perturbation import (
    BALLS,
    L2Ball,
    ModelObjective,
    ScaledObjective,
    Segments,
    ascend,
    full_pass,
    unit_length,
)

FREE = (5, 3, 1)
WIDTH = 4
SIGNS = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)


def objective_of(x: Tensor, *, model=None) -> ModelObjective:
    """5, 3 and 1 real tokens; the padding's embeddings are as large as any."""
    mask = (torch.arange(x.shape[1]) < torch.tensor(FREE)[:, None]).double()
    model = model or LinearClassifier(x.shape[1:])
    return linear_objective(model, x, SIGNS, mask=mask[..., None].expand_as(x))


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, max(FREE), WIDTH, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("per", ["example", "token"])
def test_absolute_is_one(x, norm, per):
    assert unit_length(objective_of(x), BALLS[norm](1.0, per), "absolute") == 1.0


@pytest.mark.parametrize("per", ["example", "token"])
@pytest.mark.parametrize(
    ("norm", "length"), [("l2", math.sqrt), ("l1", float), ("linf", lambda n: 1.0)]
)
def test_per_coordinate_is_the_norm_of_ones(x, per, norm, length):
    """√(tokens·D) for L2: an ε in it is the root mean square of δ's coordinates."""
    got = unit_length(objective_of(x), BALLS[norm](1.0, per), "per_coordinate")
    want = [length(WIDTH * (free if per == "example" else 1)) for free in FREE]
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64).view(3, 1, 1))


def test_relative_is_the_frobenius_norm_of_the_real_tokens(x):
    got = unit_length(objective_of(x), L2Ball(1.0), "relative")
    want = torch.stack([row[:free].norm() for row, free in zip(x, FREE, strict=True)])
    torch.testing.assert_close(got, want.view(3, 1, 1))


def test_relative_per_token_is_the_root_mean_square_norm_of_a_token(x):
    got = unit_length(objective_of(x), L2Ball(1.0, "token"), "relative")
    square = [row[:free].norm(dim=1).square().mean() for row, free in zip(x, FREE, strict=True)]
    torch.testing.assert_close(got, torch.stack(square).sqrt().view(3, 1, 1))


@pytest.mark.parametrize(("norm", "length"), [("l1", lambda n: n), ("linf", lambda n: 1)])
def test_relative_in_other_norms_is_that_of_the_root_mean_square(x, norm, length):
    got = unit_length(objective_of(x), BALLS[norm](1.0), "relative")
    rms = [row[:free].square().mean().sqrt() for row, free in zip(x, FREE, strict=True)]
    want = [length(free * WIDTH) * r for r, free in zip(rms, FREE, strict=True)]
    torch.testing.assert_close(got, torch.stack(want).view(3, 1, 1))


@pytest.mark.parametrize("per", ["example", "token"])
def test_each_segment_has_a_unit_of_its_own(x, per):
    """That of an objective which holds the segment alone."""
    model, index = LinearClassifier(x.shape[1:]), torch.tensor([0, 1, 0, 1, 1]).expand(3, 5)
    objective = objective_of(x, model=model)
    objective.segments = Segments(index, 2)
    got = unit_length(objective, L2Ball(1.0, per), "relative")
    for number in range(2):
        alone = objective_of(x, model=model)
        alone.mask = alone.mask * (index == number)[..., None]
        want = unit_length(alone, L2Ball(1.0, per), "relative").expand(3, 5, 1)
        own = (index == number) & (alone.mask.amax(2) > 0)
        torch.testing.assert_close(got.expand(3, 5, 1)[own], want[own])


@pytest.mark.parametrize("times", [11.0, 300.0])
@pytest.mark.parametrize("per", ["example", "token"])
def test_an_attention_sink_is_no_part_of_the_unit(x, times, per):
    """The first token of the first example is as long as so many others; of the third, alone."""
    unit = math.sqrt(WIDTH) * x / x.norm(dim=-1, keepdim=True)
    unit[:, 0] *= times
    got = unit_length(objective_of(unit), L2Ball(1.0, per), "relative")
    tokens = [math.sqrt(free) if per == "example" else 1.0 for free in FREE]
    want = [math.sqrt(WIDTH) * one for one in tokens]
    want[2] *= times  # one token has no others
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64).view(3, 1, 1))


def test_a_token_that_is_long_but_no_sink_counts(x):
    unit = math.sqrt(WIDTH) * x / x.norm(dim=-1, keepdim=True)
    unit[:, 0] *= 9.0
    got = unit_length(objective_of(unit), L2Ball(1.0, "token"), "relative")
    want = [math.sqrt(WIDTH * (81 + free - 1) / free) for free in FREE]
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64).view(3, 1, 1))


def test_each_segment_leaves_its_own_sink_out(x):
    """Columns 0 and 1 are one module's, the others another's."""
    unit = math.sqrt(WIDTH) * x / x.norm(dim=-1, keepdim=True)
    unit[:, 2] *= 50.0
    objective = objective_of(unit)
    objective.segments = Segments((torch.arange(5) > 1).long().expand(3, 5), 2)
    got = unit_length(objective, L2Ball(1.0, "token"), "relative")
    torch.testing.assert_close(got[0], torch.full((5, 1), 2.0, dtype=torch.float64))


def test_pixels_have_one_unit_a_picture():
    x = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = linear_objective(LinearClassifier((2, 4, 4)), x, SIGNS)
    got = unit_length(objective, L2Ball(1.0), "relative")
    torch.testing.assert_close(got, x.flatten(1).norm(dim=1).view(3, 1, 1, 1))


@pytest.mark.parametrize("unit", ["per_coordinate", "relative"])
@pytest.mark.parametrize("per", ["example", "token"])
def test_padding_does_not_count(x, unit, per):
    padded = torch.cat([x, torch.full((3, 2, WIDTH), 100.0, dtype=torch.float64)], dim=1)
    ball = L2Ball(1.0, per)
    want = unit_length(objective_of(x), ball, unit)
    torch.testing.assert_close(unit_length(objective_of(padded), ball, unit), want)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("per", ["example", "token"])
def test_a_relative_attack_is_the_same_on_embeddings_of_another_scale(x, norm, per):
    """Ten times the embeddings and a tenth of the weights are the same function.

    Its relative δ is ten times as large, and every output and gradient of the output agrees.
    """
    small, large = LinearClassifier(x.shape[1:]), LinearClassifier(x.shape[1:])
    large.weight.data /= 10
    ball, found = BALLS[norm](0.3, per), []
    for model, embeddings in ((small, x), (large, 10 * x)):
        objective = objective_of(embeddings, model=model)
        scaled = ScaledObjective(objective, unit_length(objective, ball, "relative"))
        start = torch.zeros_like(x)
        delta = ascend(scaled.gradient, start, ball=ball, step_size=0.2, steps=3)
        found.append((full_pass(scaled, delta).loss, objective.delta, model.bias.grad))
    (loss, delta, grad), (loss_of_large, delta_of_large, grad_of_large) = found
    torch.testing.assert_close(delta_of_large, 10 * delta)
    torch.testing.assert_close(loss_of_large, loss)
    torch.testing.assert_close(grad_of_large, grad)
    assert (delta != 0).any()


def test_an_example_without_free_tokens_stays_finite(x):
    objective = objective_of(x)
    objective.mask = objective.mask * torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1)
    for unit in ("per_coordinate", "relative"):
        length = unit_length(objective, L2Ball(1.0), unit)
        scaled = ScaledObjective(objective, length)
        delta = ascend(scaled.gradient, x * 0, ball=L2Ball(0.3), step_size=0.2, steps=2)
        assert torch.isfinite(full_pass(scaled, delta).loss)
        assert (objective.delta[2] == 0).all()
        assert (objective.delta[:2] != 0).any()


def test_an_unknown_unit_is_refused(x):
    with pytest.raises(ValueError, match="per_coordinate, relative, not 'furlong'"):
        unit_length(objective_of(x), L2Ball(1.0), "furlong")
