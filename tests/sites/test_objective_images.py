"""A minibatch of images as a function of δ: the same batch at 0, the box, BatchNorm's rule."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nlp_adv import UserError
from nlp_adv.methods import AWP, FGM, FGSM, PGD, SMART, TRADES, FreeAT, FreeLB, floor_cost
from nlp_adv.perturbation import LInfBall, Memory, Output, WithinBox
from nlp_adv.sites.objective import image_objective
from nlp_adv.sites.pixels import check_normalisation

MEAN, STD = torch.tensor([0.3, 0.5, 0.7]), torch.tensor([0.2, 0.1, 0.4])


class Net(nn.Module):
    """Batch normalisation and dropout, in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(4 * 16, 5)

    def forward(self, pixel_values: Tensor) -> Tensor:
        hidden = self.dropout(self.norm(self.stem(pixel_values)).relu())
        return self.head(hidden.flatten(1))


def forward(model: nn.Module, batch) -> Output:
    logits = model(batch["pixel_values"])
    return Output(cross_entropy(logits, batch["labels"]), logits)


def net() -> Net:
    torch.manual_seed(0)
    return Net().train()


def batch() -> dict[str, Tensor]:
    x = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    x[0, 0], x[1, 1] = 0.0, 1.0
    z = (x - MEAN.view(-1, 1, 1)) / STD.view(-1, 1, 1)
    return {"pixel_values": z, "labels": torch.tensor([0, 1, 2, 3])}


def objective(model: nn.Module, given=None, **options):
    options = {"seed": 0, "memory": Memory(), "forward": forward, **options}
    return image_objective(model, given or batch(), mean=MEAN, std=STD, **options)


def test_at_zero_it_is_the_batch_to_the_last_bit():
    """Also where (z·std + mean − mean)/std would round to another number."""
    seen = []

    def watching(model, inputs):
        seen.append(inputs["pixel_values"])
        return forward(model, inputs)

    one = objective(net(), forward=watching)
    one.forward()
    one.forward(torch.zeros_like(one.x))
    assert torch.equal(seen[0], batch()["pixel_values"])
    assert torch.equal(seen[1], seen[0])
    # The naive way there is not equal: the test above is not idle.
    mean, std = MEAN.view(-1, 1, 1), STD.view(-1, 1, 1)
    assert not torch.equal((one.x - mean) / std, seen[0])


def test_delta_is_in_pixels_and_is_clamped_to_their_range():
    seen = []

    def watching(model, inputs):
        seen.append(inputs["pixel_values"])
        return forward(model, inputs)

    one = objective(net(), forward=watching)
    one.forward(torch.full_like(one.x, 0.25))
    pixels = seen[0] * STD.view(-1, 1, 1) + MEAN.view(-1, 1, 1)
    torch.testing.assert_close(pixels, (one.x + 0.25).clamp(0, 1))


def test_the_ball_is_met_with_the_range():
    one = objective(net())
    ball = one.within(LInfBall(0.2))
    assert isinstance(ball, WithinBox)
    delta = ball.project(torch.full_like(one.x, 0.7))
    assert torch.equal(delta, (1 - one.x).clamp(max=0.2))


METHODS = [
    FGM(LInfBall(0.1)),
    FGSM(LInfBall(0.1), 0.125, random_start=True, clean_weight=0.0),
    PGD(LInfBall(0.1), 0.03, 4),
    PGD(LInfBall(0.1), 0.03, 4, clean_weight=0.5),
    FreeAT(LInfBall(0.1), 0.1, 1, carry=True),
    FreeLB(LInfBall(0.1), 0.05, 3),
    TRADES(LInfBall(0.1), 0.05, 3, 6.0, init_magnitude=0.01),
    SMART(LInfBall(0.1), 0.05, 1, 1.0, 0.01, proximal_weight=1.0),
    AWP(LInfBall(0.1), 0.05, 2, 0.01),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}-{floor_cost(m):.2f}")
def test_running_statistics_are_those_of_the_passes_that_are_trained_on(method):
    """Each pass with a graph to θ counts once; passes for δ, and past models, not at all."""
    model = net()
    method.step(objective(model))
    looked_on = isinstance(method, AWP)  # one of its passes is for where the weights go
    assert int(model.norm.num_batches_tracked) == method.passes - looked_on
    assert model.norm.track_running_stats
    assert model.norm.training


def test_an_inner_pass_normalises_with_the_batch_all_the_same():
    """Its gradient is that of the training-mode model: statistics are used, not kept."""
    model = net()
    model.dropout.p = 0.0
    delta = torch.full_like(batch()["pixel_values"], 0.01)
    grad = objective(model).gradient(delta)
    assert int(model.norm.num_batches_tracked) == 0
    other = objective(model)
    leaf = delta.clone().requires_grad_()
    other.backward(other.forward(leaf).loss)
    torch.testing.assert_close(grad, leaf.grad)
    model.norm.eval()
    assert not torch.allclose(grad, objective(model).gradient(delta))


def test_evaluation_mode_stays_evaluation_mode():
    model = net()
    model.norm.eval()
    before = copy.deepcopy(model.norm.state_dict())
    PGD(LInfBall(0.1), 0.03, 2).step(objective(model))
    assert not model.norm.training
    torch.testing.assert_close(model.norm.state_dict(), before, atol=0, rtol=0)


def test_the_first_layer_is_found_and_can_be_named():
    model = net()
    assert objective(model)._block().module is model.stem
    assert objective(model, first_block="norm")._block().module is model.norm
    with pytest.raises(UserError, match="no module named 'stern'"):
        objective(model, first_block="stern")._block()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": torch.tensor([0])}, "needs floating-point pixel_values"),
        ({"pixel_values": torch.zeros(1, 3, 6, 6, dtype=torch.uint8)}, "needs floating-point"),
    ],
)
def test_a_batch_without_images_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        objective(net(), given)


def test_wrong_normalisation_shows_in_the_range_of_the_pixels():
    z = batch()["pixel_values"]
    assert check_normalisation(z, MEAN, STD) is None
    with pytest.raises(UserError, match=r"pixels from .* not in \[0, 1\]"):
        check_normalisation(z, torch.tensor([0.5]), torch.tensor([0.5]))
