"""Classifiers of a few tokens whose robust radii are known, and one that has learnt something."""

import copy
import functools
import math
from types import SimpleNamespace

import torch
from models import VOCAB
from torch import Tensor, nn

from nlp_adv.attacks import Ladder, Measured
from nlp_adv.robustness import embedding_robustness

WIDTH = 6
SPECIAL = 1


class TextModel(nn.Module):
    """logits = head(Σ or mean of the embeddings of real tokens); remembers what it embedded."""

    def __init__(self, *, classes: int = 2, mean: bool = False) -> None:
        super().__init__()
        self.config = SimpleNamespace(pad_token_id=0)
        generator = torch.Generator().manual_seed(3)
        self.table = nn.Embedding(VOCAB, WIDTH, dtype=torch.float64)
        self.head = nn.Linear(WIDTH, classes, dtype=torch.float64)
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)
        self.mean = mean
        self.seen: list[Tensor] = []

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def pooled(self, embedded: Tensor, attention_mask: Tensor) -> Tensor:
        total = (embedded * attention_mask[..., None]).sum(1)
        return total / attention_mask.sum(1, keepdim=True) if self.mean else total

    def logits(self, pooled: Tensor) -> Tensor:
        return self.head(pooled)

    def forward(self, input_ids, attention_mask, labels=None) -> dict[str, Tensor]:
        embedded = self.table(input_ids)
        self.seen.append(embedded.detach().clone())
        return {"logits": self.logits(self.pooled(embedded, attention_mask))}


class FlatAtZero(TextModel):
    """The margin of class 0 is 1 − s², s = ⟨1, Σδ⟩: no gradient at the clean point."""

    def __init__(self) -> None:
        super().__init__()
        self.table.weight.data.zero_()

    def logits(self, pooled: Tensor) -> Tensor:
        square = pooled.sum(-1) ** 2
        return torch.stack([1 - square, torch.zeros_like(square)], -1)


def sentences(count: int, *, columns: int = 9, seed: int = 0) -> dict[str, Tensor]:
    """Different sentences of 2 to `columns` tokens, padded on the right; no token is 0 to 3.

    All are labelled 0.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, columns + 1, (count, 1), generator=generator)
    attention = (torch.arange(columns) < lengths).long()
    ids = torch.randint(4, VOCAB, (count, columns), generator=generator) * attention
    return {"input_ids": ids, "attention_mask": attention, "labels": torch.zeros(count).long()}


def answered(model: nn.Module, data: dict[str, Tensor], *, wrong: int = 0) -> dict[str, Tensor]:
    """The same rows labelled as the model answers them, but for the first `wrong`."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(**data)["logits"]
    model.train(was_training)
    labels = logits.argmax(-1)
    labels[:wrong] = (labels[:wrong] + 1) % logits.shape[1]
    return {**data, "labels": labels}


def split(data: dict[str, Tensor], size: int, order: Tensor | None = None) -> list[dict]:
    order = torch.arange(len(data["labels"])) if order is None else order
    return [{key: value[rows] for key, value in data.items()} for rows in order.split(size)]


def attacked(model: nn.Module, data, attack: Ladder, **options) -> Measured:
    return embedding_robustness(
        model, data if isinstance(data, list) else [data], attack, **options
    )


def smallest_above(radii: Tensor, tried: tuple[float, ...]) -> Tensor:
    """The smallest tried radius above each true one, inf where there is none."""
    grid = torch.tensor([*sorted(tried), math.inf], dtype=torch.float64)
    assert ((radii[:, None] / grid[:-1]).log().abs() > 1e-9).all()  # no tie to be decided
    return grid[torch.searchsorted(grid[:-1].contiguous(), radii.double().contiguous())]


def true_radii(model: TextModel, data: dict[str, Tensor], norm: str, per: str) -> Tensor:
    """Smallest ‖δ‖ at which some other class is level: min_j (z_y − z_j) / ‖∇(z_y − z_j)‖_dual.

    The gradient is w_y − w_j at every real token (divided by their number for the mean), so its
    dual norm over T tokens is T^(1/2) or T or 1 times that of one token; with one constraint per
    token every token moves as far, and the factor is T.
    """
    dual = {"l2": 2, "linf": 1, "l1": math.inf}[norm]
    tokens = data["attention_mask"].sum(1).double()
    factor = tokens if per == "token" else {"l2": tokens.sqrt(), "linf": tokens}.get(norm, 1.0)
    if model.mean:
        factor = factor / tokens
    with torch.no_grad():
        logits = model(**data)["logits"]
    labels = data["labels"]
    own = logits.gather(1, labels[:, None])
    slopes = model.head.weight.detach()[labels][:, None] - model.head.weight.detach()  # (N, C, D)
    lengths = torch.linalg.vector_norm(slopes, dual, dim=-1)
    radii = ((own - logits) / lengths).scatter(1, labels[:, None], math.inf).amin(1)
    return radii / factor


class Reader(nn.Module):
    """A classifier of a mean embedding with one hidden layer, in float32."""

    def __init__(self, vocabulary: int = 90, classes: int = 2) -> None:
        super().__init__()
        self.config = SimpleNamespace(pad_token_id=0)
        self.table = nn.Embedding(vocabulary, 12)
        self.hidden = nn.Linear(12, 24)
        self.head = nn.Linear(24, classes)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data.normal_(std=0.5, generator=generator)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids, attention_mask, labels=None) -> dict[str, Tensor]:
        mask = attention_mask[..., None]
        mean = (self.table(input_ids) * mask).sum(1) / mask.sum(1)
        return {"logits": self.after(self.head(torch.tanh(self.hidden(mean))))}

    def after(self, logits: Tensor) -> Tensor:
        """What a model with a fault makes of its logits."""
        return logits


def opinions(count: int, seed: int) -> dict[str, Tensor]:
    """Twelve tokens of which ids below 40 speak for 0 or 1; the majority is right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 90, (count, 12), generator=generator)
    lean = ((ids < 40) * (1 - 2 * (ids % 2))).sum(1)
    kept = lean != 0
    labels = (lean < 0).long()[kept]
    return {"input_ids": ids[kept], "attention_mask": torch.ones_like(ids[kept]), "labels": labels}


@functools.cache
@torch.enable_grad()
def _learnt() -> nn.Module:
    with torch.random.fork_rng():
        model, data = Reader(), opinions(800, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(**data)["logits"], data["labels"]).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model.eval()


def reader(kind: type[Reader] = Reader, factor: float = 1.0) -> Reader:
    """A fresh copy of the reader that has learnt, its head multiplied; with a fault of a kind."""
    with torch.random.fork_rng():
        model = kind()
    model.load_state_dict(copy.deepcopy(_learnt().state_dict()))
    for parameter in model.head.parameters():
        parameter.data.mul_(factor)
    return model.eval()


def opinion_batches() -> list[dict[str, Tensor]]:
    """Two batches of 40 that it has not learnt from, nearly all of them right."""
    return split({key: value[:80] for key, value in opinions(120, seed=1).items()}, 40)
