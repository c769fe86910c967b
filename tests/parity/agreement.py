"""How the methods are held against the loops: ∇θ and loss to 1e-10, in float64, on a tiny BERT."""

from collections.abc import Callable, Iterator

import torch
from models import assert_gradients, batch, gradients, tiny
from torch import Tensor, nn

from nlp_adv.perturbation import Memory
from nlp_adv.sites.objective import text_objective

SEED = 11
SHAPE = (3, 7, 16)


def uniform_draws(seed: int = SEED, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """U(−1, 1), from a generator seeded as the objective's is."""
    draws = torch.empty(shape, dtype=torch.float64)
    return draws.uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))


def gaussian_draws() -> Tensor:
    """N(0, 1), from a generator seeded as the objective's is."""
    draws = torch.empty(SHAPE, dtype=torch.float64)
    return draws.normal_(generator=torch.Generator().manual_seed(SEED))


def token_mask() -> Tensor:
    return batch("bert")["attention_mask"].double()[..., None].expand(SHAPE)


def full_batch() -> dict[str, Tensor]:
    """No padding."""
    whole = batch("bert")
    return whole | {"attention_mask": torch.ones_like(whole["attention_mask"])}


def assert_parity(method, loop, *, times: float = 1.0, dropout: float = 0.0, full=None, **settings):
    """∇θ and loss of the method, `times` over, are those of the loop, and not ordinary ones."""
    found = []
    full = full or batch("bert")
    for step in (
        lambda model: loop(model, full, **settings),
        lambda model: method.step(text_objective(model, full, seed=SEED)).loss,
        lambda model: model(**full).loss.backward(),
    ):
        model = tiny("bert", dropout=dropout)
        torch.manual_seed(0)
        loss = step(model)
        found.append((loss, gradients(model)))
    (want_loss, want), (loss, theta), (_, plain) = found
    assert_gradients({name: times * value for name, value in theta.items()}, want, atol=1e-10)
    torch.testing.assert_close(times * loss, want_loss, rtol=0, atol=1e-10)
    moved = max((theta[name] - plain[name]).abs().max() for name in theta)
    assert moved > 1e-3


# --- several optimizer steps

Batches = list[dict[str, Tensor]]
Steps = Callable[[nn.Module, Batches], Iterator[Tensor]]


def padded(sentences: list[list[int]], labels: list[int]) -> dict[str, Tensor]:
    """A batch of sentences, padded on the right to the longest."""
    width = max(map(len, sentences))
    ids = [words + [0] * (width - len(words)) for words in sentences]
    attention = [[1] * len(words) + [0] * (width - len(words)) for words in sentences]
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(attention),
        "labels": torch.tensor(labels),
    }


def steps_of(method, *, lr: float, replays: int = 1) -> Steps:
    """The method's losses, one each optimizer step of SGD, on every batch so often in a row."""

    def run(model: nn.Module, batches: Batches) -> Iterator[Tensor]:
        optimizer, memory, step = torch.optim.SGD(model.parameters(), lr), Memory(), 0
        for one in batches:
            for memory.replay in range(replays):
                optimizer.zero_grad()
                yield method.step(text_objective(model, one, seed=SEED + step, memory=memory)).loss
                optimizer.step()
                step += 1

    return run


def ordinary_steps(*, lr: float, replays: int = 1) -> Steps:
    """The same of ordinary training."""

    def run(model: nn.Module, batches: Batches) -> Iterator[Tensor]:
        optimizer = torch.optim.SGD(model.parameters(), lr)
        for one in batches:
            for _ in range(replays):
                optimizer.zero_grad()
                loss = model(**one).loss
                loss.backward()
                yield loss.detach()
                optimizer.step()

    return run


def assert_same_training(method, loop: Steps, batches: Batches, *, lr: float, replays: int = 1):
    """∇θ and loss of every optimizer step are those of the loop, and not ordinary ones."""
    found = []
    for run in (
        loop,
        steps_of(method, lr=lr, replays=replays),
        ordinary_steps(lr=lr, replays=replays),
    ):
        model = tiny("bert")
        found.append([(loss, gradients(model)) for loss in run(model, batches)])
    wanted, got, plain = found
    assert len(wanted) == len(got) == len(batches) * replays
    for (want_loss, want), (loss, theta) in zip(wanted, got, strict=True):
        assert_gradients(theta, want, atol=1e-10)
        torch.testing.assert_close(loss, want_loss, rtol=0, atol=1e-10)
    last, ordinary = got[-1][1], plain[-1][1]
    assert max((last[name] - ordinary[name]).abs().max() for name in last) > 1e-3
