"""Whatever a user's Trainer overrides, the method acts on every step, or one sentence says why."""

import random
from collections import defaultdict
from types import MethodType

import numpy as np
import pytest
import torch
from models import gradients as gradients_of
from models import tiny
from tiny_training import (
    METHODS,
    Call,
    arguments,
    assert_one_sentence,
    build,
    distance,
    hooks,
    logged,
    rows,
    trained,
    weights,
)
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, default_data_collator

from nlp_adv import AdversarialMixin, AdversarialTrainer, NoAttack, UserError, WarmUp
from nlp_adv.methods import PGD
from nlp_adv.perturbation import L2Ball, copied

FREELB = {"adv": "freelb", "adv_steps": 3}


def own_loop(self, model, inputs, num_items_in_batch=None):
    """An override of `training_step` that never calls its parent."""
    model.train()
    inputs = self._prepare_inputs(inputs)
    loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
    self.accelerator.backward(loss)
    return loss.detach()


def calls_super_loss(self, model, inputs, num_items_in_batch=None):
    loss = Trainer.compute_loss(self, model, self._prepare_inputs(inputs))
    self.accelerator.backward(loss)
    return loss.detach()


def calls_the_model(self, model, inputs, num_items_in_batch=None):
    model.train()
    loss = model(**self._prepare_inputs(inputs)).loss
    loss.backward()
    return loss.detach()


def every_second(self, model, inputs, num_items_in_batch=None):
    self.micro = getattr(self, "micro", 0) + 1
    step = calls_the_model if self.micro % 2 else own_loop
    return step(self, model, inputs, num_items_in_batch)


def weighs(self, model, inputs, num_items_in_batch=None):
    loss = 0.5 * self.compute_loss(model, self._prepare_inputs(inputs))
    self.accelerator.backward(loss)
    return loss.detach()


def forgets_backward(self, model, inputs, num_items_in_batch=None):
    return self.compute_loss(model, self._prepare_inputs(inputs)).detach()


def above(step):
    return type("Above", (AdversarialTrainer,), {"training_step": step})


def below(step):
    return type("Below", (AdversarialMixin, type("Mine", (Trainer,), {"training_step": step})), {})


# The method takes part.


@pytest.mark.fault("T1")
@pytest.mark.parametrize("place", [above, below])
@pytest.mark.parametrize("adv", ["fgm", "pgd", "freelb", "yopo", "trades", "rdrop", "awp"])
def test_a_step_that_never_calls_its_parent_is_attacked(tmp_path, place, adv):
    want = weights(trained(tmp_path, adv=adv))
    assert distance(weights(trained(tmp_path, place(own_loop), adv=adv)), want) == 0
    assert distance(weights(trained(tmp_path, adv="none")), want) > 1e-5


@pytest.mark.fault("T1")
@pytest.mark.parametrize("steps", [1, 2])
def test_under_accumulation_too(tmp_path, steps):
    flags = {**FREELB, "gradient_accumulation_steps": steps}
    want = weights(trained(tmp_path, **flags))
    assert distance(weights(trained(tmp_path, above(own_loop), **flags)), want) == 0


@pytest.mark.fault("T1")
@pytest.mark.parametrize("place", [above, below])
@pytest.mark.parametrize("step", [calls_super_loss, calls_the_model])
@pytest.mark.parametrize("adv", ["pgd", "freelb"])
def test_a_loss_from_elsewhere_is_an_error_before_the_weights_move(tmp_path, place, step, adv):
    trainer = build(tmp_path, place(step), adv=adv)
    before = weights(trainer)
    with pytest.raises(UserError, match=r"took part in 0 of 1 .* self\.compute_loss") as caught:
        trainer.train()
    assert_one_sentence(caught.value)
    assert distance(weights(trainer), before) == 0
    assert hooks(trainer.model) == 0


@pytest.mark.fault("T1")
def test_a_method_that_acts_on_some_micro_batches_is_an_error(tmp_path):
    with pytest.raises(UserError, match="1 of 2 micro-batches"):
        trained(tmp_path, above(every_second), **FREELB, gradient_accumulation_steps=2)


@pytest.mark.fault("T1")
def test_a_step_patched_into_the_instance_is_seen(tmp_path):
    trainer = build(tmp_path, **FREELB)
    trainer.training_step = MethodType(calls_the_model, trainer)
    with pytest.raises(UserError, match="took part in 0 of 1"):
        trainer.train()


@pytest.mark.fault("T1")
def test_a_loss_put_on_the_trainer_in_mid_run_is_seen(tmp_path):
    trainer = build(tmp_path, **FREELB)
    stock = trainer.compute_loss
    trainer.add_callback(
        Call("on_step_begin", lambda state: setattr(trainer, "compute_loss", stock))
    )
    with pytest.raises(UserError, match="took part in 0 of 1"):
        trainer.train()


@pytest.mark.fault("T1")
@pytest.mark.parametrize(
    ("step", "sentence"), [(weighs, r"by 0\.5 where .* by 1"), (forgets_backward, "call backward")]
)
def test_a_loss_that_is_used_otherwise_is_an_error(tmp_path, step, sentence):
    trainer = build(tmp_path, above(step), **FREELB)
    before = weights(trainer)
    with pytest.raises(UserError, match=sentence) as caught:
        trainer.train()
    assert_one_sentence(caught.value)
    assert distance(weights(trainer), before) == 0


@pytest.mark.fault("T1")
def test_ordinary_steps_of_a_warm_up_may_be_anything(tmp_path):
    with pytest.raises(UserError, match="step 3"):
        trained(tmp_path, above(calls_the_model), **FREELB, adv_start_step=3, max_steps=5)


@pytest.mark.fault("T1")
def test_a_subclass_may_pass_over_a_batch(tmp_path):
    def skips(self, model, inputs, num_items_in_batch=None):
        if self.state.global_step == 0:
            return torch.zeros(())
        return own_loop(self, model, inputs, num_items_in_batch)

    trainer = trained(tmp_path, above(skips), **FREELB)
    assert trainer.state.global_step == 2


@pytest.mark.fault("T1")
def test_two_losses_of_one_batch_are_both_attacked(tmp_path):
    def twice(self, model, inputs, num_items_in_batch=None):
        first = self.compute_loss(model, inputs)
        loss = first + self.compute_loss(model, inputs)
        self.accelerator.backward(loss)
        return loss.detach()

    # PGD has no start that depends on the micro-batch here, and this model draws no masks.
    method = PGD(L2Ball(0.5), step_size=0.2, steps=2, random_start=False)
    given = {"options": {"method": method}, "optim": "sgd", "max_grad_norm": 0}
    once = weights(trained(tmp_path, model=tiny("bert"), learning_rate=0.02, max_steps=1, **given))
    flags = {"learning_rate": 0.01, "max_steps": 1, **given}
    assert (
        distance(weights(trained(tmp_path, below(twice), model=tiny("bert"), **flags)), once)
        < 1e-12
    )


@pytest.mark.fault("T1")
def test_a_penalty_added_to_the_loss_is_trained_on(tmp_path):
    def penalised(self, model, inputs, num_items_in_batch=None):
        model.train()
        loss = self.compute_loss(model, self._prepare_inputs(inputs))
        loss = loss + 0.1 * model.classifier.weight.square().sum()
        self.accelerator.backward(loss)
        return loss.detach()

    class InTheLoss(AdversarialTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            loss = super().compute_loss(model, inputs, **kwargs)
            return loss + 0.1 * model.classifier.weight.square().sum()

    flags = {"adv": "pgd", "adv_clean_weight": 0.0, "optim": "sgd"}
    got, want = trained(tmp_path, above(penalised), **flags), trained(tmp_path, InTheLoss, **flags)
    assert distance(weights(got), weights(want)) < 1e-12


@pytest.mark.fault("T1")
def test_a_class_with_the_mixin_last_cannot_be_made():
    class Mine(Trainer):
        pass

    for bases in ((Mine, AdversarialMixin), (Trainer, AdversarialMixin)):
        with pytest.raises(UserError, match=r"\(AdversarialMixin, ") as caught:
            type("T", bases, {})
        assert_one_sentence(caught.value)


# The user's step lies around all passes, once.


def replaces(self, model, inputs, *args, **kwargs):
    """Data augmentation in the training step: other words, the other label."""
    self.augmented = getattr(self, "augmented", 0) + 1
    inputs = self._prepare_inputs(inputs)
    noise = torch.randint(0, 2, inputs["input_ids"].shape)
    inputs["input_ids"] = torch.where(inputs["input_ids"] > 0, 4 + noise, 0)
    inputs["labels"] = 1 - inputs.pop("labels")
    return super(self.augmenting, self).training_step(model, inputs, *args, **kwargs)


def augmented(place):
    """The override above the mixin or below it."""
    cls = place(replaces)
    cls.augmenting = cls if place is above else cls.__mro__[cls.__mro__.index(Trainer) - 1]
    return cls


@pytest.mark.fault("T2")
@pytest.mark.parametrize("adv", ["none", "fgm", "freelb", "pgd", "smart"])
@pytest.mark.parametrize("place", [above, below])
def test_what_a_training_step_makes_of_the_inputs_reaches_every_pass_once(tmp_path, adv, place):
    seen, model = [], tiny("bert")
    embedding = model.bert.embeddings.word_embeddings
    embedding.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    trainer = trained(tmp_path, augmented(place), model=model, adv=adv, weight_decay=0.0)
    assert trainer.augmented == 2
    assert all(set(ids.unique().tolist()) <= {0, 4, 5} for ids in seen)
    passes = len(seen) // 2
    for first, *others in (seen[:passes], seen[passes:]):
        assert all(torch.equal(ids, first) for ids in others)
    name = "bert.embeddings.word_embeddings.weight"
    moved = (model.state_dict()[name] - tiny("bert").state_dict()[name]).abs().amax(1) > 0
    assert set(moved.nonzero().flatten().tolist()) <= {0, 4, 5}


@pytest.mark.fault("T2")
def test_a_step_that_draws_random_numbers_draws_them_once(tmp_path):
    states = {}
    for adv in ("none", "freelb", "pgd"):
        trainer = build(tmp_path, augmented(below), adv=adv)
        kept = states[adv] = []
        trainer.add_callback(Call("on_step_end", lambda s, k=kept: k.append(torch.get_rng_state())))
        trainer.train()
    for adv in ("freelb", "pgd"):
        assert all(map(torch.equal, states[adv], states["none"]))


# Each pass has its own batch, and the same random numbers.


@pytest.mark.fault("T11")
@pytest.mark.parametrize("adv", ["fgm", "freelb", "pgd", "trades"])
def test_a_loss_that_writes_into_the_batch_finds_it_fresh(tmp_path, adv):
    seen = []

    class Writes(AdversarialTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            inputs["input_ids"][:, 1] += 1
            _, more = inputs.pop("extra")["weights"]
            more.add_(1)
            seen.append((inputs["input_ids"][:, 1].clone(), more.tolist()))
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            inputs["attention_mask"].zero_()
            return loss

    def collate(batch):
        return {**default_data_collator(batch), "extra": {"weights": [1, torch.ones(2)]}}

    options = {"data_collator": collate}
    trained(tmp_path, Writes, options=options, adv=adv, max_steps=1, remove_unused_columns=False)
    assert len(seen) >= 3
    assert all(torch.equal(ids, seen[0][0]) and more == [2, 2] for ids, more in seen)


@pytest.mark.fault("T11")
def test_one_tensor_under_two_names_stays_one():
    ids = torch.arange(4)
    batch = copied({"input_ids": ids, "labels": ids, "nested": [ids, {"more": ids}]})
    batch["input_ids"] += 1
    assert torch.equal(batch["labels"], ids + 1)
    assert torch.equal(batch["nested"][1]["more"], ids + 1)
    assert torch.equal(ids, torch.arange(4))


class Mixup(AdversarialTrainer):
    """Draws λ from numpy, Python, and generators of its own, in every pass."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.new_numpy = np.random.default_rng(1)
        self.old_numpy = np.random.RandomState(2)
        self.python = random.Random(3)
        self.torch = torch.Generator().manual_seed(4)

    def compute_loss(self, model, inputs, *args, **kwargs):
        draws = (
            np.random.beta(0.4, 0.4),
            random.random(),
            self.new_numpy.random(),
            self.old_numpy.rand(),
            self.python.random(),
            float(torch.rand((), generator=self.torch)),
            float(torch.rand(())),
        )
        DRAWN.append(draws)
        returned = super().compute_loss(model, inputs, *args, **kwargs)
        if isinstance(returned, tuple):
            return draws[0] * returned[0], returned[1]
        return draws[0] * returned


DRAWN: list[tuple[float, ...]] = []


@pytest.mark.fault("T12")
@pytest.mark.parametrize("adv", ["fgm", "freelb", "pgd", "yopo", "trades", "awp"])
def test_numbers_drawn_in_the_loss_are_the_same_in_all_passes(tmp_path, adv):
    def draws(adv):
        DRAWN.clear()
        trained(tmp_path, Mixup, adv=adv, max_steps=3)
        return list(DRAWN)

    ordinary = draws("none")
    assert len(set(ordinary)) == len(ordinary) == 3
    got = draws(adv)
    assert len(got) > 3
    assert list(dict.fromkeys(got)) == ordinary  # each step's, as an ordinary run draws them


# What a subclass counts.


class Counting(AdversarialTrainer):
    """Metrics as Trainers of other packages keep them."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tokens = 0
        self.metrics = {"train": defaultdict(list)}
        self.losses = []
        self.total = torch.zeros(())
        self.labels_seen = set()

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.tokens += int(inputs["attention_mask"].sum())
        self.metrics["train"]["tokens"].append(int(inputs["attention_mask"].sum()))
        self.total += inputs["attention_mask"].sum()
        self.labels_seen.update(inputs["labels"].tolist())
        if not hasattr(self, "late"):
            self.late = 0
        self.late += 1
        returned = super().compute_loss(model, inputs, *args, **kwargs)
        loss = returned[0] if isinstance(returned, tuple) else returned
        self.losses.append(loss.item())
        return returned


@pytest.mark.fault("T28")
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("adv", ["fgm", "pgd", "freelb", "vat", "smart", "trades", "rdrop", "awp"])
def test_metrics_of_a_loss_are_counted_once_a_micro_batch(tmp_path, adv, steps):
    flags = {"gradient_accumulation_steps": steps}
    want, got = (trained(tmp_path, Counting, adv=a, **flags) for a in ("none", adv))
    assert got.tokens == want.tokens > 0
    assert got.metrics["train"]["tokens"] == want.metrics["train"]["tokens"]
    assert got.total == want.total
    assert got.labels_seen == want.labels_seen
    assert got.late == want.late == len(got.losses) == 2 * steps
    assert all(loss == loss for loss in got.losses)


# The schedule is the user's.


class EverySecond(WarmUp):
    def at(self, step):
        return self.method if step % 2 else NoAttack()


@pytest.mark.fault("T8")
def test_a_schedule_of_ones_own_decides_step_by_step(tmp_path):
    trainer = trained(
        tmp_path, options={"method": EverySecond(METHODS["freelb"])}, adv="none", max_steps=4
    )
    attacked = [e["step"] for e in trainer.state.log_history if e.get("delta_norm", 0) > 0]
    assert attacked == [2, 4]
    late = EverySecond(METHODS["pgd"], start_step=0.5).over(8)
    assert isinstance(late, EverySecond)
    assert late.start_step == 4


@pytest.mark.fault("T8")
@pytest.mark.parametrize("first", ["none", "fgm"])
def test_a_method_set_in_mid_run_acts_from_then_on(tmp_path, first):
    trainer = build(tmp_path, adv=first, max_steps=4)
    method = PGD(L2Ball(0.25), step_size=0.25, steps=1, random_start=False)

    def change(state):
        if state.global_step == 2:
            trainer.method = method

    trainer.add_callback(Call("on_step_end", change))
    trainer.train()
    norms = {e["step"]: e.get("delta_norm") for e in trainer.state.log_history if "loss" in e}
    assert norms[3] == pytest.approx(0.25)
    assert norms[4] == pytest.approx(0.25)
    assert norms[2] != pytest.approx(0.25)
    assert trainer.method is method
    assert hooks(trainer.model) == 0


# What is left of the Trainer's own.


@pytest.mark.fault("T26")
@pytest.mark.parametrize("adv", ["none", "freelb"])
def test_the_callbacks_are_the_stock_trainers(tmp_path, adv):
    stock = Trainer(model=tiny("bert"), args=arguments(tmp_path), train_dataset=rows())
    ours = build(tmp_path, adv=adv)

    def kinds(trainer):
        return [type(callback) for callback in trainer.callback_handler.callbacks]

    assert kinds(ours) == kinds(stock)
    ours.train()
    assert kinds(ours) == kinds(stock)
    assert not {"on_train_begin", "on_step_begin", "on_step_end"} & set(vars(ours.callback_handler))


@pytest.mark.fault("T26")
def test_a_trainer_without_any_callback_attacks(tmp_path):
    trainer = build(tmp_path, **FREELB)
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ != "DefaultFlowCallback":
            trainer.pop_callback(callback)
    trainer.train()
    assert all(norm > 0 for norm in logged(trainer, "delta_norm"))


@pytest.mark.fault("T27")
@pytest.mark.parametrize("adv", ["none", "fgm", "pgd", "freelb", "yopo", "trades"])
def test_a_training_step_outside_of_train(tmp_path, adv):
    trainer = build(tmp_path, model=tiny("bert"), adv=adv, max_grad_norm=0)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.training_step(trainer.model, dict(batch), 4)
    gradients = {
        n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None
    }
    assert gradients
    assert hooks(trainer.model) == 0
    assert "compute_loss" not in vars(trainer)
    clean = tiny("bert")
    clean(**batch).loss.backward()
    assert (distance(gradients, gradients_of(clean)) == 0) == (adv == "none")
    trainer.model.zero_grad()
    trainer.train()  # and a run after it is an ordinary run
    assert len(logged(trainer, "loss")) == 2


# Outputs.


class OnlyLoss(AdversarialTrainer):
    """As the stock Trainer allows: whatever is asked for, the loss alone comes back."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        ASKED.append(return_outputs)
        return nn.functional.cross_entropy(model(**inputs).logits, inputs["labels"])


ASKED: list[bool] = []


@pytest.mark.fault("T6")
@pytest.mark.parametrize("adv", ["fgm", "pgd", "freelb", "yopo", "awp", "trades", "vat", "rdrop"])
def test_a_loss_without_outputs_trains_and_only_comparing_methods_ask_for_them(tmp_path, adv):
    ASKED.clear()
    want = weights(trained(tmp_path, adv=adv))
    assert distance(weights(trained(tmp_path, OnlyLoss, adv=adv)), want) < 1e-9
    assert set(ASKED) == {adv in ("trades", "vat", "rdrop")}


class LogitsOfASecondPass(AdversarialTrainer):
    """Outputs are computed anew, without a graph, when somebody asks for them."""

    def loss_of(self, model, inputs):
        return model(**inputs).loss

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss = self.loss_of(model, inputs)
        if not return_outputs:
            return loss
        with torch.no_grad():
            return loss, model(**inputs)


class LogitsOfNoPass(LogitsOfASecondPass):
    """The loss comes from the body of the model, as with a head that is fused with it."""

    def loss_of(self, model, inputs):
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        answers = model.classifier(model.bert(**inputs).pooler_output)
        return nn.functional.cross_entropy(answers, labels)


@pytest.mark.fault("T6")
@pytest.mark.parametrize("adv", ["trades", "vat", "smart", "rdrop"])
def test_outputs_without_a_graph_are_not_compared(tmp_path, adv):
    flags = {"adv": adv, "max_steps": 1}  # the second look draws numbers, and leaves others
    want = weights(trained(tmp_path, **flags))
    assert distance(weights(trained(tmp_path, LogitsOfASecondPass, **flags)), want) < 1e-12
    with pytest.raises(UserError, match=r"LogitsOfNoPass\..* no gradient") as caught:
        trained(tmp_path, LogitsOfNoPass, **flags)
    assert_one_sentence(caught.value)


@pytest.mark.fault("T6")
@pytest.mark.parametrize("adv", ["fgm", "pgd", "freelb", "trades", "vat", "smart", "rdrop"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_model_may_run_again_without_a_graph(tmp_path, adv, when):
    class LooksTwice(AdversarialTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            def look():
                with torch.no_grad():
                    other = {k: v[:, :4] for k, v in inputs.items() if k != "labels"}
                    return model(**other).logits

            first = look() if when == "before" else None
            returned = super().compute_loss(model, inputs, return_outputs, **kwargs)
            self.seen = look() if first is None else first
            return returned

    # Without dropout a second look draws no random numbers.
    want = weights(trained(tmp_path, model=tiny("bert"), adv=adv))
    assert distance(weights(trained(tmp_path, LooksTwice, model=tiny("bert"), adv=adv)), want) == 0


@pytest.mark.fault("T29")
@pytest.mark.parametrize("adv", ["fgm", "freelb", "yopo"])
def test_code_that_catches_exceptions_around_the_model_does_not_catch_ours(tmp_path, adv):
    class Retries(AdversarialTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            try:
                return super().compute_loss(model, inputs, *args, **kwargs)
            except Exception:
                return super().compute_loss(model, inputs, *args, **kwargs) * 0

    class Swallows(AdversarialTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            try:
                return super().compute_loss(model, inputs, *args, **kwargs)
            except:  # noqa: E722
                return None

    want = weights(trained(tmp_path, adv=adv))
    assert distance(weights(trained(tmp_path, Retries, adv=adv)), want) == 0
    if adv != "yopo":  # which stops the model at its first block as well
        assert distance(weights(trained(tmp_path, Swallows, adv=adv)), want) == 0


@pytest.mark.fault("T14")
@pytest.mark.parametrize("adv", ["fgm", "trades", "vat", "rdrop"])
def test_models_and_losses_that_return_tuples(tmp_path, adv):
    class Tuples(AdversarialTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            outputs = model(**inputs, return_dict=False)
            return (outputs[0], outputs) if return_outputs else outputs[0]

    class LossAndTensor(AdversarialTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            outputs = model(**inputs)
            return (outputs.loss, outputs.logits) if return_outputs else outputs.loss

    want = weights(trained(tmp_path, adv=adv))
    for cls in (Tuples, LossAndTensor):
        assert distance(weights(trained(tmp_path, cls, adv=adv)), want) == 0
    model = tiny("bert", dropout=0.1)
    model.config.return_dict = False
    assert distance(weights(trained(tmp_path, model=model, adv=adv)), want) == 0


# Numbers that are none.


@pytest.mark.fault("D5")
@pytest.mark.parametrize("adv", ["none", "fgm", "pgd", "freelb"])
def test_a_run_that_diverges_stops(tmp_path, adv):
    trainer = build(tmp_path, adv=adv, learning_rate=1e200, max_steps=12)
    with pytest.raises(UserError, match=r"diverged.*adv_nonfinite_steps") as caught:
        trainer.train()
    assert_one_sentence(caught.value)
    assert trainer.state.global_step < 8
    assert hooks(trainer.model) == 0


@pytest.mark.fault("D5")
def test_a_run_whose_last_step_spoils_the_weights_is_an_error(tmp_path):
    trainer = build(tmp_path, adv="pgd", max_steps=2)

    def spoil(state):
        with torch.no_grad():
            trainer.model.classifier.bias[0] = float("nan")

    trainer.add_callback(Call("on_train_end", spoil))
    with pytest.raises(UserError, match=r"classifier\.bias"):
        trainer.train()


@pytest.mark.fault("D5")
def test_a_diverged_run_may_go_on(tmp_path):
    flags = {"learning_rate": 1e200, "max_steps": 8, "adv_nonfinite_steps": 0}
    assert trained(tmp_path, adv="pgd", **flags).state.global_step == 8


class Offloads(AdversarialTrainer):
    """Keeps what the backward pass needs elsewhere, as trl does with `activation_offloading`."""

    def training_step(self, *args, **kwargs):
        def pack(value):
            KEPT.append(value)
            return len(KEPT) - 1

        def unpack(name):
            USED.add(name)
            return KEPT[name]

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return super().training_step(*args, **kwargs)


KEPT: list[torch.Tensor] = []
USED: set[int] = set()


@pytest.mark.fault("T6")
@pytest.mark.parametrize("adv", ["none", "fgm", "pgd", "freelb"])
def test_all_that_is_kept_for_a_backward_pass_is_used_in_one(tmp_path, adv):
    KEPT.clear()
    USED.clear()
    trained(tmp_path, Offloads, adv=adv)
    assert len(USED) == len(KEPT) > 0


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["fgm", "freelb", "pgd"])
def test_a_checkpoint_of_ones_own_around_the_model_is_refused(tmp_path, name, reentrant):
    """It runs the model again in the backward pass, when δ is gone; freelb would not notice."""

    class Checkpointed(AdversarialTrainer):
        def compute_loss(self, model, inputs, **options):
            def loss(ids, mask, labels):
                return model(input_ids=ids, attention_mask=mask, labels=labels).loss

            given = (inputs[key] for key in ("input_ids", "attention_mask", "labels"))
            return checkpoint(loss, *given, use_reentrant=reentrant)

    trainer = build(tmp_path, Checkpointed, options={"method": METHODS[name]})
    with pytest.raises(UserError, match="without gradients" if reentrant else "runs again in the"):
        trainer.train()


# What a script overrides may take fewer arguments than the Trainer's method does.


class TakesLess(Trainer):
    """Works with the stock Trainer, which calls these with no more than that."""

    def train(self):
        return super().train()

    def log(self, logs):
        super().log(logs)

    def save_model(self, folder=None):
        super().save_model(folder)


@pytest.mark.parametrize("adv", ["none", "fgm"])
def test_overrides_are_called_with_what_the_call_had(tmp_path, adv):
    cls = type("Ours", (AdversarialMixin, TakesLess), {})
    flags = {"adv": adv, "eval_strategy": "steps", "eval_steps": 1, "logging_strategy": "no"}
    flags["options"] = {"eval_dataset": rows(4)}
    trainer, want = trained(tmp_path, cls, **flags), trained(tmp_path, **flags)
    assert distance(weights(trainer), weights(want)) == 0
    keys = [set(entry) for entry in want.state.log_history]
    assert [set(entry) for entry in trainer.state.log_history] == keys
    trainer.save_model()
    assert (tmp_path / "adversarial_config.json").is_file()
    trainer.save_model(str(tmp_path / "other"))
    assert (tmp_path / "other" / "adversarial_config.json").is_file()
