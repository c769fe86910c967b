"""The image algorithms of the papers, as their loops are written: pixels in [0, 1], plain torch.

Nothing here knows of nlp_adv. `net` takes pixels and returns logits; each function leaves ∇θ in
`.grad` and returns the loss it descends. Starts are given, so that nothing random is in them.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax


def gradient_at(net: nn.Module, adv: Tensor, loss_fn) -> Tensor:
    adv = adv.detach().requires_grad_()
    return torch.autograd.grad(loss_fn(net(adv)), adv)[0]


def madry(net, x, y, *, start, epsilon, alpha, steps, clean_weight=0.0) -> Tensor:
    """Madry et al., ICLR 2018: signed steps, clipped to the ball and to the pixels' range."""
    adv = (x + start).clamp(0, 1)
    for _ in range(steps):
        grad = gradient_at(net, adv, lambda logits: cross_entropy(logits, y))
        adv = adv + alpha * grad.sign()
        adv = torch.max(torch.min(adv, x + epsilon), x - epsilon).clamp(0, 1)
    loss = (1 - clean_weight) * cross_entropy(net(adv), y)
    if clean_weight:
        loss = loss + clean_weight * cross_entropy(net(x), y)
    loss.backward()
    return loss.detach()


def fast(net, x, y, *, start, epsilon, alpha) -> Tensor:
    """Wong et al., ICLR 2020, Algorithm 3, δ kept in the range of the pixels."""
    delta = torch.max(torch.min(start, 1 - x), -x).requires_grad_()
    cross_entropy(net(x + delta), y).backward()
    moved = (delta.detach() + alpha * delta.grad.sign()).clamp(-epsilon, epsilon)
    for parameter in net.parameters():
        parameter.grad = None
    loss = cross_entropy(net(x + torch.max(torch.min(moved, 1 - x), -x)), y)
    loss.backward()
    return loss.detach()


def trades(net, x, y, *, start, epsilon, alpha, steps, beta) -> Tensor:
    """Zhang et al., ICML 2019, Algorithm 1, from a given start, as its code computes the KL."""
    adv = (x + start).clamp(0, 1)
    natural = softmax(net(x), 1).detach()

    def divergence(logits: Tensor) -> Tensor:
        return kl_div(log_softmax(logits, 1), natural, reduction="sum")

    for _ in range(steps):
        adv = adv.detach() + alpha * gradient_at(net, adv, divergence).sign()
        adv = torch.min(torch.max(adv, x - epsilon), x + epsilon).clamp(0, 1)
    logits = net(x)
    robust = kl_div(log_softmax(net(adv), 1), softmax(logits, 1), reduction="sum") / len(x)
    loss = cross_entropy(logits, y) + beta * robust
    loss.backward()
    return loss.detach()


def free(net, x, y, *, noise, epsilon, replays) -> tuple[Tensor, list[Tensor]]:
    """Shafahi et al., NeurIPS 2019, on one minibatch without optimizer steps.

    Returns:
        δ after the replays, and the losses.
    """
    losses = []
    for _ in range(replays):
        leaf = noise.clone().requires_grad_()
        loss = cross_entropy(net((x + leaf).clamp(0, 1)), y)
        loss.backward()
        losses.append(loss.detach())
        noise = (noise + epsilon * leaf.grad.sign()).clamp(-epsilon, epsilon)
        noise = torch.max(torch.min(noise, 1 - x), -x)
    return noise, losses


def yopo(net, first: nn.Module, rest: nn.Module, x, y, *, start, epsilon, sigma, m, n) -> Tensor:
    """Zhang et al., NeurIPS 2019: p at the first layer's output, n − 1 ascents with p held still.

    `first` takes pixels to that output, `rest` takes it to logits. Losses weigh 1/m.
    """
    delta, total = torch.max(torch.min(start, 1 - x), -x), 0.0

    def project(delta: Tensor) -> Tensor:
        return torch.max(torch.min(delta.clamp(-epsilon, epsilon), 1 - x), -x)

    for j in range(m):
        leaf = delta.detach().requires_grad_()
        hidden = first(x + leaf)
        hidden.retain_grad()
        loss = cross_entropy(rest(hidden), y) / m
        loss.backward()
        total = total + loss.detach()
        if j == m - 1:
            break
        p = hidden.grad
        delta = project(delta.detach() + sigma * leaf.grad.sign())
        for _ in range(n - 1):
            leaf = delta.detach().requires_grad_()
            grad = torch.autograd.grad((first(x + leaf) * p).sum(), leaf)[0]
            delta = project(delta.detach() + sigma * grad.sign())
    return total
