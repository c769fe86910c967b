"""What the methods are run on, float64: words of language models, hidden states, pixels.

Word and position embeddings together are two modules with a δ each.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import models
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nlp_adv.perturbation import Memory, ModelObjective, Output
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.layer import LayerSite
from nlp_adv.sites.objective import image_objective, objective
from nlp_adv.sites.site import Site

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TextTarget:
    """A tiny language model of `models.ARCHITECTURES`.

    Args:
        name: the architecture.
        atol: how exactly gradients of unequal computations agree; T5 takes its softmax in float32.
    """

    name: str
    atol: float = 1e-9
    blocks: int = 2
    site: Callable[[], Site] = EmbeddingSite
    at: str = ""
    modules: int = 1

    @property
    def id(self) -> str:
        return f"{self.name}{self.at}"

    def model(self, dropout: float = 0.0, attention: str = "eager") -> nn.Module:
        """One that was looked at: the first look counts the calls of a loss in a whole pass."""
        model = self.made(dropout, attention)
        self.objective(model, self.batch())
        return model

    def made(self, dropout: float, attention: str) -> nn.Module:
        return models.tiny(self.name, dropout=dropout, attention=attention)

    def batch(self, padding: int = 0) -> Batch:
        return models.batch(self.name, padding=padding)

    def example(self, batch: Batch, row: int, *, trimmed: bool) -> Batch:
        return models.example(batch, row, trimmed=trimmed)

    def objective(self, model: nn.Module, batch: Batch, **options) -> ModelObjective:
        options = {"seed": 0, "memory": Memory(), **options}
        return objective(model, batch, self.site(), **options)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of ordinary training."""
        return model(**batch).loss


class Siamese(nn.Module):
    """One BERT for both texts of a pair, and a classifier of what they have to do with each other.

    In float64, like all models here.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.config, self.bert, self.dropout = (
            classifier.config,
            classifier.bert,
            classifier.dropout,
        )
        self.head = classifier.classifier

    def activation_checkpointing_enable(self, options: dict[str, bool]) -> None:
        models.checkpoint(self.bert, **options)

    def forward(self, labels: Tensor | None = None, **columns: Tensor) -> Output:
        first, second = (
            self.bert(**{key[2:]: value for key, value in columns.items() if key[:2] == text})
            for text in ("a_", "b_")
        )
        logits = self.head(self.dropout(first.pooler_output * second.pooler_output))
        return Output(cross_entropy(logits, labels), logits)


@dataclass(frozen=True)
class PairTarget(TextTarget):
    """A siamese model, which runs its embedding twice: a δ for each text of a pair."""

    at: str = "-pairs"
    modules: int = 2
    site: Callable[[], Site] = lambda: EmbeddingSite("bert.embeddings.word_embeddings")

    def made(self, dropout: float, attention: str) -> nn.Module:
        return Siamese(super().made(dropout, attention))

    def batch(self, padding: int = 0) -> Batch:
        """Each sentence, and one of the same length."""
        one = super().batch(padding)
        ids, real = one["input_ids"], one["attention_mask"]
        columns = {"a_input_ids": ids, "b_input_ids": (models.VOCAB - ids) * real}
        masks = {"a_attention_mask": real, "b_attention_mask": real.clone()}
        return columns | masks | {"labels": one["labels"]}

    def example(self, batch: Batch, row: int, *, trimmed: bool) -> Batch:
        found = {"labels": batch["labels"][row : row + 1]}
        for text in ("a_", "b_"):
            one = {key[2:]: value for key, value in batch.items() if key[:2] == text}
            one = models.example(one, row, trimmed=trimmed)
            found |= {f"{text}{key}": value for key, value in one.items()}
        return found


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(4 * 16, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.dropout(nn.functional.softplus(self.first(pixels))).flatten(1))


def _conv_net() -> ConvNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConvNet().double().train()


CONV_NET = _conv_net()
MEAN, STD = torch.tensor([[[0.4]], [[0.6]]]), torch.tensor([[[0.2]], [[0.5]]])


@dataclass(frozen=True)
class PixelTarget:
    """A convolutional net on (B, C, H, W), normalised images whose pixels have a range."""

    id: str = "pixels"
    atol: float = 1e-9
    blocks: int = 1

    def model(self, dropout: float = 0.0, attention: str = "eager") -> nn.Module:
        model = copy.deepcopy(CONV_NET)
        model.dropout.p = dropout
        return model

    def batch(self, padding: int = 0) -> Batch:
        pixels = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()
        return {"pixel_values": (pixels - MEAN) / STD, "labels": torch.tensor([0, 1, 1])}

    def example(self, batch: Batch, row: int, *, trimmed: bool) -> Batch:
        return {key: value[row : row + 1] for key, value in batch.items()}

    def objective(self, model: nn.Module, batch: Batch, **options) -> ModelObjective:
        def forward(model: nn.Module, batch: Batch) -> Output:
            logits = model(batch["pixel_values"])
            return Output(cross_entropy(logits, batch["labels"]), logits)

        options = {"seed": 0, "memory": Memory(), **options}
        mean, std = MEAN.flatten(), STD.flatten()
        return image_objective(model, batch, mean=mean, std=std, forward=forward, **options)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch["pixel_values"]), batch["labels"])


WORDS_AND_PLACES = ("bert.embeddings.word_embeddings", "bert.embeddings.position_embeddings")
WORD_TARGETS = [TextTarget("bert"), TextTarget("gpt2"), TextTarget("t5_token", atol=1e-4)]
TEXT_TARGETS = [
    *WORD_TARGETS,
    TextTarget("bert", at="-layer", site=lambda: LayerSite("bert.encoder.layer.0")),
    TextTarget("bert", at="-two", modules=2, site=lambda: EmbeddingSite(*WORDS_AND_PLACES)),
    PairTarget("bert"),
]
TARGETS = [*TEXT_TARGETS, PixelTarget()]
