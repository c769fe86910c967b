"""Balls: every verb against its definition, for every norm, slice and shape."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from torch import Tensor

from nlp_adv.perturbation import BALLS, Ball, L1Ball, L2Ball, LInfBall, Segments, WithinBox

ORDER = {"l2": 2, "linf": math.inf, "l1": 1}
DUAL = {"l2": 2, "linf": 1, "l1": math.inf}
KINDS = [(norm, per) for per in ("example", "token", "segments") for norm in BALLS]
SHAPES = {"example": [(3, 2, 4), (2, 2, 3, 2)], "token": [(2, 3, 4)], "segments": [(2, 4, 3)]}

each_kind = pytest.mark.parametrize(("norm", "per"), KINDS)
each_norm = pytest.mark.parametrize("norm", BALLS)

finite = st.floats(-10, 10, allow_subnormal=False)
radius = st.sampled_from([0.0, 1e-3, 0.5, 3.0]) | st.floats(0, 10, allow_subnormal=False)


class Case(NamedTuple):
    delta: Tensor
    other: Tensor
    epsilon: float


@st.composite
def cases(draw, per: str) -> Case:
    shape = draw(st.sampled_from(SHAPES[per]))
    delta, other = (draw(hnp.arrays("float64", shape, elements=finite)) for _ in range(2))
    return Case(torch.from_numpy(delta), torch.from_numpy(other), draw(radius))


def segments(delta: Tensor) -> Segments:
    """Two segments in turn, unlike in neighbouring rows; a third has no token."""
    rows, tokens = (torch.arange(size) for size in delta.shape[:2])
    return Segments((tokens + rows[:, None]) % 2, 3)


def ball_of(norm: str, epsilon: float, per: str, delta: Tensor) -> Ball:
    return BALLS[norm](epsilon, segments(delta) if per == "segments" else per)


def slices(delta: Tensor, per: str) -> Tensor:
    """One slice a row, with zeros for the tokens of other segments."""
    if per != "segments":
        return delta.flatten(1) if per == "example" else delta.flatten(0, 1)
    own = segments(delta).index[:, None] == torch.arange(3)[:, None]
    return torch.stack([delta] * 3, 1).where(own[..., None], 0.0).flatten(0, 1).flatten(1)


def norms(delta: Tensor, norm: dict[str, float] | float, per: str) -> Tensor:
    return torch.linalg.vector_norm(slices(delta, per), norm, dim=1)


def each_kind_with_cases(test):
    """`test(norm, per, case)`, with cases in the shapes that `per` allows."""

    @each_kind
    @given(data=st.data())
    def run(norm, per, data):
        test(norm, per, data.draw(cases(per)))

    run.__name__ = test.__name__
    return run


@each_kind_with_cases
def test_norm_is_the_norm_of_each_slice(norm, per, case):
    got = ball_of(norm, 1.0, per, case.delta).norm(case.delta)
    rest = (1,) * (case.delta.ndim - 1) if per == "example" else (case.delta.shape[1], 1)
    assert got.shape == (case.delta.shape[0], *rest)
    want = norms(case.delta, ORDER[norm], per)
    if per == "segments":  # each of its tokens has it
        want = want.view(-1, 3, 1).gather(1, segments(case.delta).index[..., None])
    torch.testing.assert_close(got.flatten(), want.flatten())


def assert_feasible_and_idempotent(norm: str, per: str, delta: Tensor, epsilon: float) -> None:
    """Up to rounding, which L1's threshold inherits from the sum of δ, not from ε."""
    ball = ball_of(norm, epsilon, per, delta)
    once = ball.project(delta)
    rounding = 1e-15 * norms(delta, 1, per)
    assert (norms(once, ORDER[norm], per) <= epsilon * (1 + 1e-12) + rounding).all()
    atol = float(rounding.max())
    torch.testing.assert_close(ball.project(once), once, rtol=1e-12, atol=atol)


@each_kind_with_cases
def test_projection_is_feasible_and_idempotent(norm, per, case):
    assert_feasible_and_idempotent(norm, per, case.delta, case.epsilon)


@each_norm
@pytest.mark.parametrize("epsilon", [0.0, 1e-300, 1e-3, 0.5])
def test_projection_is_feasible_where_coordinates_are_equal(norm, epsilon):
    """Ties are where the threshold of L1 is least exact."""
    generator = torch.Generator().manual_seed(0)
    sizes = 10 * torch.rand(500, 1, 1, generator=generator, dtype=torch.float64)
    delta = sizes.expand(500, 3, 4).clone()
    delta[:, 0, :2] = torch.tensor([1 / 3, 1e-5], dtype=torch.float64)
    assert_feasible_and_idempotent(norm, "example", delta, epsilon)


@each_kind_with_cases
def test_projection_leaves_the_inside_alone(norm, per, case):
    ball = ball_of(norm, 1.0, per, case.delta)
    longest = max(1.0, float(norms(case.delta, ORDER[norm], per).max()))
    inside = case.delta / (longest * 1.001)
    assert torch.equal(ball.project(inside), inside)


@each_kind_with_cases
def test_projection_does_not_expand(norm, per, case):
    ball = ball_of(norm, case.epsilon, per, case.delta)
    moved = norms(ball.project(case.delta) - ball.project(case.other), 2, per)
    assert (moved <= norms(case.delta - case.other, 2, per) * (1 + 1e-12) + 1e-12).all()


@each_kind_with_cases
def test_projection_is_the_nearest_point(norm, per, case):
    """p is nearest to δ in a convex set iff ⟨δ − p, y − p⟩ ≤ 0 for all its y.

    The largest ⟨δ − p, y⟩ over the ball is ε‖δ − p‖_dual, so one inequality covers all of them.
    """
    point = ball_of(norm, case.epsilon, per, case.delta).project(case.delta)
    away, point = slices(case.delta - point, per), slices(point, per)
    best = case.epsilon * torch.linalg.vector_norm(away, DUAL[norm], dim=1)
    assert ((away * point).sum(1) >= best - 1e-9).all()


@each_kind_with_cases
def test_no_random_feasible_point_is_nearer(norm, per, case):
    ball = ball_of(norm, case.epsilon, per, case.delta)
    distance = norms(case.delta - ball.project(case.delta), 2, per)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        point = ball.sample(torch.ones_like(case.delta), generator)
        assert (norms(case.delta - point, 2, per) >= distance - 1e-12).all()


@each_kind
@pytest.mark.parametrize("excess", [1e-3, 1e-6, 1e-9])
def test_a_point_just_outside_comes_back_to_the_sphere(norm, per, excess):
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    outside = delta / ball_of(norm, 1.0, per, delta).norm(delta) * 0.7 * (1 + excess)
    got = norms(ball_of(norm, 0.7, per, delta).project(outside), ORDER[norm], per)
    got = got[norms(delta, 1, per) > 0]  # a segment may be empty
    torch.testing.assert_close(got, torch.full_like(got, 0.7), rtol=1e-12, atol=0)


@given(case=cases("example"))
def test_l1_projection_is_soft_thresholding_at_the_root(case):
    """The threshold θ solves Σ max(|δᵢ| − θ, 0) = ε; bisection finds it without sorting."""
    for delta, got in zip(case.delta, L1Ball(case.epsilon).project(case.delta), strict=True):
        low, high = 0.0, float(delta.abs().max())
        if float(delta.abs().sum()) <= case.epsilon:
            high = 0.0
        for _ in range(100):
            theta = (low + high) / 2
            inside = float((delta.abs() - theta).clamp_min(0).sum()) <= case.epsilon
            low, high = (low, theta) if inside else (theta, high)
        want = delta.sign() * (delta.abs() - high).clamp_min(0)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


@each_kind
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_zero_stays_zero(norm, per, epsilon):
    zero = torch.zeros(2, 3, 4)
    assert torch.equal(ball_of(norm, epsilon, per, zero).project(zero), zero)


@each_kind_with_cases
def test_steepest_attains_the_dual_norm(norm, per, case):
    direction = ball_of(norm, case.epsilon, per, case.delta).steepest(case.delta)
    assert (norms(direction, ORDER[norm], per) <= 1 + 1e-12).all()
    gain = (slices(direction, per) * slices(case.delta, per)).sum(1)
    torch.testing.assert_close(gain, norms(case.delta, DUAL[norm], per), rtol=1e-12, atol=1e-12)


@each_kind
def test_a_zero_gradient_gives_a_zero_step(norm, per):
    grad = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    grad[0] = 0
    direction = ball_of(norm, 1.0, per, grad).steepest(grad)
    assert (direction[0] == 0).all()
    torch.testing.assert_close(norms(direction, ORDER[norm], per).max(), torch.tensor(1.0))


@each_kind
@pytest.mark.parametrize("poison", [math.inf, -math.inf, math.nan])
def test_a_nonfinite_gradient_stops_its_own_slice_only(norm, per, poison):
    grad = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    ball = ball_of(norm, 1.0, per, grad)
    clean = ball.steepest(grad)
    grad[1, 0, 2] = poison
    stopped = torch.zeros(3, 2, 1, dtype=torch.bool)
    stopped[1] = True
    if per != "example":
        stopped[1, 1] = False  # another token, another segment
    torch.testing.assert_close(ball.steepest(grad), clean.where(~stopped, torch.zeros(())))


@each_kind
@pytest.mark.parametrize("size", [1e-38, 1e-30, 1.0, 1e30, 1e38])
def test_the_size_of_a_float32_gradient_does_not_change_its_direction(norm, per, size):
    grad = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    ball = ball_of(norm, 1.0, per, grad)
    torch.testing.assert_close(ball.steepest(grad * size), ball.steepest(grad), atol=1e-6, rtol=0)


@pytest.mark.parametrize("per", ["example", "token"])
def test_an_l1_step_moves_one_coordinate_a_slice(per):
    grad = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    grad[0] = 2.5  # a tie
    step = slices(L1Ball(1.0, per).steepest(grad), per)
    assert ((step != 0).sum(1) == 1).all()


# --- random starts


def ragged_mask(examples: int, tokens: int, width: int) -> Tensor:
    """1 to `tokens` free tokens, in turn."""
    free = torch.arange(examples) % tokens + 1
    mask = (torch.arange(tokens) < free[:, None]).double()
    return mask[..., None].expand(-1, -1, width)


@each_kind_with_cases
def test_a_sample_is_feasible_and_zero_where_masked(norm, per, case):
    mask = (case.delta > 0).double()
    sample = ball_of(norm, case.epsilon, per, case.delta).sample(
        mask, torch.Generator().manual_seed(0)
    )
    assert torch.isfinite(sample).all()
    assert (sample[mask == 0] == 0).all()
    assert (norms(sample, ORDER[norm], per) <= case.epsilon * (1 + 1e-12)).all()
    if case.epsilon > 1e-100:
        assert (sample[mask == 1] != 0).all()


@each_norm
@pytest.mark.parametrize("per", ["example", "token", "segments"])
def test_the_radius_of_a_sample_follows_the_uniform_law(norm, per):
    """P(‖δ‖ ≤ r) = (r/ε)ⁿ in a ball of n dimensions, n being the slice's free coordinates."""
    mask, epsilon = ragged_mask(3000, 3, 2), 0.7
    sample = ball_of(norm, epsilon, per, mask).sample(mask, torch.Generator().manual_seed(0))
    free = slices(mask, per).sum(1)
    radius = norms(sample, ORDER[norm], per) / epsilon
    assert stats.kstest((radius**free)[free > 0], "uniform").pvalue > 0.01
    assert (radius[free == 0] == 0).all()


MARGINALS = {
    "l2": lambda n: stats.beta(0.5, (n + 1) / 2).cdf,  # of x²
    "linf": lambda n: stats.beta(0.5, 1).cdf,
    "l1": lambda n: lambda square: 1 - (1 - square**0.5) ** n,
}


@each_norm
@pytest.mark.parametrize("coordinate", [0, 3, 5])
def test_each_coordinate_of_a_sample_has_the_marginal_of_the_uniform_law(norm, coordinate):
    mask, epsilon = torch.ones(3000, 3, 2, dtype=torch.float64), 0.7
    sample = BALLS[norm](epsilon).sample(mask, torch.Generator().manual_seed(1)) / epsilon
    values = sample.flatten(1)[:, coordinate]
    assert stats.kstest(values.square(), MARGINALS[norm](6)).pvalue > 0.01
    assert stats.binomtest(int((values > 0).sum()), len(values)).pvalue > 0.01


@each_kind
def test_samples_come_from_the_generator_and_leave_the_global_stream_alone(norm, per):
    mask = torch.ones(2, 3, 4)
    ball = ball_of(norm, 1.0, per, mask)
    before = torch.get_rng_state()
    first, again, other = (ball.sample(mask, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@each_norm
def test_a_mask_may_be_an_expanded_view(norm):
    sample = BALLS[norm](1.0).sample(ragged_mask(3, 3, 4), torch.Generator().manual_seed(0))
    assert sample.unique().numel() == 1 + (4 + 8 + 12)  # 0, and a number for each free coordinate


# --- one radius for each example


@each_norm
@pytest.mark.parametrize("per", ["example", "token"])
def test_a_tensor_epsilon_is_one_ball_for_each_example(norm, per):
    radii = [0.0, 0.5, 2.0]
    ball = BALLS[norm](torch.tensor(radii, dtype=torch.float64).view(3, 1, 1), per)
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64) * 3
    sample = ball.sample(torch.ones_like(delta), torch.Generator().manual_seed(1))
    unit = BALLS[norm](1.0, per).sample(torch.ones_like(delta), torch.Generator().manual_seed(1))
    for row, epsilon in enumerate(radii):
        one = BALLS[norm](epsilon, per)
        want = one.project(delta[row : row + 1])
        torch.testing.assert_close(ball.project(delta)[row : row + 1], want)
        torch.testing.assert_close(sample[row], epsilon * unit[row])
    assert torch.equal(ball.steepest(delta), BALLS[norm](1.0, per).steepest(delta))


# --- a ball within a box


@st.composite
def boxes(draw) -> tuple[Tensor, Tensor, Tensor]:
    """A point outside, and the box −x ≤ δ ≤ 1 − x of a picture x."""
    shape = (2, 2, 3, 2)
    delta = draw(hnp.arrays("float64", shape, elements=st.floats(-2, 2)))
    pixels = torch.from_numpy(draw(hnp.arrays("float64", shape, elements=st.floats(0, 1))))
    return torch.from_numpy(delta), -pixels, 1 - pixels


@each_norm
@given(box=boxes(), epsilon=radius)
def test_within_box_ends_inside_both_sets(norm, box, epsilon):
    delta, low, high = box
    ball = WithinBox(BALLS[norm](epsilon), low, high)
    sample = ball.sample(torch.ones_like(delta), torch.Generator().manual_seed(0))
    for point in (ball.project(delta), sample):
        assert (ball.norm(point) <= epsilon * (1 + 1e-12) + 1e-14).all()
        assert (point >= low).all()
        assert (point <= high).all()


@each_norm
@given(box=boxes())
def test_within_box_leaves_the_inside_alone(norm, box):
    delta, low, high = box
    inside = delta.clamp(low, high)
    inside = inside / (BALLS[norm](1.0).norm(inside) * 1.001).clamp_min(1)
    assert torch.equal(WithinBox(BALLS[norm](1.0), low, high).project(inside), inside)


@given(box=boxes(), epsilon=radius)
def test_within_box_is_nearest_for_linf(box, epsilon):
    """The intersection is a box, and the nearest point of a box is the clamp."""
    delta, low, high = box
    got = WithinBox(LInfBall(epsilon), low, high).project(delta)
    assert torch.equal(got, delta.clamp(low.clamp_min(-epsilon), high.clamp_max(epsilon)))


def test_within_box_is_a_ball_like_its_own():
    low, high = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    ball, grad = L2Ball(0.5), torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    box = WithinBox(ball, low, high)
    assert (box.epsilon, box.per) == (0.5, "example")
    assert torch.equal(box.norm(grad), ball.norm(grad))
    assert torch.equal(box.steepest(grad), ball.steepest(grad))


# --- errors


@each_norm
@pytest.mark.parametrize("epsilon", [-1.0, -1e-9, -math.inf, math.nan])
def test_a_radius_that_is_none_is_refused(norm, epsilon):
    with pytest.raises(ValueError, match=f"number ≥ 0, or inf for no bound, not {epsilon}"):
        BALLS[norm](epsilon)


@each_kind_with_cases
def test_an_infinite_radius_is_no_constraint(norm, per, case):
    ball = ball_of(norm, math.inf, per, case.delta)
    assert torch.equal(ball.project(case.delta), case.delta)
    assert torch.equal(ball.project(case.delta * 0), case.delta * 0)
    finite = ball_of(norm, 1.0, per, case.delta)
    assert torch.equal(ball.steepest(case.delta), finite.steepest(case.delta))
    assert torch.equal(ball.norm(case.delta), finite.norm(case.delta))


@each_norm
@given(box=boxes())
def test_an_infinite_radius_leaves_the_box(norm, box):
    delta, low, high = box
    got = WithinBox(BALLS[norm](math.inf), low, high).project(delta)
    assert torch.equal(got, delta.clamp(low, high))


@each_norm
def test_one_example_of_a_batch_may_have_no_constraint(norm):
    radii = torch.tensor([0.5, math.inf], dtype=torch.float64).view(2, 1, 1)
    delta = 3 + torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    got = BALLS[norm](radii).project(delta)
    assert torch.equal(got[1], delta[1])
    torch.testing.assert_close(got[:1], BALLS[norm](0.5).project(delta[:1]))


@each_norm
def test_an_unknown_slice_is_refused(norm):
    with pytest.raises(ValueError, match='"example" or "token", not \'word\''):
        BALLS[norm](1.0, "word")


@each_norm
def test_a_norm_for_each_token_needs_tokens(norm):
    ball, pixels = BALLS[norm](1.0, "token"), torch.ones(2, 3, 4, 4)
    with pytest.raises(ValueError, match="needs δ of shape"):
        ball.norm(pixels)
    with pytest.raises(ValueError, match="needs δ of shape"):
        ball.steepest(pixels)
    if norm != "linf":  # whose set is the same for each slice
        with pytest.raises(ValueError, match="needs δ of shape"):
            ball.project(pixels)
        with pytest.raises(ValueError, match="needs δ of shape"):
            ball.sample(pixels)
