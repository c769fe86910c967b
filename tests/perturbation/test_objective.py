"""The objective: passes that leave what they should, nothing else, and count what went wrong."""

from contextlib import contextmanager

import pytest
import torch
from models import LinearClassifier, gradients, linear_objective
from torch import Tensor, nn
from torch.nn.functional import softplus

from nlp_adv.perturbation import ModelObjective, Output, ScaledObjective, StepError, full_pass


def points(shape=(3, 4, 2), seed=1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def model() -> LinearClassifier:
    return LinearClassifier((4, 2))


@pytest.fixture
def signs() -> Tensor:
    return torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)


@pytest.fixture
def objective(model, signs) -> ModelObjective:
    return linear_objective(model, points(), signs)


def slope(model: LinearClassifier, z: Tensor, signs: Tensor) -> Tensor:
    """d loss / d score, (B,): −y·σ(−y·score)/B."""
    with torch.no_grad():
        return -signs * torch.sigmoid(-signs * model(z)) / len(z)


# --- the three verbs


def test_forward_is_the_loss_at_the_moved_point(objective, model, signs):
    delta = points(seed=2)
    out = objective.forward(delta)
    torch.testing.assert_close(out.loss, softplus(-signs * model(objective.x + delta)).mean())
    torch.testing.assert_close(out.logits[:, 1], model(objective.x + delta))
    torch.testing.assert_close(
        objective.forward().loss, softplus(-signs * model(objective.x)).mean()
    )


def test_gradient_is_the_derivative_in_closed_form(objective, model, signs):
    delta = points(seed=2)
    want = slope(model, objective.x + delta, signs).view(3, 1, 1) * model.weight.detach()
    torch.testing.assert_close(objective.gradient(delta), want)


def test_gradient_of_another_loss_of_the_output(objective, model):
    got = objective.gradient(points(seed=2), lambda out: 3 * out.logits[:, 1].sum())
    torch.testing.assert_close(got, 3 * model.weight.detach().expand(3, 4, 2))


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_a_full_pass_leaves_both_gradients(objective, model, signs, weight):
    delta = points(seed=2)
    loss, grad = full_pass(objective, delta, weight=weight)
    z, rate = objective.x + delta, slope(model, objective.x + delta, signs)
    torch.testing.assert_close(loss, softplus(-signs * model(z)).mean().detach())
    assert not loss.requires_grad
    torch.testing.assert_close(grad, weight * rate.view(3, 1, 1) * model.weight.detach())
    torch.testing.assert_close(model.weight.grad, weight * torch.einsum("b,btd->td", rate, z))
    torch.testing.assert_close(model.bias.grad, weight * rate.sum())


def test_passes_accumulate(objective, model):
    full_pass(objective, points(seed=2))
    first = gradients(model)
    full_pass(objective, points(seed=2), weight=0.5)
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, 1.5 * first[name])


def test_delta_is_masked_on_its_way_in_and_its_gradient_on_its_way_back(model, signs):
    mask = torch.ones(3, 4, 2, dtype=torch.float64)
    mask[0, 2:] = 0
    objective = linear_objective(model, points(), signs, mask=mask)
    delta = points(seed=2)
    assert (objective.gradient(delta)[mask == 0] == 0).all()
    assert torch.equal(objective.delta, delta * mask)
    bare = linear_objective(model, points(), signs)
    assert torch.equal(objective.forward(delta).loss, bare.forward(delta * mask).loss)


def test_loss_scale_reaches_the_pass_and_not_the_result(model, signs):
    seen = []
    plain = linear_objective(model, points(), signs)
    scaled = linear_objective(model, points(), signs, loss_scale=1024.0)

    def spy(out: Output) -> Tensor:
        out.loss.register_hook(seen.append)
        return out.loss

    delta = points(seed=2)
    torch.testing.assert_close(scaled.gradient(delta, spy), plain.gradient(delta))
    assert seen == [1024.0]


def test_backward_uses_the_function_it_was_given(model, signs):
    seen = []
    objective = linear_objective(model, points(), signs, backward_fn=seen.append)
    loss = objective.forward().loss
    objective.backward(loss)
    assert seen == [loss]
    assert model.weight.grad is None


def test_a_loss_that_does_not_depend_on_delta_is_refused(model, signs):
    objective = linear_objective(model, points(), signs)
    objective.run = lambda delta: Output(model(points()).mean(), None)
    with pytest.raises(StepError, match="does not depend on δ"):
        full_pass(objective, points(seed=2))


# --- an inner pass


def test_gradient_touches_no_parameter(objective, model):
    model.bias.requires_grad_(False)
    model.weight.grad = kept = torch.ones_like(model.weight)
    objective.gradient(points(seed=2))
    assert model.weight.grad is kept
    assert (kept == 1).all()
    assert model.bias.grad is None
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)


def test_gradient_restores_the_parameters_after_an_exception(objective, model):
    model.bias.requires_grad_(False)

    def fail(out):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        objective.gradient(points(seed=2), fail)
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)
    assert model.weight.grad is None


class CountedLinear(torch.autograd.Function):
    """z·Wᵀ that counts its two products on the way back, as autograd asks for them."""

    counts: dict[str, int]

    @staticmethod
    def forward(ctx, z, weight):
        ctx.save_for_backward(z, weight)
        return z @ weight.T

    @staticmethod
    def backward(ctx, grad):
        z, weight = ctx.saved_tensors
        for_input, for_weight = ctx.needs_input_grad
        CountedLinear.counts["input"] += for_input
        CountedLinear.counts["weight"] += for_weight
        return grad @ weight, (grad.flatten(0, -2).T @ z.flatten(0, -2)) if for_weight else None


class CountedNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(points((5, 2)))
        self.second = nn.Parameter(points((5, 5)))

    def forward(self, z):
        return CountedLinear.apply(CountedLinear.apply(z, self.first).tanh(), self.second)


def test_an_inner_pass_computes_no_weight_gradient():
    net = CountedNet()

    def run(delta):
        return Output(net(points() + delta).square().mean(), None)

    ones = torch.ones(3, 4, 2, dtype=torch.float64)
    objective = ModelObjective(run=run, x=points(), mask=ones, model=net, seed=0)
    CountedLinear.counts = {"input": 0, "weight": 0}
    inner = objective.gradient(ones)
    assert CountedLinear.counts == {"input": 2, "weight": 0}
    assert torch.equal(full_pass(objective, ones).grad, inner)
    assert CountedLinear.counts == {"input": 4, "weight": 2}


# --- exchange of gradients between processes


class Spans:
    """A stand-in for `no_sync` that says whether it is open."""

    def __init__(self) -> None:
        self.open = False

    @contextmanager
    def __call__(self):
        self.open = True
        yield
        self.open = False


@pytest.mark.parametrize(
    ("passes", "unsynced"),
    [(0, [False, False, False]), (1, [False]), (3, [True, True, False])],
)
def test_all_passes_but_the_last_are_unsynced_forward_and_backward(model, signs, passes, unsynced):
    spans, seen = Spans(), []

    def backward(loss):
        seen.append(("backward", spans.open))
        loss.backward()

    objective = linear_objective(
        model, points(), signs, passes=passes, unsynced=spans, backward_fn=backward
    )
    model.register_forward_hook(lambda *_: seen.append(("forward", spans.open)))
    for _ in unsynced:
        full_pass(objective, points(seed=2))
    assert seen == [(verb, flag) for flag in unsynced for verb in ("forward", "backward")]


@pytest.mark.parametrize("done", [0, 1])
def test_inner_passes_are_unsynced_always(model, signs, done):
    spans, seen = Spans(), []
    objective = linear_objective(model, points(), signs, passes=done + 1, unsynced=spans)
    for _ in range(done):
        full_pass(objective, points(seed=2))
    model.register_forward_hook(lambda *_: seen.append(spans.open))
    objective.gradient(points(seed=2))
    assert seen == [True]


# --- what is not finite is counted


def test_a_finite_step_is_counted_as_such(objective):
    full_pass(objective, points(seed=2))
    objective.gradient(points(seed=2))
    assert not objective.nonfinite


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_a_nonfinite_loss_is_counted(objective, poison):
    objective.backward(objective.forward().loss + poison)
    assert objective.nonfinite


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("verb", ["gradient", "full_pass"])
def test_a_nonfinite_gradient_is_counted(objective, verb, poison):
    """√|·| has an infinite slope at 0, and the loss is finite there."""
    run, delta = objective.run, torch.zeros(3, 4, 2, dtype=torch.float64)
    slope = torch.ones_like(delta)
    slope[1, 0, 0] = poison

    def poisoned(delta):
        delta.register_hook(lambda grad: grad * slope)
        return run(delta)

    objective.run = poisoned
    grad = objective.gradient(delta) if verb == "gradient" else full_pass(objective, delta).grad
    assert not torch.isfinite(grad[1]).all()
    assert torch.isfinite(grad[[0, 2]]).all()
    assert objective.nonfinite


# --- randomness


def test_the_generator_is_the_seeds_and_the_global_stream_stays(model, signs):
    before = torch.get_rng_state()
    draws = [
        torch.rand(3, generator=linear_objective(model, points(), signs, seed=s).generator)
        for s in (7, 7, 8)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_random_starts_follow_the_global_stream(model, signs):
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        for _ in range(2):
            objective = linear_objective(model, points(), signs, seed=None)
            draws.append(torch.rand(3, generator=objective.generator))
    assert torch.equal(draws[0], draws[2])
    assert torch.equal(draws[1], draws[3])
    assert len({tuple(draw.tolist()) for draw in draws}) == 4


def test_every_pass_draws_the_same_dropout(signs):
    net = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, 1)).double().train()

    def run(delta):
        x = points() if delta is None else points() + delta
        score = net(x)[:, 0]
        return Output(softplus(-signs * score).mean(), score)

    zero = torch.zeros(3, 4, 2, dtype=torch.float64)
    torch.manual_seed(0)
    objective = ModelObjective(run=run, x=points(), mask=zero + 1, model=net, seed=0)
    clean = objective.forward()
    assert torch.equal(objective.forward(zero).logits, clean.logits)
    inner = objective.gradient(zero)
    assert torch.equal(full_pass(objective, zero).grad, inner)
    assert (inner == 0).any()  # where the mask dropped the coordinate
    assert not torch.equal(run(zero).logits, clean.logits)  # the stream has moved on


# --- the change of unit

SCALE = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64).view(3, 1, 1)


@pytest.fixture(params=[2.5, SCALE], ids=["one", "each"])
def scale(request):
    return request.param


def test_a_scaled_objective_is_the_objective_at_the_scaled_delta(objective, scale):
    scaled, delta = ScaledObjective(objective, scale), points(seed=2)
    assert torch.equal(scaled.forward(delta).loss, objective.forward(scale * delta).loss)
    assert torch.equal(scaled.forward().loss, objective.forward().loss)
    torch.testing.assert_close(scaled.x * scale, objective.x)
    assert scaled.mask is objective.mask
    assert scaled.generator is objective.generator


def test_the_chain_rule_holds_for_a_scaled_objective(objective, model, scale):
    scaled, delta = ScaledObjective(objective, scale), points(seed=2)
    want = scale * objective.gradient(scale * delta)
    torch.testing.assert_close(scaled.gradient(delta), want)
    inner = scaled.gradient(delta, lambda out: out.logits[:, 1].sum())
    torch.testing.assert_close(inner, scale * model.weight.detach().expand(3, 4, 2))
    assert model.weight.grad is None
    grad = full_pass(scaled, delta).grad
    torch.testing.assert_close(grad, want)
    got = gradients(model)
    model.zero_grad()
    full_pass(objective, scale * delta)
    for name, value in gradients(model).items():
        torch.testing.assert_close(got[name], value)


def test_scales_multiply(objective):
    twice = ScaledObjective(ScaledObjective(objective, 2.0), 3.0)
    delta = points(seed=2)
    torch.testing.assert_close(twice.gradient(delta), 6 * objective.gradient(6 * delta))
