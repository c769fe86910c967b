"""Ascent: on a linear classifier the inner maximum is known, and every ball's ascent reaches it."""

import pytest
import torch
from models import LinearClassifier, linear_objective
from torch import Tensor
from torch.nn.functional import softplus

from nlp_adv.perturbation import BALLS, L2Ball, LInfBall, WithinBox, advance, ascend

DUAL = {"l2": 2, "linf": 1, "l1": torch.inf}
SHAPES = {"embeddings": (3, 5, 4), "pixels": (3, 2, 4, 4)}


def setting(shape: tuple[int, ...]) -> tuple[LinearClassifier, Tensor, Tensor]:
    """A classifier, points in [0, 1], labels ±1."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    return LinearClassifier(shape[1:]), x, signs


def worst(model: LinearClassifier, x: Tensor, signs: Tensor, loss_of_margin: Tensor) -> Tensor:
    """The mean of softplus(−(margin − drop)), drop given for each example."""
    with torch.no_grad():
        return softplus(-(signs * model(x) - loss_of_margin)).mean()


def token_mask(x: Tensor) -> Tensor:
    """5, 3 and 1 free tokens."""
    free = torch.tensor([5, 3, 1])[:, None]
    mask = (torch.arange(x.shape[1]) < free).to(x.dtype)
    return mask[..., None].expand_as(x)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("start", ["clean", "random"])
def test_ascent_reaches_the_known_maximum(norm, shape, start):
    """max over ‖δ‖ ≤ ε of loss(margin(x + δ)) = loss(margin − ε‖w‖_dual)."""
    model, x, signs = setting(shape)
    ball, epsilon = BALLS[norm](0.4), 0.4
    objective = linear_objective(model, x, signs)
    delta = torch.zeros_like(x)
    if start == "random":
        delta = ball.sample(objective.mask, objective.generator)
    # Steps of ε from a random start: L1 moves one coordinate at a time, and so takes the longest.
    delta = ascend(objective.gradient, delta, ball=ball, step_size=epsilon, steps=60)
    drop = epsilon * torch.linalg.vector_norm(model.weight.detach(), DUAL[norm])
    torch.testing.assert_close(objective.forward(delta).loss, worst(model, x, signs, drop))


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("per", ["example", "token"])
def test_one_full_step_from_the_clean_point_reaches_it_over_the_free_tokens(norm, per):
    model, x, signs = setting(SHAPES["embeddings"])
    mask = token_mask(x)
    objective = linear_objective(model, x, signs, mask=mask)
    ball = BALLS[norm](0.4, per)
    delta = ascend(objective.gradient, torch.zeros_like(x), ball=ball, step_size=0.4, steps=1)
    assert (delta[mask == 0] == 0).all()
    free = model.weight.detach() * mask  # (B, T, D)
    if per == "example":
        dual = torch.linalg.vector_norm(free.flatten(1), DUAL[norm], dim=1)
    else:
        dual = torch.linalg.vector_norm(free, DUAL[norm], dim=2).sum(1)
    torch.testing.assert_close(objective.forward(delta).loss, worst(model, x, signs, 0.4 * dual))


@pytest.mark.parametrize("start", ["clean", "random"])
def test_ascent_within_the_pixel_range_reaches_the_known_maximum(start):
    """Each pixel falls by what both bounds leave: Σ|wᵢ|·min(ε, room to 0 or to 1)."""
    model, x, signs = setting(SHAPES["pixels"])
    objective, epsilon = linear_objective(model, x, signs), 0.3
    ball = WithinBox(LInfBall(epsilon), -x, 1 - x)
    delta = torch.zeros_like(x)
    if start == "random":
        delta = ball.sample(objective.mask, objective.generator)
    delta = ascend(objective.gradient, delta, ball=ball, step_size=0.1, steps=6)
    w = model.weight.detach()
    downhill = -signs.view(-1, 1, 1, 1) * w
    room = torch.where(downhill > 0, 1 - x, x).clamp_max(epsilon)
    assert (room < epsilon).any()  # the box matters here
    drop = (w.abs() * room).flatten(1).sum(1)
    torch.testing.assert_close(objective.forward(delta).loss, worst(model, x, signs, drop))


def test_a_negative_step_descends_to_the_known_minimum():
    model, x, signs = setting(SHAPES["embeddings"])
    objective = linear_objective(model, x, signs)
    zero = torch.zeros_like(x)
    delta = ascend(objective.gradient, zero, ball=L2Ball(0.4), step_size=-0.4, steps=1)
    gain = -0.4 * model.weight.detach().norm()
    torch.testing.assert_close(objective.forward(delta).loss, worst(model, x, signs, gain))


@pytest.mark.parametrize("norm", BALLS)
def test_the_loss_does_not_fall_along_an_ascent(norm):
    model, x, signs = setting(SHAPES["embeddings"])
    objective = linear_objective(model, x, signs)
    delta, losses = torch.zeros_like(x), []
    for _ in range(6):
        losses.append(float(objective.forward(delta).loss.detach()))
        grad = objective.gradient(delta)
        delta = advance(delta, grad, ball=BALLS[norm](0.4), step_size=0.1)
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_ascent_is_its_steps():
    calls = []

    def grad_fn(delta):
        calls.append(delta.clone())
        return delta.sin() + 0.1

    ball, start = L2Ball(0.4), torch.full((2, 3, 4), 0.01)
    got = ascend(grad_fn, start, ball=ball, step_size=0.1, steps=3)
    want = start
    for call in calls:
        assert torch.equal(call, want)
        want = advance(want, want.sin() + 0.1, ball=ball, step_size=0.1)
    assert len(calls) == 3
    assert torch.equal(got, want)


def test_no_steps_leave_the_start_and_ask_for_no_gradient():
    start = torch.ones(2, 3, 4)

    def grad_fn(delta):
        raise AssertionError("asked for a gradient")

    got = ascend(grad_fn, start, ball=L2Ball(0.1), step_size=1.0, steps=0)
    assert torch.equal(got, start)


def test_a_step_is_detached_and_does_not_write_into_its_arguments():
    delta = torch.ones(2, 3, 4, requires_grad=True)
    grad = torch.ones(2, 3, 4, requires_grad=True)
    moved = advance(delta, grad, ball=L2Ball(9.0), step_size=0.5)
    assert not moved.requires_grad
    assert (moved != 1).all()
    assert (delta == 1).all()
    assert (grad == 1).all()


def test_each_example_may_have_its_own_step_size():
    grad = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    step_size = torch.tensor([0.5, 2.0]).view(2, 1, 1)
    moved = advance(torch.zeros_like(grad), grad, ball=L2Ball(9.0), step_size=step_size)
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), step_size.flatten())


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_a_nonfinite_gradient_leaves_that_delta_where_it_is(norm, poison):
    ball = BALLS[norm](1.0)
    delta = ball.sample(torch.ones(3, 2, 4), torch.Generator().manual_seed(0))
    grad = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1))
    grad[1, 0, 3] = poison
    moved = advance(delta, grad, ball=ball, step_size=0.1)
    assert torch.equal(moved[1], ball.project(delta)[1])
    assert (moved[[0, 2]] != delta[[0, 2]]).flatten(1).any(1).all()
