"""Methods that read completions beside loops written from their papers, in float64."""

import paired as rows
import pytest
import reference_completions as reference
import torch
from models import assert_gradients, gradients, tiny

from nlp_adv.columns import CHOSEN, REJECTED, UTILITY
from nlp_adv.methods import CAPO, CAT, LAT, RR, Scaled
from nlp_adv.perturbation import L2Ball, StepError
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.layer import LayerSite
from nlp_adv.sites.objective import objective, text_objective

SIZES = {"epsilon": 0.4, "alpha": 0.15, "steps": 4}
WEIGHTS = {"away": 0.3, "toward": 0.7, "refusal": 0.2, "useful": 1.5}
OURS = ("away_weight", "toward_weight", "refusal_weight", "utility_weight")


def groups(batch):
    return tuple(rows.of(batch, number) for number in (REJECTED, CHOSEN, UTILITY))


def found(step):
    model = tiny("gpt2_lm")
    loss = step(model)
    return loss, gradients(model)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("cuts", [{}, {"cutoff": 5.6, "threshold": -4.5}], ids=["paper", "cut off"])
def test_cat_is_the_papers_loop(relative, cuts):
    batch = rows.paired()
    weights = dict(zip(OURS, WEIGHTS.values(), strict=True))
    ours = {"cutoff": "toward_cutoff", "threshold": "away_cutoff"}
    settings = weights | {ours[key]: abs(value) for key, value in cuts.items()}
    method = CAT(L2Ball(0.4, "token"), 0.15, 4, **settings)
    method = Scaled(method, "relative") if relative else method

    def loop(model):
        return reference.cat(model, *groups(batch), **SIZES, **WEIGHTS, **cuts, relative=relative)

    def step(model):
        return method.step(text_objective(model, batch, seed=0)).loss

    (want_loss, want), (loss, theta) = found(loop), found(step)
    torch.testing.assert_close(loss, want_loss, rtol=0, atol=1e-10)
    assert_gradients(theta, want)
    still = CAT(L2Ball(0.0, "token"), 0.15, 4, **settings)
    _, unmoved = found(lambda model: still.step(text_objective(model, batch, seed=0)).loss)
    assert max((theta[name] - unmoved[name]).abs().max() for name in theta) > 1e-3


def test_the_cut_offs_bite():
    """Without this the second case above could be the first one."""
    batch = rows.paired()
    model = tiny("gpt2_lm")
    rejected, chosen, _ = groups(batch)
    losses = reference.cross_entropy(model, chosen)
    assert losses.min() < 5.6 < losses.max()
    logp = reference.log_probabilities(model, rejected)[rejected["labels"][:, 1:] != -100]
    assert logp.min() < -4.5 < logp.max()


def before():
    """A frozen model with other weights."""
    model = tiny("gpt2_lm").eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data = parameter.data * 0.7
    return model


@pytest.mark.parametrize("settings", [{}, {"beta": 0.6, "cutoff": 4.5, "useful": 0.5}])
@pytest.mark.parametrize("utility", [0, 2])
def test_capo_is_the_papers_loop(utility, settings):
    batch, names = (
        rows.paired(utility=utility),
        {"cutoff": "away_cutoff", "useful": "utility_weight"},
    )
    own = {names.get(key, key): value for key, value in settings.items()}
    method = CAPO(L2Ball(0.4, "token"), 0.15, 4, **own)

    def loop(model):
        rejected, chosen, useful = groups(batch)
        more = useful if utility else None
        return reference.capo(model, before(), rejected, chosen, more, **SIZES, **settings)

    def step(model):
        return method.step(text_objective(model, batch, seed=0, reference=before())).loss

    (want_loss, want), (loss, theta) = found(loop), found(step)
    torch.testing.assert_close(loss, want_loss, rtol=0, atol=1e-10)
    assert_gradients(theta, want)


def test_capo_needs_a_model_to_compare_with():
    method = CAPO(L2Ball(0.4, "token"), 0.15, 4)
    with pytest.raises(StepError, match="train an adapter"):
        method.step(text_objective(tiny("gpt2_lm"), rows.paired(), seed=0))


@pytest.mark.parametrize("relative", [False, True])
def test_lat_is_the_papers_loop_at_several_sites(relative):
    """Each site has a δ, a ball and a unit of its own."""
    batch, method = rows.paired(), LAT(L2Ball(0.4, "token"), 0.15, 4)
    method = Scaled(method, "relative") if relative else method
    site = EmbeddingSite() + LayerSite("0", "transformer.h.1")

    def loop(model):
        return reference.lat(model, *groups(batch), **SIZES, relative=relative)

    def step(model):
        return method.step(objective(model, batch, site, seed=0)).loss

    (want_loss, want), (loss, theta) = found(loop), found(step)
    torch.testing.assert_close(loss, want_loss, rtol=0, atol=1e-10)
    assert_gradients(theta, want)
    _, alone = found(lambda model: method.step(text_objective(model, batch, seed=0)).loss)
    assert max((theta[name] - alone[name]).abs().max() for name in theta) > 1e-3


@pytest.mark.parametrize(("layers", "numbers"), [("", (0,)), ("0,1", (0, 1)), ("1", (1,))])
def test_rr_is_the_papers_loss(layers, numbers):
    batch, weights = rows.paired(), {"away": 2.0, "useful": 0.5, "refusal": 1.5}
    method = RR(2.0, 0.5, 1.5, layers)

    def loop(model):
        return reference.rr(model, before(), *groups(batch), layers=numbers, **weights)

    def step(model):
        return method.step(text_objective(model, batch, seed=0, reference=before())).loss

    (want_loss, want), (loss, theta) = found(loop), found(step)
    torch.testing.assert_close(loss, want_loss, rtol=0, atol=1e-10)
    assert_gradients(theta, want)
    assert max(one.abs().max() for one in theta.values()) > 1e-3


def test_rr_takes_the_papers_layers_and_no_others():
    assert RR().numbers(32) == [9, 19]  # behind which are the paper's hidden states 10 and 20
    assert RR().numbers(1) == [0]
    assert RR(layers="3, 1").numbers(4) == [3, 1]
    with pytest.raises(StepError, match="block 4, and the model has 4"):
        RR(layers="4").numbers(4)
    for wrong in ("a", "1,", "-1"):
        with pytest.raises(ValueError, match="numbers of blocks"):
            RR(layers=wrong)


def test_rr_has_no_gradient_where_nothing_has_changed_but_at_the_rejected_rows():
    """At h = h° the norm has a kink; its gradient there is 0 and no nan."""
    model, batch = tiny("gpt2_lm"), rows.paired()
    same = tiny("gpt2_lm").requires_grad_(False)
    report = RR().step(text_objective(model, batch, seed=0, reference=same))
    assert report.clean == 0
    torch.testing.assert_close(report.adversarial, torch.tensor(5.0, dtype=torch.float64))
    assert all(torch.isfinite(one).all() for one in gradients(model).values())
