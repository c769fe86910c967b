"""An attack on a random share of the rows, in one pass with the others."""

from itertools import combinations
from math import comb

import pytest
import torch
from models import assert_gradients, batch, gradients, linear_objective, tiny
from torch import nn

from nlp_adv import UserError, objective, text_objective
from nlp_adv.methods import (
    FGM,
    FGSM,
    PGD,
    Linear,
    NoAttack,
    Noise,
    Scaled,
    SomeRows,
    WarmUp,
    bare,
    build,
    describe,
    floor_cost,
    some_rows,
)
from nlp_adv.methods.some_rows import drawn_rows
from nlp_adv.perturbation import L2Ball, LInfBall, StepError

ball = L2Ball(0.8)
ROWS = 3


def stepped(method, *, seed=0, model=None, full=None, **options):
    """The loss and ∇θ of a step on a tiny BERT."""
    model = tiny("bert") if model is None else model
    report = method.step(text_objective(model, full or batch("bert"), seed=seed, **options))
    return report.loss, gradients(model)


@pytest.fixture
def attacked(monkeypatch):
    """Sets which rows are drawn."""

    def choose(*rows):
        monkeypatch.setattr(some_rows, "drawn_rows", lambda *_: list(rows))

    return choose


# --- the estimate


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(
    "method",
    [FGM(ball), FGSM(LInfBall(0.1), 0.1), PGD(ball, 0.4, 3, random_start=False, clean_weight=0.5)],
    ids=lambda m: m.name,
)
def test_the_mean_over_all_draws_is_the_clean_and_adversarial_objective(attacked, method, share):
    """Over every subset of the rows, with its probability: exactly, not nearly."""
    method = type(method)(**{**vars(method), "clean_weight": 1 - share})
    want_loss, want = stepped(method)
    low = int(share * ROWS)
    up = share * ROWS - low
    loss, mean = 0.0, {name: torch.zeros_like(value) for name, value in want.items()}
    for count, probability in ((low, 1 - up), (low + 1, up)):
        for rows in combinations(range(ROWS), count):
            attacked(*rows)
            weight = probability / comb(ROWS, count)
            got_loss, theta = stepped(SomeRows(method, share))
            loss += weight * got_loss
            for name, value in theta.items():
                mean[name] += weight * value
    assert_gradients(mean, want, atol=1e-12)
    torch.testing.assert_close(loss, want_loss, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rows", "share"), [(8, 0.5), (3, 0.5), (1, 0.25), (5, 0.9), (4, 1.0)])
def test_each_row_is_drawn_with_the_shares_probability(rows, share):
    draws = [drawn_rows(rows, share, seed) for seed in range(4000)]
    counts = {len(one) for one in draws}
    assert counts <= {int(rows * share), int(rows * share) + 1}
    assert all(one == sorted(set(one)) and set(one) <= set(range(rows)) for one in draws)
    for row in range(rows):
        found = sum(row in one for one in draws) / len(draws)
        assert abs(found - share) <= 4 * (share * (1 - share) / len(draws)) ** 0.5
    if rows * share == int(rows * share):  # no rounding: no other number of rows
        assert len(counts) == 1


def test_subsets_of_one_size_are_equally_likely():
    draws = [tuple(drawn_rows(4, 0.5, seed)) for seed in range(6000)]
    for subset in combinations(range(4), 2):
        assert abs(draws.count(subset) - 1000) < 120  # four standard deviations


def test_the_seed_decides_the_rows():
    method = SomeRows(FGM(ball), 0.5)
    once, again, other = (stepped(method, seed=seed)[0] for seed in (0, 0, 3))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


@pytest.mark.parametrize(
    "method",
    [FGM(ball, 0.0), PGD(ball, 0.4, 2), Noise(ball)],
    ids=lambda m: m.name,
)
def test_all_rows_are_the_method_itself(method):
    (want_loss, want), (loss, theta) = stepped(method), stepped(SomeRows(method, 1.0))
    assert torch.equal(loss, want_loss)
    assert_gradients(theta, want, atol=0)


# --- what runs


def sizes_of_passes(method, share, rows, attacked):
    attacked(*rows)
    model, sizes = tiny("bert"), []
    text_objective(model, batch("bert"))  # the first look
    model.register_forward_pre_hook(
        lambda m, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    run = text_objective(model, batch("bert"), seed=0)
    sizes.clear()
    SomeRows(method, share).step(run)
    return sizes


def test_passes_for_delta_run_on_the_attacked_rows_alone(attacked):
    method = PGD(ball, 0.4, 3, random_start=False, clean_weight=1 / 3)
    assert sizes_of_passes(method, 2 / 3, (0, 2), attacked) == [2, 2, 2, 3]
    assert sizes_of_passes(Noise(ball, 0.5), 0.5, (1,), attacked) == [3]


def test_without_a_row_the_step_is_ordinary_and_makes_its_passes(attacked):
    """Processes that share a model out wait for each other in every pass."""
    method = PGD(ball, 0.4, 2, clean_weight=0.8)
    assert sizes_of_passes(method, 0.2, (), attacked) == [1, 1, 3]
    want_loss, want = stepped(NoAttack())
    loss, theta = stepped(SomeRows(method, 0.2))
    torch.testing.assert_close(loss, want_loss)
    assert_gradients(theta, want)


@pytest.mark.parametrize("unit", ["relative", "per_coordinate"])
def test_a_unit_may_go_around_it_or_inside(unit):
    method = PGD(L2Ball(0.1), 0.05, 3, clean_weight=0.5)
    inside = stepped(SomeRows(Scaled(method, unit), 0.5))
    outside = stepped(Scaled(SomeRows(method, 0.5), unit))
    torch.testing.assert_close(inside[0], outside[0])
    assert_gradients(inside[1], outside[1], atol=1e-12)
    assert describe(SomeRows(Scaled(method, unit), 0.5)) == describe(
        Scaled(SomeRows(method, 0.5), unit)
    )


def test_all_ascents_of_a_step_have_one_dropout_mask():
    run = text_objective(tiny("bert", dropout=0.2), batch("bert"), seed=0)
    rows, zero = run.rows(torch.tensor([0, 2])), torch.zeros_like(run.mask[:2])
    first = rows.gradient(zero)
    run.forward(torch.zeros_like(run.mask))
    assert torch.equal(rows.gradient(zero), first)


def test_a_nonfinite_gradient_of_a_row_is_counted_and_leaves_its_delta(attacked):
    attacked(0, 2)
    model = tiny("bert")
    run = text_objective(model, batch("bert"), seed=0)
    cut = run.run_rows

    def broken(kept):
        run_cut = cut(kept)

        def poisoned(delta):
            factor = torch.ones_like(delta)
            factor[1] = torch.nan
            delta.register_hook(lambda grad: grad * factor)
            return run_cut(delta)

        return poisoned

    run.run_rows = broken
    SomeRows(FGM(ball), 0.5).step(run)
    assert run.nonfinite
    assert run.delta[0].any()
    assert not run.delta[1:].any()
    assert all(torch.isfinite(value).all() for value in gradients(model).values())


# --- schedules and flags


def test_schedules_go_around_it():
    method = SomeRows(PGD(ball, 0.4, 3, clean_weight=0.5), 0.5)
    ramped = WarmUp(method, ramp_steps=3).at(0)
    assert (ramped.factor, bare(ramped), ramped.inner_share) == (0.25, method.method, 0.5)
    linear = Linear(method, {"epsilon": 0.2, "steps": 1}, 4).at(2)
    assert linear == SomeRows(PGD(L2Ball(0.5), 0.4, 2, clean_weight=0.5), 0.5)
    with pytest.raises(ValueError, match=r"out of range: share .* is a clean_weight of 0\.5"):
        Linear(method, {"clean_weight": 0.0}, 4)


@pytest.mark.parametrize(("name", "clean"), [("fgm", 0.75), ("pgd", 0.75), ("noise", 0.75)])
def test_a_share_sets_the_clean_weight_and_is_written_down(name, clean):
    flat = describe(build(name, share=0.25))
    assert (flat["share"], flat["clean_weight"]) == (0.25, clean)
    assert describe(build(flat.pop("method"), **flat)) == {"method": name, **flat}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "fgm", "share": 0.5, "clean_weight": 0.25}, "share .* 0.5 is a clean_weight"),
        ({"name": "fgm", "share": 0.0}, "above 0 and no more than 1, not 0.0"),
        ({"name": "pgd", "share": 1.5}, "above 0 and no more than 1, not 1.5"),
        (
            {"name": "freelb", "share": 0.5},
            "fgm, fgm_remembered, pgd; freelb trains on other",
        ),
        (
            {"name": "trades", "share": 0.5},
            "fgm, fgm_remembered, pgd; trades trains on other",
        ),
        ({"name": "rdrop", "share": 0.5}, "rdrop has no share"),
        ({"name": "none", "share": 0.5}, "share needs a method"),
    ],
)
def test_what_is_no_share_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        build(**settings)


def test_the_cost_is_that_of_the_rows():
    assert floor_cost(build("fgm", share=0.5)) == pytest.approx(4 / 3)
    assert floor_cost(build("pgd", share=0.5)) == pytest.approx(2)
    assert floor_cost(build("pgd", share=0.25, steps=6)) == pytest.approx(2)
    assert floor_cost(build("noise", share=0.5)) == 1


# --- batches that cannot be cut


class Labelled(nn.Module):
    """A BERT that takes whatever else is in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = tiny("bert")
        self.config = self.bert.config

    def get_input_embeddings(self):
        return self.bert.get_input_embeddings()

    def forward(self, more=None, **inputs):
        return self.bert(**inputs)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (torch.zeros(5), r"more has the shape \(5,\)"),
        ([1, 2], "more has the type list"),
        ({"a": torch.zeros(3)}, "more has the type dict"),
    ],
    ids=["tensor", "list", "dict"],
)
def test_what_has_no_rows_for_certain_is_refused(more, said):
    full = batch("bert") | {"more": more}
    with pytest.raises(UserError, match=f"batch of 3: {said}, so that its rows are not known"):
        SomeRows(FGM(ball), 0.5).step(text_objective(Labelled(), full, seed=3))


@pytest.mark.parametrize("more", [torch.zeros(3), torch.zeros(1, 7), torch.tensor(2), ["a"] * 3, 1])
def test_what_each_row_or_all_rows_have_is_no_obstacle(more):
    full = batch("bert") | {"more": more}
    (want, theta), (got, found) = (
        stepped(SomeRows(FGM(ball), 0.5), seed=3, model=model, full=one)
        for model, one in ((Labelled(), full), (Labelled(), batch("bert")))
    )
    assert torch.equal(want, got)
    assert_gradients(theta, found, atol=0)


def test_multiple_choice_is_refused():
    run = objective(tiny("bert_choice"), batch("bert_choice"), seed=0)
    with pytest.raises(UserError, match="multiple choice has a row for each choice"):
        SomeRows(FGM(ball), 0.5).step(run)


def test_an_objective_that_does_not_cut_is_refused():
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    run = linear_objective(nn.Linear(4, 1), x, torch.ones(3))
    with pytest.raises(StepError, match="does not cut out"):
        SomeRows(FGM(ball), 0.5).step(run)
