"""A method in another unit: ε, step and random start grow alike."""

import pytest
import torch
from models import LinearClassifier, assert_gradients, gradients, linear_objective
from torch import Tensor

from nlp_adv.methods import FGM, PGD, FGMMatrix, FreeLB, NoAttack, Noise, Scaled
from nlp_adv.perturbation import BALLS, L2Ball, LInfBall, unit_length

SIGNS = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)


def objective(*, seed: int = 0):
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    free = torch.tensor([5, 3, 1])[:, None]
    mask = (torch.arange(5) < free).double()[..., None].expand_as(x)
    return linear_objective(LinearClassifier((5, 4)), x, SIGNS, mask=mask, seed=seed)


def stepped(method) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The last δ, the loss, ∇θ."""
    run = objective()
    loss = method.step(run).loss
    return run.delta, loss, gradients(run.model)


@pytest.mark.parametrize("factor", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("norm", BALLS)
def test_a_factor_multiplies_every_length(norm, factor):
    def freelb(unit_of_length):
        return FreeLB(
            BALLS[norm](0.4 * unit_of_length),
            step_size=0.2 * unit_of_length,
            steps=3,
            init_magnitude=0.3 * unit_of_length,
        )

    delta, loss, theta = stepped(Scaled(freelb(1.0), factor=factor))
    want_delta, want_loss, want_theta = stepped(freelb(factor))
    torch.testing.assert_close(delta, want_delta)
    torch.testing.assert_close(loss, want_loss)
    assert_gradients(theta, want_theta)


def test_factor_one_of_the_absolute_unit_changes_nothing():
    method = PGD(L2Ball(0.4), 0.2, 3, clean_weight=0.5)
    got, want = stepped(Scaled(method)), stepped(method)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("unit", ["per_coordinate", "relative"])
@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("per", ["example", "token"])
def test_a_unit_is_a_radius_for_each_example(unit, norm, per):
    """On a linear model FGM goes straight to the sphere: ‖δ_b‖ = ε·length_b."""
    ball = BALLS[norm](0.4, per)
    delta, _, _ = stepped(Scaled(FGM(ball), unit))
    run = objective()
    want = 0.4 * unit_length(run, ball, unit) * (ball.norm(run.mask) > 0)
    torch.testing.assert_close(ball.norm(delta), want.expand_as(ball.norm(delta)))


def test_a_random_start_fills_the_ball_in_its_unit():
    radii = []
    for seed in range(200):
        run = objective(seed=seed)
        Scaled(Noise(L2Ball(0.4)), "relative").step(run)
        radii.append(run.delta.flatten(1).norm(dim=1))
    longest = torch.stack(radii).max(0).values
    limit = 0.4 * unit_length(objective(), L2Ball(1.0), "relative").flatten()
    assert (longest <= limit * (1 + 1e-12)).all()
    assert (longest > 0.98 * limit).all()


def test_it_is_its_method_in_all_else():
    inner = PGD(LInfBall(0.1), 0.05, 3, clean_weight=0.5)
    method = Scaled(inner, "relative")
    assert (method.name, method.ball) == ("pgd", inner.ball)
    assert (method.passes, method.inner_passes) == (inner.passes, inner.inner_passes)


@pytest.mark.parametrize("method", [NoAttack(), FGMMatrix(1.0)], ids=lambda m: m.name)
def test_a_method_without_a_ball_has_no_other_unit(method):
    with pytest.raises(ValueError, match=f"{method.name} moves no δ"):
        Scaled(method, "relative")
