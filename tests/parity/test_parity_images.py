"""Training on pixels: ∇θ and loss equal to the papers' image loops, to 1e-10 in float64."""

import pytest
import reference_images as reference
import torch
from models import assert_gradients, gradients
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nlp_adv.methods import FGSM, PGD, TRADES, YOPO, FreeAT
from nlp_adv.perturbation import LInfBall, Memory, Output
from nlp_adv.sites.objective import image_objective

MEAN, STD = torch.tensor([0.45, 0.55]).double(), torch.tensor([0.25, 0.2]).double()
EPSILON, ALPHA = 0.1, 0.03
SEED = 5


class Normalise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - MEAN.view(-1, 1, 1)) / STD.view(-1, 1, 1)


def network() -> nn.Sequential:
    """Of normalised images."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 5, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(5 * 25, 4)]
    return nn.Sequential(*layers).double().train()


def images() -> tuple[Tensor, Tensor]:
    """Some pixels are at the ends of their range, where the box holds δ."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(6, 2, 5, 5, generator=generator).double()
    x = torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x))
    return x, torch.tensor([0, 1, 2, 3, 0, 1])


def forward(model: nn.Module, batch) -> Output:
    logits = model(batch["pixel_values"])
    return Output(cross_entropy(logits, batch["labels"]), logits)


def objective(model: nn.Module, **options):
    x, y = images()
    batch = {"pixel_values": Normalise()(x), "labels": y}
    options = {"seed": SEED, "memory": Memory(), "forward": forward, **options}
    return image_objective(model, batch, mean=MEAN, std=STD, **options)


def uniform(magnitude: float = EPSILON) -> Tensor:
    x, _ = images()
    draws = torch.empty_like(x).uniform_(0, 1, generator=torch.Generator().manual_seed(SEED))
    return (2 * draws - 1) * magnitude


def assert_parity(method, loop, **settings) -> None:
    model = network()
    loss = method.step(objective(model)).loss
    other = network()
    x, y = images()
    want = loop(nn.Sequential(Normalise(), other), x, y, **settings)
    torch.testing.assert_close(loss, want, atol=1e-10, rtol=0)
    assert_gradients(gradients(model), gradients(other), atol=1e-10)
    plain = network()
    cross_entropy(plain(Normalise()(x)), y).backward()
    with pytest.raises(AssertionError):
        assert_gradients(gradients(model), gradients(plain), atol=1e-4)


@pytest.mark.parametrize("clean_weight", [0.0, 0.5])
@pytest.mark.parametrize("steps", [1, 7])
def test_pgd_is_madrys_loop(clean_weight, steps):
    assert_parity(
        PGD(LInfBall(EPSILON), ALPHA, steps, random_start=True, clean_weight=clean_weight),
        reference.madry,
        start=uniform(),
        epsilon=EPSILON,
        alpha=ALPHA,
        steps=steps,
        clean_weight=clean_weight,
    )


def test_without_the_box_pgd_would_be_another():
    """The test above can fail: the loop without its second clamp disagrees."""
    model, other = network(), network()
    method = PGD(LInfBall(EPSILON), ALPHA, 7)
    unbounded = objective(model)
    unbounded.low = unbounded.high = None
    method.step(unbounded)
    x, y = images()
    net = nn.Sequential(Normalise(), other)
    reference.madry(net, x, y, start=uniform(), epsilon=EPSILON, alpha=ALPHA, steps=7)
    with pytest.raises(AssertionError):
        assert_gradients(gradients(model), gradients(other), atol=1e-6)


def test_fgsm_from_a_random_start_is_wongs_algorithm():
    ball = LInfBall(EPSILON)
    assert_parity(
        FGSM(ball, step_size=1.25 * EPSILON, random_start=True, clean_weight=0.0),
        reference.fast,
        start=uniform(),
        epsilon=EPSILON,
        alpha=1.25 * EPSILON,
    )


def test_trades_is_the_released_loop():
    # The released start is Gaussian; ours is uniform, and the loop is given ours.
    x, _ = images()
    draws = torch.empty_like(x).uniform_(
        -0.001, 0.001, generator=torch.Generator().manual_seed(SEED)
    )
    assert_parity(
        TRADES(LInfBall(EPSILON), ALPHA, 5, 6.0, init_magnitude=0.001),
        reference.trades,
        start=draws,
        epsilon=EPSILON,
        alpha=ALPHA,
        steps=5,
        beta=6.0,
    )


def test_freeat_carries_delta_as_the_paper_does():
    model, memory = network(), Memory()
    method = FreeAT(LInfBall(EPSILON), step_size=EPSILON, replays=3, carry=True)
    losses = []
    for replay in range(3):
        memory.replay = replay
        losses.append(method.step(objective(model, memory=memory)).loss)
    other = network()
    x, y = images()
    net = nn.Sequential(Normalise(), other)
    want, want_losses = reference.free(
        net, x, y, noise=torch.zeros_like(x), epsilon=EPSILON, replays=3
    )
    torch.testing.assert_close(losses, want_losses, atol=1e-10, rtol=0)
    torch.testing.assert_close(memory.tensors["freeat/0"], want, atol=1e-10, rtol=0)
    assert_gradients(gradients(model), gradients(other), atol=1e-10)


def test_yopo_stops_at_the_first_layer():
    model = network()
    ball = LInfBall(EPSILON)
    method = YOPO(ball, step_size=0.02, rounds=3, steps=3, random_start=True)
    loss = method.step(objective(model)).loss
    other = network()
    x, y = images()
    first = nn.Sequential(Normalise(), other[0])
    settings = {"start": uniform(), "epsilon": EPSILON, "sigma": 0.02, "m": 3, "n": 3}
    want = reference.yopo(other, first, other[1:], x, y, **settings)
    torch.testing.assert_close(loss, want, atol=1e-10, rtol=0)
    assert_gradients(gradients(model), gradients(other), atol=1e-10)
