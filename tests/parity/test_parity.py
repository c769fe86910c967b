"""Gradients equal to those of the papers' loops, to 1e-10 in float64, on a tiny BERT."""

import math

import pytest
import reference_loops as reference
import torch
from models import assert_gradients, batch, gradients, tiny
from torch import Tensor

from nlp_adv.methods import FGM, FGSM, PGD, FGMMatrix, FreeLB, Noise, Scaled
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall
from nlp_adv.text.objective import text_objective

SEED = 11
SHAPE = (3, 7, 16)


def uniform_draws() -> Tensor:
    """U(−1, 1), from a generator seeded as the objective's is."""
    draws = torch.empty(SHAPE, dtype=torch.float64)
    return draws.uniform_(-1, 1, generator=torch.Generator().manual_seed(SEED))


def token_mask() -> Tensor:
    return batch("bert")["attention_mask"].double()[..., None].expand(SHAPE)


def full_batch() -> dict[str, Tensor]:
    """No padding."""
    whole = batch("bert")
    return whole | {"attention_mask": torch.ones_like(whole["attention_mask"])}


def assert_parity(method, loop, *, times: float = 1.0, dropout: float = 0.0, full=None, **settings):
    """∇θ and loss of the method, `times` over, are those of the loop, and not ordinary ones."""
    found = []
    full = full or batch("bert")
    for step in (
        lambda model: loop(model, full, **settings),
        lambda model: method.step(text_objective(model, full, seed=SEED)).loss,
        lambda model: model(**full).loss.backward(),
    ):
        model = tiny("bert", dropout=dropout)
        torch.manual_seed(0)
        loss = step(model)
        found.append((loss, gradients(model)))
    (want_loss, want), (loss, theta), (_, plain) = found
    assert_gradients({name: times * value for name, value in theta.items()}, want, atol=1e-10)
    torch.testing.assert_close(times * loss, want_loss, rtol=0, atol=1e-10)
    moved = max((theta[name] - plain[name]).abs().max() for name in theta)
    assert moved > 1e-3


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
