"""How probable a language model finds given completions, token by token, in little memory.

The logits of a language model are its largest tensor, (B, T, V): for 8 rows of 1024 tokens and
128 000 words 2 GB in bfloat16, and a log-softmax of them in float32 takes another 4. What losses on
completions need of it is one number a token; so rows of logits are taken a few at a time, and
computed again in the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NO_LABEL = -100  # as in transformers
CHUNK = 256  # tokens whose V logits are in float32 at a time


@dataclass(frozen=True, eq=False)
class Completions:
    """The completions of some rows, as a model finds them.

    Args:
        logp: (R, T), log p of each labelled token given those before it; 0 elsewhere.
        rest: (R, T), log(1 − p), the log-probability of all other words; 0 elsewhere.
        labelled: (R, T), true on the tokens of the completions.
    """

    logp: Tensor
    rest: Tensor
    labelled: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Completions:
        """Those of some of the rows."""
        return Completions(self.logp[rows], self.rest[rows], self.labelled[rows])

    @property
    def tokens(self) -> Tensor:
        """(R,): how many tokens each completion has."""
        return self.labelled.sum(1)

    def log_prob(self) -> Tensor:
        """(R,): log p of each completion, the sum over its tokens."""
        return self.logp.sum(1)

    def cross_entropy(self) -> Tensor:
        """(R,): −1/n Σ_t log p_t, the mean over a completion's n tokens."""
        return -self._mean(self.logp)

    def bounded(self, cutoff: float) -> Tensor:
        """(R,): the same, where tokens with −log p_t > `cutoff` count as the cut-off."""
        return -self._mean(self.logp.clamp_min(-cutoff))

    def log1mp(self, cutoff: float) -> Tensor:
        """(R,): −1/n Σ_t log(1 − p_t), where tokens with −log p_t > `cutoff` count 0.

        What is to become improbable is pushed no further than that, so that the loss has an end:
        Mazeika et al., "HarmBench", ICML 2024, https://arxiv.org/abs/2402.04249, of R2D2.
        """
        return -self._mean(torch.where(self.logp.detach() < -cutoff, 0.0, self.rest))

    def _mean(self, values: Tensor) -> Tensor:
        return values.sum(1) / self.tokens.clamp_min(1)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Where the labels of a batch are; found once for several passes.

    Args:
        tokens: (R, T), true on the tokens of completions, but for a row's first, which nothing
            predicts.
        places: (N,), their places in the flattened batch.
        targets: (N,), their ids.
    """

    tokens: Tensor
    places: Tensor
    targets: Tensor

    @classmethod
    def of(cls, labels: Tensor) -> Labelled:
        """Of labels (R, T), −100 for what is no part of a completion. Waits for the device."""
        there = labels != NO_LABEL
        there = torch.cat([torch.zeros_like(there[:, :1]), there[:, 1:]], 1)
        places = there.flatten().nonzero()[:, 0]
        return cls(there, places, labels.flatten()[places])


def completions(logits: Tensor, labels: Tensor | Labelled, *, chunk: int = CHUNK) -> Completions:
    """The labelled tokens' log-probabilities, and those of all other words.

    log p_t = z_{t−1, y_t} − log Σ_v exp z_{t−1, v};   log(1 − p_t) is the same over all v ≠ y_t, so
    that it is exact where p_t rounds to 1, and its gradient is bounded.

    Args:
        logits: (R, T, V), of a model that predicts the next token.
        labels: (R, T), −100 for what is no part of a completion, or what was found of them.
        chunk: how many rows of V logits are held in float32 at a time.

    Cost: beside the logits and their gradient, a few tensors of chunk × V in float32 (float64 where
    the logits are), forward and backward.
    """
    found = Labelled.of(labels) if isinstance(labels, Tensor) else labels
    # A row's first token is never labelled, so that the place before is in the same row.
    rows = found.places - 1
    picked = _Picked.apply(logits.flatten(0, 1), rows, found.targets, chunk)  # type: ignore[no-untyped-call]
    logp, rest = (_spread(one, found) for one in picked)
    return Completions(logp, rest, found.tokens)


def _spread(values: Tensor, found: Labelled) -> Tensor:
    """(R, T) of (N,)."""
    empty = values.new_zeros(found.tokens.numel())
    return empty.index_copy(0, found.places, values).view(found.tokens.shape)


class _Picked(torch.autograd.Function):
    """(N,) log p and log(1 − p) of the targets at some rows of the logits (M, V)."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, rows: Tensor, targets: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        wide = torch.promote_types(logits.dtype, torch.float32)
        logp, total, others = (logits.new_empty(len(rows), dtype=wide) for _ in range(3))
        for at in _chunks(rows, chunk):
            z, own = logits[rows[at]].to(wide), targets[at, None]
            total[at] = z.logsumexp(1)
            logp[at] = z.gather(1, own)[:, 0] - total[at]
            others[at] = z.scatter_(1, own, -torch.inf).logsumexp(1)
        ctx.save_for_backward(logits, rows, targets, total, others)
        ctx.chunk = chunk
        return logp, others - total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logp: Tensor | None, of_rest: Tensor | None) -> Any:
        logits, rows, targets, total, others = ctx.saved_tensors
        grad, weight = torch.zeros_like(logits), torch.zeros_like(total)
        for one in (of_logp, of_rest):
            weight = weight if one is None else weight + one
        for at in _chunks(rows, ctx.chunk):
            z, own = logits[rows[at]].to(total.dtype), targets[at, None]
            into = -weight[at, None] * (z - total[at, None]).exp()
            if of_logp is not None:
                into.scatter_add_(1, own, of_logp[at, None])
            if of_rest is not None:
                share = z.scatter_(1, own, -torch.inf).sub_(others[at, None]).exp_()
                into.addcmul_(share, of_rest[at, None])
            grad[rows[at]] = into.to(grad.dtype)
        return grad, None, None, None


def _chunks(rows: Tensor, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, len(rows), chunk)]
