"""Tiny models and batches that several tests share: built from a config, random, float64.

transformers is imported inside the builders, so that tests of tensors alone start at once.
"""

import copy
import functools

import torch
from torch import Tensor, nn

from nlp_adv.perturbation import ModelObjective, Output

VOCAB = 60
LENGTHS = (5, 7, 4)
TOKENS = max(LENGTHS)

ARCHITECTURES = (
    "albert",
    "bart",
    "bert",
    "bert_choice",
    "distilbert",
    "electra",
    "gpt2",
    "gpt2_lm",
    "llama",
    "longformer",
    "modernbert",
    "roberta",
    "t5",
    "t5_token",
    "xlnet",
)


def tiny(name: str, *, dropout: float = 0.0, attention: str = "eager") -> nn.Module:
    """A fresh float64 copy of the tiny model `name`, in training mode."""
    return copy.deepcopy(_built(name, dropout, attention))


@functools.cache
def _built(name: str, dropout: float, attention: str) -> nn.Module:
    cls, config = _architecture(name)
    config._attn_implementation = attention
    for key, value in config.to_dict().items():
        if "drop" in key and "layerdrop" not in key and isinstance(value, float):
            setattr(config, key, dropout)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cls(config).double().train()
        # Initial weights of 0.02 make every model nearly constant; these make δ matter.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
    return model


def checkpoint(model: nn.Module, **options: bool) -> None:
    """Turn the model's activation checkpointing on, under the name its transformers knows."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    next(getattr(model, name) for name in names if hasattr(model, name))(options or None)


def _architecture(name: str):
    import transformers as hf

    small = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
    }
    gpt2 = {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    t5 = {"vocab_size": VOCAB, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2}
    t5 |= {"num_heads": 2, "decoder_start_token_id": 0, "classifier_dropout": 0.0}
    bart = {"vocab_size": VOCAB, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2}
    bart |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_labels": 2}
    bart |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32}
    bart |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    distil = {"vocab_size": VOCAB, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    xlnet = {"vocab_size": VOCAB, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}
    window = {"attention_window": [4, 4], "pad_token_id": 0}
    modern = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}
    modern |= {"bos_token_id": 2, "eos_token_id": 3}
    roberta = small | {"pad_token_id": 1}
    llama = small | {"num_key_value_heads": 2, "pad_token_id": 0}
    classes = {
        "albert": (hf.AlbertForSequenceClassification, hf.AlbertConfig, small, 8),
        "bart": (hf.BartForSequenceClassification, hf.BartConfig, bart),
        "bert": (hf.BertForSequenceClassification, hf.BertConfig, small),
        "bert_choice": (hf.BertForMultipleChoice, hf.BertConfig, small),
        "distilbert": (hf.DistilBertForSequenceClassification, hf.DistilBertConfig, distil),
        "electra": (hf.ElectraForSequenceClassification, hf.ElectraConfig, small, 8),
        "gpt2": (hf.GPT2ForSequenceClassification, hf.GPT2Config, gpt2 | {"pad_token_id": 0}),
        "gpt2_lm": (hf.GPT2LMHeadModel, hf.GPT2Config, gpt2 | {"pad_token_id": 0}),
        "llama": (hf.LlamaForSequenceClassification, hf.LlamaConfig, llama),
        "longformer": (
            hf.LongformerForSequenceClassification,
            hf.LongformerConfig,
            small | window,
        ),
        "modernbert": (
            hf.ModernBertForSequenceClassification,
            hf.ModernBertConfig,
            small | modern,
        ),
        "roberta": (hf.RobertaForSequenceClassification, hf.RobertaConfig, roberta),
        "t5": (hf.T5ForConditionalGeneration, hf.T5Config, t5),
        "t5_token": (hf.T5ForTokenClassification, hf.T5Config, t5),
        "xlnet": (hf.XLNetForSequenceClassification, hf.XLNetConfig, xlnet),
    }
    cls, config, settings, *embedding_size = classes[name]
    if embedding_size:
        settings = settings | {"embedding_size": embedding_size[0]}
    return cls, config(**settings)


def pad_id(name: str) -> int:
    return 1 if name == "roberta" else 0


def batch(name: str, *, padding: int = 0) -> dict[str, Tensor]:
    """Three sentences, padded on the right, and their labels; `padding` more columns of padding."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, VOCAB, (len(LENGTHS), TOKENS), generator=generator)
    attention = (torch.arange(TOKENS) < torch.tensor(LENGTHS)[:, None]).long()
    if name == "bart":  # it pools the last end-of-sentence token
        ids.scatter_(1, attention.sum(1, keepdim=True) - 1, 3)
    labels = torch.tensor([0, 1, 1])
    if name in ("t5", "gpt2_lm"):
        labels = ids.masked_fill(attention == 0, -100)
    if name == "t5_token":  # as many labelled tokens in each sentence: the loss is their mean
        labels = (ids % 2).masked_fill(torch.arange(TOKENS) >= 3, -100)
    ids = ids.masked_fill(attention == 0, pad_id(name))
    pad = functools.partial(nn.functional.pad, pad=(0, padding))
    result = {"input_ids": pad(ids, value=pad_id(name)), "attention_mask": pad(attention)}
    if name == "bert_choice":
        flipped = {key: value.flip(0) for key, value in result.items()}
        result = {key: torch.stack([result[key], flipped[key]], 1) for key in result}
    if name in ("t5_token", "gpt2_lm"):
        labels = pad(labels, value=-100)
    return {**result, "labels": labels}


def answered(prompts: tuple[int, ...] = (3, 2, 1)) -> dict[str, Tensor]:
    """A language model's batch whose labels leave out so many first tokens of each row."""
    full = batch("gpt2_lm")
    outside = torch.arange(TOKENS) < torch.tensor(prompts)[:, None]
    return full | {"labels": full["labels"].masked_fill(outside, -100)}


def example(full: dict[str, Tensor], row: int, *, trimmed: bool) -> dict[str, Tensor]:
    """One sentence of a batch, with or without its padding."""
    one = {key: value[row : row + 1] for key, value in full.items()}
    if not trimmed:
        return one
    length = int(one["attention_mask"].sum())
    return {key: v[:, :length] if v.ndim == 2 else v for key, v in one.items()}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """∇θ by name, copied; 0 where there is none."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def assert_gradients(got: dict[str, Tensor], want: dict[str, Tensor], *, atol: float = 1e-10):
    """Equal up to rounding: `atol` absolute, on gradients of order 1."""
    assert got.keys() == want.keys()
    for name, value in want.items():
        off = float((got[name] - value).abs().max())
        assert off <= atol, f"{name}: off by {off}"  # false for nan as well


class LinearClassifier(nn.Module):
    """z ↦ ⟨w, z⟩ + b on points of any shape."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return (z * self.weight).flatten(1).sum(1) + self.bias


def linear_objective(
    model: LinearClassifier,
    x: Tensor,
    signs: Tensor,
    *,
    mask: Tensor | None = None,
    **options,
) -> ModelObjective:
    """The mean logistic loss softplus(−y·(⟨w, x + δ⟩ + b)), y = ±1.

    The worst δ of a ball over the free coordinates lowers each margin by ε‖w‖_dual.
    """

    def run(delta: Tensor | None) -> Output:
        score = model(x if delta is None else x + delta)
        return Output(nn.functional.softplus(-signs * score).mean(), torch.stack([-score, score]).T)

    mask = torch.ones_like(x) if mask is None else mask
    return ModelObjective(run=run, x=x, mask=mask, model=model, **{"seed": 0, **options})
