"""Gradients equal to those of the papers' loops, to 1e-10 in float64, on a tiny BERT."""

import math

import pytest
import reference_loops as reference
import torch
from agreement import SEED, SHAPE, assert_parity, full_batch, token_mask, uniform_draws
from models import batch, tiny
from torch import Tensor

from nlp_adv.methods import (
    AWP,
    FGM,
    FGSM,
    PGD,
    SAM,
    YOPO,
    FGMMatrix,
    FreeLB,
    Noise,
    Scaled,
    SomeRows,
)
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall
from nlp_adv.sites.objective import text_objective

# --- FreeLB


@pytest.mark.parametrize("steps", [2, 3, 5])
@pytest.mark.parametrize("init", [0.0, 0.6])
@pytest.mark.parametrize("epsilon", [0.4, 0.7, 10.0], ids=["tight", "loose", "none"])
def test_freelb_is_the_released_loop(steps, init, epsilon):
    """The start's norm is at most m, here 0.35: inside all three balls, so projecting is moot."""
    assert_parity(
        FreeLB(L2Ball(epsilon), step_size=0.3, steps=steps, init_magnitude=init),
        reference.freelb,
        draws=uniform_draws(),
        adv_lr=0.3,
        adv_steps=steps,
        adv_init_mag=init,
        adv_max_norm=epsilon,
    )


def test_freelb_projects_its_start_where_the_released_loop_does_not():
    settings = {"draws": uniform_draws(), "adv_lr": 0.3, "adv_steps": 3, "adv_init_mag": 2.0}
    method = FreeLB(L2Ball(0.5), step_size=0.3, steps=3, init_magnitude=2.0)
    loop = reference.freelb
    assert_parity(method, loop, project_start=True, adv_max_norm=0.5, **settings)
    with pytest.raises(AssertionError):
        assert_parity(method, loop, project_start=False, adv_max_norm=0.5, **settings)


def test_freelb_uses_one_dropout_mask_as_the_paper_says():
    settings = {"draws": uniform_draws(), "adv_lr": 0.3, "adv_steps": 3, "adv_init_mag": 0.6}
    method = FreeLB(L2Ball(0.7), step_size=0.3, steps=3, init_magnitude=0.6)
    settings |= {"adv_max_norm": 0.7, "dropout": 0.2}
    assert_parity(method, reference.freelb, same_dropout=True, **settings)
    with pytest.raises(AssertionError):
        assert_parity(method, reference.freelb, same_dropout=False, **settings)


def test_freelb_without_a_ball_is_freelb_plus_plus():
    """Many steps and no constraint: the released loop whose radius is out of reach."""
    method = FreeLB(L2Ball(math.inf), step_size=0.3, steps=12, init_magnitude=0.05)
    settings = {"draws": uniform_draws(), "adv_lr": 0.3, "adv_steps": 12, "adv_init_mag": 0.05}
    assert_parity(method, reference.freelb, adv_max_norm=1e6, **settings)
    with pytest.raises(AssertionError):
        assert_parity(method, reference.freelb, adv_max_norm=0.8, **settings)


# --- YOPO

ZERO = torch.zeros(SHAPE, dtype=torch.float64)


@pytest.mark.parametrize(("rounds", "steps"), [(2, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("epsilon", [0.5, 10.0], ids=["tight", "none"])
def test_yopo_is_the_papers_loop_with_the_first_block_by_hand(rounds, steps, epsilon):
    method = YOPO(L2Ball(epsilon), 0.2, rounds, steps)
    settings = {"start": ZERO, "epsilon": epsilon, "sigma": 0.2, "m": rounds, "n": steps}
    assert_parity(method, reference.yopo, **settings)


@pytest.mark.parametrize(("rounds", "steps"), [(1, 3), (3, 3)])
def test_yopo_from_a_random_start(rounds, steps):
    start = L2Ball(0.5).sample(token_mask(), torch.Generator().manual_seed(SEED))
    method = YOPO(L2Ball(0.5), 0.2, rounds, steps, random_start=True)
    settings = {"start": start, "epsilon": 0.5, "sigma": 0.2, "m": rounds, "n": steps}
    assert_parity(method, reference.yopo, **settings)


def test_yopo_with_a_clean_term():
    method = YOPO(L2Ball(0.5), 0.2, rounds=2, steps=3, clean_weight=0.25)
    settings = {"start": ZERO, "epsilon": 0.5, "sigma": 0.2, "m": 2, "n": 3, "clean_weight": 0.25}
    assert_parity(method, reference.yopo, **settings)


def test_yopo_with_one_ascent_a_round_is_freelb():
    method = YOPO(L2Ball(0.5), 0.3, rounds=3, steps=1)
    settings = {"adv_lr": 0.3, "adv_steps": 3, "adv_init_mag": 0.0, "adv_max_norm": 0.5}
    assert_parity(method, reference.freelb, draws=None, **settings)
    with pytest.raises(AssertionError):
        assert_parity(YOPO(L2Ball(0.5), 0.3, 3, 2), reference.freelb, draws=None, **settings)


def test_where_p_was_taken_the_first_blocks_gradient_is_the_whole_one():
    """∇δ ⟨p, h(x + δ)⟩ = ∇δ L there, and another at any other δ."""
    model, full = tiny("bert"), batch("bert")
    objective = text_objective(model, full, seed=SEED)
    delta, elsewhere = (0.3 * uniform_draws(seed) * token_mask() for seed in (0, 1))
    loss, grad, p = objective.split_pass(delta)
    leaf = delta.clone().requires_grad_()
    (want,) = torch.autograd.grad(reference.loss_at(model, full, leaf), leaf)
    torch.testing.assert_close(grad, want, rtol=0, atol=1e-10)
    torch.testing.assert_close(loss, reference.loss_at(model, full, delta).detach())
    torch.testing.assert_close(objective.prefix_gradient(delta, p), want, rtol=0, atol=1e-10)
    leaf = elsewhere.clone().requires_grad_()
    (want,) = torch.autograd.grad((p * reference.first_block(model, full, leaf)).sum(), leaf)
    got = objective.prefix_gradient(elsewhere, p)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    assert (got - objective.gradient(elsewhere)).abs().max() > 1e-3


def test_the_model_by_hand_is_the_model():
    model, full = tiny("bert"), batch("bert")
    by_hand = reference.rest(model, full, reference.first_block(model, full, ZERO))
    torch.testing.assert_close(by_hand, model(**full).loss, rtol=0, atol=1e-12)


# --- AWP


@pytest.mark.parametrize("gamma", [0.0, 0.02, 0.2])
@pytest.mark.parametrize(
    ("norm", "ball", "alpha"),
    [("l2", L2Ball(0.8), 0.4), ("linf", LInfBall(0.1), 0.05)],
    ids=["l2", "linf"],
)
def test_awp_is_the_released_loop(norm, ball, alpha, gamma):
    settings = {"norm": norm, "epsilon": ball.epsilon, "alpha": alpha, "steps": 2}
    method = AWP(ball, alpha, steps=2, gamma=gamma)
    assert_parity(method, reference.awp, start=ZERO, gamma=gamma, **settings)
    if gamma > 0:
        with pytest.raises(AssertionError):
            assert_parity(method, reference.awp, start=ZERO, gamma=-gamma, **settings)


def test_awp_without_an_attack_on_the_input_moves_the_weights_alone():
    settings = {"norm": "l2", "epsilon": 0.8, "alpha": 0.4, "steps": 0, "gamma": 0.2}
    assert_parity(AWP(L2Ball(0.8), 0.4, 0, gamma=0.2), reference.awp, start=ZERO, **settings)


def test_awp_of_named_weights_moves_those_alone():
    settings = {"norm": "l2", "epsilon": 0.8, "alpha": 0.4, "steps": 1, "gamma": 0.2}
    method = AWP(L2Ball(0.8), 0.4, 1, gamma=0.2, parameters="layer.1, classifier")
    under = ("bert.encoder.layer.1.", "classifier.")
    assert_parity(method, reference.awp, start=ZERO, under=under, **settings)
    with pytest.raises(AssertionError):
        assert_parity(method, reference.awp, start=ZERO, **settings)


# --- SAM


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("rho", [0.05, 0.5])
def test_sam_is_the_papers_loop(rho, adaptive):
    settings = {"rho": rho, "adaptive": adaptive}
    assert_parity(SAM(**settings), reference.sam, **settings)
    with pytest.raises(AssertionError):
        assert_parity(SAM(**settings), reference.sam, rho=rho, adaptive=not adaptive)


# --- PGD


@pytest.mark.parametrize("clean_too", [False, True], ids=["paper", "with-clean"])
@pytest.mark.parametrize("random_start", [True, False], ids=["random", "zero"])
@pytest.mark.parametrize(
    ("norm", "ball", "alpha"),
    [("l2", L2Ball(0.8), 0.4), ("linf", LInfBall(0.1), 0.05)],
    ids=["l2", "linf"],
)
def test_pgd_is_the_papers_loop(norm, ball, alpha, random_start, clean_too):
    start = torch.zeros(SHAPE, dtype=torch.float64)
    if random_start:
        start = ball.sample(token_mask(), torch.Generator().manual_seed(SEED))
    method = PGD(ball, alpha, 3, random_start=random_start, clean_weight=0.5 * clean_too)
    assert_parity(
        method,
        reference.pgd,
        times=2.0 if clean_too else 1.0,
        start=start,
        norm=norm,
        epsilon=ball.epsilon,
        alpha=alpha,
        steps=3,
        clean_too=clean_too,
    )


# --- one step


def test_fgm_is_half_the_papers_sum():
    assert_parity(FGM(L2Ball(0.8)), reference.fgm, times=2.0, epsilon=0.8)


@pytest.mark.parametrize("weight", [0.5, 0.25])
def test_fgsm_is_the_papers_objective(weight):
    method = FGSM(LInfBall(0.1), step_size=0.1, clean_weight=weight)
    assert_parity(method, reference.fgsm, epsilon=0.1, weight=weight)


def test_fgsm_from_a_random_start_is_algorithm_3():
    method = FGSM(LInfBall(0.1), step_size=0.125, random_start=True, clean_weight=0.0)
    settings = {"draws": uniform_draws(), "epsilon": 0.1, "alpha": 0.125}
    assert_parity(method, reference.fgsm_rs, **settings)


def test_fgm_matrix_is_half_the_snippets_sum():
    assert_parity(FGMMatrix(0.8), reference.fgm_matrix, times=2.0, epsilon=0.8)


# --- noise


def test_linf_noise_is_neftune_without_padding():
    alpha = 5.0
    ball = LInfBall(alpha / math.sqrt(7 * 16))
    settings = {"full": full_batch(), "draws": uniform_draws(), "alpha": alpha}
    assert_parity(Noise(ball), reference.neftune, **settings)


def test_l2_noise_is_about_as_long_as_neftunes():
    """The docstring's rule: α is an L2 ball of ε = α/√3, in many dimensions."""
    draws = torch.rand(200, 7 * 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    neftune = (draws * 5 / math.sqrt(7 * 16)).norm(dim=1).mean()
    ours = L2Ball(5 / math.sqrt(3)).sample(torch.ones(200, 7, 16), torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.flatten(1).norm(dim=1).mean(), neftune, rtol=0.02, atol=0)


# --- units, by hand


def relative_lengths() -> Tensor:
    """The Frobenius norm of each sentence's real word vectors, (B, 1, 1)."""
    full = batch("bert")
    words = reference.look_up(tiny("bert"), full).detach()
    pairs = zip(words, full["attention_mask"].sum(1), strict=True)
    return torch.stack([one[:length].norm() for one, length in pairs]).view(3, 1, 1)


def relative_freelb(model, full, *, share: float, step: float) -> Tensor:
    """FreeLB, K = 2, from the clean point, with lengths that are shares of each sentence's norm."""
    radius, alpha = share * relative_lengths(), step * relative_lengths()
    probe = torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True)
    first = reference.loss_at(model, full, probe) / 2
    first.backward()
    delta = alpha * probe.grad / reference.per_sentence(probe.grad)
    longer = reference.per_sentence(delta) > radius
    delta = torch.where(longer, radius * delta / reference.per_sentence(delta), delta)
    second = reference.loss_at(model, full, delta) / 2
    second.backward()
    return (first + second).detach()


@pytest.mark.parametrize("step", [0.1, 0.5], ids=["inside", "projected"])
def test_a_relative_radius_is_a_share_of_each_sentences_norm(step):
    method = Scaled(FreeLB(L2Ball(0.2), step_size=step, steps=2), unit="relative")
    assert_parity(method, relative_freelb, share=0.2, step=step)


def test_the_loops_are_not_blind():
    """Another norm, another radius or another step is another gradient."""
    settings = {"start": torch.zeros(SHAPE, dtype=torch.float64), "norm": "l2"}
    settings |= {"epsilon": 0.8, "alpha": 0.4, "steps": 3}
    right = PGD(L2Ball(0.8), 0.4, 3, random_start=False)
    assert_parity(right, reference.pgd, **settings)
    for wrong in (
        PGD(L2Ball(0.8), 0.4, 2, random_start=False),
        PGD(L2Ball(0.8), 0.41, 3, random_start=False),
        PGD(L2Ball(0.79), 0.4, 3, random_start=False),
        PGD(L1Ball(0.8), 0.4, 3, random_start=False),
        PGD(L2Ball(0.8, "token"), 0.4, 3, random_start=False),
    ):
        with pytest.raises(AssertionError):
            assert_parity(wrong, reference.pgd, **settings)


# --- some rows of the batch

ROWS = [0, 2]  # what `SomeRows` draws of three at this share and seed


@pytest.mark.parametrize("random_start", [True, False], ids=["random", "zero"])
@pytest.mark.parametrize(
    ("norm", "ball", "alpha"),
    [("l2", L2Ball(0.8), 0.4), ("linf", LInfBall(0.1), 0.05)],
    ids=["l2", "linf"],
)
def test_some_rows_are_a_mixed_batch(norm, ball, alpha, random_start):
    start = torch.zeros(SHAPE, dtype=torch.float64)[ROWS]
    if random_start:
        start = ball.sample(token_mask()[ROWS], torch.Generator().manual_seed(SEED))
    method = SomeRows(PGD(ball, alpha, 3, random_start, clean_weight=1 / 3), 2 / 3)
    settings = {"norm": norm, "epsilon": ball.epsilon, "alpha": alpha, "steps": 3}
    assert_parity(method, reference.mixed_batch, rows=ROWS, start=start, **settings)
    for rows in ([0, 1], [1, 2], [0, 1, 2]):
        others = start[[0] * len(rows)]
        with pytest.raises(AssertionError):
            assert_parity(method, reference.mixed_batch, rows=rows, start=others, **settings)
