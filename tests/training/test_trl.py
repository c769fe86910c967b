"""trl's SFTTrainer, DPOTrainer and RewardTrainer under the mixin, plainly and with LoRA."""

from dataclasses import replace

import pytest
import torch
from tiny_training import (
    METHODS,
    Call,
    assert_one_sentence,
    distance,
    logged,
    slowly,
    still_starts,
    weights,
)
from torch.nn.utils.rnn import pad_sequence
from transformers import HfArgumentParser

pytest.importorskip("trl")
pytest.importorskip("peft")

import trl
from tiny_trl import (
    ADVERSARIAL,
    CASES,
    DoubleHead,
    Heard,
    build,
    gradients,
    left_behind,
    tiny,
)

from nlp_adv import AdversarialArguments, UserError

# trl sets the one and peft reads the other, by the names of old.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

FREELB = {"adv": "freelb", "adv_steps": 3}
EPSILON, ALPHA, STEPS = 0.5, 0.2, 3  # of METHODS
STILL = {"learning_rate": 0.0, "max_steps": 1, "max_grad_norm": 0}  # the model stays as it is
SOME = ("sft", "sft-lora-checkpointing", "dpo-lora", "reward")


PACKED = ("sft-padding-free", "sft-packing")  # several texts a row


def cases(*fast):
    """Those of one text a row; what is not named runs with the slow tests."""
    rest = [name for name in CASES if name not in (*fast, *PACKED)]
    return [*fast, *slowly(*rest)]


def trained(folder, case, **given):
    trainer = build(folder, case, **given)
    trainer.train()
    return trainer


class Naive:
    """Loss and gradient at E + δ: a hook that adds, the model's own logits, the loss by hand."""

    def __init__(self, trainer, case, heard):
        self.model, self.case = trainer.model, case
        self.batch, self.state = heard.batch, heard.state
        self.embedding = next(m for n, m in trainer.model.named_modules() if n.endswith("wte"))
        rows, columns = self.batch["input_ids"].shape
        width = self.embedding.embedding_dim
        self.mask = self.moves()[..., None].double()
        self.zero = torch.zeros(rows, columns, width, dtype=torch.float64)

    def moves(self):
        """Where there is a prompt, δ moves on it alone."""
        real, labels = self.batch["attention_mask"], self.batch.get("labels")
        if "completion_mask" in self.batch:
            return real - self.batch["completion_mask"]
        outside = None if labels is None else real * (labels == -100)
        return real if outside is None or not outside[:, 1:].any() else outside

    def loss(self, delta):
        return self.run(delta)[0]

    def run(self, delta):
        def add(module, args, output):
            return output + delta * self.mask

        torch.set_rng_state(self.state)  # the same dropout masks
        handle = self.embedding.register_forward_hook(add)
        given = {k: self.batch[k] for k in ("input_ids", "attention_mask")}
        try:
            logits = self.model(**given, use_cache=False).logits
        finally:
            handle.remove()
        return self.case.loss(logits, self.batch), logits

    def ascent(self, delta, loss=None):
        """One projected step along the row's gradient."""
        leaf = delta.clone().requires_grad_()
        value = self.loss(leaf) if loss is None else loss(leaf)
        (grad,) = torch.autograd.grad(value, leaf)
        norm = grad.flatten(1).norm(dim=1)[:, None, None]
        moved = delta + self.size * grad / norm
        length = moved.flatten(1).norm(dim=1)[:, None, None]
        return moved * (EPSILON / length).clamp(max=1)

    def gradient(self, adv):
        """∇θ of one step of the method, by its formula."""
        self.model.train()
        self.model.zero_grad()
        getattr(self, adv)()
        return gradients(self.model)

    def fgm(self):
        self.size = EPSILON
        self.add(0.5, self.zero)
        self.add(0.5, self.ascent(self.zero))

    def pgd(self):
        self.size, delta = ALPHA, self.zero
        for _ in range(STEPS):
            delta = self.ascent(delta)
        self.add(1.0, delta)

    def freelb(self):
        self.size, delta = ALPHA, self.zero
        for _ in range(STEPS):
            self.add(1 / STEPS, delta)
            delta = self.ascent(delta)

    def trades(self):
        self.size = ALPHA
        start = 0.05 * self.embedding(self.batch["input_ids"]).detach().sin() * self.mask
        clean, answer = self.run(self.zero)

        def moved(delta, answer):
            return (answer - self.run(delta)[1]).square().mean()

        delta = start
        for _ in range(2):
            delta = self.ascent(delta, lambda leaf: moved(leaf, answer.detach()))
        (clean + 6.0 * moved(delta, answer)).backward()

    def add(self, weight, delta):
        (weight * self.loss(delta)).backward()


@pytest.mark.fault("T6")
@pytest.mark.parametrize("name", cases(*SOME))
@pytest.mark.parametrize("adv", ["fgm", "pgd", "freelb"])
def test_a_step_is_the_formulas(tmp_path, name, adv, monkeypatch):
    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", DoubleHead)
    case = CASES[name]
    trainer = build(tmp_path, case, options={"method": METHODS[adv]}, **STILL)
    heard = Heard(trainer)
    trainer.train()
    assert not left_behind(trainer.model)
    assert logged(trainer, "delta_norm")[0] > 0.1
    naive = Naive(trainer, case, heard)
    assert distance(heard.gradient, naive.gradient(adv)) < 1e-10
    naive.model.zero_grad()
    naive.add(1.0, naive.zero)
    assert distance(heard.gradient, gradients(naive.model)) > 1e-4


def unpacked(batch):
    """Each text of the packed rows in a row of its own."""
    starts = batch["position_ids"].flatten() == 0
    lengths = torch.diff(torch.cat([starts.nonzero().flatten(), torch.tensor([len(starts)])]))
    ids, labels = (batch[key].flatten().split(lengths.tolist()) for key in ("input_ids", "labels"))
    ones = [torch.ones_like(row) for row in ids]
    fills = {"input_ids": (ids, 0), "labels": (labels, -100), "attention_mask": (ones, 0)}
    return {key: pad_sequence(rows, True, fill) for key, (rows, fill) in fills.items()}


@pytest.mark.fault("T10")
@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("adv", [*slowly("fgm", "pgd"), "freelb"])
def test_packed_texts_are_trained_as_padded_ones(tmp_path, name, adv, monkeypatch):
    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", DoubleHead)
    case = CASES[name]
    trainer = build(tmp_path, case, options={"method": METHODS[adv]}, **STILL)
    switch_dropout_off(trainer.model)  # other rows draw other masks
    heard = Heard(trainer)
    trainer.train()
    packed, heard.batch = heard.batch, unpacked(heard.batch)
    assert len(heard.batch["input_ids"]) > len(packed["input_ids"])
    naive = Naive(trainer, case, heard)
    assert distance(heard.gradient, naive.gradient(adv)) < 1e-10


@pytest.mark.fault("T6")
@pytest.mark.parametrize("name", ["sft", *slowly("sft-lora", "dpo", "dpo-lora")])
def test_a_step_with_trls_own_kernel_is_the_formulas_in_float32(tmp_path, name):
    case = CASES[name]
    trainer = build(tmp_path, case, options={"method": METHODS["freelb"]}, **STILL)
    heard = Heard(trainer)
    trainer.train()
    assert distance(heard.gradient, Naive(trainer, case, heard).gradient("freelb")) < 1e-4


@pytest.mark.fault("T6")
@pytest.mark.parametrize("name", ["reward", "reward-lora"])
def test_rewards_are_outputs_that_can_be_compared(tmp_path, name, monkeypatch):
    still_starts(monkeypatch)
    case, method = CASES[name], METHODS["trades"]
    trainer = build(tmp_path, case, options={"method": method}, **STILL)
    heard = Heard(trainer)
    trainer.train()
    assert distance(heard.gradient, Naive(trainer, case, heard).gradient("trades")) < 1e-10


@pytest.mark.fault("T6")
@pytest.mark.filterwarnings("ignore:.return_outputs=True:FutureWarning")
@pytest.mark.parametrize("adv", ["trades", "rdrop", *slowly("vat", "smart")])
@pytest.mark.parametrize("name", ["sft", "dpo-lora"])
def test_logits_without_a_gradient_are_refused(tmp_path, name, adv):
    case = CASES[name]
    trainer = build(tmp_path, case, adv=adv)
    before = weights(trainer)
    with pytest.raises(UserError, match=r"Adversarial\w+\.compute_loss .* no gradient") as caught:
        trainer.train()
    assert_one_sentence(caught.value)
    assert distance(weights(trainer), before) == 0


@pytest.mark.fault("T6")
@pytest.mark.parametrize("name", cases(*SOME))
def test_without_an_attack_it_is_the_stock_trainer_bit_for_bit(tmp_path, name):
    got, want = (trained(tmp_path, CASES[name], stock=stock, adv="none") for stock in (0, 1))
    assert distance(weights(got), weights(want)) == 0
    same = {"loss", "grad_norm", "num_tokens", "entropy", "rewards/margins", "mean_reward"}
    for mine, stock in zip(got.state.log_history, want.state.log_history, strict=True):
        assert {k: v for k, v in mine.items() if k in same or k not in TIMES} == {
            k: v for k, v in stock.items() if k not in TIMES
        }


TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second")


@pytest.mark.fault("T28")
@pytest.mark.parametrize("name", cases("sft", "sft-packing", "dpo-lora", "reward"))
@pytest.mark.parametrize("adv", ["fgm", "pgd", "freelb"])
def test_metrics_count_once(tmp_path, name, adv):
    counts = {}
    for stock in (True, False):
        # Of two micro-batches a step, so that lists have two entries.
        flags = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "adv": adv}
        trainer = build(tmp_path, CASES[name], stock=stock, **flags)
        lengths = []

        def look(state, trainer=trainer, lengths=lengths):
            metrics = trainer._metrics["train"]
            lengths.append({key: len(values) for key, values in metrics.items()})

        trainer.add_callback(Call("on_step_end", look))
        trainer.train()
        counts[stock] = lengths, logged(trainer, "num_tokens"), trainer._total_train_tokens
    assert counts[True] == counts[False]
    lengths, tokens, total = counts[True]
    assert tokens[-1] == total > tokens[0] > 0
    assert 2 in lengths[0].values()


@pytest.mark.fault("T6")
@pytest.mark.parametrize("name", ["dpo", "dpo-lora"])
@pytest.mark.parametrize("adv", ["pgd", "freelb"])
def test_a_live_reference_sees_the_clean_embedding(tmp_path, name, adv):
    kept = CASES[name]
    live = replace(kept, flags=kept.flags | {"precompute_ref_log_probs": False})
    want, got = (_without_dropout(tmp_path, case, adv=adv) for case in (kept, live))
    assert logged(got, "delta_norm") == pytest.approx(logged(want, "delta_norm"), rel=1e-6)
    # Log-probabilities are kept in float32, and Adam's first steps show their signs alone.
    for mine, other in zip(logged(got, "grad_norm"), logged(want, "grad_norm"), strict=True):
        assert mine == pytest.approx(other, rel=1e-4)


def _without_dropout(folder, case, **flags):
    """A live reference is computed in the midst of a step, under other masks."""
    reference = None if case.lora else tiny("CausalLM")
    trainer = build(folder, case, options={"ref_model": reference}, **flags)
    for model in (trainer.model, reference):
        if model is not None:
            switch_dropout_off(model)
    trainer.train()
    return trainer


def switch_dropout_off(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


@pytest.mark.fault("T6")
@pytest.mark.parametrize("config", [trl.SFTConfig, trl.DPOConfig, trl.RewardConfig])
def test_the_flags_stand_beside_trls(config, tmp_path):
    (arguments,) = (flags for flags, _ in ADVERSARIAL.values() if issubclass(flags, config))
    words = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false", "--max_length", "7"]
    words += ["--adv", "freelb", "--adv_steps", "2", "--adv_epsilon", "0.1"]
    (args,) = HfArgumentParser(arguments).parse_args_into_dataclasses(words)
    assert isinstance(args, AdversarialArguments)
    assert isinstance(args, config)
    assert args.max_length == 7
    method = args.adversarial_schedule().method
    assert (method.name, method.passes) == ("freelb", 2)


@pytest.mark.fault("T6")
def test_a_card_and_a_configuration_are_saved_beside_an_adapter(tmp_path):
    trainer = trained(tmp_path, CASES["dpo-lora"], save_strategy="steps", save_steps=1, **FREELB)
    trainer.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-1"):
        assert (folder / "adversarial_config.json").is_file()
        assert (folder / "adapter_model.safetensors").is_file()
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.count("dversarial training") >= 1
