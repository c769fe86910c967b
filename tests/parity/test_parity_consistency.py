"""Parity of the methods that compare outputs: VAT, ALUM, SMART, TRADES, R-Drop."""

import pytest
import reference_consistency as reference
import torch
from agreement import (
    SEED,
    SHAPE,
    assert_parity,
    assert_same_training,
    gaussian_draws,
    uniform_draws,
)
from models import assert_gradients, batch, gradients, tiny

from nlp_adv.methods import SMART, TRADES, VAT, RDrop
from nlp_adv.perturbation import L2Ball, LInfBall
from nlp_adv.sites.objective import text_objective

each_ball = pytest.mark.parametrize(
    ("norm", "ball", "step_size", "init"),
    [("l2", L2Ball(0.8), 0.5, 0.2), ("linf", LInfBall(0.1), 0.06, 0.02)],
    ids=["l2", "linf"],
)

# --- VAT


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("symmetric", [False, True], ids=["vat", "alum"])
def test_vat_is_the_papers_loop(steps, symmetric):
    method = VAT(L2Ball(0.8), xi=0.05, steps=steps, beta=2.0, symmetric=symmetric)
    settings = {"draws": gaussian_draws(), "xi": 0.05, "epsilon": 0.8, "beta": 2.0}
    assert_parity(method, reference.vat, power=steps, symmetric=symmetric, **settings)
    for wrong in ({"power": steps + 1}, {"symmetric": not symmetric}, {"xi": 0.5}):
        off = settings | {"power": steps, "symmetric": symmetric} | wrong
        with pytest.raises(AssertionError):
            assert_parity(method, reference.vat, **off)


def test_a_probe_that_would_leave_the_ball_is_cut_off():
    """ξ > ε measures the direction at ε."""
    method = VAT(L2Ball(0.3), xi=5.0, steps=2)
    settings = {"draws": gaussian_draws(), "xi": 0.3, "epsilon": 0.3, "beta": 1.0}
    assert_parity(method, reference.vat, power=2, **settings)


# --- TRADES


@each_ball
@pytest.mark.parametrize("steps", [1, 3])
def test_trades_is_the_released_loop(norm, ball, step_size, init, steps):
    method = TRADES(ball, step_size, steps, beta=3.0, init_magnitude=init)
    settings = {"norm": norm, "epsilon": ball.epsilon, "step_size": step_size, "beta": 3.0}
    settings |= {"draws": uniform_draws(), "init": init, "perturb_steps": steps}
    assert_parity(method, reference.trades, **settings)
    with pytest.raises(AssertionError):
        assert_parity(method, reference.trades, clean_held_still=True, **settings)


# --- SMART


@each_ball
@pytest.mark.parametrize("steps", [1, 2])
def test_smart_is_the_papers_loop(norm, ball, step_size, init, steps):
    method = SMART(ball, step_size, steps, beta=2.0, init_magnitude=init)
    settings = {"norm": norm, "epsilon": ball.epsilon, "eta": step_size, "weight": 2.0}
    settings |= {"draws": uniform_draws(), "init": init}
    assert_parity(method, reference.smart, steps=steps, **settings)
    with pytest.raises(AssertionError):
        assert_parity(method, reference.smart, steps=steps + 1, **settings)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_smart_holds_the_model_to_the_average_of_its_past(decay):
    """Three steps: at the first the average is the model itself, and the term is 0."""
    batches = [batch("bert")] * 3
    draws = [uniform_draws(SEED + step) for step in range(3)]
    settings = {"norm": "linf", "epsilon": 0.1, "eta": 0.06, "steps": 1, "weight": 2.0}

    def loop(model, batches, *, momentum=decay, mu=5.0):
        return reference.smart_with_proximal_steps(
            model, batches, draws=draws, init=0.02, mu=mu, momentum=momentum, lr=0.1, **settings
        )

    def other_decay(model, batches):
        return loop(model, batches, momentum=0.9)

    def without(model, batches):
        return loop(model, batches, mu=0.0)

    smart = {"step_size": 0.06, "steps": 1, "beta": 2.0, "init_magnitude": 0.02}
    method = SMART(LInfBall(0.1), proximal_weight=5.0, decay=decay, **smart)
    assert_same_training(method, loop, batches, lr=0.1)
    with pytest.raises(AssertionError):
        assert_same_training(method, other_decay, batches, lr=0.1)
    if decay > 0:
        with pytest.raises(AssertionError):
            assert_same_training(method, without, batches, lr=0.1)


# --- R-Drop


def states_of_the_passes(method, model, full) -> list[torch.Tensor]:
    """The random states in which a step's forward passes begin; the weights stay as they are."""
    states = []
    torch.manual_seed(0)
    objective = text_objective(model, full, seed=SEED)
    handle = model.register_forward_pre_hook(lambda *_: states.append(torch.get_rng_state()))
    method.step(objective)
    handle.remove()
    model.zero_grad()
    return states


@pytest.mark.parametrize("beta", [0.0, 1.0, 5.0])
def test_rdrop_is_half_the_papers_sum(beta):
    states = states_of_the_passes(RDrop(beta), tiny("bert", dropout=0.2), batch("bert"))
    settings = {"times": 2.0, "dropout": 0.2, "alpha": beta}
    assert_parity(RDrop(beta), reference.rdrop, states=states, **settings)
    with pytest.raises(AssertionError):
        assert_parity(RDrop(beta), reference.rdrop, states=states[:1] * 2, **settings)


def test_rdrop_without_dropout_is_ordinary_training():
    full, found = batch("bert"), []
    for step in (
        lambda model: RDrop(5.0).step(text_objective(model, full, seed=SEED)),
        lambda model: model(**full).loss.backward(),
    ):
        model = tiny("bert")
        step(model)
        found.append(gradients(model))
    assert_gradients(found[0], found[1], atol=1e-12)


@pytest.mark.parametrize("seed", [0, SEED])
def test_rdrops_masks_differ_whatever_seeded_the_stream(seed):
    """A loop that seeds torch and its first step's objective alike has two masks as well."""
    torch.manual_seed(seed)
    objective = text_objective(tiny("bert", dropout=0.2), batch("bert"), seed=seed)
    assert RDrop(1.0).step(objective).divergence > 1e-6


def scoring_bert() -> torch.nn.Module:
    """With one output, hence a regression."""
    model = tiny("bert", dropout=0.2)
    model.classifier = torch.nn.Linear(SHAPE[2], 1).double()
    torch.nn.init.constant_(model.classifier.weight, 0.3)
    torch.nn.init.zeros_(model.classifier.bias)
    model.num_labels = model.config.num_labels = 1
    return model


def test_rdrop_of_scores_has_the_squared_difference_for_the_divergences():
    labels = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    full, found = batch("bert") | {"labels": labels}, []
    states = states_of_the_passes(RDrop(5.0), scoring_bert(), full)
    for step in (
        lambda model: reference.rdrop_of_scores(model, full, states=states, alpha=5.0),
        lambda model: 2 * RDrop(5.0).step(text_objective(model, full, seed=SEED)).loss,
    ):
        model = scoring_bert()
        torch.manual_seed(0)
        found.append(step(model))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-10)
