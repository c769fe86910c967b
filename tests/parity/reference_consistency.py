"""Algorithms that hold two outputs of the model against each other, as their loops are written.

Nothing here knows of nlp_adv. Each function leaves ∇θ in `.grad` and returns the loss it descends.
"""

import copy
from collections.abc import Iterator

import torch
from reference_loops import Batch, look_up, onto_sphere, per_sentence
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss, softmax


def logits_at(model: nn.Module, batch: Batch, delta: Tensor | None = None) -> Tensor:
    embeds = look_up(model, batch)
    embeds = embeds if delta is None else embeds + delta
    return model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits


def one_way(p: Tensor, q: Tensor) -> Tensor:
    """KL(softmax(p) ‖ softmax(q)), summed over classes, averaged over the batch."""
    return kl_div(log_softmax(q, dim=1), softmax(p, dim=1), reduction="batchmean")


def both_ways(p: Tensor, q: Tensor) -> Tensor:
    return one_way(p, q) + one_way(q, p)


def step_of(grad: Tensor, norm: str) -> Tensor:
    return torch.sign(grad) if norm == "linf" else grad / per_sentence(grad)


def into_ball(delta: Tensor, norm: str, epsilon: float) -> Tensor:
    return delta.clamp(-epsilon, epsilon) if norm == "linf" else onto_sphere(delta, epsilon)


def cube(batch: Batch, draws: Tensor, magnitude: float, norm: str) -> Tensor:
    """U(−m, m) on the free coordinates; for L2 divided by √n, n of them in each sentence."""
    attention = batch["attention_mask"]
    noise = draws * attention.unsqueeze(2) * magnitude
    if norm == "linf":
        return noise
    dims = (attention.sum(1) * draws.shape[2]).to(torch.float64)
    return noise / dims.sqrt().view(-1, 1, 1)


def vat(
    model: nn.Module,
    batch: Batch,
    *,
    draws: Tensor,
    xi: float,
    epsilon: float,
    power: int,
    beta: float,
    symmetric: bool = False,
) -> Tensor:
    """Miyato et al., TPAMI 2019, Algorithm 1 and eq. (8); `symmetric` as in ALUM.

    Args:
        draws: N(0, 1), (B, T, D).
    """
    apart = both_ways if symmetric else one_way
    free = batch["attention_mask"].unsqueeze(2).to(torch.float64)
    clean = logits_at(model, batch)
    target = clean.detach()
    d = draws * free
    d = d / per_sentence(d)
    for _ in range(power):
        r = (xi * d).requires_grad_()
        (g,) = torch.autograd.grad(apart(target, logits_at(model, batch, r)), r)
        d = g * free
        d = d / per_sentence(d)
    smoothness = apart(target, logits_at(model, batch, epsilon * d))
    loss = cross_entropy(clean, batch["labels"]) + beta * smoothness
    loss.backward()
    return loss.detach()


def trades(
    model: nn.Module,
    batch: Batch,
    *,
    draws: Tensor,
    init: float,
    norm: str,
    epsilon: float,
    step_size: float,
    perturb_steps: int,
    beta: float,
    clean_held_still: bool = False,
) -> Tensor:
    """Zhang et al., ICML 2019, the released `trades_loss`: both outputs are trained."""
    free = batch["attention_mask"].unsqueeze(2).to(torch.float64)
    delta = into_ball(cube(batch, draws, init, norm), norm, epsilon)
    for _ in range(perturb_steps):
        delta = delta.detach().requires_grad_()
        loss_kl = one_way(logits_at(model, batch), logits_at(model, batch, delta))
        (grad,) = torch.autograd.grad(loss_kl, delta)
        moved = delta.detach() + step_size * step_of(grad * free, norm)
        delta = into_ball(moved, norm, epsilon)
    clean = logits_at(model, batch)
    natural = cross_entropy(clean, batch["labels"])
    target = clean.detach() if clean_held_still else clean
    robust = one_way(target, logits_at(model, batch, delta.detach()))
    loss = natural + beta * robust
    loss.backward()
    return loss.detach()


def smart_loss(
    model: nn.Module,
    batch: Batch,
    *,
    draws: Tensor,
    init: float,
    norm: str,
    epsilon: float,
    eta: float,
    steps: int,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """L + λ·ℓ(f(x), f(x + δ)) with its graph, and f(x)."""
    free = batch["attention_mask"].unsqueeze(2).to(torch.float64)
    clean = logits_at(model, batch)
    delta = into_ball(cube(batch, draws, init, norm), norm, epsilon)
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        moved = both_ways(clean.detach(), logits_at(model, batch, delta))
        (grad,) = torch.autograd.grad(moved, delta)
        delta = into_ball(delta.detach() + eta * step_of(grad * free, norm), norm, epsilon)
    smoothness = both_ways(clean, logits_at(model, batch, delta.detach()))
    return cross_entropy(clean, batch["labels"]) + weight * smoothness, clean


def smart(model: nn.Module, batch: Batch, **settings) -> Tensor:
    """Jiang et al., ACL 2020, eq. (1)–(2), without the proximal term."""
    loss, _ = smart_loss(model, batch, **settings)
    loss.backward()
    return loss.detach()


def smart_with_proximal_steps(
    model: nn.Module,
    batches: list[Batch],
    *,
    draws: list[Tensor],
    mu: float,
    momentum: float,
    lr: float,
    **settings,
) -> Iterator[Tensor]:
    """The same with μ·ℓ(f(x), f̃(x)), f̃ a copy of the model at the average of its weights.

    A training run of SGD: yields the loss of every step with ∇θ in `.grad`.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr)
    average = copy.deepcopy(model)
    for batch, draw in zip(batches, draws, strict=True):
        optimizer.zero_grad()
        loss, clean = smart_loss(model, batch, draws=draw, **settings)
        with torch.no_grad():
            past = logits_at(average, batch)
        loss = loss + mu * both_ways(clean, past)
        loss.backward()
        yield loss.detach()
        optimizer.step()
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.copy_((1 - momentum) * now + momentum * mean)


def rdrop(model: nn.Module, batch: Batch, *, states: list[Tensor], alpha: float) -> Tensor:
    """Liang et al., NeurIPS 2021, Algorithm 1: CE₁ + CE₂ + α·½·(KL(p ‖ q) + KL(q ‖ p)).

    Args:
        states: the random state in which each of the two passes begins.
    """
    outputs = []
    for state in states:
        torch.set_rng_state(state)
        outputs.append(logits_at(model, batch))
    p, q = outputs
    loss = cross_entropy(p, batch["labels"]) + cross_entropy(q, batch["labels"])
    loss = loss + alpha * 0.5 * both_ways(p, q)
    loss.backward()
    return loss.detach()


def rdrop_of_scores(
    model: nn.Module, batch: Batch, *, states: list[Tensor], alpha: float
) -> Tensor:
    """The same for regression, where (p − q)² stands for the sum of both divergences."""
    outputs = []
    for state in states:
        torch.set_rng_state(state)
        outputs.append(logits_at(model, batch).squeeze(1))
    p, q = outputs
    loss = mse_loss(p, batch["labels"]) + mse_loss(q, batch["labels"])
    loss = loss + alpha * 0.5 * mse_loss(p, q)
    loss.backward()
    return loss.detach()
