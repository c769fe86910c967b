"""Passes for δ alone in bfloat16, or without dropout."""

import pytest
import torch
from models import assert_gradients, batch, gradients, tiny
from torch import Tensor, nn

from nlp_adv import text_objective
from nlp_adv.methods import (
    AWP,
    FGM,
    PGD,
    FreeLB,
    InnerPasses,
    NoAttack,
    Scaled,
    SomeRows,
    build,
    describe,
    floor_cost,
)
from nlp_adv.perturbation import L2Ball, StepError, without_dropout

ball = L2Ball(0.8)
PLAIN = PGD(ball, 0.3, 3, random_start=False, clean_weight=0.5)
CHEAP = [{"precision": "bf16"}, {"dropout": False}, {"precision": "bf16", "dropout": False}]
each_way = pytest.mark.parametrize("cheap", CHEAP, ids=["bf16", "no-dropout", "both"])


def model(dropout: float = 0.2) -> nn.Module:
    return tiny("bert", dropout=dropout).float()


def stepped(method, one: nn.Module):
    torch.manual_seed(0)
    report = method.step(text_objective(one, batch("bert"), seed=0))
    return report.loss, gradients(one), torch.get_rng_state()


def loss_at(one: nn.Module, delta: Tensor) -> Tensor:
    full = batch("bert")
    words = one.get_input_embeddings()(full["input_ids"])
    rest = {"attention_mask": full["attention_mask"], "labels": full["labels"]}
    return one(inputs_embeds=words + delta, **rest).loss


def by_hand(one: nn.Module, *, precision=None, dropout=True) -> dict[str, Tensor]:
    """∇θ of PGD-3 from the clean point, whose first gradient is the clean pass's."""
    free = batch("bert")["attention_mask"][..., None].float()
    delta = torch.zeros(3, 7, 16)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for step in range(4):
        torch.set_rng_state(state)
        leaf, cheap = delta.clone().requires_grad_(), step in (1, 2)
        one.train(dropout or not cheap)
        with torch.autocast("cpu", torch.bfloat16, enabled=cheap and precision == "bf16"):
            loss = loss_at(one, leaf)
        kept = gradients(one)
        (0.5 * loss).backward()
        one.train()
        if cheap:
            for name, parameter in one.named_parameters():
                parameter.grad = kept[name]
        grad = leaf.grad * free
        delta = delta + 0.3 * grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1)
        length = delta.flatten(1).norm(dim=1).view(-1, 1, 1)
        delta = delta * (0.8 / length).clamp(max=1)
    return gradients(one)


@each_way
def test_a_step_is_the_loop_written_out(cheap):
    _, theta, _ = stepped(InnerPasses(PLAIN, **cheap), model())
    assert_gradients(theta, by_hand(model(), **cheap), atol=2e-6)
    others = [one for one in [{}, *CHEAP] if one != cheap]
    for other in others:
        with pytest.raises(AssertionError):
            assert_gradients(theta, by_hand(model(), **other), atol=2e-6)


@each_way
def test_full_passes_are_untouched_to_the_last_bit(cheap):
    """Without a step of δ the passes that train are those of ordinary training."""
    still = InnerPasses(PGD(ball, 0.0, 2, random_start=False), **cheap)
    want_loss, want, stream = stepped(NoAttack(), model())
    loss, theta, after = stepped(still, model())
    assert torch.equal(loss, want_loss)
    assert all(torch.equal(theta[name], value) for name, value in want.items())
    assert torch.equal(after, stream)


def test_the_gradient_in_bfloat16_points_the_same_way():
    run = text_objective(model(0.1), batch("bert"), seed=0)
    zero = torch.zeros_like(run.mask)
    cheap = run.inner_within(lambda: torch.autocast("cpu", torch.bfloat16)).gradient(zero)
    whole = run.gradient(zero)
    assert cheap.dtype == torch.float32
    assert not torch.equal(cheap, whole)
    assert torch.cosine_similarity(cheap.flatten(), whole.flatten(), dim=0) > 0.99


def test_without_dropout_batchnorm_has_its_batchs_statistics():
    """Modes come back, and the running statistics stand still, as in every pass for δ."""
    one = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.BatchNorm1d(2).eval())
    with without_dropout(one):
        assert [module.training for module in one] == [True, False, False]
    assert [module.training for module in one] == [True, True, False]


@pytest.mark.parametrize("dropout", [True, False])
def test_it_goes_around_units_and_rows_in_any_order(dropout):
    def found(method):
        loss, theta, _ = stepped(method, model(0.0))
        return loss, theta

    cheap = {"precision": "bf16", "dropout": dropout}
    pgd = PGD(L2Ball(0.1), 0.05, 3, clean_weight=0.5)
    orders = [
        InnerPasses(SomeRows(Scaled(pgd, "relative"), 0.5), **cheap),
        Scaled(SomeRows(InnerPasses(pgd, **cheap), 0.5), "relative"),
        SomeRows(InnerPasses(Scaled(pgd, "relative"), **cheap), 0.5),
        Scaled(InnerPasses(SomeRows(pgd, 0.5), **cheap), "relative"),
    ]
    want_loss, want = found(orders[0])
    for order in orders[1:]:
        loss, theta = found(order)
        torch.testing.assert_close(loss, want_loss)
        assert_gradients(theta, want, atol=1e-5)
        assert describe(order) == describe(orders[0])
        assert floor_cost(order) == floor_cost(orders[0]) == 2


def test_the_weights_attack_has_cheaper_ascents_too():
    one, other = (
        stepped(method, model())[1]
        for method in (AWP(ball, 0.4, 2, 0.01), InnerPasses(AWP(ball, 0.4, 2, 0.01), "bf16"))
    )
    differences = [(one[name] - other[name]).abs().max() for name in one]
    assert 0 < max(differences) < 0.1


def test_a_nonfinite_gradient_is_counted():
    one = model()
    run = text_objective(one, batch("bert"), seed=0)
    plain = run.run

    def poisoned(delta):
        if torch.is_autocast_enabled("cpu"):
            delta.register_hook(lambda grad: grad * torch.nan)
        return plain(delta)

    run.run = poisoned
    InnerPasses(PGD(ball, 0.3, 2, random_start=False), "bf16").step(run)
    assert run.nonfinite
    assert not run.delta.any()


# --- flags, and what is refused


def test_flags_are_written_down_and_read_again():
    flat = describe(build("pgd", inner_precision="bf16", inner_dropout=False, share=0.5))
    assert (flat["inner_precision"], flat["inner_dropout"]) == ("bf16", False)
    assert describe(build(flat.pop("method"), **flat)) == {"method": "pgd", **flat}
    assert describe(build("pgd", inner_dropout=True)) == describe(build("pgd"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "fgm", "inner_dropout": False}, "fgm makes none with these settings"),
        ({"name": "freelb", "inner_precision": "bf16"}, "freelb makes none with these settings"),
        ({"name": "trades", "inner_precision": "bf16"}, "climb on rounding or on dropout"),
        ({"name": "pgd", "inner_precision": "fp8"}, "must be bf16, not 'fp8'"),
        ({"name": "none", "inner_precision": "bf16"}, "inner_precision needs a method"),
        ({"name": "rdrop", "inner_dropout": False}, "rdrop has no inner_dropout"),
    ],
)
def test_what_would_change_nothing_or_the_wrong_thing_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        build(**settings)


def test_nothing_to_change_is_refused():
    with pytest.raises(ValueError, match="changes nothing"):
        InnerPasses(PLAIN)
    assert InnerPasses(FGM(ball, 0.0), "bf16").inner_passes == 1
    with pytest.raises(ValueError, match="makes none"):
        InnerPasses(FreeLB(ball, 0.1, 3), "bf16")


def test_a_model_in_another_precision_is_refused():
    with pytest.raises(StepError, match="a model that trains in float32"):
        InnerPasses(PLAIN, "bf16").step(text_objective(tiny("bert"), batch("bert"), seed=0))
