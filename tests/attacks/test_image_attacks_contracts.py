"""What attacks on images keep beyond the promises of every attack (tests/conformance).

To the last bit of float32, without finite gradients, and whatever model and caller there are.
"""

import copy
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from small_images import ATTACKS, IN_A_BALL, ORDER, ball_of, digits, linear, network
from torch import Tensor, nn

from nlp_adv.attacks import APGD, FGSM, PGD, CarliniWagner, OptimizerAttack
from nlp_adv.attacks.losses import margin
from nlp_adv.attacks.result import AttackResult
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall

FEW = ["pgd-l2", "mi-fgsm", "apgd-l2", "deepfool-l2", "cw", "adam"]
a_few = pytest.mark.parametrize("name", FEW)
two = pytest.mark.parametrize("name", ["pgd-l2", "deepfool-linf"])
each_ball = pytest.mark.parametrize("name", IN_A_BALL)


def assert_same(got: Tensor, want: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=atol)


# Nothing depends on the company that an image is in.


@pytest.mark.parametrize("name", ["fgm-l1", "pgd-linf", "cw"])
def test_each_image_has_a_target_of_its_own(name):
    model, x, y = digits(4)
    target = (y + torch.tensor([1, 2, 3, 4])) % 10
    result = ATTACKS[name](model, x, target=target)
    assert result.towards
    for row in range(len(x)):
        alone = ATTACKS[name](model, x[row : row + 1], target=int(target[row]))
        assert_same(result.adv[row : row + 1], alone.adv)
    # The loss climbs, and with it the margin of the target.
    rise = result.losses[-1] - result.losses[0]
    assert (rise > 0).double().mean() >= 0.75


@pytest.mark.parametrize("name", ["fgsm", "fgm-l1", "pgd-l2", "apgd-linf", "sgd-l2"])
def test_each_image_has_a_radius_of_its_own(name):
    model, x, y = digits(4)
    attack, ball = ATTACKS[name], ball_of(ATTACKS[name])
    radii = ball.epsilon * torch.tensor([1.0, 0.5, 0.0, 0.25], dtype=x.dtype)
    if isinstance(attack, FGSM):
        several = [FGSM(radius) for radius in (radii, *radii.tolist())]
    else:
        balls = [replace(ball, epsilon=radius) for radius in (radii, *radii.tolist())]
        several = [replace(attack, ball=one) for one in balls]
    result = several[0](model, x, y)
    for row, alone in enumerate(several[1:]):
        assert_same(result.adv[row], alone(model, x[row : row + 1], y[row : row + 1]).adv[0])
    norms = result.norm(ORDER[type(ball)])
    assert (norms <= radii * (1 + 1e-6)).all()
    assert norms[2] == 0
    assert norms[0] > norms[3]


# The bounds, and what must not move.


@each_ball
def test_delta_is_in_the_ball_and_pixels_are_in_their_range(name):
    """In float32, L∞ to the last bit, also where ε is no such number; L2 and L1 to a millionth."""
    model, x, y = digits(64, torch.float32)
    attack, ball = ATTACKS[name], ball_of(ATTACKS[name])
    result = attack(model, x, y)
    assert result.adv.dtype == torch.float32
    assert result.adv.min() >= 0
    assert result.adv.max() <= 1
    delta = (result.adv.double() - x.double()).flatten(1)
    norms = torch.linalg.vector_norm(delta, ORDER[type(ball)], dim=1)
    slack = 1.0 if isinstance(ball, LInfBall) else 1 + 1e-6
    assert float(norms.max()) <= ball.epsilon * slack
    assert float(norms.max()) > 0.9 * ball.epsilon


@pytest.mark.parametrize("epsilon", [0.1, 8 / 255, 0.3, 1 / 3])
def test_radii_in_float64_hold_for_images_in_float32(epsilon):
    """A radius that float32 would round up is rounded down."""
    model, x, y = digits(64, torch.float32)
    radii = torch.linspace(0.5 * epsilon, epsilon, 64, dtype=torch.float64)
    assert (radii.float().double() > radii).any()
    for attack in (FGSM(radii), PGD(LInfBall(radii), epsilon / 2, 4), APGD(LInfBall(radii), 4)):
        result = attack(model, x, y)
        farthest = (result.adv.double() - x.double()).flatten(1).abs().amax(1)
        assert (farthest <= radii).all()
        assert (farthest > 0.99 * radii).all()


@pytest.mark.parametrize("name", ["deepfool-l2", "deepfool-linf", "cw", "adam"])
def test_pixels_outside_the_box_stay_in_it_without_a_ball(name):
    model, x, y = digits(16, torch.float32)
    result = ATTACKS[name](model, x, y)
    assert result.adv.min() >= 0
    assert result.adv.max() <= 1


@two
def test_a_mask_of_zeros_is_no_attack(name):
    model, x, y = digits(3, torch.float32)
    result = ATTACKS[name](model, x, y, mask=torch.zeros(3, 1, 1, 1, dtype=torch.bool))
    assert torch.equal(result.adv, x)
    assert not result.success.any()


@a_few
def test_masked_pixels_do_not_matter_even_where_their_gradient_is_nan(name):
    model, x, y = digits(3)
    mask = torch.ones_like(x)
    mask[:, :, 0, 0] = 0
    want = ATTACKS[name](model, x, y, mask=mask).adv
    broken = nn.Sequential(NanGradient(rows=(0, 1, 2), pixel=(0, 0, 0)), model)
    assert_same(ATTACKS[name](broken, x, y, mask=mask).adv, want)


# Gradients that are no numbers.


class Identity(torch.autograd.Function):
    """x, with a gradient of nan or inf in one pixel of some rows."""

    @staticmethod
    def forward(ctx, x, bad, pixel, value):
        ctx.bad, ctx.pixel, ctx.value = bad, pixel, value
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        for row in ctx.bad.nonzero().flatten().tolist():
            grad[(row, *ctx.pixel)] = ctx.value
        return grad, None, None, None


class NanGradient(nn.Module):
    """x; the gradient of some rows is nan or inf, in all calls or in one.

    Rows are known by position, or by a number that no other image has in its last pixel.
    """

    def __init__(self, rows=(), marker=None, pixel=(0, 3, 3), call=None, value=torch.nan) -> None:
        super().__init__()
        self.value = value
        self.rows, self.marker, self.pixel, self.call = rows, marker, pixel, call
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += torch.is_grad_enabled() and x.requires_grad
        bad = torch.zeros(len(x), dtype=torch.bool)
        bad[[row for row in self.rows if row < len(x)]] = True
        if self.marker is not None:
            bad |= (x[:, 0, -1, -1] - self.marker).abs() < 1e-5
        if self.call is not None and self.calls != self.call:
            bad[:] = False
        return Identity.apply(x, bad, self.pixel, self.value)


@a_few
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_an_image_without_a_finite_gradient_stays_and_the_others_do_not_notice(name, value):
    model, x, y = digits(5)
    mask = torch.ones_like(x)
    mask[:, :, -1, -1] = 0  # the marker stays what it is
    x[:, 0, -1, -1] = 0.25
    x[2, 0, -1, -1] = 0.123
    attack = ATTACKS[name]
    if getattr(attack, "random_start", False):
        attack = replace(attack, random_start=False)
    want = attack(model, x, y, mask=mask)
    broken = nn.Sequential(NanGradient(marker=0.123, value=value), model)
    got = attack(broken, x, y, mask=mask)
    others = torch.tensor([0, 1, 3, 4])
    assert_same(got.adv[others], want.adv[others])
    assert torch.equal(got.adv[2], x[2])
    assert not torch.equal(want.adv[2], x[2])
    assert torch.isfinite(got.adv).all()


ONE_BAD_STEP = {
    "pgd-linf": PGD(LInfBall(0.1), 0.02, 6, random_start=False),
    "pgd-l2": PGD(L2Ball(0.75), 0.15, 6, random_start=False),
    "pgd-l1": PGD(L1Ball(2.0), 0.3, 6, random_start=False),
    "mi-fgsm": PGD(LInfBall(0.1), 0.02, 6, random_start=False, momentum=1.0),
    "apgd": APGD(LInfBall(0.1), 30),  # its first checkpoint is the seventh step
    "cw": CarliniWagner(steps=6, search_steps=1, abort_early=False),
    "adam": OptimizerAttack(torch.optim.Adam, 0.01, 6),
    "sgd": OptimizerAttack(torch.optim.SGD, 0.1, 6, options={"momentum": 0.9}),
    "adam, normalized": OptimizerAttack(torch.optim.Adam, 0.01, 6, normalize=True),
}


@pytest.mark.parametrize("name", ONE_BAD_STEP)
def test_an_image_waits_one_step_for_its_gradient(name):
    """At the third gradient; momentum does not carry it either."""
    model, x, y = digits(3)
    want = ONE_BAD_STEP[name](model, x, y)
    broken = nn.Sequential(NanGradient(rows=(1,), call=3), model)
    got = ONE_BAD_STEP[name](broken, x, y)
    norms = got.norms_along[:, 1]
    assert torch.isfinite(norms).all()
    assert norms[3] == norms[2]
    assert norms[1] != norms[2]
    assert norms[4] != norms[3]
    assert_same(got.adv[[0, 2]], want.adv[[0, 2]])


# Nothing is left behind.


class Snapshot:
    """All that an attack could touch."""

    def __init__(self, model: nn.Module) -> None:
        self.modes = {name: module.training for name, module in model.named_modules()}
        self.needs = {name: p.requires_grad for name, p in model.named_parameters()}
        self.grads = {
            name: None if p.grad is None else (p.grad, p.grad.clone())
            for name, p in model.named_parameters()
        }
        self.state = copy.deepcopy(model.state_dict())
        self.hooks = sum(len(m._forward_hooks) for m in model.modules())
        self.stream = torch.get_rng_state()

    def assert_unchanged(self, model: nn.Module) -> None:
        now = Snapshot(model)
        assert (now.modes, now.needs, now.hooks) == (self.modes, self.needs, self.hooks)
        for name, kept in self.grads.items():
            if kept is None:
                assert now.grads[name] is None
            else:
                assert now.grads[name][0] is kept[0]
                assert torch.equal(kept[0], kept[1])
        for name, value in self.state.items():
            assert torch.equal(now.state[name], value), name
        assert torch.equal(now.stream, self.stream)


def half_trained() -> nn.Module:
    """In training but for one frozen BatchNorm; some parameters frozen, some with gradients."""
    torch.manual_seed(1)
    model = network().train()
    model[1].eval()
    model[1].weight.requires_grad_(False)
    model[0].weight.grad = torch.randn_like(model[0].weight)
    return model


@two
def test_nothing_is_left_behind(name):
    _, x, y = digits(4, torch.float32)
    model = half_trained()
    before, images = Snapshot(model), x.clone()
    ATTACKS[name](model, x, y)
    before.assert_unchanged(model)
    assert torch.equal(x, images)
    assert not x.requires_grad


@two
def test_nothing_is_left_behind_by_a_failure(name):
    _, x, y = digits(4, torch.float32)
    model, calls = half_trained(), []

    def fail(module, args, output):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of order")

    handle = model[-1].register_forward_hook(fail)
    before = Snapshot(model)
    with pytest.raises(RuntimeError, match="out of order"):
        ATTACKS[name](model, x, y)
    before.assert_unchanged(model)
    handle.remove()


@two
def test_a_model_in_training_is_attacked_in_eval_mode(name):
    model, x, y = digits(4)
    want = ATTACKS[name](model, x, y).adv
    assert torch.equal(ATTACKS[name](model.train(), x, y).adv, want)


class Noisy(nn.Module):
    """Draws from the global stream even in eval mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + 1e-3 * torch.randn_like(x))


@two
def test_the_random_stream_is_neither_reseeded_nor_moved(name):
    model, x, y = digits(3)
    noisy = Noisy(model)
    torch.manual_seed(5)
    want = torch.rand(4)
    torch.manual_seed(5)
    ATTACKS[name](noisy, x, y)
    assert torch.equal(torch.rand(4), want)


SEEDED = [name for name, attack in ATTACKS.items() if getattr(attack, "random_start", False)]


@pytest.mark.parametrize("name", SEEDED)
def test_another_seed_is_another_start(name):
    model, x, y = digits(4)
    attack = ATTACKS[name]
    one, other = attack(model, x, y), replace(attack, seed=attack.seed + 1)(model, x, y)
    assert (one.adv != other.adv).flatten(1).any(1).all()


@a_few
def test_results_have_no_graph(name):
    model, x, y = digits(2)
    result = ATTACKS[name](model, x.requires_grad_(), y)
    for field in fields(AttackResult):
        value = getattr(result, field.name)
        assert not (isinstance(value, Tensor) and value.requires_grad), field.name
    assert x.grad is None


# Models and callers of every kind.


@a_few
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_callers_need_not_know_of_gradients(name, context):
    model, x, y = digits(3)
    want = ATTACKS[name](model, x, y).adv
    with context():
        got = ATTACKS[name](model, x.clone(), y.clone(), mask=torch.ones_like(x)).adv
        assert not torch.is_grad_enabled()
    assert torch.equal(got, want)


@a_few
@pytest.mark.parametrize("shape", [(40,), (2, 2, 3, 3)], ids=str)
def test_images_of_any_shape(name, shape):
    model, x, y = linear(shape, classes=5)
    result = ATTACKS[name](model, x, y)
    assert result.adv.shape == x.shape
    assert (margin(model(result.adv), y) > margin(model(x), y)).all()


@two
def test_outputs_with_logits_and_functions_are_models(name):
    model, x, y = digits(3)
    want = ATTACKS[name](model, x, y).adv
    assert torch.equal(ATTACKS[name](lambda x: SimpleNamespace(logits=model(x)), x, y).adv, want)


@a_few
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_a_model_may_have_another_type_than_the_images(name, dtype):
    model, x, y = digits(16, torch.float32)
    want = ATTACKS[name](model, x, y)
    got = ATTACKS[name](model.to(dtype), x, y)
    assert got.adv.dtype == torch.float32
    assert got.losses.isnan().all(0).sum() == 0
    # bfloat16 rounds pixels to 2 to 3 digits, so a small δ may not be seen as it was meant.
    assert got.success.sum() >= (0.4 if dtype == torch.bfloat16 else 0.9) * want.success.sum()


@two
def test_labels_of_any_integer_type(name):
    model, x, y = digits(3)
    want = ATTACKS[name](model, x, y).adv
    for dtype in (torch.int32, torch.uint8):
        assert torch.equal(ATTACKS[name](model, x, y.to(dtype)).adv, want)


@two
def test_without_labels_the_models_answers_are_meant(name):
    model, x, y = digits(3)  # all of them right
    assert torch.equal(ATTACKS[name](model, x).adv, ATTACKS[name](model, x, y).adv)


def test_images_in_half_precision_come_back_in_single():
    model, x, y = digits(4, torch.float32)
    assert FGSM(0.1)(model, x.half(), y).adv.dtype == torch.float32


def test_a_hugging_face_classifier_is_a_model():
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    model = ResNetForImageClassification(config)
    x = torch.rand(4, 1, 16, 16)
    result = PGD(LInfBall(0.1), 0.03, 5, random_start=False)(model, x)
    assert (result.losses[-1] > result.losses[0]).all()
    assert (result.label_confidences < result.clean_confidences).all()
    assert model.training
