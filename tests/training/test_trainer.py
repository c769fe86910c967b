"""The Trainer with a method: the same gradients as a bare loop, and nothing else changed."""

import json
import logging
import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import Accelerator
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import (
    eval_results_to_model_index,
    model_index_to_eval_results,
)
from models import gradients, tiny
from tiny_training import (
    CHECKPOINTING,
    DIVERGENCES,
    METHODS,
    STILL,
    Call,
    Counts,
    Recorder,
    Watched,
    build,
    distance,
    forwards,
    hooks,
    l2,
    logged,
    rows,
    slowly,
    still_starts,
    trained,
    weights,
)
from torch import nn
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer

from nlp_adv import AdversarialArguments, AdversarialMixin, AdversarialTrainer, text_objective
from nlp_adv.methods import FGM, RDrop, WarmUp, bare
from nlp_adv.methods import build as method_of
from nlp_adv.perturbation import Memory, Output
from nlp_adv.training.records import ConstantPredictionAlarm

EXACT = 1e-12
# All but "rdrop", which moves no δ: without its β it still trains on two dropout masks.
OLDER = ("noise", "fgsm", "fgm", "fgm_matrix", "pgd", "freelb")
NAMES = (*OLDER, "freeat", "yopo", "tavat", "vat", "smart", "trades", "awp")
LOGGER = "nlp_adv.training"


def plain_loss(outputs, labels, num_items_in_batch=None):
    """A user's `compute_loss_func`, which honours the number of items."""
    logits = outputs["logits"]
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
    return loss / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def bare_gradients(
    micro_batches, method, *, model=None, forward=None, backward=None, scale=1.0, share=1.0
):
    """Σ scale·∇θ over the micro-batches of one step, in a loop without the Trainer."""
    model = tiny("bert", dropout=0.1) if model is None else model
    options = {} if forward is None else {"forward": forward}
    back = torch.autograd.backward if backward is None else backward
    memory = Memory()
    for memory.slot, micro in enumerate(micro_batches):
        torch.set_rng_state(micro.random_state)
        method.step(
            text_objective(
                model,
                micro.inputs,
                seed=micro.seed,
                backward=lambda loss: back(scale * loss),
                memory=memory,
                share=share,
                **options,
            )
        )
    return gradients(model)


def clean_gradients(micro_batches):
    model = tiny("bert", dropout=0.1)
    for micro in micro_batches:
        torch.set_rng_state(micro.random_state)
        model(**micro.inputs).loss.backward()
    return gradients(model)


def partial_runs(method, *, steps=1):
    """Runs of the word embedding that end at it, at the first block, or in it."""
    method = bare(method)
    splits = method.name == "yopo" and method.rounds > 1
    return steps * (1 + getattr(method, "prefix_passes", 0)) + splits  # that one finds the block


# No attack: the stock Trainer.


@pytest.mark.parametrize("accumulation", [1, 2])
def test_none_is_the_stock_trainer_to_the_last_bit(tmp_path, accumulation):
    flags = {"max_steps": 4, "max_grad_norm": 0.5, "gradient_accumulation_steps": accumulation}
    runs = []
    for cls in (Trainer, AdversarialTrainer):
        trainer = trained(tmp_path, cls, adv="none", **flags)
        runs.append((weights(trainer), torch.get_rng_state(), trainer.state.log_history[:-1]))
    (stock, stock_random, stock_log), (ours, our_random, our_log) = runs
    assert all(torch.equal(stock[name], ours[name]) for name in stock)
    assert distance(ours, tiny("bert", dropout=0.1).state_dict()) > 1e-4  # it did train
    assert torch.equal(stock_random, our_random)
    assert stock_log == our_log
    assert len(our_log) == 4


# The gradient of a step.


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_the_bare_loop_and_the_one_with_accelerate(tmp_path, name):
    method = METHODS[name]
    trainer = trained(tmp_path, Watched, options={"method": method}, max_steps=1, max_grad_norm=0)
    (got,), batches = trainer.gradients, trainer.micro_batches
    assert len(batches) == 1
    away = distance(got, clean_gradients(batches))
    if name == "freeat":  # which sees a batch at δ = 0 first; its replays are in test_freeat.py
        assert away <= EXACT
    else:
        assert away > 1e-5  # the attack does something
    assert distance(got, bare_gradients(batches, method)) <= EXACT

    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(tiny("bert", dropout=0.1))
    with_accelerate = bare_gradients(batches, method, model=model, backward=accelerator.backward)
    assert distance(got, with_accelerate) <= EXACT


@pytest.mark.parametrize(
    "name",
    ["noise", "pgd-random", "freelb-random", "yopo-clean", "tavat-random", "trades", "rdrop"],
)
def test_the_seed_decides_the_random_start_and_nothing_else(tmp_path, name):
    def run(**flags):
        options = {"method": METHODS[name]}
        trainer = trained(tmp_path, Watched, options=options, max_grad_norm=0, **flags)
        return trainer.gradients[0], torch.get_rng_state(), trainer

    first, random, _ = run(adv_seed=1)
    again, _, _ = run(adv_seed=1)
    other, other_random, _ = run(adv_seed=2)
    assert distance(first, again) == 0
    assert distance(first, other) > 1e-6
    assert torch.equal(random, other_random)
    by_default, _, trainer = run()
    assert distance(by_default, run(adv_seed=trainer.args.seed)[0]) == 0


def test_every_micro_batch_has_a_random_start_of_its_own(tmp_path):
    seeds = []
    for _ in range(2):
        options = {"method": METHODS["noise"]}
        trainer = trained(tmp_path, Watched, options=options, gradient_accumulation_steps=2)
        seeds.append([micro.seed for micro in trainer.micro_batches])
    assert len(set(seeds[0])) == 4  # 2 steps of 2
    assert seeds[0] == seeds[1]


@pytest.mark.parametrize(
    "name",
    [
        *("fgm_matrix", "pgd-random-clean", "freelb-random", "yopo", "smart-past", "rdrop", "awp"),
        *slowly("freelb-reuse", "tavat-random", "vat", "alum", "smart", "trades", "relative-yopo"),
    ],
)
def test_the_random_stream_continues_as_after_ordinary_training(tmp_path, name):
    trained(tmp_path, Trainer, max_steps=3)
    stock = torch.get_rng_state()
    trained(tmp_path, options={"method": METHODS[name]}, max_steps=3)
    assert torch.equal(torch.get_rng_state(), stock)


# ε = 0.


def zero(name, **settings):
    """No δ; of the methods that move more than δ, or see batches in another order, not that."""
    rest = {"awp": {"gamma": 0.0}, "freeat": {"replays": 1}}
    return method_of(name, epsilon=0.0, **(rest.get(name, {}) | settings))


@pytest.mark.parametrize(
    ("name", "accumulation"),
    [
        *((name, 1) for name in NAMES),
        *((name, 2) for name in (*OLDER, "trades")),
        *slowly(*((name, 2) for name in NAMES if name not in (*OLDER, "trades"))),
    ],
)
def test_no_radius_is_ordinary_training(tmp_path, name, accumulation):
    flags = {"max_steps": 3, "gradient_accumulation_steps": accumulation}
    stock = trained(tmp_path, Trainer, **flags)
    ours = trained(tmp_path, options={"method": zero(name)}, **flags)
    assert distance(weights(ours), weights(stock)) <= 1e-10
    assert logged(ours, "loss") == pytest.approx(logged(stock, "loss"), abs=1e-6, rel=0)
    assert logged(ours, "grad_norm") == pytest.approx(logged(stock, "grad_norm"), rel=1e-9)


@pytest.mark.parametrize("kind", ["label smoothing", "loss function", "language model"])
@pytest.mark.parametrize(
    "name", ["fgm", "pgd", "freelb", "trades", *slowly("yopo", "tavat", "vat", "awp")]
)
def test_no_radius_is_ordinary_training_whoever_computes_the_loss(tmp_path, name, kind):
    # Two passes: halves are exact in the float32 in which smoothing and language models sum.
    flags = {"max_steps": 3, "gradient_accumulation_steps": 2}
    given = {"options": {}}
    if kind == "label smoothing":
        flags["label_smoothing_factor"] = 0.1
    elif kind == "loss function":
        given["options"] = {"compute_loss_func": plain_loss}
    else:
        given["data"] = rows(language=True)
    language = kind == "language model"
    models = [tiny("gpt2_lm" if language else "bert", dropout=0.1) for _ in range(2)]
    extra = {"freelb": {"steps": 2}, "yopo": {"rounds": 2}}.get(name, {})
    stock = trained(tmp_path, Trainer, model=models[0], **given, **flags)
    given["options"] = given["options"] | {"method": zero(name, **extra)}
    ours = trained(tmp_path, model=models[1], **given, **flags)
    assert distance(weights(ours), weights(stock)) <= 1e-10
    assert distance(weights(ours), tiny("gpt2_lm" if language else "bert").state_dict()) > 1e-4
    assert logged(ours, "loss") == pytest.approx(logged(stock, "loss"), abs=1e-6, rel=0)


# Accumulation.


@pytest.mark.parametrize(
    "name",
    [
        "fgm",
        "fgm_matrix",
        "pgd-random-clean",
        "freelb-random",
        "tavat-random",
        "smart-past",
        "trades",
        *slowly("freelb-reuse", "yopo-clean", "vat", "alum", "smart", "rdrop", "awp"),
    ],
)
@pytest.mark.parametrize("mended", [False, True])
def test_accumulated_gradients_add_up_as_the_stock_trainers_do(tmp_path, name, mended):
    # BERT ignores num_items_in_batch, so the Trainer adds the micro-batches where it should
    # average them; the default is faithful to that.
    method = METHODS[name]
    trainer = trained(
        tmp_path,
        Watched,
        options={"method": method},
        max_steps=1,
        gradient_accumulation_steps=2,
        max_grad_norm=0,
        adv_mend_loss_scaling=mended,
    )
    assert len(trainer.micro_batches) == 2
    want = bare_gradients(trainer.micro_batches, method, scale=0.5 if mended else 1.0)
    assert distance(trainer.gradients[0], want) <= EXACT


@pytest.mark.parametrize(
    "name",
    [
        *("fgm", "pgd-clean", "freelb-random", "yopo-clean", "smart-past", "rdrop"),
        *slowly("tavat-random", "awp", "vat", "alum", "smart", "trades"),
    ],
)
def test_num_items_in_batch_reaches_every_pass(tmp_path, name):
    method = METHODS[name]
    trainer = trained(
        tmp_path,
        Watched,
        model=tiny("gpt2_lm", dropout=0.1),
        data=rows(language=True),
        options={"method": method},
        max_steps=1,
        gradient_accumulation_steps=2,
        max_grad_norm=0,
    )
    items = trainer.micro_batches[0].items
    assert items is not None
    assert trainer.micro_batches[1].items is items

    def forward(model, batch):
        outputs = model(**batch, num_items_in_batch=items)
        return Output(outputs.loss, outputs.logits)

    model = tiny("gpt2_lm", dropout=0.1)
    want = bare_gradients(trainer.micro_batches, method, model=model, forward=forward, share=0.5)
    assert distance(trainer.gradients[0], want) <= EXACT


# The rest draw by micro-batch (random starts), look at all of one (fgm_matrix, awp), or change
# between two (tavat's table).
@pytest.mark.parametrize(
    "name", ["none", "fgsm", "fgm", "pgd-clean", "freelb", "freelb-clean", "freelb-reuse", "yopo"]
)
def test_mended_micro_batches_equal_the_whole_batch(tmp_path, name):
    options = {} if name == "none" else {"method": METHODS[name]}

    def gradient(size, accumulation, mended):
        return trained(
            tmp_path,
            Watched,
            model=tiny("bert"),  # dropout draws other masks for other batch sizes
            data=rows(padded=False),
            options=options,
            max_steps=1,
            max_grad_norm=0,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            adv_mend_loss_scaling=mended,
        ).gradients[0]

    whole = gradient(8, 1, mended=False)
    assert distance(gradient(4, 2, mended=True), whole) <= EXACT
    doubled = {key: 2 * value for key, value in whole.items()}
    assert distance(gradient(4, 2, mended=False), doubled) <= EXACT


FACTORS = {
    "ignored": 2,  # the clean loss and the divergence alike
    "mended": 1,
    "label smoothing": 1,
    "loss function": 1,
    "language model": 1,
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("trades", kind) for kind in FACTORS),
        ("vat", "language model"),
        *slowly(*((name, kind) for name in ("vat", "alum", "smart") for kind in FACTORS)),
    ],
)
def test_a_divergence_is_weighted_under_accumulation_as_the_loss_is(
    tmp_path, monkeypatch, name, kind
):
    factor = FACTORS[kind]
    still_starts(monkeypatch)
    language = kind == "language model"
    flags = {"adv_mend_loss_scaling": kind == "mended"}
    flags |= {"label_smoothing_factor": 0.1} if kind == "label smoothing" else {}
    own_loss = {"compute_loss_func": plain_loss} if kind == "loss function" else {}

    def gradient(method, size, accumulation):
        return trained(
            tmp_path,
            Watched,
            model=tiny("gpt2_lm" if language else "bert"),
            data=rows(padded=False, language=language),
            options={**own_loss, **({"method": method} if method else {})},
            max_steps=1,
            max_grad_norm=0,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            **flags,
        ).gradients[0]

    # Language models and smoothing sum in float32.
    close = 1e-5 if kind in ("language model", "label smoothing") else EXACT
    whole, clean = gradient(STILL[name], 8, 1), gradient(None, 8, 1)
    apart = {key: whole[key] - clean[key] for key in whole}
    assert max(float(value.abs().max()) for value in apart.values()) > 1e-3
    clean_part = gradient(None, 4, 2)
    assert distance(clean_part, {key: factor * value for key, value in clean.items()}) <= close
    accumulated = gradient(STILL[name], 4, 2)
    assert distance(accumulated, {key: factor * value for key, value in whole.items()}) <= close


def test_the_weight_of_a_divergence_in_a_step_of_fewer_micro_batches(tmp_path, monkeypatch):
    """The epoch's last step has one micro-batch where the others have two."""
    still_starts(monkeypatch)
    trainer = trained(
        tmp_path,
        Watched,
        model=tiny("gpt2_lm"),
        data=rows(12, padded=False, language=True),
        options={"method": STILL["trades"]},
        max_steps=2,
        learning_rate=0,
        max_grad_norm=0,
        gradient_accumulation_steps=2,
    )
    first, second = trainer.micro_batches[:2], trainer.micro_batches[2:]
    assert len(second) == 1
    for micro_batches, got in zip((first, second), trainer.gradients, strict=True):
        items = micro_batches[0].items

        def forward(model, batch, items=items):
            outputs = model(**batch, num_items_in_batch=items)
            return Output(outputs.loss, outputs.logits)

        given = {"model": tiny("gpt2_lm"), "forward": forward, "share": 1 / len(micro_batches)}
        assert distance(got, bare_gradients(micro_batches, STILL["trades"], **given)) <= EXACT


@pytest.mark.parametrize("name", ["fgm", "freelb"])
def test_a_language_model_needs_no_mending(tmp_path, name):
    def gradient(size, accumulation):
        return trained(
            tmp_path,
            Watched,
            model=tiny("gpt2_lm"),
            data=rows(language=True),
            options={"method": FGM(l2, 0.0) if name == "fgm" else METHODS[name]},
            max_steps=1,
            max_grad_norm=0,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
        ).gradients[0]

    # The logits are cast to float32 for the loss.
    assert distance(gradient(4, 2), gradient(8, 1)) <= 1e-6


@pytest.mark.parametrize(
    ("warns", "flags", "given"),
    [
        (True, {"adv": "fgm"}, {}),
        (True, {"adv": "none"}, {}),
        (False, {"adv": "fgm", "adv_mend_loss_scaling": True}, {}),
        (False, {"adv": "fgm", "gradient_accumulation_steps": 1}, {}),
        (False, {"adv": "fgm", "label_smoothing_factor": 0.1}, {}),
        (False, {"adv": "fgm"}, {"options": {"compute_loss_func": plain_loss}}),
        (False, {"adv": "fgm"}, {"data": rows(language=True), "model": "gpt2_lm"}),
    ],
    ids=["fgm", "none", "mended", "no accumulation", "smoothing", "loss function", "language"],
)
def test_one_warning_where_the_model_ignores_the_number_of_items(
    tmp_path, caplog, warns, flags, given
):
    if "model" in given:
        given = {**given, "model": tiny(given["model"])}
    with caplog.at_level(logging.WARNING, LOGGER):
        trained(tmp_path, **{"gradient_accumulation_steps": 2, **flags}, **given)
    found = [record for record in caplog.messages if "#47688" in record]
    assert len(found) == warns


# A user's own compute_loss.


def custom_loss(outputs, labels):
    return 3 * nn.functional.cross_entropy(outputs.logits, labels) + outputs.logits.square().mean()


class CountsCalls:
    calls = 0

    def _custom(self, model, inputs, return_outputs):
        type(self).calls += 1
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = custom_loss(outputs, labels)
        return (loss, outputs) if return_outputs else loss


class UserTrainer(CountsCalls, Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return self._custom(model, inputs, return_outputs)


class MixinFirst(AdversarialMixin, UserTrainer):
    pass


class SubclassOfOurs(CountsCalls, AdversarialTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return self._custom(model, inputs, return_outputs)


@pytest.mark.parametrize(
    "name",
    [
        "noise-clean",
        "fgm",
        "fgm_matrix",
        "pgd",
        "pgd-random-clean",
        "yopo",
        "smart-past",
        *slowly("tavat-random", "alum", "trades", "rdrop", "awp"),
    ],
)
@pytest.mark.parametrize("cls", [MixinFirst, SubclassOfOurs])
def test_a_users_loss_is_used_in_every_pass(tmp_path, cls, name):
    method = METHODS[name]
    watched = type("WatchedUsers", (Watched, cls), {"calls": 0})
    model = tiny("bert", dropout=0.1)
    counts = Counts(model)
    options = {"method": method}
    trainer = trained(tmp_path, watched, model=model, options=options, max_steps=1, max_grad_norm=0)
    passes, partial = forwards(method), partial_runs(method)
    assert counts.heads == passes + 1  # a run begins with a look at all calls
    assert counts.embeddings == passes + partial
    assert watched.calls == passes + partial

    def forward(model, batch):
        labels = batch.pop("labels")
        outputs = model(**batch)
        return Output(custom_loss(outputs, labels), outputs.logits)

    want = bare_gradients(trainer.micro_batches, method, forward=forward)
    assert distance(trainer.gradients[0], want) <= EXACT
    assert distance(want, bare_gradients(trainer.micro_batches, method)) > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_forward_passes_are_those_declared(tmp_path, name):
    method, model = METHODS[name], tiny("bert")
    counts = Counts(model)
    trained(tmp_path, model=model, options={"method": method}, max_steps=2)
    assert counts.heads == 2 * forwards(method) + 1  # a run begins with a look at all calls
    # Later looks are stopped at the embedding.
    assert counts.embeddings == 2 * forwards(method) + partial_runs(method, steps=2)


# Sequence to sequence.


class AdversarialSeq2Seq(AdversarialMixin, Seq2SeqTrainer):
    pass


@dataclass
class Seq2SeqArguments(AdversarialArguments, Seq2SeqTrainingArguments):
    pass


def test_seq2seq_trains_and_generates(tmp_path):
    args = Seq2SeqArguments(
        output_dir=str(tmp_path),
        adv="freelb",
        adv_epsilon=0.3,
        predict_with_generate=True,
        generation_max_length=6,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        max_steps=2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    seen = []

    def metrics(prediction):
        seen.append(prediction.predictions)
        return {"length": prediction.predictions.shape[1]}

    data, test = rows(16, language=True), rows(8, padded=False, language=True)
    given = {"args": args, "train_dataset": data, "eval_dataset": test, "compute_metrics": metrics}
    model = tiny("t5", dropout=0.1)
    trainer = AdversarialSeq2Seq(model=model, **given)
    trainer.train()
    assert distance(model.state_dict(), tiny("t5").state_dict()) > 1e-6
    sizes = logged(trainer, "delta_relative")
    assert len(sizes) == 2
    assert all(0 < size <= 0.3 * (1 + 1e-6) for size in sizes)
    (last,) = [e for e in trainer.state.log_history if "eval_loss" in e and e["step"] == 2]
    stock = Seq2SeqTrainer(model=model, **given).evaluate()
    assert stock["eval_loss"] == last["eval_loss"]
    assert len(seen) == 3
    assert seen[2].tolist() == seen[1].tolist()
    assert len(seen[2]) == 8
    assert len(set(seen[2].ravel().tolist())) > 2  # words, not padding alone


# Nothing is left behind.


class Stop(Exception):
    pass


def assert_untouched(trainer):
    model = trainer.model
    assert hooks(model) == 0
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert "compute_loss" not in vars(trainer)


@pytest.mark.parametrize(
    "name",
    [
        *("fgm_matrix", "pgd-clean", "freelb", "yopo", "smart-past", "rdrop", "awp"),
        *slowly("freeat", "freelb-reuse", "tavat-random", "vat", "trades", "relative-yopo"),
    ],
)
def test_no_hook_is_left(tmp_path, name):
    seen = []
    trainer = build(tmp_path, options={"method": METHODS[name]})
    trainer.add_callback(Call("on_step_end", lambda state: seen.append(hooks(trainer.model))))
    trainer.train()
    assert seen[0] == seen[1] > 0  # permanent while training
    assert_untouched(trainer)


def test_no_hook_is_left_by_a_callback_that_fails(tmp_path):
    def fail(state):
        raise Stop

    trainer = build(tmp_path, adv="pgd")
    trainer.add_callback(Call("on_step_end", fail))
    with pytest.raises(Stop):
        trainer.train()
    assert_untouched(trainer)


@pytest.mark.parametrize(
    ("name", "at"),
    [
        (name, at)
        # A clean pass, two inner ones and the adversarial one; the others' passes differ in kind.
        for name in ("pgd-clean", "yopo-clean", "vat", "smart-past", "rdrop", "awp")
        for at in range(1, 1 + forwards(METHODS[name]))
    ],
)
def test_no_hook_is_left_by_a_pass_that_fails(tmp_path, name, at):
    method = METHODS[name]
    model, calls = tiny("bert", dropout=0.1), []
    places = [parameter.data_ptr() for parameter in model.parameters()]

    def fail(*args):
        calls.append(1)
        if len(calls) == 1 + at:  # a run begins with a look at all calls
            raise Stop

    trainer = build(tmp_path, model=model, options={"method": method})
    handle = model.classifier.register_forward_pre_hook(fail)
    with pytest.raises(Stop):
        trainer.train()
    handle.remove()
    assert len(calls) == 1 + at
    assert_untouched(trainer)
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    assert distance(model.state_dict(), tiny("bert").state_dict()) == 0


def test_the_first_block_that_fails_alone_leaves_no_hook(tmp_path):
    model, calls = tiny("bert", dropout=0.1), []

    def fail(*args):
        calls.append(1)
        if len(calls) == 3:  # a look and the full pass have run, the first block runs alone
            raise Stop

    trainer = build(tmp_path, model=model, options={"method": METHODS["yopo"]})
    handle = model.bert.encoder.layer[0].attention.register_forward_pre_hook(fail)
    with pytest.raises(Stop):
        trainer.train()
    handle.remove()
    assert_untouched(trainer)


@pytest.mark.parametrize(("name", "at"), [("fgm_matrix", 2), ("awp", 3)])
def test_an_attack_on_weights_that_fails_puts_them_back(tmp_path, name, at):
    model, calls = tiny("bert"), []

    def fail(*args):
        calls.append(1)
        if len(calls) == 1 + at:  # a run begins with a look at all calls
            assert distance(model.state_dict(), tiny("bert").state_dict()) > 0
            raise Stop

    trainer = build(tmp_path, model=model, options={"method": METHODS[name]})
    handle = model.classifier.register_forward_pre_hook(fail)
    with pytest.raises(Stop):
        trainer.train()
    handle.remove()
    assert distance(model.state_dict(), tiny("bert").state_dict()) == 0


@pytest.mark.parametrize("name", ["fgm_matrix", "freelb-random", "yopo", "smart-past", "awp"])
def test_evaluation_within_training_sees_no_perturbation(tmp_path, name):
    options = {"method": METHODS[name], "eval_dataset": rows(8)}
    flags = {"eval_strategy": "steps", "eval_steps": 1}
    trainer = trained(tmp_path, options=options, **flags)
    (last,) = [e for e in trainer.state.log_history if e["step"] == 2 and "eval_loss" in e]
    stock = build(tmp_path, Trainer, model=trainer.model, options={"eval_dataset": rows(8)})
    assert stock.evaluate()["eval_loss"] == last["eval_loss"]


class Switching(torch.optim.SGD):
    """A schedule-free optimizer keeps other weights for training than for evaluation."""

    mode = "eval"

    def train(self) -> None:
        self.mode = "train"

    def eval(self) -> None:
        self.mode = "eval"


@pytest.mark.parametrize(
    "name",
    [
        *("noise", "fgm_matrix", "pgd", "yopo", "smart-past"),
        *slowly("vat", "trades", "rdrop", "awp"),
    ],
)
def test_every_pass_is_in_training_mode_also_after_an_evaluation(tmp_path, name):
    model, modes = tiny("bert", dropout=0.1), []
    optimizer = Switching(model.parameters(), lr=0.1)
    trainer = build(
        tmp_path,
        model=model,
        options={
            "method": METHODS[name],
            "eval_dataset": rows(4),
            "optimizers": (optimizer, None),
        },
        eval_strategy="steps",
        eval_steps=1,
        max_steps=3,
    )
    model.eval()
    for watched in (model.bert.embeddings.word_embeddings, model.classifier):
        watched.register_forward_pre_hook(
            lambda module, args: modes.append((model.training, optimizer.mode))
        )
    trainer.train()
    runs = 2 * forwards(METHODS[name]) + partial_runs(METHODS[name])
    # A run begins with a look at all calls; later looks end in the embedding.
    first, later = ([(True, "train")] * count for count in (runs + 1, runs - (name == "yopo")))
    if name == "yopo":
        first[2] = (False, "train")  # the search for the first block, which LayerDrop may hide
    evaluation = [(False, "eval")] * 2
    assert modes == first + evaluation + (later + evaluation) * 2


@pytest.mark.parametrize(
    "name",
    ["pgd-clean", "freelb-random", *slowly("freeat", "tavat-random", "smart-past", "rdrop")],
)
def test_evaluation_within_training_changes_nothing(tmp_path, name):
    def run(**flags):
        # No dropout: the stock evaluation's data loader draws from the random stream.
        options = {"method": METHODS[name], "eval_dataset": rows(4)}
        return weights(trained(tmp_path, model=tiny("bert"), options=options, max_steps=3, **flags))

    assert distance(run(eval_strategy="steps", eval_steps=1), run()) == 0


def test_a_restart_with_a_smaller_batch_hooks_once(tmp_path):
    model, calls, installed = tiny("bert"), [], []

    def full(*args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("CUDA out of memory.")

    model.bert.encoder.register_forward_pre_hook(full)
    words = model.bert.embeddings.word_embeddings
    trainer = build(tmp_path, model=model, adv="fgm", adv_epsilon=0.2, auto_find_batch_size=True)
    trainer.add_callback(
        Call("on_step_end", lambda state: installed.append(len(words._forward_hooks)))
    )
    trainer.train()
    assert trainer.state.train_batch_size < 4
    assert installed == [1, 1]
    assert logged(trainer, "delta_relative") == pytest.approx([0.2, 0.2], rel=1e-5)


# When the numbers are read.


def test_arguments_changed_before_training_count(tmp_path):
    late = build(tmp_path, adv="fgm", adv_epsilon=0.1)
    late.args.adv_epsilon = 0.4
    late.train()
    early = trained(tmp_path, adv="fgm", adv_epsilon=0.4)
    assert distance(weights(late), weights(early)) == 0
    assert logged(late, "delta_relative") == pytest.approx([0.4, 0.4], rel=1e-5)


def test_each_training_reads_its_arguments_and_hooks_its_model(tmp_path):
    args = build(tmp_path, adv="fgm", adv_epsilon=0.1).args
    trainer = AdversarialTrainer(
        model_init=lambda trial=None: tiny("bert"), args=args, train_dataset=rows()
    )
    first = trainer.train() and trainer.model
    assert len(logged(trainer, "clean_loss")) == 2
    trainer.args.adv = "pgd"
    trainer.args.adv_clean_weight = 0.0
    trainer.args.adv_epsilon = 0.2
    trainer.train()
    assert trainer.model is not first
    assert logged(trainer, "clean_loss") == []
    assert all(0 < value <= 0.2 * (1 + 1e-6) for value in logged(trainer, "delta_relative"))
    assert hooks(first) == hooks(trainer.model) == 0


def test_a_method_overrides_the_flags(tmp_path):
    given = trained(tmp_path, options={"method": METHODS["fgm"]}, adv="freelb", adv_epsilon=9.0)
    want = trained(tmp_path, options={"method": METHODS["fgm"]})
    assert distance(weights(given), weights(want)) == 0
    assert given._schedule.method == METHODS["fgm"]


RAMPED = [0.25, 0.5]  # ε/2, then ε, after one ordinary step


@pytest.mark.parametrize("flags", [{}, {"adv": "pgd"}])
def test_a_method_keeps_the_warm_up_flags(tmp_path, flags):
    flags = {**flags, "adv_start_step": 1, "adv_ramp_steps": 1, "max_steps": 3}
    trainer = trained(tmp_path, options={"method": METHODS["fgm"]}, **flags)
    assert logged(trainer, "delta_norm") == pytest.approx(RAMPED, rel=1e-5)


def test_a_schedule_keeps_its_own_warm_up(tmp_path):
    schedule = WarmUp(METHODS["fgm"], 1, 1)
    trainer = trained(tmp_path, options={"method": schedule}, max_steps=3, adv_start_step=2)
    assert logged(trainer, "delta_norm") == pytest.approx(RAMPED, rel=1e-5)


def test_warm_up_in_shares_of_the_run(tmp_path):
    trainer = trained(
        tmp_path,
        adv="fgm",
        adv_epsilon=0.3,
        adv_start_step=0.25,
        adv_ramp_steps=0.5,
        max_steps=8,
    )
    steps = [e["step"] for e in trainer.state.log_history if "delta_relative" in e]
    assert steps == [3, 4, 5, 6, 7, 8]
    radii = [0.3 * share for share in (1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1)]
    assert logged(trainer, "delta_relative") == pytest.approx(radii, rel=1e-5)


# What is logged.


@pytest.mark.parametrize("name", ["noise", "fgm", "fgm-tokens", "pgd-random-clean", "freelb"])
@pytest.mark.parametrize("mended", [False, True])
def test_logged_averages(tmp_path, name, mended):
    recorder = Recorder(METHODS[name])
    trainer = trained(
        tmp_path,
        options={"method": recorder},
        max_steps=4,
        logging_steps=2,
        gradient_accumulation_steps=2,
        adv_mend_loss_scaling=mended,
    )
    assert len(recorder.steps) == 8
    scale = 0.5 if mended else 1.0
    per_token = name == "fgm-tokens"
    want = {"adv_loss": [], "clean_loss": [], "delta_norm": [], "delta_relative": []}
    for half in (recorder.steps[:4], recorder.steps[4:]):
        sums = dict.fromkeys(want, 0.0)
        for step in half:
            delta, mask, x, report = step["delta"], step["mask"], step["x"], step["report"]
            if per_token:
                norm = delta.square().sum(2).sqrt().amax(1)
                free = mask.amax(2).sum(1)
                length = ((x * mask).square().sum((1, 2)) / free).sqrt()  # of a word, rms
            else:
                norm = delta.square().sum((1, 2)).sqrt()
                length = (x * mask).square().sum((1, 2)).sqrt()
            sums["delta_norm"] += float(norm.mean()) / 4
            sums["delta_relative"] += float((norm / length).mean()) / 4
            sums["adv_loss"] += scale * float(report.adversarial) / 2
            if report.clean is not None:
                sums["clean_loss"] += scale * float(report.clean) / 2
        for key, value in sums.items():
            want[key].append(value)
    if "clean" not in name and not name.startswith("fgm"):
        assert want.pop("clean_loss") == [0, 0]
        assert logged(trainer, "clean_loss") == []
    for key, values in want.items():
        assert logged(trainer, key) == pytest.approx(values, rel=1e-5), key
    assert logged(trainer, "nonfinite_share") == [0, 0]
    weight = getattr(METHODS[name], "clean_weight", 0)
    clean = logged(trainer, "clean_loss") or [0, 0]
    mixed = [
        weight * c + (1 - weight) * a
        for c, a in zip(clean, logged(trainer, "adv_loss"), strict=True)
    ]
    assert logged(trainer, "loss") == pytest.approx(mixed, rel=1e-5)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_logged_divergence_is_unweighted_and_of_a_micro_batch(tmp_path, name):
    recorder = Recorder(METHODS[name])
    trainer = trained(
        tmp_path,
        options={"method": recorder},
        max_steps=4,
        logging_steps=2,
        gradient_accumulation_steps=2,
    )
    reports = [step["report"] for step in recorder.steps]
    want = [sum(float(r.divergence) for r in half) / 4 for half in (reports[:4], reports[4:])]
    assert logged(trainer, "adv_divergence") == pytest.approx(want, rel=1e-5)
    assert min(want) > 1e-4
    losses = [sum(float(r.loss) for r in half) / 2 for half in (reports[:4], reports[4:])]
    assert logged(trainer, "loss") == pytest.approx(losses, rel=1e-5)
    if name == "smart-past":  # whose loss has a third term
        return
    beta = METHODS[name].beta * (0.5 if name == "rdrop" else 1)
    for report in reports:
        total = float(report.clean) + beta * float(report.divergence)
        assert float(report.loss) == pytest.approx(total, rel=1e-9)


def test_consistency_under_dropout_logs_no_delta_and_no_adversarial_loss(tmp_path):
    trainer = trained(tmp_path, options={"method": RDrop()})
    assert logged(trainer, "delta_norm") == logged(trainer, "adv_loss") == []
    assert len(logged(trainer, "clean_loss")) == len(logged(trainer, "adv_divergence")) == 2


def test_methods_without_a_divergence_log_none(tmp_path):
    trainer = trained(tmp_path, options={"method": METHODS["pgd-clean"]})
    assert logged(trainer, "adv_divergence") == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fgm_matrix"])
def test_the_logged_size_of_delta_is_within_epsilon(tmp_path, name):
    trainer = trained(tmp_path, adv=name, adv_epsilon=0.2)
    sizes = logged(trainer, "delta_relative")
    assert len(sizes) == 2
    if name == "freeat":
        assert sizes.pop(0) == 0  # a batch's first sight
    assert all(0 < size <= 0.2 * (1 + 1e-6) for size in sizes)
    if name in ("fgsm", "fgm", "vat"):
        assert sizes == pytest.approx([0.2, 0.2], rel=1e-6)


def test_the_matrix_method_logs_losses_alone(tmp_path):
    trainer = trained(tmp_path, adv="fgm_matrix", adv_epsilon=0.5)
    assert len(logged(trainer, "adv_loss")) == len(logged(trainer, "clean_loss")) == 2
    assert logged(trainer, "delta_norm") == []


def test_ordinary_steps_of_the_warm_up_log_nothing(tmp_path):
    trainer = trained(tmp_path, adv="fgm", adv_start_step=2, max_steps=4, logging_steps=4)
    plain = trained(tmp_path, adv="fgm", adv_start_step=2, max_steps=4, logging_steps=1)
    assert len(logged(plain, "adv_loss")) == 2
    mean = sum(logged(plain, "adv_loss")) / 2
    assert logged(trainer, "adv_loss") == pytest.approx([mean], rel=1e-5)


# Numbers that are not finite.


class _BadGradient(torch.autograd.Function):
    """The identity, whose gradient is not a number in the given examples."""

    @staticmethod
    def forward(ctx, x, bad):
        ctx.save_for_backward(bad)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        (bad,) = ctx.saved_tensors
        return grad.masked_fill(bad[:, None, None], float("nan")), None


def with_bad_gradients(word):
    """BERT with frozen embeddings, where δ gets a nan gradient in sentences that hold `word`."""
    model = tiny("bert")
    model.bert.embeddings.requires_grad_(False)
    seen = []
    words = model.bert.embeddings.word_embeddings
    words.register_forward_pre_hook(lambda module, args: seen.append((args[0] == word).any(1)))
    model.bert.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: ((_BadGradient.apply(args[0], seen[-1]), *args[1:]), kwargs),
        with_kwargs=True,
    )
    return model


@pytest.mark.parametrize(
    "name",
    [
        "fgm",
        "pgd",
        "pgd-clean",
        "freelb",
        "freelb-random",
        "yopo",
        "vat",
        "trades",
        *slowly("freelb-reuse", "tavat", "tavat-random", "smart", "awp"),
    ],
)
def test_a_gradient_that_is_no_number_is_counted_and_does_no_harm(tmp_path, name):
    data = rows(16)
    for index, row in enumerate(data):
        row["input_ids"][0] = 1 if index == 0 else 2
    recorder = Recorder(METHODS[name])
    trainer = trained(
        tmp_path,
        model=with_bad_gradients(word=1),
        data=data,
        options={"method": recorder},
        max_steps=4,
        logging_steps=4,
    )
    assert logged(trainer, "nonfinite_share") == [0.25]  # one micro-batch of four
    assert all(value.isfinite().all() for value in weights(trainer).values())
    assert all(step["delta"].isfinite().all() for step in recorder.steps)
    if "random" not in name and name not in ("smart", "trades"):  # which start at random
        still = [int((step["delta"] == 0).all(2).all(1).sum()) for step in recorder.steps]
        assert sorted(still) == [0, 0, 0, 1]  # that sentence alone stays where it was


def test_without_bad_gradients_that_model_counts_none(tmp_path):
    model = with_bad_gradients(word=1)
    data = rows(16)
    assert not any((row["input_ids"] == 1).any() for row in data)
    trainer = trained(tmp_path, model=model, data=data, options={"method": METHODS["fgm"]})
    assert logged(trainer, "nonfinite_share") == [0, 0]


@pytest.mark.parametrize(
    "name",
    ["fgm_matrix", "fgm", "freelb", "trades", "awp", *slowly("yopo", "tavat", "vat", "smart-past")],
)
def test_a_loss_that_is_no_number_is_counted(tmp_path, name):
    model = tiny("bert")
    calls = []

    def spoil(module, args, output):
        calls.append(1)
        return output * float("inf") if len(calls) == 2 else output  # behind the first look

    model.classifier.register_forward_hook(spoil)
    flags = {"max_steps": 1, "learning_rate": 0, "adv_nonfinite_steps": 0}
    trainer = trained(tmp_path, model=model, options={"method": METHODS[name]}, **flags)
    assert logged(trainer, "nonfinite_share") == [1]


# Alarms.


def alarm_after(count, *, answers=(0,), labels=(0, 1), batch=32):
    """How often the alarm warned after so many answers, looking after every batch."""
    alarm = ConstantPredictionAlarm()
    for _ in range(count // batch):
        predicted = torch.tensor(answers).repeat(batch)[:batch]
        logits = nn.functional.one_hot(predicted, 3).double()
        alarm.add(logits, torch.tensor(labels).repeat(batch)[:batch])
        alarm.check()
    return alarm


@pytest.mark.parametrize(
    ("warnings", "given"),
    [
        (0, {"count": 224}),
        (1, {"count": 256}),
        (1, {"count": 1024}),
        (0, {"count": 1024, "labels": (1,)}),
        (0, {"count": 1024, "answers": (0, 1)}),
        (1, {"count": 256, "answers": (2,), "labels": (0, 1, 2)}),
    ],
)
def test_the_alarm_for_constant_answers(caplog, warnings, given):
    with caplog.at_level(logging.WARNING, LOGGER):
        alarm = alarm_after(**given)
    assert len(caplog.messages) == warnings
    assert alarm.raised is bool(warnings)
    if warnings:
        assert f"class {given.get('answers', (0,))[0]} " in caplog.text
        assert "--adv_epsilon" in caplog.text


def test_the_alarm_starts_anew_when_an_answer_varies(caplog):
    labels = torch.tensor([0, 1]).repeat(16)
    constant, varied = torch.zeros(32, 2), torch.zeros(32, 2)
    constant[:, 0] = varied[:, 0] = varied[3, 1] = 1
    varied[3, 0] = 0
    alarm = ConstantPredictionAlarm()
    with caplog.at_level(logging.WARNING, LOGGER):
        for logits in [constant] * 7 + [varied] + [constant] * 7:
            alarm.add(logits, labels)
            alarm.check()
        assert caplog.messages == []
        alarm.add(constant, labels)
        alarm.check()
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (None, torch.zeros(300, dtype=torch.long)),
        (torch.zeros(300, 2), None),
        (torch.zeros(300, 1), torch.arange(300) % 2),  # regression
        (torch.zeros(300, 2), (torch.arange(300) % 2).double()),
        (torch.zeros(300, 4, 9), torch.arange(1200).view(300, 4) % 9),  # tokens
        (torch.zeros(300, 2), torch.arange(600).view(300, 2) % 2),  # several labels
    ],
)
def test_the_alarm_passes_over_what_is_no_classification(caplog, logits, labels):
    alarm = ConstantPredictionAlarm()
    alarm.add(logits, labels)
    alarm.check()
    assert not alarm.raised


@pytest.mark.parametrize(("steps", "warnings"), [(7, 0), (10, 1)])
def test_a_collapsed_training_raises_the_alarm_once(tmp_path, caplog, steps, warnings):
    model = tiny("bert")
    nn.init.constant_(model.classifier.bias, 0)
    model.classifier.bias.data[1] = 1e4
    with caplog.at_level(logging.WARNING, LOGGER):
        trained(
            tmp_path,
            model=model,
            data=rows(64),
            options={"method": METHODS["noise"]},
            max_steps=steps,
            per_device_train_batch_size=32,
            learning_rate=0,
        )
    found = [text for text in caplog.messages if "collapsed" in text]
    assert len(found) == warnings


@pytest.mark.parametrize(
    ("dtype", "epsilon", "warnings"),
    [
        (torch.bfloat16, 1e-3, 1),
        (torch.bfloat16, 0.03, 0),
        (torch.float32, 1e-3, 0),
    ],
)
def test_a_delta_that_rounds_away_is_announced_once(tmp_path, caplog, dtype, epsilon, warnings):
    with caplog.at_level(logging.WARNING, LOGGER):
        trained(tmp_path, model=tiny("bert").to(dtype), adv="fgm", adv_epsilon=epsilon, max_steps=3)
    assert len([text for text in caplog.messages if "rounded away" in text]) == warnings


# What is written down.


def test_every_checkpoint_holds_the_method_and_its_numbers(tmp_path):
    trainer = trained(
        tmp_path,
        adv="freelb",
        adv_epsilon=0.4,
        adv_norm="linf",
        adv_steps=2,
        adv_start_step=0.25,
        adv_ramp_steps=2,
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
    )
    trainer.save_model()
    trainer.save_model(str(tmp_path / "elsewhere"))
    want = {
        "method": "freelb",
        "norm": "linf",
        "per": "example",
        "unit": "relative",
        "epsilon": 0.4,
        "step_size": 0.2,
        "steps": 2,
        "init_magnitude": 0.2,
        "clean_weight": 0.0,
        "reuse": False,
        "start_step": 1,
        "ramp_steps": 2,
        "exclude_special_tokens": False,
    }
    for folder in ("checkpoint-2", "checkpoint-4", ".", "elsewhere"):
        found = json.loads((tmp_path / folder / "adversarial_config.json").read_text())
        assert found.pop("nlp_adv_version")
        assert found == want


def test_the_model_card_names_the_method(tmp_path):
    options = {"method": METHODS["pgd"], "compute_metrics": lambda _: {"accuracy": 0.5}}
    trainer = trained(tmp_path, options=options, max_steps=1)
    trainer.evaluate(trainer.train_dataset)
    about = {"tasks": "text-classification", "dataset_tags": "some/data", "tags": "mine"}
    for _ in range(2):  # a second card replaces the first
        trainer.create_model_card(model_name="tiny", **about)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.count("### Adversarial training") == 1
    section = text.split("### Adversarial training")[1]
    for line in ("- method: pgd", "- epsilon: 0.5", "- steps: 3", "- unit: absolute"):
        assert line in section
    assert "https://arxiv.org/abs/1706.06083" in section

    # The Hub's own reader takes the metadata, and writes it as it was.
    data = ModelCard(text).data
    assert {"mine", "nlp_adv", "adversarial-training", "pgd"} <= set(data.tags)
    assert len(data.tags) == len(set(data.tags))
    assert data.library_name == "transformers"
    read = yaml.safe_load(text.split("---\n")[1])
    name, results = model_index_to_eval_results(read["model-index"])
    assert name == "tiny"
    assert [one.metric_value for one in results] == [0.5]
    assert eval_results_to_model_index(name, results) == read["model-index"]


def test_the_card_of_a_plain_run_claims_no_adversarial_training(tmp_path):
    trainer = trained(tmp_path, adv="none", max_steps=1)
    trainer.create_model_card(model_name="tiny")
    tags = ModelCard.load(tmp_path / "README.md").data.tags
    assert "nlp_adv" in tags
    assert "adversarial-training" not in tags


# Resuming.


WARM_UP = {"adv_start_step": 1, "adv_ramp_steps": 3}
RESUMED = {
    "noise": {"adv": "noise"},
    "pgd": {"adv": "pgd", "adv_random_start": True},
    "freelb": {"adv": "freelb"},
    "freelb-accumulated": {"adv": "freelb", "gradient_accumulation_steps": 2},
    "yopo": {"adv": "yopo", "adv_random_start": True},
    "tavat": {"adv": "tavat"},
    "vat": {"adv": "vat"},
    "smart": {"adv": "smart", "adv_proximal_weight": 1.0},
    "trades": {"adv": "trades"},
    "awp": {"adv": "awp"},
    "rdrop": {"adv": "rdrop", "adv_ramp_steps": 0, "adv_epsilon": None},  # no ball, no ramp
}


@pytest.mark.parametrize(
    "name",
    [
        *("noise", "pgd", "freelb", "freelb-accumulated", "yopo", "rdrop"),
        *slowly("tavat", "vat", "smart", "trades", "awp"),
    ],
)
def test_resuming_within_an_epoch_gives_the_same_bits(tmp_path, name):
    accumulated = "gradient_accumulation_steps" in RESUMED[name]
    flags = WARM_UP | {"adv_epsilon": 0.3, "max_steps": 5} | RESUMED[name]
    flags |= {"save_strategy": "steps", "save_steps": 2}
    data = rows(64 if accumulated else 32)
    whole = trained(tmp_path, Watched, data=data, **flags)
    again = build(tmp_path, Watched, data=data, **flags)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert len(again.gradients) == 3
    assert distance(weights(again), weights(whole)) == 0
    later = whole.micro_batches[-len(again.micro_batches) :]
    assert [m.seed for m in again.micro_batches] == [m.seed for m in later]
    key = "delta_relative"
    assert logged(again, key)[-3:] == logged(whole, key)[-3:]


# The Trainer's other services.


@pytest.mark.parametrize(
    ("flags", "cost"),
    [
        ({"adv": "none"}, 1),
        ({"adv": "noise"}, 1),
        ({"adv": "fgm"}, 2),
        ({"adv": "fgm", "adv_clean_weight": 0.0}, 5 / 3),
        ({"adv": "fgm_matrix"}, 2),
        ({"adv": "pgd"}, 10 / 3),
        ({"adv": "pgd", "adv_clean_weight": 0.0}, 3),
        ({"adv": "pgd", "adv_random_start": True}, 4),
        ({"adv": "freelb", "adv_steps": 5}, 5),
        ({"adv": "freelb", "adv_start_step": 1}, 2),  # of two steps: 1 and 3
        ({"adv": "freeat"}, 1),
        ({"adv": "yopo", "adv_rounds": 4}, 4),
        ({"adv": "yopo", "adv_clean_weight": 0.5}, 4),
        ({"adv": "tavat"}, 2),
        ({"adv": "vat", "adv_steps": 2}, 10 / 3),
        ({"adv": "smart"}, 8 / 3),
        ({"adv": "smart", "adv_proximal_weight": 1.0}, 3),
        ({"adv": "trades"}, 4),
        ({"adv": "rdrop"}, 2),
        ({"adv": "awp", "adv_steps": 2}, 11 / 3),
        ({"adv": "awp", "adv_steps": 2, "adv_clean_weight": 0.0}, 10 / 3),
    ],
)
def test_floating_point_operations_count_every_pass(tmp_path, flags, cost):
    stock = trained(tmp_path, Trainer).state.total_flos
    ours = trained(tmp_path, **flags).state.total_flos
    assert stock > 0
    assert ours == pytest.approx(cost * stock, rel=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        *("pgd-clean", "freelb-random", "yopo", "smart-past"),
        *slowly("vat", "trades", "rdrop", "awp"),
    ],
)
def test_gradient_checkpointing_changes_nothing(tmp_path, name, reentrant):
    options = {"method": METHODS[name]}
    plain = trained(tmp_path, Watched, options=options)
    model = tiny("bert", dropout=0.1)
    counts = Counts(model)
    layers = []
    model.bert.encoder.layer[0].attention.register_forward_pre_hook(lambda *a: layers.append(1))
    checkpointed = trained(
        tmp_path,
        Watched,
        model=model,
        options=options,
        **{CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": reentrant}},
    )
    once = 1 + 2 * getattr(options["method"], "forward_passes", 0)  # a first look
    if name == "yopo":  # which takes the first block out of its checkpoint to watch it, or alone
        once = 1 + 2 * (METHODS[name].rounds - 1 - METHODS[name].prefix_passes)
    assert len(layers) == 2 * counts.heads - once  # layers ran again in every backward pass
    for got, want in zip(checkpointed.gradients, plain.gradients, strict=True):
        assert distance(got, want) <= EXACT


@pytest.mark.parametrize(
    "name",
    ["pgd-clean", "freelb-random", *slowly("yopo-clean", "vat", "smart-past", "awp")],
)
def test_bf16_stays_close(tmp_path, name):
    options = {"method": METHODS[name]}
    full = trained(tmp_path, Watched, model=tiny("bert").float(), options=options)
    half = trained(tmp_path, Watched, model=tiny("bert").float(), options=options, bf16=True)
    got, want = half.gradients[0], full.gradients[0]
    off = math.hypot(*(float((got[name] - want[name]).norm()) for name in want))
    assert off < 0.1 * math.hypot(*(float(value.norm()) for value in want.values()))
    assert distance(half.gradients[0], full.gradients[0]) > 0  # autocast was on
    assert logged(half, "loss") == pytest.approx(logged(full, "loss"), rel=0.03)
    assert all(parameter.dtype == torch.float32 for parameter in half.model.parameters())


@pytest.mark.fault("M6")
@pytest.mark.parametrize("seed", [0, 1, *slowly(2, 3, 4)])
def test_bf16_stays_close_at_the_delta_that_it_found(tmp_path, seed):
    """Near its start a divergence is a difference of nearly equal outputs, which bf16 rounds away.

    So its first direction may be any: δ itself is not compared. At a δ that is given the gradient
    is a smooth function; rounding is 2⁻⁸ in each of some ten operations on the way to a logit, and
    β = 6 weighs the differences: 0.04 of it at most on five seeds.
    """
    recorder = Recorder(METHODS["trades"])
    half = trained(
        tmp_path,
        Watched,
        model=tiny("bert").float(),
        options={"method": recorder},
        bf16=True,
        max_steps=1,
        max_grad_norm=0,
        seed=seed,
    )
    (micro,), (step,) = half.micro_batches, recorder.steps
    model = tiny("bert").float()
    objective = text_objective(model, micro.inputs, seed=0)
    clean, moved = objective.forward(), objective.forward(step["delta"])
    loss = clean.loss + METHODS["trades"].beta * objective.divergence(clean, moved)
    loss.backward()
    got, want = half.gradients[0], gradients(model)
    off = math.hypot(*(float((got[name] - want[name]).norm()) for name in want))
    assert 0 < off < 0.1 * math.hypot(*(float(value.norm()) for value in want.values()))
    assert logged(half, "loss") == pytest.approx([float(loss.detach())], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["fgm_matrix", "pgd-clean", "freelb-random", "tavat", "vat", "smart-past", "trades", "awp"],
)
def test_a_compiled_model_gives_the_same_losses(tmp_path, name):
    torch._dynamo.reset()
    flags = {"options": {"method": METHODS[name]}, "max_steps": 4}
    eager = trained(tmp_path, model=tiny("bert"), data=rows(padded=False), **flags)
    compiled = trained(
        tmp_path,
        model=tiny("bert"),
        data=rows(padded=False),
        torch_compile=True,
        torch_compile_backend="aot_eager",
        **flags,
    )
    for key in ("loss", "adv_loss", "delta_norm"):
        assert logged(compiled, key) == pytest.approx(logged(eager, key), rel=1e-5), key
    assert distance(weights(compiled), weights(eager)) <= 1e-9


# Special tokens.


def inputs_of_norm(model):
    """What the embedding's LayerNorm receives at each pass: words + types + positions."""
    seen = []
    model.bert.embeddings.LayerNorm.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].detach().clone())
    )
    return seen


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize(
    "name", ["noise", "fgsm", "pgd-random", "freelb-random", "tavat-random", "vat", "trades"]
)
def test_special_tokens_stay_where_they_are(tmp_path, name, excluded):
    data = rows(4)
    for row in data:
        row["input_ids"][0], row["input_ids"][4] = 2, 3  # the first and the last of five or eight
    model = tiny("bert")
    seen = inputs_of_norm(model)
    tokenizer = SimpleNamespace(all_special_ids=[0, 2, 3])
    options = {"method": METHODS[name], "processing_class": tokenizer}
    trainer = trained(
        tmp_path,
        Watched,
        model=model,
        data=data,
        options=options,
        max_steps=1,
        adv_exclude_special_tokens=excluded,
    )
    passes = len(seen)
    inputs = trainer.micro_batches[0].inputs
    fresh = tiny("bert")
    clean = inputs_of_norm(fresh)
    fresh(**inputs)
    ids, padding = inputs["input_ids"], inputs["attention_mask"] == 0
    special = torch.isin(ids, torch.tensor([2, 3]))
    still = padding | special if excluded else padding
    assert int(special.sum()) == 8
    assert passes == 1 + METHODS[name].passes + METHODS[name].inner_passes  # a first look
    moved = seen[-1] != clean[0]
    assert not moved[still].any()
    assert moved[~still].any(1).all()


def test_the_configuration_says_that_special_tokens_are_excluded(tmp_path):
    tokenizer = SimpleNamespace(all_special_ids=[2], save_pretrained=lambda folder: None)
    trainer = trained(
        tmp_path,
        options={"method": METHODS["fgm"], "processing_class": tokenizer},
        max_steps=1,
        adv_exclude_special_tokens=True,
    )
    trainer.save_model()
    found = json.loads((tmp_path / "adversarial_config.json").read_text())
    assert found["exclude_special_tokens"] is True


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")  # peft reads it
def test_adapters(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    model = peft.get_peft_model(tiny("bert"), config)
    trainer = trained(tmp_path, model=model, adv="freelb", adv_epsilon=0.2)
    assert all(0 < size <= 0.2 * (1 + 1e-6) for size in logged(trainer, "delta_relative"))
    assert hooks(model) == 0
