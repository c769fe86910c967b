"""What methods share: random starts, weights that change places, and what they ask an objective."""

import math

import pytest
import torch
from models import LinearClassifier, linear_objective
from torch import Tensor, nn

from nlp_adv.methods import AWP, SMART, TAVAT, YOPO, FreeLB, RDrop
from nlp_adv.methods.method import check_bounded, random_start, replaced, trained_weights
from nlp_adv.perturbation import BALLS, L1Ball, L2Ball, LInfBall, Memory, WithinBox

SIGNS = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)


def objective(*, tokens: int = 6, free=(6, 3, 1), width: int = 40, **options):
    x = torch.randn(3, tokens, width, generator=torch.Generator().manual_seed(2)).double()
    mask = (torch.arange(tokens) < torch.tensor(free)[:, None]).double()[..., None]
    model = LinearClassifier((tokens, width))
    return linear_objective(model, x, SIGNS, mask=mask.expand_as(x), **options)


# --- random starts


def test_a_start_for_l2_has_a_norm_of_about_m_over_root_3():
    """Whatever the sentence's length; m is the corner of the cube."""
    norms = torch.stack(
        [
            L2Ball(9.0).norm(random_start(objective(seed=seed), L2Ball(9.0), 0.6)).flatten()
            for seed in range(50)
        ]
    )
    assert (norms <= 0.6).all()
    want = torch.full((3,), 0.6 / math.sqrt(3), dtype=torch.float64)
    torch.testing.assert_close(norms.mean(0), want, rtol=0.03, atol=0)


def test_a_start_for_each_token_has_its_length_in_each():
    start = random_start(objective(free=(6, 6, 6)), L2Ball(9.0, "token"), 0.6)
    norms = start.norm(dim=2)
    assert (norms <= 0.6).all()
    torch.testing.assert_close(
        norms.mean(), torch.tensor(0.6 / math.sqrt(3)).double(), rtol=0.05, atol=0
    )


def test_a_start_for_linf_is_uniform_in_each_coordinate():
    run = objective()
    start = random_start(run, LInfBall(9.0), 0.6)[run.mask == 1]
    assert (start.abs() <= 0.6).all()
    assert start.abs().max() > 0.58
    torch.testing.assert_close(start.abs().mean(), torch.tensor(0.3).double(), rtol=0.1, atol=0)


def test_a_start_for_l1_has_a_norm_of_about_half_of_m():
    run = objective()
    norms = L1Ball(9.0).norm(random_start(run, L1Ball(9.0), 0.6)).flatten()
    torch.testing.assert_close(norms, torch.full_like(norms, 0.3), rtol=0.2, atol=0)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("per", ["example", "token"])
def test_a_start_is_feasible_masked_and_the_seeds(norm, per):
    ball = BALLS[norm](0.1, per)
    first, again, other = (random_start(objective(seed=s), ball, 0.6) for s in (0, 0, 1))
    assert (ball.norm(first) <= 0.1 * (1 + 1e-12)).all()
    assert (first[objective().mask == 0] == 0).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("norm", BALLS)
def test_a_start_of_no_size_is_the_clean_point_and_draws_nothing(norm):
    run = objective()
    state = run.generator.get_state()
    assert not random_start(run, BALLS[norm](0.1), 0.0).any()
    assert torch.equal(run.generator.get_state(), state)


@pytest.mark.parametrize("norm", BALLS)
def test_a_start_needs_no_radius(norm):
    run = objective()
    without = random_start(run, BALLS[norm](math.inf), 0.6)
    assert torch.isfinite(without).all()
    assert torch.equal(without, random_start(objective(), BALLS[norm](99.0), 0.6))


def test_a_box_does_not_hide_that_there_is_no_radius():
    low, high = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    check_bounded(WithinBox(L2Ball(0.5), low, high), "why")
    with pytest.raises(ValueError, match="epsilon must be finite: why"):
        check_bounded(WithinBox(L2Ball(math.inf), low, high), "why")


# --- weights


@pytest.mark.parametrize("failing", [False, True])
def test_replaced_weights_are_back_in_their_place(failing):
    weights = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.full((2,), 2.0))]
    places = [weight.data_ptr() for weight in weights]

    def inside():
        with replaced(weights, [torch.full((2, 3), 5.0), torch.full((2,), 6.0)]):
            assert (weights[0] == 5).all()
            assert (weights[1] == 6).all()
            (weights[0].sum() * weights[1].sum()).backward()
            if failing:
                raise KeyboardInterrupt

    if failing:
        with pytest.raises(KeyboardInterrupt):
            inside()
    else:
        inside()
    assert [weight.data_ptr() for weight in weights] == places
    assert (weights[0] == 1).all()
    assert (weights[1] == 2).all()
    assert (weights[0].grad == 12).all()
    assert (weights[1].grad == 30).all()


def test_trained_weights_have_the_same_names_in_a_wrapper():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].bias.requires_grad_(False)

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model

    assert list(trained_weights(model)) == ["0.weight", "1.weight", "1.bias"]
    wrapped = trained_weights(Wrapper())
    assert list(wrapped) == list(trained_weights(model))
    assert wrapped["1.bias"] is model[1].bias


def test_awp_moves_trained_matrices_alone():
    """A frozen matrix and a bias are where they were when the last pass begins."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 1)).double()
    model[0].weight.requires_grad_(False)
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    signs, seen = SIGNS[:, None], []
    run = linear_objective(LinearClassifier((2, 4)), x, SIGNS)
    inner = nn.functional.softplus

    def forward(delta: Tensor | None):
        seen.append({name: weight.detach().clone() for name, weight in model.named_parameters()})
        score = model(x if delta is None else x + delta).mean(1)
        return run.forward()._replace(loss=inner(-signs * score).mean())

    objective = linear_objective(model, x, SIGNS)
    objective.run = forward
    AWP(L2Ball(0.5), 0.5, steps=1, gamma=0.1).step(objective)
    before, last = seen[0], seen[-1]
    moved = {name for name in before if not torch.equal(before[name], last[name])}
    assert moved == {"1.weight", "2.weight"}
    for name in moved:
        step = (last[name] - before[name]).norm()
        torch.testing.assert_close(step, 0.1 * before[name].norm())


def named(parameters: str) -> AWP:
    return AWP(L2Ball(0.5), 0.5, 1, 0.1, parameters=parameters)


def test_awp_finds_weights_by_whole_parts_of_their_names():
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(12))
    model = nn.ModuleDict({"layer": layers, "head": nn.Linear(2, 1), "words": nn.Embedding(3, 2)})
    for name, want in {
        "layer.1": [layers[1].weight],
        "layer.11,head": [layers[11].weight, model["head"].weight],
        " head , head.weight ": [model["head"].weight],
        "weight": [layer.weight for layer in (*layers, model["head"])],
        "layer.3.weight": [layers[3].weight],
    }.items():
        found = named(name).weights(model)
        assert [id(weight) for weight in found] == [id(weight) for weight in want], name
    for name in ("laye", "head.bias", "words", "layer.12", "HEAD"):
        with pytest.raises(ValueError, match=f"'{name}'.*layer.0.weight and head.weight"):
            named(f"head,{name}").check_model(model)
    with pytest.raises(ValueError, match="none of this model"):
        named("words").weights(nn.ModuleDict({"words": nn.Embedding(3, 2)}))
    for wrong in (",", "head,", " ", ["head"], None):
        with pytest.raises(ValueError, match="--adv_parameters"):
            named(wrong)


# --- what is kept, by micro-batch


def test_smarts_average_takes_in_the_weights_once_a_step():
    """Two micro-batches each: the average moves at the first alone."""
    model, memory = LinearClassifier((2, 4)), Memory()
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    method = SMART(L2Ball(0.5), 0.2, 1, 1.0, init_magnitude=0.1, proximal_weight=1.0, decay=0.75)
    want = model.weight.detach().clone()
    for step in range(3):
        want = 0.75 * want + 0.25 * model.weight.detach()
        for memory.slot in range(2):
            method.step(linear_objective(model, x, SIGNS, memory=memory, seed=step))
            torch.testing.assert_close(memory.tensors["average/weight"], want)
        with torch.no_grad():
            model.weight += 1.0
    assert set(memory.tensors) == {"average/weight", "average/bias"}


# --- what only some objectives offer


class Plain:
    """An objective of no more than the protocol's verbs."""

    def __init__(self) -> None:
        inner = objective()
        self.x, self.mask = inner.x, inner.mask
        self.generator, self.memory = inner.generator, inner.memory
        self.forward, self.backward, self.gradient = inner.forward, inner.backward, inner.gradient
        self.divergence, self.within = inner.divergence, inner.within


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (YOPO(L2Ball(1.0), 0.1, 2, 2), "yopo needs an objective that can stop"),
        (AWP(L2Ball(1.0), 0.1, 1, 0.1), "awp needs an objective that differentiates"),
        (RDrop(), "rdrop needs an objective that can draw a second"),
        (TAVAT(L2Ball(1.0), 0.1, 2), "tavat needs inputs that are looked up"),
        (FreeLB(L2Ball(1.0), 0.1, 2, reuse=True), "reuse needs an objective that names"),
        (SMART(L2Ball(1.0), 0.1, 1, 1.0, 0.1, 1.0), "needs an objective that shows its model"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_a_method_needs_is_said(method, message):
    with pytest.raises(ValueError, match=message):
        method.step(Plain())


def test_pixels_have_no_vocabulary():
    with pytest.raises(ValueError, match="looked up in an embedding matrix"):
        TAVAT(L2Ball(1.0), 0.1, 2).step(objective())


def test_without_a_first_block_yopo_is_refused():
    with pytest.raises(ValueError, match="first block"):
        YOPO(L2Ball(1.0), 0.1, 2, 2).step(objective())
