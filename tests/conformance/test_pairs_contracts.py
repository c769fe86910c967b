"""The contracts of DESIGN.md, §4, for methods that read completions, on pairs of a tiny GPT-2.

Their losses are not ordinary training's, so that contract 1 holds them against the loop without a
step. A new method is one entry in `CASES`. Contract 10 is in tests/parity.
"""

from dataclasses import dataclass, replace

import paired as rows
import pytest
import torch
from models import answered, assert_gradients, checkpoint, gradients, tiny
from torch import nn

from nlp_adv import UserError
from nlp_adv.columns import ADV_ROWS, CHOSEN, REJECTED, UTILITY
from nlp_adv.methods import CAPO, CAT, LAT, RR, InnerPasses, Method, Scaled, bare
from nlp_adv.methods.around import with_bare
from nlp_adv.perturbation import L2Ball, LInfBall, StepError
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.layer import LayerSite
from nlp_adv.sites.objective import objective, text_objective


@dataclass(frozen=True)
class Case:
    """A method, where it is tried, and what a step costs in rows.

    Args:
        id: its name in the test's id.
        method: lengths are absolute; word vectors have a norm of about 1.
        site: makes the site.
        full: rows of full passes for each pair, those of utility rows apart.
        inner: rows of a pass for δ alone for each pair.
        forward: rows of passes without a gradient for each pair.
        utility: whether utility rows are run.
        also: whether passes without a gradient run them too.
    """

    id: str
    method: Method
    site: type = EmbeddingSite
    full: int = 3
    inner: int = 1
    forward: int = 0
    utility: bool = True
    also: bool = False


tokens = L2Ball(0.4, "token")


def SEVERAL():
    return EmbeddingSite() + LayerSite("0", "1")


CASES = [
    Case("cat", CAT(tokens, 0.15, 3)),
    Case("cat-relative", Scaled(CAT(tokens, 0.15, 3), "relative")),
    Case("cat-example", CAT(LInfBall(0.1), 0.05, 3)),
    Case("cat-papers", CAT(tokens, 0.15, 3, refusal_weight=0.0), full=2),
    Case("capo", CAPO(tokens, 0.15, 3), full=2, forward=2),
    Case("capo-alone", CAPO(tokens, 0.15, 3, utility_weight=0.0), full=2, forward=2, utility=False),
    Case("rr", RR(2.0, 0.5, 1.5), inner=0, full=2, forward=2, also=True),
    Case("rr-layer", RR(layers="1"), inner=0, full=2, forward=2, also=True),
    Case("rr-papers", RR(refusal_weight=0.0), inner=0, full=1, forward=1, also=True),
    Case("cat-layer", CAT(tokens, 0.15, 3), lambda: LayerSite("transformer.h.0")),
    Case("lat", LAT(tokens, 0.15, 3), SEVERAL, inner=2),
    Case("lat-relative", Scaled(LAT(tokens, 0.15, 3), "relative"), SEVERAL, inner=2),
    Case(
        "cat-prefix",
        InnerPasses(CAT(tokens, 0.15, 3), prefix="once"),
        lambda: LayerSite("transformer.h.0"),
    ),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
MOVING = [case for case in CASES if hasattr(bare(case.method), "ball")]
each_moving = pytest.mark.parametrize("case", MOVING, ids=lambda case: case.id)


BEFORE = tiny("gpt2_lm").requires_grad_(False)
for weight in BEFORE.parameters():
    weight.data *= 0.7


def made(case, model, batch, **options):
    options = {"seed": 0, "reference": BEFORE, **options}
    return objective(model, batch, case.site(), **options)


def stepped(case, model, batch, method=None, **options):
    torch.manual_seed(0)
    report = (method or case.method).step(made(case, model, batch, **options))
    found = report.loss, gradients(model), torch.get_rng_state()
    model.zero_grad()
    return found


def off(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def with_epsilon(method, epsilon):
    inner = bare(method)
    return with_bare(method, replace(inner, ball=replace(inner.ball, epsilon=epsilon)))


@each_moving
def test_1_a_radius_of_zero_is_no_attack_and_another_is_one(case):
    model, batch = tiny("gpt2_lm"), rows.paired()
    still = stepped(case, model, batch, with_epsilon(case.method, 0.0))
    moved = stepped(case, model, batch)
    target = made(case, model, batch)
    plain = bare(case.method).train_at(torch.zeros_like(target.mask), target).loss
    torch.testing.assert_close(still[0], plain)
    assert_gradients(still[1], gradients(model))
    assert off(still[1], moved[1]) > 1e-4
    assert torch.equal(still[2], moved[2])


@each_moving
def test_2_delta_is_in_the_ball_on_the_prompts_alone(case):
    """Each site's, in the forward passes as the model has it."""
    model, batch = tiny("gpt2_lm"), rows.paired(padding=2)
    found = made(case, model, batch)
    prompt = rows.of(batch, REJECTED)
    moves = (prompt["attention_mask"] == 1) & (prompt["labels"] == -100)
    parts = found.run_groups.__wrapped__.__self__.entry.parts
    assert torch.equal(found.mask.amax(-1) == 1, moves.repeat(1, len(parts)))
    given = {part.tap: [] for part in parts}
    for tap, deltas in given.items():

        def adding(*own, tap=tap, deltas=deltas, **options):
            deltas.extend(own)
            return type(tap).adding(tap, *own, **options)

        tap.adding = adding
    case.method.step(found)
    ball = bare(case.method).ball
    for part in parts:
        limit = torch.as_tensor(ball.epsilon).double()
        if getattr(case.method, "unit", "absolute") == "relative":
            x = part.x * moves[..., None]
            limit = limit * (x.square().sum((1, 2)) / moves.sum(1)).sqrt()[:, None, None]
        deltas = given[part.tap]
        assert len(deltas) == case.method.inner_passes + case.method.passes
        for delta in deltas:
            assert (ball.norm(delta[:3]) <= limit * (1 + 1e-9)).all()
        last, free = deltas[-1], moves[:, : deltas[-1].shape[1]]
        assert (last[:3][~free] == 0).all()
        assert torch.equal(last[:3], last[3:6])  # one δ for both completions
        assert (last[6:] == 0).all()
        assert (last[:3].norm(dim=-1)[free] > 0).any()  # behind the last block one token counts


@each_case
def test_2_more_padding_changes_nothing(case):
    model = tiny("gpt2_lm")
    short, long = (stepped(case, model, rows.paired(padding=n)) for n in (0, 3))
    torch.testing.assert_close(short[0], long[0])
    assert_gradients(short[1], long[1])


@each_case
def test_3_pairs_are_independent(case):
    """The gradient is the mean of the pairs' own, and of the utility rows' own."""
    model, batch = tiny("gpt2_lm"), rows.paired(utility=2 * case.utility)
    loss, theta, _ = stepped(case, model, batch)
    useful = batch[ADV_ROWS] == UTILITY
    mean = {name: torch.zeros_like(value) for name, value in theta.items()}
    for pair in range(3):
        kept = [pair, 3 + pair, *useful.nonzero()[:, 0].tolist()]
        one = stepped(case, model, {key: value[kept] for key, value in batch.items()})
        loss = loss - one[0] / 3
        mean = {name: value + one[1][name] / 3 for name, value in mean.items()}
    assert_gradients(mean, theta, atol=1e-9)
    assert abs(float(loss)) < 1e-9


@each_moving
def test_5_a_step_draws_what_one_pass_over_its_rows_draws(case):
    """δ is found under masks of its own rows; the stream goes on from the full pass."""
    batch = rows.paired()
    moved = stepped(case, tiny("gpt2_lm", dropout=0.2), batch)
    still = stepped(case, tiny("gpt2_lm", dropout=0.2), batch, with_epsilon(case.method, 0.0))
    again = stepped(case, tiny("gpt2_lm", dropout=0.2), batch)
    assert torch.equal(moved[2], still[2])
    assert_gradients(moved[1], again[1], atol=0)


@each_case
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.filterwarnings("ignore:.*requires_grad=True:UserWarning")
def test_5_checkpointing_changes_no_result(case, reentrant):
    batch = rows.paired()
    loss, theta, _ = stepped(case, tiny("gpt2_lm", dropout=0.2), batch)
    model = tiny("gpt2_lm", dropout=0.2)
    checkpoint(model, use_reentrant=reentrant)
    got_loss, got_theta, _ = stepped(case, model, batch)
    torch.testing.assert_close(got_loss, loss)
    assert_gradients(got_theta, theta)


@each_case
def test_6_passes_and_their_rows_are_as_declared(case):
    """An inner pass runs the rows that the attack reads, and reaches no parameter."""
    model, batch = tiny("gpt2_lm"), rows.paired()
    found = made(case, model, batch)
    ran, reached = [], []

    def run(module, args, kwargs, output):
        ran.append(len(kwargs["input_ids"]))

    handles = [one.register_forward_hook(run, with_kwargs=True) for one in (model, BEFORE)]
    model.lm_head.weight.register_post_accumulate_grad_hook(lambda _: reached.append(1))
    case.method.step(found)
    for handle in handles:
        handle.remove()
    method = case.method
    forward = [case.forward * 3 + 2 * case.also] if case.forward else []
    inner = [case.inner * 3] * method.inner_passes
    full = [case.full * 3 + 2 * case.utility] * method.passes
    assert sorted(ran) == sorted([*forward, *inner, *full])
    assert len(reached) == method.passes


class Refused(Exception):
    """What a model throws in these tests."""


@each_case
@pytest.mark.parametrize("failing", [None, 1, 3])
def test_7_a_step_leaves_nothing_but_gradients(case, failing):
    failing = failing and min(failing, case.method.passes + case.method.inner_passes)
    model, batch = tiny("gpt2_lm", dropout=0.2), rows.paired()
    kinds = ["_forward_hooks", "_forward_pre_hooks", "_backward_hooks"]
    calls = []

    def refuse(*_):
        calls.append(1)
        if len(calls) == failing:
            raise Refused

    handle = model.lm_head.register_forward_hook(refuse)

    def state():
        hooks = [list(getattr(m, kind)) for m in model.modules() for kind in kinds]
        flags = [m.training for m in model.modules()]
        return hooks, flags, [p.requires_grad for p in model.parameters()]

    before, weights = state(), {k: v.clone() for k, v in model.state_dict().items()}
    kept = {key: value.clone() for key, value in batch.items()}
    found = made(case, model, batch)
    calls.clear()
    if failing is None:
        case.method.step(found)
    else:
        with pytest.raises(Refused):
            case.method.step(found)
        assert all(parameter.grad is None for parameter in model.parameters())
    assert state() == before
    handle.remove()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(batch[key], kept[key]) for key in kept)


@each_moving
def test_9_a_nonfinite_gradient_leaves_delta_unchanged_and_is_counted(case):
    model, batch = tiny("gpt2_lm"), rows.paired()
    found = made(case, model, batch)
    groups, broken = found.run_groups, torch.ones_like(found.mask)
    broken[1] = torch.nan

    def poisoned(names):
        run = groups(names)

        def run_poisoned(delta):
            if delta is not None and delta.requires_grad:
                delta.register_hook(lambda grad: grad * broken)
            return run(delta)

        return run_poisoned

    found.run_groups = poisoned
    report = case.method.step(found)
    assert found.nonfinite
    assert torch.isfinite(report.loss)
    assert not found.delta[1].any()
    assert found.delta[0].any()


@each_case
def test_the_report_is_the_loss_whose_gradient_was_taken(case):
    model, batch = tiny("gpt2_lm"), rows.paired()
    found, losses = made(case, model, batch), []
    backward = found.backward_fn
    found.backward_fn = lambda loss: (losses.append(loss.detach()), backward(loss))
    report = case.method.step(found)
    torch.testing.assert_close(report.loss, sum(losses))
    assert not report.loss.requires_grad
    assert not any(one.requires_grad for one in report.groups.values())
    clean = 0 if report.clean is None else report.clean
    torch.testing.assert_close(report.loss, report.adversarial + clean)


@pytest.mark.parametrize("case", [case for case in CASES if case.id.startswith("rr")])
def test_without_delta_nothing_is_drawn_but_for_the_full_pass(case):
    model, batch = tiny("gpt2_lm", dropout=0.2), rows.paired()
    _, first, state = stepped(case, model, batch)
    _, again, _ = stepped(case, model, batch)
    assert_gradients(first, again, atol=0)
    torch.manual_seed(0)
    found = made(case, model, batch)
    names = ["rejected_clean", "chosen_clean", "utility"]
    found.hidden(*[one for one in names if case.full == 2 or one != "chosen_clean"])
    assert torch.equal(torch.get_rng_state(), state)


@each_case
def test_a_share_of_a_step_is_that_share(case):
    model, batch = tiny("gpt2_lm"), rows.paired()
    whole, half = (stepped(case, model, batch, share=share) for share in (1.0, 0.5))
    torch.testing.assert_close(2 * half[0], whole[0])
    assert_gradients({name: 2 * value for name, value in half[1].items()}, whole[1])


# --- what is refused


@each_case
def test_a_minibatch_without_pairs_is_refused(case):
    with pytest.raises(StepError, match="columns prompt, chosen and rejected"):
        case.method.step(made(case, tiny("gpt2_lm"), answered()))


def test_pairs_are_no_minibatch_of_other_methods():
    found = text_objective(tiny("gpt2_lm"), rows.paired(), seed=0)
    with pytest.raises(StepError, match="take cat, capo, lat or rr"):
        found.forward()
    with pytest.raises(ValueError, match="no group of rows"):
        found.completions(found.mask, "refused")


def changed(batch, **columns):
    return batch | columns


def left(batch):
    lengths = batch["attention_mask"].sum(1)
    width = batch["input_ids"].shape[1]
    names = ("input_ids", "attention_mask", "completion_mask")
    turned = {
        key: torch.stack([r.roll(width - int(n)) for r, n in zip(batch[key], lengths, strict=True)])
        for key in names
    }
    return batch | turned


BATCH = rows.paired()
OTHER = BATCH["input_ids"].clone()
OTHER[0, 0] += 1
PACKED = torch.arange(BATCH["input_ids"].shape[1]).repeat(len(OTHER), 1)


@pytest.mark.parametrize(
    ("batch", "options", "said"),
    [
        (changed(BATCH, input_ids=OTHER), {}, "prompts of chosen and rejected rows differ"),
        (left(BATCH), {}, "padded on the left"),
        (changed(BATCH, adv_rows=BATCH[ADV_ROWS].clamp(min=CHOSEN)), {}, "6 chosen and 0 rejected"),
        ({k: v for k, v in BATCH.items() if k != "completion_mask"}, {}, "needs input_ids and"),
        (BATCH, {"span": "all"}, "δ lies on the prompt"),
        (changed(BATCH, position_ids=PACKED % 2), {}, "Several texts are packed"),
        (
            changed(BATCH, completion_mask=BATCH["attention_mask"]),
            {},
            "No pair of a batch has a token in its prompt",
        ),
    ],
)
def test_a_batch_of_pairs_that_is_none_is_refused_in_one_sentence(batch, options, said):
    with pytest.raises(UserError, match=said) as caught:
        text_objective(tiny("gpt2_lm"), batch, **options)
    assert ". " not in str(caught.value)


def test_hidden_states_without_a_gradient_are_refused():
    model = tiny("gpt2_lm")
    model.transformer.h[0].register_forward_hook(lambda _, args, output: output.detach())
    with pytest.raises(StepError, match="have no gradient where its logits have one"):
        RR().step(text_objective(model, rows.paired(), seed=0, reference=BEFORE))


def test_rr_reroutes_nothing_in_a_minibatch_of_utility_rows():
    batch = rows.paired(pairs=0)
    report = RR().step(text_objective(tiny("gpt2_lm"), batch, seed=0, reference=BEFORE))
    assert report.adversarial == 0
    assert report.clean > 0


def test_a_minibatch_of_utility_rows_is_trained_on_without_an_attack():
    model, batch = tiny("gpt2_lm"), rows.paired(pairs=0)
    method = CAT(tokens, 0.15, 3)
    ran = []
    model.register_forward_hook(lambda *_: ran.append(1))
    found = text_objective(model, batch, seed=0)
    ran.clear()
    report = method.step(found)
    assert len(ran) == 1
    assert report.adversarial == 0
    assert report.clean > 0


def test_a_minibatch_without_utility_rows_has_pairs_alone():
    model = tiny("gpt2_lm")
    report = CAT(tokens, 0.15, 3).step(text_objective(model, rows.paired(utility=0), seed=0))
    assert report.groups["utility"] == 0


class Wrapped(nn.Module):
    """A model that pays out no logits."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config = model, model.config
        self.loss_function = model.loss_function

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def forward(self, **batch):
        return {"loss": self.inner(**batch, labels=batch["input_ids"]).loss}


def test_a_model_without_logits_is_refused():
    found = text_objective(Wrapped(tiny("gpt2_lm")), rows.paired(), seed=0)
    with pytest.raises(StepError, match="need logits"):
        CAT(tokens, 0.15, 3).step(found)
