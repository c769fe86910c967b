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


def led(logits, y, goal):
    """The targeted dlr of a wrong class, by an attack that knows the right one."""
    first, _, third, fourth = sorted(logits[0], reverse=True)[:4]
    return (logits[0, goal] - logits[0, int(y)]) / (first - (third + fourth) / 2)


def apgd_t(model, x, y, epsilon, steps, norm, classes):
    """The likeliest wrong classes in turn; where none fools, the least probable right class."""
    order = [int(k) for k in model(x)[0].argsort(descending=True) if int(k) != int(y)]
    ends = [x]
    for goal in order[:classes]:
        ends.append(
            apgd(model, x, y, epsilon, steps, norm, lambda logits, y, g=goal: led(logits, y, g))
        )
        if int(model(ends[-1]).argmax()) != int(y):
            return ends[-1]
    return min(ends, key=lambda end: float(model(end).detach().softmax(1)[0, int(y)]))


def to_plane(point, normal, value, norm):
    """The shortest step in the box to f + ⟨w, step⟩ = 0; λ by bisection, in L1 pixel by pixel."""
    w, z, needed = normal.flatten().tolist(), point.flatten().tolist(), abs(value)
    signs = [-math.copysign(1, value) * (1 if one > 0 else -1 if one < 0 else 0) for one in w]
    rooms = [1 - z[i] if signs[i] > 0 else z[i] for i in range(len(w))]
    if norm == "l1":
        lengths = [0.0] * len(w)
        for i in sorted(range(len(w)), key=lambda i: -abs(w[i])):
            if w[i] != 0 and needed > 0:
                lengths[i] = min(rooms[i], needed / abs(w[i]))
                needed -= abs(w[i]) * lengths[i]
    else:
        speeds = [1.0 if norm == "linf" else abs(one) for one in w]

        def at(scale):
            return [min(scale * v, r) for v, r in zip(speeds, rooms, strict=True)]

        low, high = 0.0, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            short = sum(abs(a) * b for a, b in zip(w, at(middle), strict=True)) < needed
            low, high = (middle, high) if short else (low, middle)
        lengths = at(high)
    step = [s * length for s, length in zip(signs, lengths, strict=True)]
    return torch.tensor(step, dtype=point.dtype).view_as(point)


def fab_t(model, x, y, epsilon, steps, norm, classes):
    """Algorithm 1 towards the likeliest wrong classes in turn, and the shortest δ of all."""
    order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]

    def length(delta):
        return float(torch.linalg.vector_norm(delta, order))

    goals = [int(k) for k in model(x)[0].argsort(descending=True) if int(k) != int(y)][:classes]
    found, shortest = None, math.inf
    for goal in goals:

        def f(logits, _, goal=goal):
            return logits[0, goal] - logits[0, int(y)]

        adv = x.clone()
        for _ in range(steps):
            w, value = gradient(model, adv, y, f), float(f(model(adv).detach(), y))
            d_adv = to_plane(adv, w, value, norm)
            d_orig = to_plane(x, w, value + float((w * (x - adv)).sum()), norm)
            alpha = min(length(d_adv) / (length(d_adv) + length(d_orig)), 0.1)
            adv = (1 - alpha) * (adv + 1.05 * d_adv) + alpha * (x + 1.05 * d_orig)
            adv = adv.clamp(0, 1)
            if int(model(adv).argmax()) != int(y):
                if length(adv - x) < shortest:
                    found, shortest = adv, length(adv - x)
                adv = x + 0.9 * (adv - x)
    assert shortest <= epsilon
    return found


def square(model, x, y, epsilon, queries, norm, stream, share=0.8):
    """Algorithms 1 to 3; the stream gives the random numbers, in the order of the package."""

    def uniform(count):
        return torch.rand(count, generator=stream, dtype=torch.float64).tolist()

    def sign(number):
        return -1.0 if number < 0.5 else 1.0

    def mound(rows, columns):
        found = torch.zeros(rows, columns, dtype=torch.float64)
        for i in range(rows):
            for j in range(columns):
                far = max(abs(i - rows // 2), abs(j - columns // 2))
                for k in range(far, max(rows // 2, columns // 2) + 1):
                    found[i, j] += 1 / (k + 1) ** 2
        return found / found.norm() if rows else found

    def profile(side):
        half = side // 2
        found = torch.cat([mound(half, side), -mound(side - half, side)])
        return found / found.norm()

    _, c, h, w = x.shape
    delta = torch.zeros_like(x)
    if norm == "linf":
        numbers = uniform(c * w)
        for i in range(c):
            for j in range(w):
                delta[0, i, :, j] = epsilon * sign(numbers[i * w + j])
    else:
        side = min(h, w) // 5
        down, across = h // side, w // side
        numbers = torch.tensor(uniform((c + 1) * down * across)).view(c + 1, down, across)
        top, left = (h - side * down) // 2, (w - side * across) // 2
        for r in range(down):
            for s in range(across):
                tile = profile(side).T if numbers[c, r, s] < 0.5 else profile(side)
                a, b = top + r * side, left + s * side
                for i in range(c):
                    delta[0, i, a : a + side, b : b + side] = tile * sign(numbers[i, r, s])
        delta = epsilon * delta / delta.norm()
    best, value = None, -math.inf
    for query in range(queries + 1):
        if query == 0:
            candidate = (x + delta).clamp(0, 1)
        else:
            p = share
            for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
                p /= 2 if (query - 1) / queries * 10000 > mark else 1
            side = max(1, round(math.sqrt(p * h * w)))
            if norm == "l2":
                side = max(3, side if side % 2 else side + 1)
            side = min(side, h, w)
            numbers = uniform(5 + c)
            one, two = (
                (
                    int(numbers[k] * (h - side + 1)),
                    int(numbers[k + 1] * (w - side + 1)),
                )
                for k in (0, 2)
            )
            first = (slice(one[0], one[0] + side), slice(one[1], one[1] + side))
            second = (slice(two[0], two[0] + side), slice(two[1], two[1] + side))
            delta = best - x
            if norm == "linf":
                for i in range(c):
                    delta[0, i][first] += 2 * epsilon * sign(numbers[5 + i])
                candidate = (x + delta.clamp(-epsilon, epsilon)).clamp(0, 1)
            else:
                unused = max(epsilon**2 - float(delta.norm()) ** 2, 0.0)
                for i in range(c):
                    there = torch.zeros(h, w, dtype=torch.bool)
                    there[first] = there[second] = True
                    mass = math.sqrt(float(delta[0, i][there].norm()) ** 2 + unused / c)
                    shape = profile(side).T if numbers[4] < 0.5 else profile(side)
                    old = delta[0, i][first]
                    new = sign(numbers[5 + i]) * shape
                    if old.norm() > 0:
                        new = new + old / old.norm()
                    delta[0, i][second] = 0
                    delta[0, i][first] = mass * new / new.norm()
                candidate = (x + delta).clamp(0, 1)
        with torch.no_grad():
            logits = model(candidate)
        if int(logits.argmax()) != int(y):
            return candidate
        if float(margin(logits, y)) > value:
            best, value = candidate, float(margin(logits, y))
    return best
