"""Algorithms that keep something between minibatches, written as their loops are written.

Nothing here knows of nlp_adv. Each is a training run of SGD: it yields the loss of every optimizer
step with ∇θ in `.grad`, and moves the weights when it is asked for the next one.
"""

from collections.abc import Iterator

import torch
from reference_loops import Batch, look_up, loss_at, onto_sphere, per_sentence
from torch import Tensor, nn


def free_tokens(batch: Batch) -> Tensor:
    return batch["attention_mask"].unsqueeze(2).to(torch.float64)


def freeat(
    model: nn.Module,
    batches: list[Batch],
    *,
    norm: str,
    epsilon: float,
    step_size: float,
    m: int,
    persistent: bool,
    lr: float,
) -> Iterator[Tensor]:
    """Shafahi et al., NeurIPS 2019, Algorithm 1; without `persistent` as FreeLB's text version.

    The persistent noise belongs to the places of a batch, as many as the largest batch has; a
    smaller one uses the first of them.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr)
    largest = max(batches, key=lambda batch: len(batch["labels"]))
    noise = torch.zeros_like(look_up(model, largest)).detach()
    for batch in batches:
        free, rows = free_tokens(batch), len(batch["labels"])
        if not persistent:
            noise = torch.zeros_like(look_up(model, batch)).detach()
        for _ in range(m):
            optimizer.zero_grad()
            delta = (noise[:rows] * free).requires_grad_()
            loss = loss_at(model, batch, delta)
            loss.backward()
            grad = delta.grad * free
            yield loss.detach()
            optimizer.step()
            if norm == "linf":
                moved = (delta.detach() + step_size * torch.sign(grad)).clamp(-epsilon, epsilon)
            else:
                moved = delta.detach() + step_size * grad / per_sentence(grad)
                moved = onto_sphere(moved, epsilon)
            noise = torch.cat([moved, noise[rows:]])


def freelb_with_reuse(
    model: nn.Module,
    batches: list[Batch],
    *,
    draws: list[Tensor],
    adv_lr: float,
    adv_steps: int,
    adv_init_mag: float,
    adv_max_norm: float,
    lr: float,
) -> Iterator[Tensor]:
    """FreeLB in which a sentence that was seen before starts where its last ascent ended."""
    optimizer = torch.optim.SGD(model.parameters(), lr)
    last_delta: dict[tuple[int, ...], Tensor] = {}
    for batch, draw in zip(batches, draws, strict=True):
        starts = []
        for ids, attention, one in zip(
            batch["input_ids"], batch["attention_mask"], draw, strict=True
        ):
            real = attention == 1
            words = tuple(ids[real].tolist())
            start = one * real[:, None] * adv_init_mag / (len(words) * one.shape[1]) ** 0.5
            if words in last_delta:
                start = torch.zeros_like(one)
                start[real] = last_delta[words]
            starts.append(start)
        delta, total = onto_sphere(torch.stack(starts), adv_max_norm), 0.0
        optimizer.zero_grad()
        for _ in range(adv_steps):
            delta = delta.detach().requires_grad_()
            loss = loss_at(model, batch, delta) / adv_steps
            loss.backward()
            total = total + loss.detach()
            grad = delta.grad * free_tokens(batch)
            delta = onto_sphere(delta.detach() + adv_lr * grad / per_sentence(grad), adv_max_norm)
        for ids, attention, one in zip(
            batch["input_ids"], batch["attention_mask"], delta, strict=True
        ):
            real = attention == 1
            last_delta[tuple(ids[real].tolist())] = one[real].clone()
        yield total
        optimizer.step()


def tavat(
    model: nn.Module,
    batches: list[Batch],
    *,
    table: Tensor,
    draws: list[Tensor],
    adv_lr: float,
    adv_steps: int,
    adv_init_mag: float,
    adv_max_norm: float,
    lr: float,
) -> Iterator[Tensor]:
    """Li and Qiu, AAAI 2021, Algorithm 1, sentence by sentence and token by token.

    The losses are averaged over the K passes, the start is shrunk into the ball, and a token's new
    η is the mean over its occurrences.

    Args:
        table: V, (words, D), written into.
        draws: U(−1, 1), (B, T, D), one for each batch.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for batch, draw in zip(batches, draws, strict=True):
        lengths = batch["attention_mask"].sum(1).tolist()
        sentence, token = torch.zeros_like(draw), torch.zeros_like(draw)
        for b, length in enumerate(lengths):
            sentence[b, :length] = draw[b, :length] * adv_init_mag / (length * draw.shape[2]) ** 0.5
            token[b, :length] = table[batch["input_ids"][b, :length]]
            shrink(sentence[b], token[b], adv_max_norm)
        optimizer.zero_grad()
        total = 0.0
        for _ in range(adv_steps):
            delta = (sentence + token).requires_grad_()
            loss = loss_at(model, batch, delta) / adv_steps
            loss.backward()
            total = total + loss.detach()
            for b, length in enumerate(lengths):
                grad = delta.grad[b, :length]
                for i in range(length):
                    token[b, i] += adv_lr * grad[i] / grad[i].norm()
                norms = [float(token[b, i].norm()) for i in range(length)]
                for i in range(length):
                    token[b, i] *= norms[i] / max(norms)
                sentence[b, :length] += adv_lr * grad / grad.norm()
                shrink(sentence[b], token[b], adv_max_norm)
        occurrences: dict[int, list[Tensor]] = {}
        for b, length in enumerate(lengths):
            for i in range(length):
                word = int(batch["input_ids"][b, i])
                occurrences.setdefault(word, []).append(token[b, i].clone())
        for word, found in occurrences.items():
            table[word] = torch.stack(found).mean(0)
        yield total
        optimizer.step()


def fgm_remembered(
    model: nn.Module, batches: list[Batch], *, by: str, epsilon: float, momentum: float, lr: float
) -> Iterator[Tensor]:
    """FGM along a running sum of the directions that a word, or a sentence, was given before."""
    optimizer = torch.optim.SGD(model.parameters(), lr)
    remembered: dict[object, Tensor] = {}

    def keys(batch: Batch, b: int) -> list[object]:
        words = batch["input_ids"][b, : int(batch["attention_mask"][b].sum())].tolist()
        if by == "example":
            return [(tuple(words), place) for place in range(len(words))]
        label = int(batch["labels"][b]) if by == "label_word" else 0
        return [(label, word) for word in words]

    for batch in batches:
        old = torch.zeros_like(look_up(model, batch)).detach()
        for b in range(len(old)):
            for i, key in enumerate(keys(batch, b)):
                old[b, i] = remembered.get(key, old[b, i])
        lengths = per_sentence(old)
        delta = torch.where(lengths > 0, epsilon * old / lengths, 0.0).requires_grad_()
        optimizer.zero_grad()
        loss = loss_at(model, batch, delta)
        loss.backward()
        grad = delta.grad * free_tokens(batch)
        new = momentum * old + grad / per_sentence(grad)
        found: dict[object, list[Tensor]] = {}
        for b in range(len(old)):
            for i, key in enumerate(keys(batch, b)):
                found.setdefault(key, []).append(new[b, i])
        remembered |= {key: torch.stack(values).mean(0) for key, values in found.items()}
        yield loss.detach()
        optimizer.step()


def shrink(sentence: Tensor, token: Tensor, radius: float) -> None:
    """Both parts of one sentence's δ, in place, so that their sum is inside."""
    norm = float((sentence + token).norm())
    if norm > radius:
        sentence *= radius / norm
        token *= radius / norm
