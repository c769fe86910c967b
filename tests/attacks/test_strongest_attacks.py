"""APGD-T, FAB-T, Square and the ensemble: their papers' loops, and what only they promise."""

from functools import partial

import naive_attacks as naive
import pytest
import torch
from small_images import digits, linear
from torch import nn

from nlp_adv.attacks import APGDT, FABT, AutoAttack, Square
from nlp_adv.attacks.entering import pixel_rows
from nlp_adv.attacks.hyperplane import bounded_step, free_step
from nlp_adv.attacks.region import region_of
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall


def one_by_one(loop, model, x, y):
    return torch.cat([loop(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])


@pytest.mark.parametrize(("norm", "ball"), [("linf", LInfBall(0.05)), ("l2", L2Ball(0.5))])
def test_apgd_t_is_its_papers_loop(norm, ball):
    model, x, y = digits(8)
    loop = partial(naive.apgd_t, epsilon=ball.epsilon, steps=12, norm=norm, classes=3)
    result = APGDT(ball, 12, classes=3)(model, x, y)
    assert 0 < result.success.sum() < len(x)
    torch.testing.assert_close(result.adv, one_by_one(loop, model, x, y), rtol=0, atol=1e-9)


def test_apgd_t_tries_a_class_on_what_the_others_left():
    """Gradients are K times the classes that were tried until one fooled."""
    model, x, y = digits(8)
    one = APGDT(LInfBall(0.05), 12, classes=1)(model, x, y)
    three = APGDT(LInfBall(0.05), 12, classes=3)(model, x, y)
    assert (one.gradient_passes == 12).all()
    assert (three.gradient_passes[one.success] == 12).all()
    assert (three.gradient_passes[~three.success] == 36).all()
    assert torch.equal(three.adv[one.success], one.adv[one.success])


@pytest.mark.parametrize(
    ("norm", "ball"),
    [("linf", LInfBall(1.0)), ("l2", L2Ball(torch.inf)), ("l1", L1Ball(torch.inf))],
)
def test_fab_t_is_its_papers_loop(norm, ball):
    """The shortest of all that fool, in a box that holds many of the pixels."""
    model, x, y = digits(4)
    loop = partial(naive.fab_t, epsilon=ball.epsilon, steps=12, norm=norm, classes=2)
    result = FABT(ball, 12, classes=2)(model, x, y)
    assert result.success.all()
    assert (result.gradient_passes == 24).all()
    torch.testing.assert_close(result.adv, one_by_one(loop, model, x, y), rtol=0, atol=1e-9)


def test_fab_t_done_with_the_first_in_the_ball_fools_the_same():
    """For less; and what it fools in a ball is what is nearer than its radius."""
    model, x, y = digits(24)
    ball = LInfBall(0.06)
    shortest = FABT(LInfBall(1.0), 20, 3)(model, x, y)
    nearer = shortest.norm(torch.inf) <= ball.epsilon
    result = FABT(ball, 20, 3, until_fooled=True)(model, x, y)
    assert 0 < nearer.sum() < len(x)
    assert torch.equal(FABT(ball, 20, 3)(model, x, y).success, result.success)
    assert result.success[nearer].all()
    assert (result.gradient_passes[nearer] < 60).all()
    assert (result.gradient_passes[~result.success] == 60).all()


@pytest.mark.parametrize("ball", [LInfBall(1.0), L2Ball(1.0), L1Ball(1.0)])
def test_a_bounded_step_is_the_shortest_to_the_plane(ball):
    """It reaches the plane, keeps to its room, and no random other that reaches it is shorter."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(4, 6, generator=generator).double()
    w[:, 0] = 0
    value = torch.tensor([[0.3], [-0.5], [0.0], [50.0]]).double()
    room = torch.rand(4, 6, generator=generator).double()
    room[:, 1] = 0
    step = bounded_step(ball, w, value, room)
    assert (step.abs() <= room).all()
    assert not step[:, :2].any()
    reached = value + (w * step).sum(1, keepdim=True)
    torch.testing.assert_close(reached[:3], torch.zeros_like(reached[:3]), rtol=0, atol=1e-12)
    corner = -w.sign() * room  # all the room there is does not reach the last
    assert torch.equal(step[3], corner[3])
    assert reached[3] > 0
    for _ in range(200):
        other = room * (2 * torch.rand(4, 6, generator=generator).double() - 1)
        gain = (w * other).sum(1, keepdim=True)
        other = other * (-value / gain)  # reaches the plane, where it has room for it
        allowed = (other.abs() <= room * (1 + 1e-12)).all(1)
        assert (ball.norm(other) >= ball.norm(step) - 1e-12)[allowed].all()


def test_without_bounds_each_token_has_a_share_of_the_step():
    """The largest of the tokens' norms is what is short: all go equally far, in their units."""
    w = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    w[0, 2] = 0
    value = torch.tensor([0.7, -2.0]).double().view(2, 1, 1)
    unit = torch.tensor([[1.0, 2.0, 1.0], [3.0, 1.0, 1.0]]).double()[..., None]
    step = free_step(L2Ball(1.0, per="token"), unit, w, value)
    shares = step.norm(dim=2, keepdim=True) / unit
    want = value.abs() / (unit * w.norm(dim=2, keepdim=True)).sum(1, keepdim=True)
    want = torch.where(w.any(2, keepdim=True), want, 0.0)
    torch.testing.assert_close(shares, want, rtol=0, atol=1e-12)
    torch.testing.assert_close((w * step).sum((1, 2)), -value.flatten(), rtol=0, atol=1e-12)


def test_of_two_classes_apgd_t_climbs_the_margin():
    model, x, y = linear((1, 4, 4), classes=2)
    slope = (model.weight[1] - model.weight[0]).abs().sum().item()
    gap = model(x).detach().diff(dim=1).abs().squeeze(1)
    for share, fooled in ((0.99, False), (1.01, True)):
        ball = LInfBall(share * gap / slope)
        assert (APGDT(ball, 5)(model, x, y).success == fooled).all()


@pytest.mark.parametrize(("norm", "ball"), [("linf", LInfBall(0.15)), ("l2", L2Ball(1.0))])
def test_square_is_its_papers_loop(norm, ball):
    """With the same random numbers; three channels, so that each has signs of its own."""
    model, x, y = digits(4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mix = nn.Conv2d(3, 1, 1).double()
    mix.weight.data = torch.tensor([0.2, 0.3, 0.5]).double().view(1, 3, 1, 1)  # none is as another
    nn.init.zeros_(mix.bias)
    model = nn.Sequential(mix, model).eval()
    x = (x + 0.1 * torch.arange(3).view(1, 3, 1, 1)).clamp(0, 1)
    with torch.no_grad():
        y = model(x).argmax(1)
    attack = Square(ball, 60)
    result = attack(model, x, y)
    streams = region_of(pixel_rows(model, x, y), ball).streams(attack.seed)
    want = [
        naive.square(model, x[i : i + 1], y[i : i + 1], ball.epsilon, 60, norm, stream)
        for i, stream in enumerate(streams)
    ]
    # In L2 rounding of ε² − ‖δ‖² = 0 is under a root.
    atol = 1e-9 if norm == "linf" else 1e-6
    torch.testing.assert_close(result.adv, torch.cat(want), rtol=0, atol=atol)
    assert result.losses[-1].min() > result.losses[0].min()
    assert (result.gradient_passes == 0).all()


def test_square_needs_no_gradient_and_no_module():
    """A step function has a gradient nowhere, and a plain function no parameters."""
    _, x, y = digits(6)
    weight = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).double()

    def steps(pixels):
        return (pixels.detach().flatten(1) @ weight * 4).round()

    y = steps(x).argmax(1)
    clear = steps(x).topk(2).values.diff(dim=1).squeeze(1) < 0  # a tie is no right answer
    result = Square(LInfBall(0.2), 300)(steps, x[clear], y[clear])
    assert result.success.all()
    assert (result.forwards <= 301 + 4).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: APGDT(L1Ball(1.0)), "in an L1 ball use PGD"),
        (lambda: APGDT(L2Ball(1.0), classes=0), "classes must be ≥ 1"),
        (lambda: FABT(L2Ball(1.0), classes=0), "classes ≥ 1"),
        (lambda: FABT(L2Ball(torch.inf), random_start=True), "needs a finite radius"),
        (lambda: Square(L1Ball(1.0)), "in an L1 ball use PGD"),
        (lambda: Square(L2Ball(torch.inf)), "needs a finite ε"),
        (lambda: Square(L2Ball(1.0), share=0.0), "share above 0"),
    ],
)
def test_what_they_cannot_do_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_ensemble_fools_what_its_members_fool_each_on_what_is_left():
    model, x, y = digits(24)
    attack = AutoAttack(LInfBall(0.06), 10, 3, 60)
    whole = attack(model, x, y)
    fooled = torch.zeros(len(x), dtype=torch.bool)
    gradients = torch.zeros(len(x), dtype=torch.long)
    for one in attack.attacks:
        alone = one(model, x, y)
        gradients[~fooled] += alone.gradient_passes[~fooled]
        new = alone.success & ~fooled
        assert torch.equal(whole.adv[new], alone.adv[new])
        fooled |= alone.success
    assert 0 < fooled.sum() < len(x)
    assert torch.equal(whole.success, fooled)
    assert torch.equal(whole.gradient_passes, gradients)


def test_the_ensemble_searches_where_there_is_no_gradient():
    _, x, _ = digits(4)
    weight = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).double()

    def model(pixels):
        return pixels.detach().flatten(1) @ weight

    with pytest.warns(UserWarning, match=r"auto-linf goes on without apgd"):
        result = AutoAttack(LInfBall(0.3), 3, queries=200)(model, x, model(x).argmax(1))
    assert result.success.all()
    assert (result.gradient_passes == 0).all()


PEERS = {  # ours, and theirs by name
    "APGDT": (partial(APGDT, steps=20, random_start=True), {"n_classes": 10, "steps": 20}),
    "FAB": (
        partial(FABT, steps=20, until_fooled=True),
        {"n_classes": 10, "steps": 20, "multi_targeted": True},
    ),
}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", PEERS)
def test_verdicts_are_those_of_torchattacks(name, norm):
    """Image by image, but for those that sit on the edge of what either finds."""
    peers = pytest.importorskip("torchattacks")
    model, x, y = digits(30, torch.float32)
    ball = {"linf": LInfBall(0.06), "l2": L2Ball(0.4)}[norm]
    attack, options = PEERS[name]
    ours = attack(ball)(model, x, y).success
    norm = {"linf": "Linf", "l2": "L2"}[norm]
    with torch.random.fork_rng():
        theirs = getattr(peers, name)(model, norm=norm, eps=ball.epsilon, **options)(x, y)
        with torch.no_grad():
            fooled = model(theirs).argmax(1) != y
    assert 0 < fooled.sum() < len(x)
    assert (ours != fooled).sum() <= 2
