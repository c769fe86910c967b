"""The attacks as their papers write them, one image at a time, with nothing of the package in them.

x is (1, C, H, W), y (1,); a loss takes (logits, y) and is one number.
"""

import math

import torch
from torch import Tensor, nn


def gradient(model, x: Tensor, y: Tensor, loss=nn.functional.cross_entropy) -> Tensor:
    leaf = x.clone().requires_grad_()
    loss(model(leaf), y).backward()
    return leaf.grad


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j≠y} z_j − z_y."""
    label = int(y)
    row = logits[0]
    return torch.cat([row[:label], row[label + 1 :]]).max() - row[label]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    first, _, third = sorted(logits[0], reverse=True)[:3]
    return margin(logits, y) / (first - third)


def fgsm(model, x, y, epsilon):
    return (x + epsilon * gradient(model, x, y).sign()).clamp(0, 1)


def fgm(model, x, y, epsilon):
    grad = gradient(model, x, y)
    return (x + epsilon * grad / grad.norm()).clamp(0, 1)


def project_l2(delta: Tensor, epsilon: float) -> Tensor:
    length = float(delta.norm())
    return delta * (epsilon / length) if length > epsilon else delta


def project_l1(delta: Tensor, epsilon: float) -> Tensor:
    """Soft thresholding; the threshold by bisection."""
    if delta.abs().sum() <= epsilon:
        return delta
    low, high = 0.0, float(delta.abs().max())
    for _ in range(200):
        middle = (low + high) / 2
        if (delta.abs() - middle).clamp_min(0).sum() > epsilon:
            low = middle
        else:
            high = middle
    return delta.sign() * (delta.abs() - high).clamp_min(0)


def pgd_linf(model, x, y, epsilon, step_size, steps):
    adv = x.clone()
    for _ in range(steps):
        adv = adv + step_size * gradient(model, adv, y).sign()
        adv = (x + (adv - x).clamp(-epsilon, epsilon)).clamp(0, 1)
    return adv


def pgd_l2(model, x, y, epsilon, step_size, steps):
    adv = x.clone()
    for _ in range(steps):
        grad = gradient(model, adv, y)
        adv = adv + step_size * grad / grad.norm()
        adv = (x + project_l2(adv - x, epsilon)).clamp(0, 1)
    return adv


def pgd_l1(model, x, y, epsilon, step_size, steps, share=0.1):
    adv = x.clone()
    for _ in range(steps):
        grad = gradient(model, adv, y)
        for index in range(grad.numel()):  # what the box holds fast does not count
            pixel, slope = float(adv.view(-1)[index]), float(grad.view(-1)[index])
            if (pixel >= 1 and slope > 0) or (pixel <= 0 and slope < 0):
                grad.view(-1)[index] = 0
        count = round(share * grad.numel())
        step = torch.zeros_like(grad)
        for index in grad.abs().view(-1).sort(descending=True).indices[:count]:
            step.view(-1)[index] = grad.view(-1)[index].sign() / count
        adv = (x + project_l1(adv + step_size * step - x, epsilon)).clamp(0, 1)
    return adv


def mi_fgsm(model, x, y, epsilon, step_size, steps, mu):
    adv, velocity = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        grad = gradient(model, adv, y)
        velocity = mu * velocity + grad / grad.abs().sum()
        adv = adv + step_size * velocity.sign()
        adv = (x + (adv - x).clamp(-epsilon, epsilon)).clamp(0, 1)
    return adv


def apgd(model, x, y, epsilon, steps, norm, loss, rho=0.75):
    """Algorithm 1, a step judged once x^{w_j} has been seen; the best point that fools, if any."""
    shares = [0.0, 0.22]
    while shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06) <= 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    marks = [math.ceil(round(share * steps, 6)) for share in shares]

    def project(point):
        delta = point - x
        delta = delta.clamp(-epsilon, epsilon) if norm == "linf" else project_l2(delta, epsilon)
        return (x + delta).clamp(0, 1)

    def value(point):
        with torch.no_grad():
            logits = model(point)
        return float(loss(logits, y)), bool(logits.argmax(1) != y)

    def step_from(point):
        grad = gradient(model, point, y, loss)
        return grad.sign() if norm == "linf" else grad / grad.norm()

    eta, previous, current = 2 * epsilon, x.clone(), x.clone()
    current_value, fools = value(current)
    best, best_value = current, current_value
    candidates = [(fools, current_value, current)]
    eta_then, best_then, rises, last = eta, best_value, 0, 0
    for k in range(1, steps + 1):
        z = project(current + eta * step_from(current))
        alpha = 1.0 if k == 1 else 0.75
        following = project(current + alpha * (z - current) + (1 - alpha) * (current - previous))
        following_value, fools = value(following)
        candidates.append((fools, following_value, following))
        rises += following_value > current_value
        if following_value > best_value:
            best, best_value = following, following_value
        previous, current, current_value = current, following, following_value
        if k in marks:
            first = rises < rho * (k - last)
            second = eta == eta_then and best_value == best_then
            eta_then, best_then, rises, last = eta, best_value, 0, k
            if first or second:
                eta /= 2
                current, current_value = best, best_value
    return max(candidates, key=lambda c: c[:2])[2]


def deepfool(model, x, y, norm, steps, overshoot, classes):
    adv, total, label = x.clone(), torch.zeros_like(x), int(y)
    order = [int(k) for k in model(x)[0].argsort(descending=True)[:classes]]
    for _ in range(steps):
        if int(model(adv).argmax()) != label:
            break
        nearest, step = math.inf, None
        for k in order:
            if k == label:
                continue

            def difference(logits, _, k=k):
                return logits[0, k] - logits[0, label]

            w = gradient(model, adv, y, difference)
            f = abs(float(difference(model(adv).detach(), y)))
            length = float(w.norm() if norm == "l2" else w.abs().sum())
            if f / length < nearest:
                nearest = f / length
                step = (nearest + 1e-4) * (w / w.norm() if norm == "l2" else w.sign())
        total = total + step
        adv = (x + (1 + overshoot) * total).clamp(0, 1)
    return adv


def carlini_wagner(
    model, x, y, *, steps, step_size, search_steps, initial_constant, confidence, target
):
    """Sections V and VI, with torch's Adam and autograd; Adam ends by its lowest loss."""
    lower, upper, c = 0.0, math.inf, initial_constant
    closest, distance = x.clone(), math.inf
    for _ in range(search_steps):
        w = torch.atanh((2 * x - 1) * 0.999999).requires_grad_()
        optimizer = torch.optim.Adam([w], lr=step_size)
        came_through, lowest, checked = False, math.inf, math.inf
        for step in range(steps):
            adv = (torch.tanh(w) + 1) / 2
            logits = model(adv)
            lead = -margin(logits, y) if target else margin(logits, y)
            square = ((adv - x) ** 2).sum()
            loss = square + c * torch.clamp(confidence - lead, min=0)
            if lead.item() >= confidence and (int(logits.argmax()) == int(y)) == target:
                came_through = True
                if square.item() < distance:
                    closest, distance = adv.detach().clone(), square.item()
            if step > 0:
                lowest = min(lowest, loss.item())
            if step > 0 and step % math.ceil(steps / 10) == 0:
                if lowest > 0.9999 * checked and not came_through:
                    break
                checked = lowest
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if came_through:
            upper = c
        else:
            lower = c
        c = 10 * c if upper == math.inf else (lower + upper) / 2
    return closest


def optimizer_attack(model, x, y, optimizer, lr, steps, epsilon=None, **options):
    """Gradient descent on −loss; with an ε, in an L2 ball."""
    adv = x.clone().requires_grad_()
    stepper = optimizer([adv], lr=lr, **options)
    for _ in range(steps):
        stepper.zero_grad()
        (-nn.functional.cross_entropy(model(adv), y)).backward()
        stepper.step()
        with torch.no_grad():
            if epsilon is not None:
                adv.copy_(x + project_l2(adv - x, epsilon))
            adv.clamp_(0, 1)
    return adv.detach()
