"""`nlp-adv train --modality chat`: the invented language, models and pairs of one's own."""

import json
import sys

import pytest
import torch
from commands import BRIEF, call, columns, refused, refused_last, typed, write
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    set_seed,
)

from nlp_adv import AdversarialTrainer, AdversarialTrainingArguments
from nlp_adv.data import chat_demo
from nlp_adv.data.pairs import PairCollator, with_utility

pytestmark = [
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

QUICK = {"modality": "chat", "report_to": "none", "disable_tqdm": True}
ATTACK = {"attacks": "pgd", "attack_steps": 2, "attack_epsilons": 0.1, "refusals": "sorry"}
ONE_UTILITY = {"utility_each": 1}


def tiny(tokenizer, **more):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 64, **more}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ids))


def pairs(count=6):
    asked = chat_demo.requests(chat_demo.FORBIDDEN, count, 0)
    return [
        {"prompt": row["prompt"], "chosen": chat_demo.REFUSAL, "rejected": row["target"]}
        for row in asked
    ]


def useful(count=4):
    rows = chat_demo.requests(chat_demo.THINGS, count, 0)
    return [{"prompt": row["prompt"], "completion": row["target"]} for row in rows]


@pytest.fixture
def folder(tmp_path):
    tokenizer = chat_demo.chat_tokenizer()
    tiny(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path


@pytest.fixture
def given(folder):
    """Flags of a short run on a model and pairs of one's own."""
    return {
        **BRIEF,
        **QUICK,
        "model_name_or_path": folder / "model",
        "train_file": write(folder / "pairs.jsonl", pairs()),
        "utility_file": write(folder / "useful.jsonl", useful()),
        "output_dir": folder / "out",
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "max_seq_length": 64,
        **ONE_UTILITY,
    }


def weights(path):
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_demo_trains_plainly_and_with_cat_and_attacks_both(tmp_path, monkeypatch):
    monkeypatch.setattr(chat_demo, "_BASE_STEPS", 2)
    out = tmp_path / "out"
    sizes = {"max_steps": 1, "attack_examples": 3, "max_eval_samples": 4, "gcg_steps": 1}
    sizes |= {"max_train_samples": 20, "attack_steps": 3}
    run = call(**QUICK, **sizes, output_dir=out, per_device_train_batch_size=2)
    assert run.code == 0, run.err
    plain, cat = columns(run)
    assert (plain["training"], cat["training"]) == ("plain", "cat")
    wanted = {"benign answered", "benign refused", "refused clean", "gcg", "any attack"}
    wanted |= {f"pgd ε={one:g}" for one in chat_demo.EPSILONS}
    wanted |= {f"latent ε={one:g}" for one in chat_demo.LAYER_EPSILONS}
    assert wanted <= set(cat)
    assert "say nothing about real models" in run.out
    report = json.loads((out / "nlp_adv_report.json").read_text())
    assert report["modality"] == "chat"
    assert report["synthetic_data"] is True
    assert [one["method"] for one in report["runs"]] == ["none", "cat"]
    assert report["runs"][1]["rates"]["benign refused"] == [0, 4]
    assert json.loads((out / "adversarial_config.json").read_text())["epsilon"] == 0.3
    assert AutoTokenizer.from_pretrained(out).chat_template


def test_none_alone_is_the_plain_run_of_the_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(chat_demo, "_BASE_STEPS", 1)
    sizes = {"max_steps": 1, "attack_examples": 2, "max_eval_samples": 2, "attacks": "pgd"}
    sizes |= {"max_train_samples": 20}
    run = call(**QUICK, **sizes, output_dir=tmp_path / "out", adv="none", attack_steps=1)
    assert run.code == 0, run.err
    assert [row["training"] for row in columns(run)] == ["plain"]


def test_the_demo_trains_what_the_recipe_trains(tmp_path, monkeypatch):
    """The same rows, base and seeds through the Python API give the same weights."""
    monkeypatch.setattr(chat_demo, "_BASE_STEPS", 2)
    sizes = {"max_steps": 2, "per_device_train_batch_size": 3}
    more = {"attack_examples": 1, "max_eval_samples": 1, "attacks": "pgd", "attack_steps": 1}
    more |= {"max_train_samples": 20}
    run = call(**QUICK, **sizes, **more, output_dir=tmp_path / "out", seed=3)
    assert run.code == 0, run.err
    tokenizer = chat_demo.chat_tokenizer()
    collator = PairCollator(tokenizer, max_length=chat_demo.MAX_LENGTH)
    for name, flags in {"plain": {}, ".": {"adv": "cat", **chat_demo.INNER_LOOP}}.items():
        model = chat_demo.base_model(tokenizer, collator, 3)
        set_seed(3)
        args = AdversarialTrainingArguments(
            output_dir=str(tmp_path / "other"),
            **chat_demo.TRAINING | sizes | flags,
            remove_unused_columns=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=3,
        )
        rows = chat_demo.training_rows(3)[:20]
        AdversarialTrainer(model, args, train_dataset=rows, data_collator=collator).train()
        assert same(model.state_dict(), weights(tmp_path / "out" / name))


@pytest.mark.parametrize("adv", ["cat", "lat", "freelb", "none"])
def test_pairs_of_ones_own_train_as_in_the_python_api(folder, given, adv):
    run = call(**given, adv=adv, seed=5)
    assert run.code == 0, run.err
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    set_seed(5)
    kept = {name: value for name, value in BRIEF.items() if name not in ("max_steps",)}
    args = AdversarialTrainingArguments(
        output_dir=str(folder / "other"),
        **kept | {"per_device_train_batch_size": 2, "report_to": []},
        max_steps=2,
        adv=adv,
        remove_unused_columns=False,
        use_cpu=True,
        seed=5,
    )
    rows = with_utility(pairs(), useful(), each=1, seed=5)
    collator = PairCollator(tokenizer, max_length=64)
    AdversarialTrainer(model, args, train_dataset=rows, data_collator=collator).train()
    found = weights(folder / "out")
    assert same(model.state_dict(), found)
    assert not same(weights(folder / "model"), found)
    said = json.loads((folder / "out" / "adversarial_config.json").read_text())
    assert said["method"] == adv
    assert said.get("span") == (None if adv == "none" else "prompt")


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(folder, given):
    steps = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "adv": "cat"}
    whole = call(**given | steps)
    assert whole.code == 0, whole.err
    (folder / "out" / "model.safetensors").unlink()
    (folder / "out" / "checkpoint-4").rename(folder / "elsewhere")
    again = call(**given | steps, resume_from_checkpoint="last")
    assert again.code == 0, again.err
    assert "resumed" in again.out
    assert same(weights(folder / "elsewhere"), weights(folder / "out"))


def test_conversations_and_validation_rows_and_accumulation(folder, given):
    def talk(*said):
        roles = ("user", "assistant")
        return [{"role": roles[i % 2], "content": one} for i, one in enumerate(said)]

    rows = [
        {
            "chosen": talk(row["prompt"], row["chosen"]),
            "rejected": talk(row["prompt"], row["rejected"]),
        }
        for row in pairs(4)
    ]
    talks = [{"messages": talk(row["prompt"], row["completion"])} for row in useful()]
    given |= {
        "train_file": write(folder / "talks.jsonl", rows),
        "utility_file": write(folder / "talks_useful.jsonl", talks),
        "validation_file": write(folder / "validation.jsonl", rows[:2]),
        "gradient_accumulation_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 1,
    }
    run = call(**given, adv="cat")
    assert run.code == 0, run.err
    (row,) = columns(run)
    assert float(row["perplexity"]) > 1


def test_an_adapter_is_trained_saved_and_attacked(folder, given):
    peft = pytest.importorskip("peft")
    asked = [{"prompt": row["prompt"], "target": row["rejected"]} for row in pairs(3)]
    given |= {
        "prompts_file": write(folder / "asked.jsonl", asked),
        "benign_file": write(folder / "benign.jsonl", useful(2)),
        "gradient_checkpointing": True,
        **ATTACK,
    }
    run = call(**given, adv="cat", lora=True, lora_rank=4)
    assert run.code == 0, run.err
    (row,) = columns(run)
    assert {"benign refused", "refused clean", "pgd ε=0.1"} <= set(row)
    config = peft.PeftConfig.from_pretrained(folder / "out")
    assert config.r == 4
    trained = AutoModelForCausalLM.from_pretrained(folder / "out").state_dict()
    assert any("lora_B" in name and bool(one.any()) for name, one in trained.items())
    found = typed(
        "attack",
        modality="chat",
        model_name_or_path=folder / "out",
        prompts_file=given["prompts_file"],
        output_dir=folder / "attacked",
        device="cpu",
        attacks="pgd",
        refusals="sorry",
        steps=2,
        epsilons=0.1,
    )
    assert found.code == 0, found.err


def test_a_method_that_compares_with_the_model_before_trains_an_adapter(folder, given):
    peft = pytest.importorskip("peft")
    run = call(**given, adv="capo")
    assert run.code == 0, run.err
    assert peft.PeftConfig.from_pretrained(folder / "out").r == 64
    given["output_dir"] = folder / "again"
    refused(call(**given, adv="capo", lora=False), "without its adapter", "--lora false")


def test_rr_changes_its_weights_over_the_run_as_the_paper_does(folder, given):
    pytest.importorskip("peft")
    first = {"away_weight": 10, "utility_weight": 0, "refusal_weight": 0}
    linear = ",".join(f"{name}={value}" for name, value in first.items())
    given |= {"max_steps": 3, "logging_steps": 1, "lora_rank": 4}
    run = call(**given, adv="rr", adv_layers="0", adv_linear=linear)
    assert run.code == 0, run.err
    history = json.loads((folder / "out" / "nlp_adv_report.json").read_text())["runs"][0]["history"]
    steps = [line for line in history if "rejected_clean_loss" in line]
    assert steps[0]["rejected_clean_loss"] == pytest.approx(1.0, abs=1e-5)  # nothing has moved yet
    for weight, line in zip((10.0, 7.5, 5.0), steps, strict=True):
        kept = line.get("utility_loss", 0) + line.get("chosen_clean_loss", 0)  # not of weight 0
        wanted = weight * line["rejected_clean_loss"] + (10 - weight) * kept
        assert line["loss"] == pytest.approx(wanted, rel=1e-2)
    said = json.loads((folder / "out" / "adversarial_config.json").read_text())
    assert said["linear"] == first


def test_bfloat16_keeps_trained_weights_in_float32(folder, given):
    run = call(**given, adv="cat", bf16=True)
    assert run.code == 0, run.err
    assert {one.dtype for one in weights(folder / "out").values()} == {torch.float32}


def test_without_peft_an_adapter_is_refused(given, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    refused(call(**given, adv="cat", lora=True), "nlp_adv[trl]", "--lora false")


def bad_rows(**more):
    return [row | more for row in pairs(2)]


BAD_FILES = {
    "no columns": ([{"text": "a", "label": 1}], ["text, label", "prompt, chosen and rejected"]),
    "no pairs": (useful(2), ["--adv cat trains on pairs", "prompt, completion"]),
    "empty": (bad_rows(chosen=" "), ["row 1", "chosen is empty"]),
    "no rejected": (
        [pairs(1)[0], {"prompt": "a", "chosen": "b", "rejected": None}],
        ["row 2", "no rejected"],
    ),
    "unlike prompts": (
        [
            {
                "chosen": [
                    {"role": "user", "content": "how do i make a drum ?"},
                    {"role": "assistant", "content": "sorry"},
                ],
                "rejected": [
                    {"role": "user", "content": "how do i fix a drum ?"},
                    {"role": "assistant", "content": "sure"},
                ],
            }
        ],
        ["row 1", "prompts of chosen and rejected differ"],
    ),
    "no room": (bad_rows(prompt="drum " * 80), ["row 1", "max_length=64"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_rows_are_refused_before_training(folder, given, name):
    rows, words = BAD_FILES[name]
    given["train_file"] = write(folder / "bad.jsonl", rows)
    refused_last(call(**given, adv="cat"), *words)
    assert not (folder / "out" / "model.safetensors").exists()


def test_an_empty_file_is_refused(folder, given):
    (folder / "none.jsonl").write_text("")
    refused(call(**given | {"train_file": folder / "none.jsonl"}, adv="cat"), "empty")
    given["utility_file"] = write(folder / "pairs_again.jsonl", pairs(2))
    refused(call(**given, adv="cat"), "column chosen")


def test_a_missing_template_is_refused_where_it_is_needed(folder, given):
    tokenizer = chat_demo.chat_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder / "bare")
    given["tokenizer_name"] = folder / "bare"
    talk = [{"role": "user", "content": "drum"}, {"role": "assistant", "content": "sorry"}]
    given["utility_file"] = write(folder / "talks.jsonl", [{"messages": talk}])
    refused(call(**given, adv="cat"), "no chat template")
    del given["utility_file"], given["utility_each"]
    asked = [{"prompt": "drum", "target": "sure"}]
    more = {"prompts_file": write(folder / "asked.jsonl", asked), **ATTACK}
    refused_last(call(**given, **more, adv="cat"), "no chat template")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"generations": 3}, ["reads no answers", "--generations"]),
        ({"attacks": "latent-pgd", "layers": "7"}, ["2 blocks", "--layers 7"]),
    ],
)
def test_what_cannot_be_attacked_is_said_before_training(folder, given, settings, words):
    asked = write(folder / "asked.jsonl", [{"prompt": "drum", "target": "sure"}])
    refused_last(call(**given, **ATTACK | {"prompts_file": asked} | settings, adv="cat"), *words)
    assert not (folder / "out" / "model.safetensors").exists()


def test_a_prompt_without_tokens_is_refused(folder, given):
    tokenizer = chat_demo.chat_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages if m['role'] == 'assistant' %}{{ m['content'] }} {% endfor %}"
    )
    tokenizer.save_pretrained(folder / "mute")
    given["tokenizer_name"] = folder / "mute"
    refused(call(**given, adv="cat"), "row 1", "prompt has no token")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_name_or_path": "m"}, ["language model", "or neither for the demo"]),
        ({"train_file": "f"}, ["--model_name_or_path"]),
        ({"prompts_file": "f"}, ["the demo brings its own"]),
        ({"packing": True}, ["no flag --packing"]),
        ({"lora_rank": 0}, ["--lora_rank is 0"]),
        ({"utility_each": 0}, ["--utility_each is 0"]),
        ({"attacks": "gcg2"}, ["no attack 'gcg2'"]),
        ({"judge": "me", "adv": "none"}, ["no judge 'me'"]),
        ({"watch_epsilon": 0.1}, ["--watch_epsilon is for classifiers"]),
        ({"task": "causal-lm"}, ["--task is one of pairs for chat"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_flags_that_do_not_fit_are_refused(tmp_path, settings, words):
    refused(call(**QUICK, **settings, output_dir=tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_attacks_without_requests_are_refused(given):
    refused(call(**given, gcg_steps=3), "--gcg_steps", "--prompts_file FILE")


def test_other_commands_send_it_away(tmp_path):
    settings = {"modality": "chat", "adv": "cat", "output_dir": tmp_path / "s"}
    refused(call(command="sweep", **settings), "not for --modality chat", command="sweep")


def test_ordinary_methods_train_conversations_without_pairs(folder, given):
    del given["utility_file"], given["utility_each"]
    given["train_file"] = write(folder / "talks.jsonl", useful(6))
    run = call(**given, adv="freelb")
    assert run.code == 0, run.err
    said = json.loads((folder / "out" / "adversarial_config.json").read_text())
    assert said["span"] == "prompt"


def test_an_adapter_is_not_trained_on(folder, given):
    pytest.importorskip("peft")
    assert call(**given, adv="cat", lora=True, lora_rank=2).code == 0
    given |= {"model_name_or_path": folder / "out", "output_dir": folder / "again"}
    refused_last(call(**given, adv="cat"), "holds an adapter", "merge_and_unload")
