"""The contracts of DESIGN.md, §4, by number, for every method on every target.

Contract 4 (the same under Trainer, Accelerate and DDP) is tested in tests/training; contract 10
(parity) in tests/parity.
"""

from dataclasses import replace

import pytest
import torch
from methods_under_test import each_method
from models import LinearClassifier, assert_gradients, checkpoint, gradients, linear_objective
from targets import TARGETS, TEXT_TARGETS, PairTarget, TextTarget
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.utils.flop_counter import FlopCounterMode

from nlp_adv.methods import (
    AWP,
    PGD,
    SAM,
    SMART,
    TRADES,
    YOPO,
    FreeAT,
    FreeLB,
    NoAttack,
    RDrop,
    Scaled,
    bare,
    floor_cost,
)
from nlp_adv.methods.around import with_bare
from nlp_adv.perturbation import (
    FirstBlock,
    L2Ball,
    ModelObjective,
    RowsObjective,
    divergence,
    full_pass,
    unit_length,
)

each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.id)
each_text_target = pytest.mark.parametrize("target", TEXT_TARGETS, ids=lambda t: t.id)

DUAL = {"L2Ball": 2, "LInfBall": 1, "L1Ball": torch.inf}


class Spy:
    """An objective that keeps every δ that a method asks about, as the method gave it."""

    def __init__(self, objective: ModelObjective) -> None:
        self.objective = objective
        self.x, self.mask = objective.x, objective.mask
        self.generator, self.memory = objective.generator, objective.memory
        self.table, self.ids, self.model = objective.table, objective.ids, objective.model
        self.labels = objective.labels
        self.divergence, self.backward = objective.divergence, objective.backward
        self.note, self.example_names = objective.note, objective.example_names
        self.unit, self.within = objective.unit, objective.within
        self.deltas: list[Tensor] = []

    def _see(self, delta):
        self.deltas.append(delta.detach().clone())
        return delta

    def forward(self, delta=None, **options):
        self._see(torch.zeros_like(self.mask) if delta is None else delta)
        return self.objective.forward(delta, **options)

    def forward_redrawn(self):
        return self.objective.forward_redrawn()

    def gradient(self, delta, loss_fn=None):
        return self.objective.gradient(self._see(delta), loss_fn)

    def split_pass(self, delta, *, weight=1.0):
        return self.objective.split_pass(self._see(delta), weight=weight)

    def prefix_gradient(self, delta, p):
        return self.objective.prefix_gradient(self._see(delta), p)

    def weight_gradient(self, delta, weights):
        return self.objective.weight_gradient(self._see(delta), weights)

    def rows(self, kept, **options):
        found = self.objective.rows(kept, **options)
        gradient = found.inner.gradient

        def seen(delta, loss_fn=None):
            self._see(torch.zeros_like(self.mask).index_copy(0, kept, delta))
            return gradient(delta, loss_fn)

        found.inner.gradient = seen
        return RowsObjective(self, found.inner, kept, found.enters)


def all_passes(method) -> int:
    """Whatever runs the model, or its first block."""
    more = method.passes + method.inner_passes + getattr(method, "forward_passes", 0)
    return more + getattr(method, "prefix_passes", 0)


def with_epsilon(method, epsilon: float):
    """The method with another radius and everything else as it is."""
    if method is not bare(method):
        return with_bare(method, with_epsilon(bare(method), epsilon))
    if hasattr(method, "rho"):
        return replace(method, rho=epsilon)
    if hasattr(method, "gamma"):  # the radius of the other attack
        method = replace(method, gamma=epsilon)
    if hasattr(method, "ball"):
        return replace(method, ball=replace(method.ball, epsilon=epsilon))
    return replace(method, epsilon=epsilon) if hasattr(method, "epsilon") else method


def length_of(method, objective) -> Tensor | float:
    """What the method's unit measures in absolute units."""
    if isinstance(method, Scaled):
        return method.factor * unit_length(objective, method.ball, method.unit)
    return 1.0


def ordinary(target, model, batch):
    """Loss, ∇θ and random state of one ordinary step from seed 0."""
    torch.manual_seed(0)
    loss = target.loss(model, batch)
    loss.backward()
    found = loss.detach(), gradients(model), torch.get_rng_state()
    model.zero_grad()
    return found


def stepped(method, target, model, batch, **options):
    """The same of one step of the method."""
    torch.manual_seed(0)
    report = method.step(target.objective(model, batch, **options))
    found = report.loss, gradients(model), torch.get_rng_state()
    model.zero_grad()
    return found


# --- 1. without an attack it is ordinary training


@each_method(such_that=lambda case: case.id != "rdrop")
def test_1_a_radius_of_zero_is_ordinary_training(case, target):
    model, batch = target.model(dropout=0.2), target.batch()
    loss, theta, stream = ordinary(target, model, batch)
    got_loss, got_theta, got_stream = stepped(with_epsilon(case.method, 0.0), target, model, batch)
    torch.testing.assert_close(got_loss, loss)
    assert_gradients(got_theta, theta, atol=target.atol)
    assert torch.equal(got_stream, stream)


@each_target
def test_1_without_dropout_rdrop_is_ordinary_training(target):
    model, batch = target.model(), target.batch()
    loss, theta, _ = ordinary(target, model, batch)
    got_loss, got_theta, _ = stepped(RDrop(), target, model, batch)
    torch.testing.assert_close(got_loss, loss)
    assert_gradients(got_theta, theta, atol=target.atol)


@each_target
@pytest.mark.parametrize(
    "method",
    [
        AWP(L2Ball(0.8), step_size=0.4, steps=0, gamma=0.0),
        FreeAT(L2Ball(0.8), step_size=0.8, replays=3),
        YOPO(L2Ball(0.8), step_size=0.4, rounds=1, steps=3),
        YOPO(L2Ball(0.8), step_size=0.0, rounds=3, steps=3),
        PGD(L2Ball(0.8), step_size=0.4, steps=0, random_start=False),
        PGD(L2Ball(0.8), step_size=0.4, steps=0, random_start=False, clean_weight=0.5),
        FreeLB(L2Ball(0.8), step_size=0.4, steps=1),
        FreeLB(L2Ball(0.8), step_size=0.0, steps=3),
    ],
    ids=["awp", "freeat", "yopo", "yopo-still", "pgd", "pgd-clean", "freelb", "freelb-still"],
)
def test_1_no_steps_are_ordinary_training(method, target):
    if isinstance(target, PairTarget) and isinstance(method, YOPO):
        pytest.skip("it needs one pass through the model")
    model, batch = target.model(dropout=0.2), target.batch()
    loss, theta, stream = ordinary(target, model, batch)
    got_loss, got_theta, got_stream = stepped(method, target, model, batch)
    torch.testing.assert_close(got_loss, loss)
    assert_gradients(got_theta, theta, atol=target.atol)
    assert torch.equal(got_stream, stream)


@each_method(such_that=lambda case: case.id != "none")
def test_1_5_an_attack_changes_the_gradient_and_not_the_random_stream(case, target):
    """Without the first half, a δ that goes nowhere would pass the test above."""
    model, batch = target.model(dropout=0.2), target.batch()
    loss, theta, stream = ordinary(target, model, batch)
    got_loss, got_theta, got_stream = stepped(case.method, target, model, batch)
    assert (got_loss - loss).abs() > 1e-5
    assert max((got_theta[name] - theta[name]).abs().max() for name in theta) > 1e-4
    assert torch.equal(got_stream, stream)


# --- 2. feasible


@each_method(such_that=lambda case: case.moves_delta and "awp-weights" not in case.id)
def test_2_every_delta_is_in_the_ball_and_zero_on_padding(case, target):
    model, batch = target.model(), target.batch()
    spy = Spy(target.objective(model, batch))
    case.method.step(spy)
    assert len(spy.deltas) == all_passes(case.method)
    limit = case.method.ball.epsilon * length_of(case.method, spy)
    norms = [spy.within(case.method.ball).norm(delta) for delta in spy.deltas]
    for delta, norm in zip(spy.deltas, norms, strict=True):
        assert (norm <= limit * (1 + 1e-9)).all()
        assert (delta[spy.mask == 0] == 0).all()
        if spy.objective.low is not None:  # pixels have a range
            assert (delta >= spy.objective.low - 1e-12).all()
            assert (delta <= spy.objective.high + 1e-12).all()
    assert (norms[-1] > 0).any()


@pytest.fixture
def draws_by_position(monkeypatch, request):
    """Random starts that depend on token and coordinate alone: not on batch or padding."""
    modules = getattr(request.node.callspec.params["target"], "modules", 1)

    def uniform(like: Tensor) -> Tensor:
        axes = [torch.arange(n) for n in like.shape[1:]]
        axes[0] %= max(1, len(axes[0]) // modules)  # the tokens of each module follow one another
        grid = torch.meshgrid(*axes, indexing="ij")
        phase = sum((k + 1) * 7.31 * axis for k, axis in enumerate(grid))
        return ((torch.sin(phase + 1) * 43758.5453) % 1).clamp(0.01, 0.99).expand(like.shape)

    laws = {
        "uniform_": lambda u, low=0.0, high=1.0: low + (high - low) * u,
        "normal_": lambda u: torch.erfinv(2 * u - 1),
        "exponential_": lambda u: -u.log(),
    }
    for name, law in laws.items():
        original = getattr(Tensor, name)

        def draw(self, *args, generator=None, law=law, original=original):
            if generator is None:  # a model draws its weights
                return original(self, *args)
            return self.copy_(law(uniform(self), *args))

        monkeypatch.setattr(Tensor, name, draw)


@each_method(targets=TEXT_TARGETS)
@pytest.mark.usefixtures("draws_by_position")
def test_2_two_more_padding_tokens_change_nothing(case, target):
    model = target.model()
    loss, theta, _ = stepped(case.method, target, model, target.batch())
    got_loss, got_theta, _ = stepped(case.method, target, model, target.batch(padding=2))
    torch.testing.assert_close(got_loss, loss)
    assert_gradients(got_theta, theta, atol=target.atol)


# --- 3. examples are independent


def assert_mean_over_examples(case, target, *, trimmed: bool) -> None:
    model, batch = target.model(), target.batch()
    loss, theta, _ = stepped(case.method, target, model, batch)
    rows = len(batch["labels"])
    alone = [
        stepped(case.method, target, model, target.example(batch, row, trimmed=trimmed))
        for row in range(rows)
    ]
    mean = {name: sum(found[1][name] for found in alone) / rows for name in theta}
    assert_gradients(theta, mean, atol=target.atol)
    torch.testing.assert_close(loss, sum(found[0] for found in alone) / rows)


@each_method(such_that=lambda case: not case.couples_examples)
@pytest.mark.usefixtures("draws_by_position")
def test_3_the_gradient_is_the_mean_over_the_examples(case, target):
    assert_mean_over_examples(case, target, trimmed=True)


@each_method(targets=TEXT_TARGETS[:1], such_that=lambda case: not case.couples_examples)
@pytest.mark.usefixtures("draws_by_position")
def test_3_and_over_the_examples_with_their_padding(case, target):
    assert_mean_over_examples(case, target, trimmed=False)


@each_method(targets=TEXT_TARGETS[:1], such_that=lambda case: case.couples_examples)
def test_3_a_method_that_says_so_does_couple_its_examples(case, target):
    with pytest.raises(AssertionError):
        assert_mean_over_examples(case, target, trimmed=True)


@each_target
def test_3_the_gradient_of_some_rows_is_that_in_the_whole_batch(target):
    """A batch cut to two of its three rows, while the other one stays at x."""
    run = target.objective(target.model(), target.batch())
    delta = 0.1 * torch.randn(run.mask.shape, dtype=run.mask.dtype) * run.mask
    kept = torch.tensor([0, 2])
    grad = run.rows(kept).gradient(delta[kept])
    whole = run.gradient(torch.zeros_like(delta).index_copy(0, kept, delta[kept]))[kept]
    assert grad.abs().max() > 1e-3
    factor = 2 / 3
    if target.batch()["labels"].ndim == 2:  # a mean over tokens, of which rows have unlike many
        factor = whole.norm() / grad.norm()
    torch.testing.assert_close(factor * grad, whole, rtol=1e-6, atol=target.atol)


# --- 5. one dropout mask a step

CHECKPOINTING = {"none": None, "reentrant": True, "non-reentrant": False}


def checkpointed(model: nn.Module, reentrant: bool | None) -> nn.Module:
    if reentrant is not None:
        checkpoint(model, use_reentrant=reentrant)
    return model


@each_text_target
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("reentrant", CHECKPOINTING.values(), ids=CHECKPOINTING)
@pytest.mark.filterwarnings("ignore:.*requires_grad=True:UserWarning")
def test_5_passes_at_zero_are_bit_identical(target, attention, reentrant):
    model = checkpointed(target.model(dropout=0.2, attention=attention), reentrant)
    batch = target.batch()
    loss, theta, stream = ordinary(target, model, batch)
    again = target.loss(model, batch)
    assert not torch.equal(again, loss)  # there is dropout to freeze

    torch.manual_seed(0)
    objective = target.objective(model, batch)
    zero, passes = torch.zeros_like(objective.mask), []
    inner = [objective.gradient(zero)]
    for _ in range(2):
        report = full_pass(objective, zero)
        passes.append((report.loss, report.grad, gradients(model)))
        model.zero_grad()
    inner.append(objective.gradient(zero))
    clean = objective.forward()
    assert torch.equal(clean.logits, objective.forward(zero).logits)
    for got_loss, grad, got_theta in passes:
        assert torch.equal(got_loss, loss)
        assert torch.equal(grad, inner[0])
        for name, value in theta.items():
            assert torch.equal(got_theta[name], value), name
    assert torch.equal(inner[0], inner[1])
    assert torch.equal(torch.get_rng_state(), stream)


@each_method(targets=TEXT_TARGETS[:1], such_that=lambda case: "relative" not in case.id)
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.filterwarnings("ignore:.*requires_grad=True:UserWarning")
def test_5_checkpointing_changes_no_result(case, target, reentrant):
    batch = target.batch()
    loss, theta, stream = stepped(case.method, target, target.model(dropout=0.2), batch)
    model = checkpointed(target.model(dropout=0.2), reentrant)
    got_loss, got_theta, got_stream = stepped(case.method, target, model, batch)
    torch.testing.assert_close(got_loss, loss)
    assert_gradients(got_theta, theta)
    assert torch.equal(got_stream, stream)


# --- 6. honest cost


@each_method()
def test_6_passes_are_as_declared(case, target):
    """A backward pass reaches every parameter once, an inner pass none."""
    model, batch = target.model(), target.batch()
    counts = {"forward": 0, "reached": 0, "backward": 0}
    target.loss(model, batch).backward()
    trained = [p for p in model.parameters() if p.grad is not None]
    model.zero_grad()

    def count(what):
        counts[what] += 1

    model.register_forward_hook(lambda *_: count("forward"))
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(lambda _: count("reached"))
    objective = target.objective(model, batch)
    backward = objective.backward_fn
    objective.backward_fn = lambda loss: (count("backward"), backward(loss))
    case.method.step(objective)
    assert counts["forward"] == all_passes(case.method) - getattr(case.method, "prefix_passes", 0)
    backwards = counts["backward"] + isinstance(
        bare(case.method), AWP | SAM
    )  # by the weights alone
    assert counts["reached"] == backwards * len(trained)
    # A loss that compares two passes has one backward for both.
    assert backwards == 1 if joint(case.method) else backwards == case.method.passes


def joint(method) -> bool:
    return isinstance(bare(method), RDrop | SMART | TRADES)


def flops(step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


@each_method(targets=[TARGETS[0], TARGETS[-1]])
def test_6_the_work_is_that_of_the_declared_passes(case, target):
    """Multiplications counted one by one; an inner pass may cost no more than its two thirds.

    Attention has no weights to save on, so on the tiny model, where it is a large part of the
    work, the two thirds are a little more.
    """
    model, batch = target.model(), target.batch()
    objective = target.objective(model, batch)
    zero = torch.zeros_like(objective.mask)
    full = flops(lambda: full_pass(objective, zero))
    inner = flops(lambda: objective.gradient(zero))
    assert 0 < inner < 0.72 * full
    method = case.method
    got = flops(lambda: method.step(target.objective(model, batch)))
    want = method.passes * full + method.inner_passes * inner * getattr(method, "inner_share", 1)
    if getattr(method, "forward_passes", 0):
        with torch.no_grad():
            want += method.forward_passes * flops(objective.forward)
    if getattr(method, "prefix_passes", 0):
        p = objective.split_pass(zero).p
        want += method.prefix_passes * flops(lambda: objective.prefix_gradient(zero, p))
    if isinstance(target, TextTarget) or (case.moves_delta and case.leaf):
        assert got == want
    assert got <= 1.05 * floor_cost(method, target.blocks) * full


# --- 7. no residue


class Refused(Exception):
    """What a model throws in these tests."""


def state(model: nn.Module) -> dict[str, object]:
    kinds = ["_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"]
    return {
        "hooks": [list(getattr(m, kind).values()) for m in model.modules() for kind in kinds],
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
    }


def prepared(target) -> nn.Module:
    """A model with a frozen parameter, a part in evaluation mode, and earlier gradients."""
    model = target.model(dropout=0.2)
    last = list(model.parameters())[-1]
    last.requires_grad_(False)
    list(model.children())[-1].eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 0.25)
    return model


@each_method()
def test_7_a_step_leaves_nothing_but_gradients(case, target):
    model, batch = prepared(target), target.batch()
    before, weights = state(model), {k: v.clone() for k, v in model.state_dict().items()}
    kept = {key: value.clone() for key, value in batch.items()}
    objective = target.objective(model, batch)
    x = objective.x.clone()
    case.method.step(objective)
    assert state(model) == before
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert batch.keys() == kept.keys()
    assert all(torch.equal(batch[key], kept[key]) for key in kept)
    assert torch.equal(objective.x, x)


@each_method()
def test_7_gradients_are_added_to_earlier_ones(case, target):
    batch, fresh = target.batch(), prepared(target)
    fresh.zero_grad()
    _, theta, _ = stepped(case.method, target, fresh, batch)
    model = prepared(target)
    _, got, _ = stepped(case.method, target, model, batch)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    want = {name: value + 0.25 * (name in trained) for name, value in theta.items()}
    assert_gradients(got, want, atol=target.atol)


def fails(when: str, failing: int):
    """A forward hook that fails in the forward or in the backward of the given pass."""
    calls = []

    def refuse(*_):
        torch.rand(3)
        raise Refused

    def hook(module, args, output):
        if when == "backward" and not output.requires_grad:
            return  # a forward pass alone has none
        calls.append(1)
        if len(calls) == failing and when == "forward":
            refuse()
        if len(calls) == failing:
            output.register_hook(refuse)

    return hook


@each_method()
@pytest.mark.parametrize("when", ["forward", "backward"])
@pytest.mark.parametrize("failing", [1, 2])
def test_7_an_exception_leaves_nothing(case, target, when, failing):
    model, batch = prepared(target), target.batch()
    last = min(failing, case.method.passes + case.method.inner_passes)
    list(model.children())[-1].register_forward_hook(fails(when, last))
    before, weights = state(model), {k: v.clone() for k, v in model.state_dict().items()}
    earlier = {p: p.grad for p in model.parameters()}
    stream = torch.get_rng_state()
    objective = target.objective(model, batch)
    with pytest.raises(Refused):
        case.method.step(objective)
    assert state(model) == before
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is grad for parameter, grad in earlier.items())
    if last == 1:
        assert all(grad is None or (grad == 0.25).all() for grad in earlier.values())
    if when == "forward":
        assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize("target", [TARGETS[0]], ids=["bert"])
@pytest.mark.parametrize(
    "method", [PGD(L2Ball(0.8), 0.4, 2), FreeLB(L2Ball(0.8), 0.4, 2)], ids=lambda m: m.name
)
def test_7_the_random_stream_is_as_before_when_the_backward_fails(method, target):
    model, batch = target.model(dropout=0.2), target.batch()
    list(model.children())[-1].register_forward_hook(fails("backward", 1))
    stream = torch.get_rng_state()
    with pytest.raises(Refused):
        method.step(target.objective(model, batch))
    assert torch.equal(torch.get_rng_state(), stream)


# --- 8. the known maximum


def with_many_steps(method):
    """Enough full-length steps to arrive from any start."""
    if method is not bare(method):
        return with_bare(method, with_many_steps(bare(method)))
    if hasattr(method, "step_size") and hasattr(method, "steps"):
        return replace(method, steps=60, step_size=method.ball.epsilon)
    return method


@each_method(targets=TARGETS[:1], such_that=lambda case: case.finds_maximum)
def test_8_the_attack_reaches_the_known_maximum(case, target):
    """On a linear classifier it is loss(margin − ε‖w‖_dual), w over the free tokens."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    mask = (torch.arange(5) < torch.tensor([5, 3, 1])[:, None]).double()[..., None].expand_as(x)
    model = LinearClassifier(x.shape[1:])
    objective = linear_objective(model, x, signs, mask=mask)
    report = with_many_steps(case.method).step(objective)
    ball = case.method.ball
    dims = (1, 2) if ball.per == "example" else 2
    order = DUAL[type(ball).__name__]
    dual = torch.linalg.vector_norm(model.weight.detach() * mask, order, dim=dims, keepdim=True)
    drop = (ball.epsilon * length_of(case.method, objective) * dual).sum((1, 2))
    with torch.no_grad():
        worst = softplus(-(signs * model(x) - drop)).mean()
    torch.testing.assert_close(report.adversarial, worst)


@each_method(targets=TARGETS[:1], such_that=lambda case: case.finds_divergence)
@pytest.mark.parametrize("row", range(3))
def test_8_the_divergence_found_is_that_of_an_end_of_the_ball(case, target, row):
    """On a linear classifier the output moves most at one of the two ends, z ± ε‖w‖_dual."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)[row : row + 1]
    model = LinearClassifier(x.shape[1:])
    objective = linear_objective(model, x, torch.ones(1, dtype=torch.float64))
    report = with_many_steps(case.method).step(objective)
    ball, weight = case.method.ball, model.weight.detach()
    reach = torch.linalg.vector_norm(weight, DUAL[type(ball).__name__])
    reach = reach * ball.epsilon * torch.as_tensor(length_of(case.method, objective)).squeeze()
    with torch.no_grad():
        score = model(x)
        clean, *ends = (torch.stack([-z, z]).T for z in (score, score - reach, score + reach))
    symmetric = isinstance(bare(case.method), SMART)
    values = [divergence(clean, end, "classes", symmetric=symmetric).item() for end in ends]
    assert min(abs(report.divergence.item() - value) for value in values) < 1e-8


# --- 9. what is not finite

BROKEN = 1  # the example whose δ-gradient is not finite


@each_method(
    targets=[TARGETS[0], TARGETS[-1]],
    # Of some rows: tests/methods/test_some_rows.py.
    such_that=lambda case: case.moves_delta and case.id != "awp-weights" and "rows" not in case.id,
)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_9_a_nonfinite_gradient_leaves_delta_unchanged_and_is_counted(case, target, poison):
    model, batch = target.model(), target.batch()
    objective = target.objective(model, batch)
    run, broken = objective.run, torch.ones_like(objective.mask)
    broken[BROKEN] = poison

    def poisoned(delta):
        if delta is not None and delta.requires_grad:
            delta.register_hook(lambda grad: grad * broken)
        return run(delta)

    objective.run = poisoned
    objective.first_block = FirstBlock(objective._block().module, poisoned)
    spy = Spy(objective)
    report = case.method.step(spy)
    assert objective.nonfinite
    assert torch.isfinite(report.loss)
    assert all(torch.isfinite(value).all() for value in gradients(model).values())
    path = [delta for delta in spy.deltas if delta.any()]  # a clean pass is not on it
    if not case.moves_step_by_step:
        assert not path[-1][BROKEN].any()
        assert path[-1][0].any()
        return
    for delta in path:
        torch.testing.assert_close(delta[BROKEN], path[0][BROKEN])
    if case.method.passes + case.method.inner_passes > len(spy.deltas) - len(path) + 1:
        assert not torch.equal(path[0][0], path[-1][0])  # the others go on


@each_method(targets=[TARGETS[0], TARGETS[-1]])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_9_a_nonfinite_loss_is_reported_and_counted(case, target, poison):
    model, batch = target.model(), target.batch()
    objective = target.objective(model, batch)
    run = objective.run

    def poisoned(delta):
        out = run(delta)
        return out._replace(loss=out.loss + poison)

    objective.run = poisoned
    report = case.method.step(objective)
    assert objective.nonfinite
    assert not torch.isfinite(report.loss)


@each_method(targets=TARGETS[:1], such_that=lambda case: case.text_only and not case.moves_delta)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_9_a_nonfinite_matrix_gradient_leaves_the_matrix_unchanged_and_is_counted(
    case, target, poison
):
    model, batch = target.model(), target.batch()
    objective = target.objective(model, batch)
    objective.table.register_hook(lambda grad: grad * poison)
    report = case.method.step(objective)
    assert torch.equal(report.adversarial, report.clean)
    assert objective.nonfinite


@each_method(targets=[TARGETS[0], TARGETS[-1]])
def test_9_a_finite_step_is_not_counted(case, target):
    objective = target.objective(target.model(), target.batch())
    case.method.step(objective)
    assert not objective.nonfinite


# --- what a report says


@each_method()
def test_the_report_is_the_loss_whose_gradient_was_taken(case, target):
    """∇θ is the gradient of `report.loss`: checked along one direction of θ, with δ held still."""
    model, batch = target.model(), target.batch()
    objective = target.objective(model, batch)
    weights = []
    backward = objective.backward_fn
    objective.backward_fn = lambda loss: (weights.append(loss.detach()), backward(loss))
    report = case.method.step(objective)
    torch.testing.assert_close(report.loss, sum(weights))
    assert not report.loss.requires_grad
    assert report.loss.shape == ()


@each_target
def test_the_weights_of_clean_and_adversarial_loss_are_those_of_the_report(target):
    method = PGD(L2Ball(0.8), 0.4, 2, clean_weight=0.25)
    report = method.step(target.objective(target.model(), target.batch()))
    clean = NoAttack().step(target.objective(target.model(), target.batch()))
    torch.testing.assert_close(report.clean, clean.loss)
    torch.testing.assert_close(report.loss, 0.25 * report.clean + 0.75 * report.adversarial)
