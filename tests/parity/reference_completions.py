"""The loops of methods that read completions, written out from their papers.

Plain torch on `inputs_embeds`: nothing of nlp_adv, no hook, one forward pass a term.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Rows = dict[str, Tensor]


def embedded(model: nn.Module, rows: Rows) -> Tensor:
    return model.get_input_embeddings()(rows["input_ids"])


@contextmanager
def latent(model: nn.Module, deltas: Sequence[Tensor]) -> Iterator[None]:
    """The k-th δ is added to the output of the k-th block."""

    def adding(delta: Tensor) -> Any:
        def add(module: Any, args: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            moved = first + delta
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return add

    pairs = zip(model.transformer.h, deltas, strict=False)
    handles = [block.register_forward_hook(adding(delta)) for block, delta in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def log_probabilities(model: nn.Module, rows: Rows, delta: Tensor | None = None) -> Tensor:
    """(R, T − 1): of each next word."""
    points = embedded(model, rows)
    points = points if delta is None else points + delta
    logits = model(inputs_embeds=points, attention_mask=rows["attention_mask"]).logits
    every = logits[:, :-1].log_softmax(-1)
    return every.gather(-1, rows["labels"][:, 1:].clamp(min=0)[..., None])[..., 0]


def over_completions(rows: Rows, values: Tensor) -> Tensor:
    """(R,): the mean over the words of each completion."""
    counted = rows["labels"][:, 1:] != -100
    return (values * counted).sum(1) / counted.sum(1)


def cross_entropy(model: nn.Module, rows: Rows, delta: Tensor | None = None) -> Tensor:
    return -over_completions(rows, log_probabilities(model, rows, delta))


def log1mp(model: nn.Module, rows: Rows, delta: Tensor, threshold: float) -> Tensor:
    logp = log_probabilities(model, rows, delta)
    rest = torch.log(1 - logp.exp())
    return -over_completions(rows, torch.where(logp < threshold, 0.0, rest))


def prompts(rows: Rows) -> Tensor:
    """(R, T, 1): 1 on the words that δ may move."""
    return (rows["attention_mask"] * (rows["labels"] == -100)).double()[..., None]


def token_norms(values: Tensor) -> Tensor:
    return values.norm(dim=-1, keepdim=True)


def relative_norm(model: nn.Module, rows: Rows) -> Tensor:
    """(R, 1, 1): the root mean square norm of each prompt's word vectors."""
    mask = prompts(rows)
    square = (embedded(model, rows).detach() * mask).square().sum((1, 2))
    return (square / mask.sum((1, 2))).sqrt()[:, None, None]


def descended(
    model: nn.Module, rows: Rows, *, epsilon: Tensor | float, alpha: Tensor | float, steps: int
) -> Tensor:
    """δ that makes the completions likely, in an L2 ball around each word of the prompt."""
    delta = torch.zeros_like(embedded(model, rows))
    for _ in range(steps):
        leaf = delta.clone().requires_grad_()
        loss = cross_entropy(model, rows, leaf * prompts(rows)).sum()
        (grad,) = torch.autograd.grad(loss, leaf)
        norm = token_norms(grad)
        delta = delta - alpha * torch.where(norm > 0, grad / norm, 0.0)
        length = token_norms(delta)
        delta = torch.where(length > epsilon, delta * epsilon / length, delta)
    return delta


def cat(
    model: nn.Module,
    rejected: Rows,
    chosen: Rows,
    utility: Rows,
    *,
    epsilon: float,
    alpha: float,
    steps: int,
    away: float = 0.5,
    toward: float = 0.5,
    refusal: float = 0.5,
    useful: float = 1.0,
    cutoff: float = 0.5,
    threshold: float = -5.0,
    relative: bool = False,
) -> Tensor:
    """Xhonneux et al., eq. (3), with a bounded loss away and a loss on clean prompts."""
    unit = relative_norm(model, rejected) if relative else 1.0
    delta = descended(model, rejected, epsilon=epsilon * unit, alpha=alpha * unit, steps=steps)
    mean_away = log1mp(model, rejected, delta, threshold).mean()
    losses = cross_entropy(model, chosen, delta)
    leaky = torch.where(losses < cutoff, cutoff + 0.001 * (losses - cutoff), losses)
    loss = away * mean_away + toward * leaky.mean()
    loss = loss + refusal * cross_entropy(model, chosen).mean()
    loss = loss + useful * cross_entropy(model, utility).mean()
    loss.backward()
    return loss.detach()


def capo(
    model: nn.Module,
    before: nn.Module,
    rejected: Rows,
    chosen: Rows,
    utility: Rows | None,
    *,
    epsilon: float,
    alpha: float,
    steps: int,
    beta: float = 0.25,
    cutoff: float = 5.0,
    useful: float = 1.0,
) -> Tensor:
    """Xhonneux et al., eq. (5): IPO of perturbed prompts beside a reference of clean ones."""
    delta = descended(model, rejected, epsilon=epsilon, alpha=alpha, steps=steps)

    def mean(of: nn.Module, rows: Rows, delta: Tensor | None, least: float = -1e9) -> Tensor:
        return over_completions(rows, log_probabilities(of, rows, delta).clamp(min=least))

    with torch.no_grad():
        first = mean(before, chosen, None) - mean(before, rejected, None)
    now = mean(model, chosen, delta) - mean(model, rejected, delta, -cutoff)
    loss = (now - first - 1 / (2 * beta)).square().mean()
    if utility is not None:
        loss = loss + useful * cross_entropy(model, utility).mean()
    loss.backward()
    return loss.detach()


def lat(
    model: nn.Module,
    rejected: Rows,
    chosen: Rows,
    utility: Rows,
    *,
    epsilon: float,
    alpha: float,
    steps: int,
    relative: bool = False,
) -> Tensor:
    """Sheshadri et al., eq. (3) and (4), at the embeddings and the first two blocks.

    With a loss on clean prompts, a leaky cut-off, and steps along the gradient.
    """
    mask = prompts(rejected)
    with torch.no_grad():
        given = {"attention_mask": rejected["attention_mask"], "output_hidden_states": True}
        hidden = model.transformer(rejected["input_ids"], **given).hidden_states
        first = model.transformer.h[1]
        seen = []
        handle = first.register_forward_hook(
            lambda m, a, o: seen.append(o[0] if isinstance(o, tuple) else o)
        )
        model(rejected["input_ids"], attention_mask=rejected["attention_mask"])
        handle.remove()
        points = [embedded(model, rejected), hidden[1], seen[0]]
    units = [(h * mask).square().sum((1, 2)) / mask.sum((1, 2)) for h in points]
    units = [unit.sqrt()[:, None, None] if relative else 1.0 for unit in units]
    deltas = [torch.zeros_like(point) for point in points]

    def at(rows: Rows, deltas: Sequence[Tensor], loss: Any) -> Tensor:
        with latent(model, [delta * mask for delta in deltas[1:]]):
            return loss(model, rows, deltas[0] * mask)

    def away(model: nn.Module, rows: Rows, delta: Tensor) -> Tensor:
        return log1mp(model, rows, delta, -5.0)

    for _ in range(steps):
        leaves = [delta.clone().requires_grad_() for delta in deltas]
        loss = at(rejected, leaves, cross_entropy) + at(chosen, leaves, away)
        grads = torch.autograd.grad(0.5 * loss.sum(), leaves)
        for place, (grad, unit) in enumerate(zip(grads, units, strict=True)):
            norm = token_norms(grad)
            moved = deltas[place] - alpha * unit * torch.where(norm > 0, grad / norm, 0.0)
            length = token_norms(moved)
            shorter = moved * epsilon * unit / length
            deltas[place] = torch.where(length > epsilon * unit, shorter, moved)
    losses = at(chosen, deltas, cross_entropy)
    leaky = torch.where(losses < 0.5, 0.5 + 0.001 * (losses - 0.5), losses)
    loss = 0.5 * at(rejected, deltas, away).mean() + 0.5 * leaky.mean()
    loss = loss + 0.5 * cross_entropy(model, chosen).mean() + cross_entropy(model, utility).mean()
    loss.backward()
    return loss.detach()


def rr(
    model: nn.Module,
    before: nn.Module,
    rejected: Rows,
    chosen: Rows,
    utility: Rows,
    *,
    layers: Sequence[int],
    away: float,
    useful: float,
    refusal: float,
) -> Tensor:
    """Zou et al., Algorithm 1, behind each block; word by word."""

    def states(of: nn.Module, rows: Rows) -> list[Tensor]:
        found: list[Tensor] = []

        def keep(module: Any, args: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)

        handles = [block.register_forward_hook(keep) for block in of.transformer.h]
        of(rows["input_ids"], attention_mask=rows["attention_mask"])
        for handle in handles:
            handle.remove()
        return found

    def kept(rows: Rows) -> Tensor:
        with torch.no_grad():
            first = states(before, rows)
        now, means = states(model, rows), []
        for row, real in enumerate(rows["attention_mask"]):
            lengths = [
                (now[layer][row, t] - first[layer][row, t]).square().sum().sqrt()
                for layer in range(len(now))
                for t in real.nonzero()[:, 0].tolist()
            ]
            means.append(sum(lengths) / len(lengths))
        return sum(means) / len(means)

    with torch.no_grad():
        first = states(before, rejected)
    now, means = states(model, rejected), []
    for row, labels in enumerate(rejected["labels"]):
        turned = []
        for layer in layers:
            for t in (labels != -100).nonzero()[:, 0].tolist():
                one, other = now[layer][row, t], first[layer][row, t]
                cosine = (one @ other) / (one.square().sum() * other.square().sum()).sqrt()
                turned.append(cosine.clamp(min=0))
        means.append(sum(turned) / len(turned))
    loss = away * sum(means) / len(means) + useful * kept(utility) + refusal * kept(chosen)
    loss.backward()
    return loss.detach()
