"""VAT trains on sentences without labels; methods that cannot say so in one sentence."""

import pytest
import torch
from models import (
    LinearClassifier,
    assert_gradients,
    batch,
    gradients,
    linear_objective,
    tiny,
)
from tiny_training import METHODS, Watched, assert_one_sentence, logged, rows, trained, weights
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import Trainer

from nlp_adv import AdversarialMixin, UserError, text_objective
from nlp_adv.methods import VAT, Scaled
from nlp_adv.perturbation import L2Ball, Memory, Output, StepError

pytestmark = pytest.mark.fault("T15")

METHOD = VAT(L2Ball(0.8), xi=0.1, steps=1, beta=2.0)
KINDS = ("no labels", "-100 alone")


def unlabelled(kind: str) -> dict[str, Tensor]:
    full = batch("bert")
    if kind == "no labels":
        del full["labels"]
    else:
        full["labels"] = torch.full_like(full["labels"], -100)
    return full


def kl_of(p: Tensor, q: Tensor) -> Tensor:
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return kl_div(q, p, log_target=True, reduction="none").sum(-1)


@pytest.mark.parametrize("method", [METHOD, Scaled(METHOD, unit="relative")], ids=["", "scaled"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_divergence_alone(kind, method):
    model, full = tiny("bert"), unlabelled(kind)
    objective = text_objective(model, full, seed=0)
    report = method.step(objective)
    got, delta = gradients(model), objective.delta
    assert delta.any()
    assert not objective.nonfinite
    twin = tiny("bert")
    other = text_objective(twin, batch("bert"), seed=0)
    with torch.no_grad():
        clean = other.forward().logits
    value = 2.0 * kl_of(clean, other.forward(delta).logits).mean()
    value.backward()
    assert_gradients(got, gradients(twin))
    torch.testing.assert_close(report.loss, value.detach())
    torch.testing.assert_close(report.divergence, value.detach() / 2)
    assert report.clean == report.adversarial == 0


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_on_a_linear_model_it_is_the_closed_form(kind):
    """The farthest output of the ball is at ±ε·w/‖w‖, and z ↦ β·KL has a gradient by hand."""
    model = LinearClassifier((4, 6))
    x = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    objective = linear_objective(model, x, signs)
    run = objective.run
    if kind == "no labels":
        objective.run = lambda delta: run(delta).without_loss()
    if kind == "-100 alone":
        objective.labels = torch.full((5,), -100)
        objective.run = lambda delta: Output(run(delta).loss * torch.nan, run(delta).logits)
    report = METHOD.step(objective)
    got = gradients(model)
    w = model.weight.detach()
    z = (x * w).flatten(1).sum(1) + model.bias.detach()
    p = torch.sigmoid(2 * z)  # of logits (−z, z)
    side = torch.sign((objective.delta * w).flatten(1).sum(1))
    q = torch.sigmoid(2 * (z + side * 0.8 * w.norm()))
    torch.testing.assert_close(objective.delta.flatten(1).norm(dim=1), torch.full_like(z, 0.8))
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(report.divergence, kl.mean())
    # ∂KL/∂score = 2·(q − p), and the score's gradient is x + δ.
    slope = 2.0 * 2 * (q - p) / 5
    want = (slope[:, None, None] * (x + objective.delta)).sum(0)
    if kind is None:
        want -= (signs * torch.sigmoid(-signs * z) / 5 @ x.flatten(1)).view(4, 6)
    torch.testing.assert_close(got["weight"], want)


def test_rows_without_a_label_take_part_in_the_divergence_alone():
    full = batch("bert")
    full["labels"] = torch.tensor([1, -100, -100])
    model = tiny("bert")
    objective = text_objective(model, full, seed=0)
    METHOD.step(objective)
    twin = tiny("bert")
    other = text_objective(twin, full, seed=0)
    clean = other.forward()
    value = kl_of(clean.logits.detach(), other.forward(objective.delta).logits).mean()
    (-clean.logits.log_softmax(-1)[0, 1] + 2.0 * value).backward()
    assert_gradients(gradients(model), gradients(twin))


def test_in_a_loop_of_ones_own_labelled_and_unlabelled_batches_alternate():
    model = tiny("bert")
    for step, full in enumerate((batch("bert"), *map(unlabelled, KINDS))):
        report = METHOD.step(text_objective(model, full, seed=step, passes=METHOD.passes))
        assert torch.isfinite(report.loss)
    assert all(torch.isfinite(value).all() for value in gradients(model).values())


class NoLoss(AdversarialMixin, Trainer):
    """A user's own, which looks the labels up."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**{key: inputs[key] for key in ("input_ids", "attention_mask")})
        loss = torch.nn.functional.cross_entropy(outputs.logits, inputs["labels"])
        return (loss, outputs) if return_outputs else loss


def without_labels(kind: str, count: int = 24) -> list[dict[str, Tensor]]:
    data = rows(count)
    for row in data:
        if kind == "no labels":
            del row["labels"]
        else:
            row["labels"] = torch.tensor(-100)
    return data


@pytest.mark.parametrize("cls", [Watched, NoLoss])
@pytest.mark.parametrize("kind", KINDS)
def test_in_the_trainer(tmp_path, kind, cls):
    before = tiny("bert", dropout=0.1).state_dict()
    trainer = trained(
        tmp_path, cls, data=without_labels(kind), options={"method": METHOD}, max_steps=2
    )
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())
    assert any(not torch.equal(weights(trainer)[key], before[key]) for key in before)
    assert all(value > 0 for value in logged(trainer, "adv_divergence"))
    assert logged(trainer, "loss") == pytest.approx(
        [2 * value for value in logged(trainer, "adv_divergence")], rel=1e-3, abs=1e-4
    )
    assert logged(trainer, "nonfinite_share") == [0, 0]


def test_the_trainers_gradient_is_the_loops(tmp_path):
    trainer = trained(
        tmp_path, Watched, data=without_labels("no labels"), options={"method": METHOD}, max_steps=1
    )
    (micro,) = trainer.micro_batches
    model = tiny("bert", dropout=0.1)
    torch.set_rng_state(micro.random_state)
    METHOD.step(text_objective(model, micro.inputs, seed=micro.seed))
    norm = torch.linalg.vector_norm(
        torch.stack([value.norm() for value in gradients(model).values()])
    )
    scale = min(1.0, float(1 / (norm + 1e-6)))  # max_grad_norm
    assert_gradients(
        trainer.gradients[0], {k: v * scale for k, v in gradients(model).items()}, atol=1e-9
    )


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"vat", "alum"}))
def test_other_methods_say_that_they_need_labels(name):
    objective = text_objective(tiny("bert"), unlabelled("no labels"), seed=0, memory=Memory())
    with pytest.raises(StepError, match=r"needs labels.* vat alone") as caught:
        METHODS[name].step(objective)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("name", ["trades", "smart", "rdrop", "pgd-clean", "freelb"])
def test_so_they_do_in_the_trainer(tmp_path, name):
    data = without_labels("no labels")
    with pytest.raises(UserError, match=r"needs labels.* vat alone") as caught:
        trained(tmp_path, data=data, options={"method": METHODS[name]})
    assert_one_sentence(caught.value)
