"""Runs of trl's Trainers on tiny models: a word-level tokenizer and texts made here, no files."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import peft
import torch
import transformers as hf
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from nlp_adv import AdversarialArguments, AdversarialMixin

BETA = 0.3  # of DPO
WORDS = [f"w{index}" for index in range(40)]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    " {% generation %}{{ m['content'] }} {{ eos_token }}{% endgeneration %}"
    "{% else %} {{ bos_token }} {{ m['content'] }} {% endif %}{% endfor %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One id a word."""
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    vocabulary = {word: index for index, word in enumerate(special + WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), special, strict=True))
    made = PreTrainedTokenizerFast(tokenizer_object=words, **names)
    made.chat_template = TEMPLATE
    return made


def texts(kind: str, count: int = 8) -> Dataset:
    """Sentences of unlike length: alone, as prompt and completion, as pairs, as a chat."""
    generator = torch.Generator().manual_seed(1)

    def words(length: int) -> str:
        ids = torch.randint(len(WORDS), (length,), generator=generator)
        return " ".join(WORDS[index] for index in ids.tolist())

    def row(i: int) -> dict[str, Any]:
        first, second, third = words(3 + i % 3), words(2 + i % 4), words(3 + i % 2)
        if kind == "text":
            return {"text": f"{first} {second}"}
        if kind == "chat":
            turns = (("user", first), ("assistant", second))
            return {"messages": [{"role": role, "content": text} for role, text in turns]}
        prompt = {"prompt": f"{first} "}
        if kind == "pairs":
            return prompt | {"chosen": second, "rejected": third}
        labels = {"label": i % 2 == 0} if kind == "labelled" else {}
        return prompt | {"completion": second} | labels

    return Dataset.from_list([row(i) for i in range(count)])


def tiny(head: str, family: str = "gpt2") -> PreTrainedModel:
    """Two layers of width 32 in float64, with dropout in the attention.

    GPT-2 computes in float64 throughout; Llama's norms and softmax are float32 whatever its
    weights are.

    Args:
        head: "CausalLM" or "SequenceClassification".
        family: "gpt2", "llama" or "qwen2".
    """
    shared = {"vocab_size": 4 + len(WORDS), "num_labels": 1, "pad_token_id": 0}
    shared |= {"bos_token_id": 2, "eos_token_id": 3, "attn_implementation": "eager"}
    if family == "gpt2":
        dropout = {"attn_pdrop": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1}
        config = hf.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **shared, **dropout)
    else:
        config = hf.AutoConfig.for_model(
            family,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            attention_dropout=0.1,
            **shared,
        )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(hf, f"AutoModelFor{head}").from_config(config).double()
        for parameter in model.parameters():  # so large that δ matters
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
    return model


# Each loss as its paper has it, on the model's own logits; trl's are computed without them.


def _log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,): log p of the labels of a row, those of -100 left out."""
    logp = logits[:, :-1].log_softmax(-1)
    labels = labels[:, 1:]
    picked = logp.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (picked * (labels != -100)).sum(1)


def sft_loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Over all tokens, divided as the Trainer counts them: first ones, which are not predicted."""
    count = (batch["labels"] != -100).sum()
    return -_log_probabilities(logits, batch["labels"]).sum() / count


def dpo_loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Rafailov et al., NeurIPS 2023, eq. (7)."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    chosen, rejected = _log_probabilities(logits, labels).chunk(2)
    margin = chosen - batch["ref_chosen_logps"] - rejected + batch["ref_rejected_logps"]
    return -functional.logsigmoid(BETA * margin).mean()


def reward_loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Of Bradley and Terry."""
    chosen, rejected = logits[:, 0].chunk(2)
    return -functional.logsigmoid(chosen - rejected).mean()


@dataclass(frozen=True)
class Case:
    """A Trainer of trl, what it is given, and its loss by hand."""

    trainer: type
    config: type
    data: str
    loss: Callable[[Tensor, dict[str, Tensor]], Tensor]
    flags: dict[str, Any] = field(default_factory=dict)
    lora: bool = False

    @property
    def head(self) -> str:
        return "SequenceClassification" if self.loss is reward_loss else "CausalLM"


def _cases() -> dict[str, Case]:
    sft = trl.SFTTrainer, trl.SFTConfig
    dpo = trl.DPOTrainer, trl.DPOConfig, "pairs", dpo_loss
    reward = trl.RewardTrainer, trl.RewardConfig, "pairs", reward_loss
    kept = {"precompute_ref_log_probs": True, "beta": BETA}
    checkpointing = {"gradient_checkpointing": True}
    free = {"padding_free": True, "max_length": None}
    return {
        "sft": Case(*sft, "text", sft_loss),
        "sft-completion": Case(*sft, "completion", sft_loss, {"completion_only_loss": True}),
        "sft-assistant": Case(*sft, "chat", sft_loss, {"assistant_only_loss": True}),
        "sft-padding-free": Case(*sft, "text", sft_loss, free),
        "sft-packing": Case(*sft, "text", sft_loss, {"packing": True, "max_length": 24}),
        "sft-lora": Case(*sft, "text", sft_loss, lora=True),
        "sft-checkpointing": Case(*sft, "text", sft_loss, checkpointing),
        "sft-lora-checkpointing": Case(*sft, "text", sft_loss, checkpointing, lora=True),
        "dpo": Case(*dpo, kept),
        "dpo-lora": Case(*dpo, kept, lora=True),
        "dpo-lora-checkpointing": Case(*dpo, kept | checkpointing, lora=True),
        "reward": Case(*reward),
        "reward-lora": Case(*reward, lora=True),
    }


CASES = _cases()


def build(
    folder: Path,
    case: Case,
    *,
    stock: bool = False,
    family: str = "gpt2",
    options: dict[str, Any] | None = None,
    **flags: Any,
) -> Any:
    """A Trainer of the case under the mixin, or without it."""
    given: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "learning_rate": 1e-2,
    }
    lora = peft.LoraConfig(
        task_type="SEQ_CLS" if case.loss is reward_loss else "CAUSAL_LM",
        r=2,
        target_modules=["c_attn"] if family == "gpt2" else ["q_proj", "v_proj"],
        lora_dropout=0.1,
        init_lora_weights=False,  # a B of zeros would hide half of the gradients
    )
    torch.manual_seed(3)  # LoRA's weights
    own, cls = (case.config, case.trainer) if stock else ADVERSARIAL[case.trainer]
    known = {field.name for field in fields(own)}
    flags = {k: v for k, v in flags.items() if not (stock and k.startswith("adv"))}
    assert flags.keys() <= known, flags.keys() - known
    return cls(
        model=tiny(case.head, family),
        args=own(**given | case.flags | flags),
        train_dataset=texts(case.data),
        processing_class=tokenizer(),
        peft_config=lora if case.lora else None,
        **options or {},
    )


# As a user writes them; trl pickles the flags with a checkpoint.


@dataclass
class SFTFlags(AdversarialArguments, trl.SFTConfig):
    pass


@dataclass
class DPOFlags(AdversarialArguments, trl.DPOConfig):
    pass


@dataclass
class RewardFlags(AdversarialArguments, trl.RewardConfig):
    pass


class AdversarialSFT(AdversarialMixin, trl.SFTTrainer):
    pass


class AdversarialDPO(AdversarialMixin, trl.DPOTrainer):
    pass


class AdversarialReward(AdversarialMixin, trl.RewardTrainer):
    pass


ADVERSARIAL = {
    trl.SFTTrainer: (SFTFlags, AdversarialSFT),
    trl.DPOTrainer: (DPOFlags, AdversarialDPO),
    trl.RewardTrainer: (RewardFlags, AdversarialReward),
}


class DoubleHead:
    """trl's kernel of log-probabilities, which computes in float32, in the precision of the model.

    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", DoubleHead)
    """

    @staticmethod
    def apply(hidden: Tensor, weight: Tensor, bias: Any, targets: Tensor, *_: Any) -> tuple:
        assert bias is None
        logits = hidden @ weight.T
        logp = logits.log_softmax(-1)
        picked = logp.gather(-1, targets[:, None])[:, 0]
        entropy = -(logp.exp() * logp).sum(-1)
        with torch.no_grad():
            rest = (2 * logp).logsumexp(-1), logits.mean(-1), logits.argmax(-1) == targets
        return picked, entropy, *rest


class Heard(TrainerCallback):
    """The first micro-batch, the random state before it, and the first step's gradient."""

    def __init__(self, trainer: Any) -> None:
        self.batch: dict[str, Tensor] = {}
        self.state: Tensor | None = None
        self.gradient: dict[str, Tensor] = {}
        prepare = trainer._prepare_inputs

        def prepared(inputs: Any) -> Any:
            made = prepare(inputs)
            if self.state is None:
                self.batch = {k: v.clone() for k, v in made.items() if isinstance(v, Tensor)}
                self.state = torch.get_rng_state()
            return made

        trainer._prepare_inputs = prepared
        trainer.add_callback(self)

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.gradient = self.gradient or gradients(model)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def left_behind(model: nn.Module) -> list[Any]:
    """Hooks of this package that are still in the model."""
    found = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    owners = [type(getattr(hook, "__self__", None)).__module__ for hook in found]
    return [owner for owner in owners if owner.startswith("nlp_adv")]
