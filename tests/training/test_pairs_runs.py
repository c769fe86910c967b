"""Methods that read completions in Trainers: the plain one, SFTTrainer and DPOTrainer with LoRA."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from models import assert_gradients
from tiny_training import distance, logged, weights

pytest.importorskip("trl")
pytest.importorskip("peft")

import peft
from tiny_trl import AdversarialDPO, AdversarialSFT, DPOFlags, SFTFlags, gradients, tiny, tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from nlp_adv import AdversarialTrainer, AdversarialTrainingArguments, UserError
from nlp_adv.columns import ADV_ROWS, CHOSEN, COMPLETION_MASK, REJECTED, UTILITY
from nlp_adv.data.pairs import PairCollator, with_utility
from nlp_adv.methods import CAPO, CAT, Scaled
from nlp_adv.perturbation import L2Ball

sys.path.append(str(Path(__file__).parents[1] / "parity"))
import reference_completions as reference

pytestmark = [
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

LLAMA = {"vocab_size": 44, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
LLAMA |= {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
STILL = {"learning_rate": 0.0, "max_grad_norm": 0.0}
SIZES = {"epsilon": 0.4, "alpha": 0.15, "steps": 4}


def data(count=4):
    """Pairs with two utility rows beside each; words of the tiny tokenizer."""
    generator = torch.Generator().manual_seed(1)

    def words(length):
        numbers = torch.randint(40, (length,), generator=generator).tolist()
        return " ".join(f"w{number}" for number in numbers)

    pairs = [
        {"prompt": words(2 + i % 3), "chosen": words(1 + i % 2), "rejected": words(2 + i % 2)}
        for i in range(count)
    ]
    useful = [{"prompt": words(2), "completion": words(4)} for _ in range(3)]
    return pairs, useful


class Heard(TrainerCallback):
    """The batches that came, and the first step's gradient."""

    def __init__(self, trainer):
        self.batches, self.gradient = [], {}
        prepare = type(trainer)._prepare_inputs.__get__(trainer)

        def prepared(inputs):
            made = prepare(inputs)
            pairs = trainer._pairs or inputs
            self.batches.append({key: value.clone() for key, value in pairs.items()})
            return made

        trainer._prepare_inputs = prepared
        trainer.add_callback(self)

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.gradient = self.gradient or gradients(model)


def adversarial(kind, folder, method=None, *, lora=True, rows=None, collator=None, **flags):
    """A Trainer of pairs; without dropout, which the loop would draw in another order."""
    given = {"output_dir": str(folder), "per_device_train_batch_size": 4, "max_steps": 1}
    given |= {"save_strategy": "no", "report_to": "none", "use_cpu": True, "logging_steps": 1}
    given |= {"disable_tqdm": True, **STILL}
    model = tiny("CausalLM")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.manual_seed(3)
    adapter = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], init_lora_weights=False
    )
    pairs, useful = data()
    rows = Dataset.from_list(with_utility(pairs, useful, each=2)) if rows is None else rows
    options = {"model": model, "train_dataset": rows, "method": method}
    options["data_collator"] = collator or PairCollator(tokenizer(), chat=False)
    if kind == "plain":
        options["model"] = peft.get_peft_model(model, adapter) if lora else model
        args = AdversarialTrainingArguments(**{**given, **flags})
        return AdversarialTrainer(args=args, **options)
    given |= {"bf16": False, "gradient_checkpointing": False}
    options |= {"processing_class": tokenizer(), "peft_config": adapter if lora else None}
    if kind == "sft":
        given |= {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False}
        return AdversarialSFT(args=SFTFlags(**{**given, **flags}), **options)
    del options["data_collator"]
    given |= {"precompute_ref_log_probs": True, "loss_type": "ipo"}
    options["ref_model"] = None if lora else tiny("CausalLM")
    return AdversarialDPO(args=DPOFlags(**{**given, **flags}), **options)


def groups(batch):
    found = []
    for number in (REJECTED, CHOSEN, UTILITY):
        kept = batch[ADV_ROWS] == number
        rows = {key: batch[key][kept] for key in ("input_ids", "attention_mask")}
        labels = rows["input_ids"].masked_fill(batch[COMPLETION_MASK][kept] == 0, -100)
        found.append(rows | {"labels": labels})
    return found


@pytest.mark.parametrize("kind", ["plain", "sft"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_cat_is_a_naive_loop(tmp_path, kind, lora):
    method = Scaled(CAT(L2Ball(0.4, "token"), 0.15, 4), "relative")
    trainer = adversarial(kind, tmp_path, method, lora=lora)
    heard = Heard(trainer)
    trainer.train()
    (batch,) = heard.batches
    assert (batch[ADV_ROWS] == UTILITY).sum() == 8
    trainer.model.zero_grad()
    want = reference.cat(trainer.model, *groups(batch), **SIZES, relative=True)
    assert_gradients(heard.gradient, gradients(trainer.model))
    assert logged(trainer, "loss")[0] == pytest.approx(float(want), abs=1e-4)
    assert 0.3 < logged(trainer, "delta_relative")[0] < 0.400001
    for name in ("rejected", "chosen", "chosen_clean", "utility"):
        assert logged(trainer, f"{name}_loss")[0] > 0


def preferred(batch):
    """[chosen | rejected], as trl's collator has them."""
    found = []
    halves = {key: batch[key].chunk(2) for key in ("input_ids", "attention_mask", COMPLETION_MASK)}
    for place in (1, 0):
        rows = {key: value[place] for key, value in halves.items()}
        labels = rows["input_ids"].masked_fill(rows.pop(COMPLETION_MASK) == 0, -100)
        found.append(rows | {"labels": labels})
    return found


@pytest.mark.parametrize("precomputed", [True, False])
def test_capo_in_a_dpo_trainer_is_a_naive_loop(tmp_path, precomputed):
    """The reference is the model without its adapter, at the clean prompts."""
    pairs, _ = data()
    method = CAPO(L2Ball(0.4, "token"), 0.15, 4)
    flags = {"precompute_ref_log_probs": precomputed}
    trainer = adversarial("dpo", tmp_path, method, rows=Dataset.from_list(pairs), **flags)
    heard = Heard(trainer)
    trainer.train()
    (batch,) = heard.batches
    before = tiny("CausalLM").eval()
    trainer.model.zero_grad()
    want = reference.capo(trainer.model, before, *preferred(batch), None, **SIZES)
    assert_gradients(heard.gradient, gradients(trainer.model))
    assert logged(trainer, "loss")[0] == pytest.approx(float(want), abs=1e-4)
    assert logged(trainer, "preference_loss")[0] == pytest.approx(float(want), rel=1e-5)


def test_capo_without_an_adapter_compares_with_trls_own_reference(tmp_path):
    pairs, _ = data()
    method = CAPO(L2Ball(0.4, "token"), 0.15, 4)
    flags = {"precompute_ref_log_probs": False, "lora": False}
    trainer = adversarial("dpo", tmp_path, method, rows=Dataset.from_list(pairs), **flags)
    for parameter in trainer.ref_model.parameters():
        parameter.data *= 0.7
    heard = Heard(trainer)
    trainer.train()
    trainer.model.zero_grad()
    halves = preferred(heard.batches[0])
    reference.capo(trainer.model, trainer.ref_model, *halves, None, **SIZES)
    assert_gradients(heard.gradient, gradients(trainer.model))


def test_micro_batches_equal_the_whole_batch(tmp_path):
    """Every row brings its utility rows, so that each micro-batch is made up alike."""
    found = []
    for size in (4, 2, 1):
        flags = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size}
        trainer = adversarial("plain", tmp_path, CAT(L2Ball(0.4, "token"), 0.15, 3), **flags)
        heard = Heard(trainer)
        trainer.train()
        found.append(heard.gradient)
    for other in found[1:]:
        assert_gradients(other, found[0])


@pytest.mark.parametrize("kind", ["plain", "sft"])
def test_without_an_attack_chosen_and_utility_rows_are_learnt(tmp_path, kind):
    trainer = adversarial(kind, tmp_path, adv="none", lora=False)
    heard = Heard(trainer)
    trainer.train()
    (batch,) = heard.batches
    _, chosen, utility = groups(batch)
    trainer.model.zero_grad()
    parts = [
        -reference.log_probabilities(trainer.model, rows)[rows["labels"][:, 1:] != -100]
        for rows in (chosen, utility)
    ]
    torch.cat(parts).mean().backward()
    assert_gradients(heard.gradient, gradients(trainer.model), atol=1e-6)


def test_the_registry_trains_by_flags_and_says_so(tmp_path):
    flags = {"adv": "cat", "adv_epsilon": 0.1, "adv_steps": 2, "max_steps": 2}
    trainer = adversarial("plain", tmp_path, learning_rate=1e-3, max_grad_norm=1.0, **flags)
    trainer.train()
    trainer.save_model()
    text = (tmp_path / "adversarial_config.json").read_text(encoding="utf-8")
    assert '"method": "cat"' in text
    assert '"span": "prompt"' in text
    assert len(logged(trainer, "rejected_loss")) == 2


@pytest.mark.parametrize(
    ("site", "written", "parts"),
    [(None, "embedding,layer:0,layer:1", 3), ("layer:1", "layer:1", 1)],
)
@pytest.mark.parametrize("kind", ["plain", "sft"])
def test_lat_enters_the_embeddings_and_blocks_unless_it_is_told(
    tmp_path, kind, site, written, parts
):
    flags = {"adv": "lat", "adv_steps": 2, "adv_site": site, "adv_epsilon": 0.2}
    trainer = adversarial(kind, tmp_path, save_steps=1, **flags)
    seen = []
    make = trainer._objective

    def made(*args, **kwargs):
        seen.append(make(*args, **kwargs))
        return seen[-1]

    trainer._objective = made
    trainer.train()
    trainer.save_model()
    columns = seen[0].mask.shape[1]
    assert columns == parts * seen[0].run_groups.__wrapped__.__self__.labels.shape[1]
    text = (tmp_path / "adversarial_config.json").read_text(encoding="utf-8")
    assert f'"site": "{written}"' in text
    assert logged(trainer, "delta_relative")[0] == pytest.approx(0.2 * 2.5 / 8, rel=0.2)


def test_a_batch_without_a_pair_trains_on_its_utility_rows(tmp_path):
    _, useful = data()
    rows = Dataset.from_list(useful + useful[:1])
    trainer = adversarial("plain", tmp_path, CAT(L2Ball(0.4, "token"), 0.1, 2), rows=rows)
    heard = Heard(trainer)
    trainer.train()
    trainer.model.zero_grad()
    reference.cross_entropy(trainer.model, groups(heard.batches[0])[2]).mean().backward()
    assert_gradients(heard.gradient, gradients(trainer.model))


@pytest.mark.parametrize("kind", ["plain", "sft"])
def test_an_evaluation_is_of_the_rows_that_are_learnt(tmp_path, kind):
    pairs, useful = data()
    trainer = adversarial(kind, tmp_path, adv="cat", adv_steps=2, lora=False)
    trainer.train()
    rows = Dataset.from_list(with_utility(pairs, useful, each=2))
    got = trainer.evaluate(rows)["eval_loss"]
    _, chosen, utility = groups(trainer.data_collator(list(rows)))
    model = trainer.model.eval()
    parts = [
        -reference.log_probabilities(model, one)[one["labels"][:, 1:] != -100]
        for one in (chosen, utility)
    ]
    assert got == pytest.approx(float(torch.cat(parts).mean()), rel=1e-5)


@pytest.mark.parametrize("adv", ["cat", "lat"])
def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path, adv):
    flags = {"adv": adv, "adv_steps": 2, "learning_rate": 1e-2, "max_steps": 4, "lora": False}
    flags |= {"per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2}
    whole = adversarial("plain", tmp_path, **flags)
    whole.train()
    again = adversarial("plain", tmp_path / "again", **flags)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert distance(weights(again), weights(whole)) == 0


def test_smoothed_labels_would_change_nothing_and_are_refused(tmp_path):
    trainer = adversarial("plain", tmp_path, adv="cat", label_smoothing_factor=0.1)
    with pytest.raises(UserError, match="makes its losses of completions by itself"):
        trainer.train()


def test_data_without_pairs_are_refused(tmp_path):
    rows = Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}] * 4)
    trainer = adversarial("plain", tmp_path, adv="cat", rows=rows, collator=torch_rows)
    with pytest.raises(UserError, match="columns prompt, chosen and rejected"):
        trainer.train()


def torch_rows(features):
    return {key: torch.tensor([row[key] for row in features]) for key in ("input_ids", "labels")}


def test_the_pages_example_runs(tmp_path):
    """The code of docs/howto/language_models.md, on a tiny model and with a short adapter."""
    page = (Path(__file__).parents[2] / "docs" / "howto" / "language_models.md").read_text(
        encoding="utf-8"
    )
    (code,) = (
        one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "LoraConfig" in one
    )
    more = "use_cpu=True, bf16=False, max_steps=1, report_to='none', save_strategy='no',"
    code = code.replace('output_dir="out",', f'output_dir="{tmp_path}", {more}')
    pairs, useful = data()
    model = LlamaForCausalLM(LlamaConfig(**LLAMA))
    given = {"model": model, "pairs": pairs, "conversations": useful, "tokenizer": tokenizer()}
    namespace = {"__name__": "page", **given}
    sys.modules["page"] = types.ModuleType("page")  # where dataclasses look for names
    try:
        exec(code, namespace)
    finally:
        del sys.modules["page"]
    assert namespace["trainer"].state.global_step == 1
