"""The algorithms of the papers, written as their loops are written: plain torch, `inputs_embeds`.

Nothing here knows of nlp_adv. Each function leaves ∇θ in `.grad` and returns the loss it descends.
BERT with padding on the right reads no positions from its ids, so `inputs_embeds` is exact there.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Batch = dict[str, Tensor]


def look_up(model: nn.Module, batch: Batch) -> Tensor:
    return model.get_input_embeddings()(batch["input_ids"])


def loss_at(model: nn.Module, batch: Batch, delta: Tensor) -> Tensor:
    out = model(
        inputs_embeds=look_up(model, batch) + delta,
        attention_mask=batch["attention_mask"],
        labels=batch["labels"],
    )
    return out.loss


def per_sentence(delta: Tensor) -> Tensor:
    """‖δ‖₂ of each sentence, (B, 1, 1)."""
    return delta.reshape(len(delta), -1).norm(dim=1).view(-1, 1, 1)


def onto_sphere(delta: Tensor, radius: float) -> Tensor:
    """Each sentence's δ, shortened where it is longer than `radius`."""
    scaled = []
    for one in delta:
        scaled.append(one * radius / one.norm() if one.norm() > radius else one)
    return torch.stack(scaled)


def freelb(
    model: nn.Module,
    batch: Batch,
    *,
    draws: Tensor | None,
    adv_lr: float,
    adv_steps: int,
    adv_init_mag: float,
    adv_max_norm: float,
    project_start: bool = False,
    same_dropout: bool = False,
) -> Tensor:
    """Zhu et al., ICLR 2020, Algorithm 1, as its code for Hugging Face models counts steps.

    Args:
        draws: U(−1, 1), (B, T, D); None where `adv_init_mag` is 0.
        adv_steps: K forward and backward passes, of weight 1/K each.
        adv_max_norm: ε.
        project_start: the released code does not.
        same_dropout: start each pass from the same random state (§3.3).
    """
    attention = batch["attention_mask"]
    free = attention.unsqueeze(2).to(torch.float64)
    dims = attention.sum(1) * look_up(model, batch).shape[-1]
    if adv_init_mag > 0:
        magnitude = adv_init_mag / dims.to(torch.float64).sqrt()
        delta = draws * free * magnitude.view(-1, 1, 1)
        if project_start:
            delta = onto_sphere(delta, adv_max_norm)
    else:
        delta = torch.zeros_like(look_up(model, batch)).detach()
    state, total = torch.get_rng_state(), 0.0
    for step in range(adv_steps):
        if same_dropout:
            torch.set_rng_state(state)
        delta = delta.detach().requires_grad_()
        loss = loss_at(model, batch, delta) / adv_steps
        loss.backward()
        total = total + loss.detach()
        if step == adv_steps - 1:
            break
        grad = delta.grad * free
        delta = delta.detach() + adv_lr * grad / per_sentence(grad)
        delta = onto_sphere(delta, adv_max_norm)
    return total


def pgd_attack(
    model: nn.Module,
    batch: Batch,
    *,
    start: Tensor,
    norm: str,
    epsilon: float,
    alpha: float,
    steps: int,
) -> Tensor:
    """K projected steps from `start`."""
    free = batch["attention_mask"].unsqueeze(2).to(torch.float64)
    delta = start.clone()
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss_at(model, batch, delta), delta)
        grad = grad * free
        if norm == "linf":
            delta = (delta.detach() + alpha * torch.sign(grad)).clamp(-epsilon, epsilon)
        else:
            delta = onto_sphere(delta.detach() + alpha * grad / per_sentence(grad), epsilon)
    return delta.detach()


def pgd(
    model: nn.Module, batch: Batch, *, start: Tensor, clean_too: bool = False, **attack
) -> Tensor:
    """Madry et al., ICLR 2018, eq. (2.1); `clean_too` adds the clean loss, as the folk recipe."""
    delta = pgd_attack(model, batch, start=start, **attack)
    loss = loss_at(model, batch, delta)
    if clean_too:
        loss = loss + loss_at(model, batch, torch.zeros_like(delta))
    loss.backward()
    return loss.detach()


def fgm(model: nn.Module, batch: Batch, *, epsilon: float) -> Tensor:
    """Miyato et al., ICLR 2017, eq. (2)–(4): L(x) + L(x + r), r = ε·g/‖g‖₂ for each sentence."""
    probe = torch.zeros_like(look_up(model, batch)).requires_grad_()
    clean = loss_at(model, batch, probe)
    (g,) = torch.autograd.grad(clean, probe, retain_graph=True)
    r = epsilon * g / per_sentence(g)
    total = clean + loss_at(model, batch, r.detach())
    total.backward()
    return total.detach()


def fgsm(model: nn.Module, batch: Batch, *, epsilon: float, weight: float) -> Tensor:
    """Goodfellow et al., ICLR 2015, section 6: w·J(x) + (1−w)·J(x + ε·sign(∇x J))."""
    probe = torch.zeros_like(look_up(model, batch)).requires_grad_()
    (grad,) = torch.autograd.grad(loss_at(model, batch, probe), probe)
    clean = loss_at(model, batch, torch.zeros_like(probe))
    adversarial = loss_at(model, batch, epsilon * grad.sign())
    total = weight * clean + (1 - weight) * adversarial
    total.backward()
    return total.detach()


def fgsm_rs(model: nn.Module, batch: Batch, *, draws: Tensor, epsilon: float, alpha: float):
    """Wong et al., ICLR 2020, Algorithm 3; `draws` is U(−1, 1), (B, T, D)."""
    free = batch["attention_mask"].unsqueeze(2).to(torch.float64)
    delta = (epsilon * draws * free).requires_grad_()
    (grad,) = torch.autograd.grad(loss_at(model, batch, delta), delta)
    delta = torch.clamp(delta.detach() + alpha * torch.sign(grad * free), -epsilon, epsilon)
    loss = loss_at(model, batch, delta)
    loss.backward()
    return loss.detach()


def fgm_matrix(model: nn.Module, batch: Batch, *, epsilon: float) -> Tensor:
    """The folk snippet: attack the embedding's weight, add up both gradients, restore."""
    weight = model.get_input_embeddings().weight
    clean = model(**batch).loss
    clean.backward()
    backup = weight.data.clone()
    norm = torch.norm(weight.grad)
    if norm != 0 and not torch.isnan(norm):
        weight.data.add_(epsilon * weight.grad / norm)
    adversarial = model(**batch).loss
    adversarial.backward()
    weight.data = backup
    return (clean + adversarial).detach()


def neftune(model: nn.Module, batch: Batch, *, draws: Tensor, alpha: float) -> Tensor:
    """Jain et al., ICLR 2024, Algorithm 1: x + U(−1, 1)·α/√(L·D), L the padded length."""
    embeds = look_up(model, batch)
    noise = draws * alpha / (embeds.shape[1] * embeds.shape[2]) ** 0.5
    loss = loss_at(model, batch, noise)
    loss.backward()
    return loss.detach()


def first_block(model: nn.Module, batch: Batch, delta: Tensor) -> Tensor:
    """BERT's embeddings and its encoder layer 0, run by hand: h(x + δ), (B, T, D)."""
    hidden = model.bert.embeddings(inputs_embeds=look_up(model, batch) + delta)
    return model.bert.encoder.layer[0](hidden, closed_to_padding(batch))


def rest(model: nn.Module, batch: Batch, hidden: Tensor) -> Tensor:
    """The loss as a function of the first block's output."""
    for layer in model.bert.encoder.layer[1:]:
        hidden = layer(hidden, closed_to_padding(batch))
    logits = model.classifier(model.dropout(model.bert.pooler(hidden)))
    return cross_entropy(logits, batch["labels"])


def closed_to_padding(batch: Batch) -> Tensor:
    """What is added to attention scores, (B, 1, 1, T)."""
    closed = (batch["attention_mask"] == 0)[:, None, None, :]
    return closed.to(torch.float64) * torch.finfo(torch.float64).min


def yopo(
    model: nn.Module,
    batch: Batch,
    *,
    start: Tensor,
    epsilon: float,
    sigma: float,
    m: int,
    n: int,
    clean_weight: float = 0.0,
) -> Tensor:
    """Zhang et al., NeurIPS 2019, YOPO-m-n: p = ∂L/∂h, then n ascents of ⟨p, h(x + δ)⟩.

    The m losses are averaged, all parameters take their gradient at the same m points, and nothing
    ascends after the last of them.
    """
    free = batch["attention_mask"].unsqueeze(2).to(torch.float64)
    delta, total = start.clone(), 0.0
    if clean_weight > 0:
        clean = clean_weight * model(**batch).loss
        clean.backward()
        total = total + clean.detach()
    for round_ in range(m):
        hidden = first_block(model, batch, delta)
        hidden.retain_grad()
        loss = (1 - clean_weight) * rest(model, batch, hidden) / m
        loss.backward()
        total = total + loss.detach()
        if round_ == m - 1:
            break
        p = hidden.grad
        for _ in range(n):
            delta = delta.detach().requires_grad_()
            hamiltonian = (p * first_block(model, batch, delta)).sum()
            (grad,) = torch.autograd.grad(hamiltonian, delta)
            grad = grad * free
            delta = onto_sphere(delta.detach() + sigma * grad / per_sentence(grad), epsilon)
    return total


def awp(
    model: nn.Module, batch: Batch, *, gamma: float, under: tuple[str, ...] = ("",), **attack
) -> Tensor:
    """Wu et al., NeurIPS 2020: the released class, a proxy that ascends by one step of SGD.

    Only weights whose name begins with one of `under` are moved. Embedding matrices, which image
    models do not have, are left out.
    """
    delta = pgd_attack(model, batch, **attack)
    proxy = copy.deepcopy(model)
    optimizer = torch.optim.SGD(proxy.parameters(), lr=1.0)
    optimizer.zero_grad()
    (-loss_at(proxy, batch, delta)).backward()
    optimizer.step()
    moved, difference = proxy.state_dict(), {}
    for name, weight in model.state_dict().items():
        moves = weight.dim() > 1 and "weight" in name and "embeddings" not in name
        if moves and name.startswith(under):
            step = moved[name] - weight
            difference[name] = weight.norm() / (step.norm() + 1e-20) * step
    add(model, gamma, difference)
    loss = loss_at(model, batch, delta)
    loss.backward()
    add(model, -gamma, difference)
    return loss.detach()


def sam(model: nn.Module, batch: Batch, *, rho: float, adaptive: bool = False) -> Tensor:
    """Foret et al., Algorithm 1; adaptive: Kwon et al., Algorithm 1, biases among the rest."""
    model(**batch).loss.backward()
    named = dict(model.named_parameters())
    size = {name: weight.detach().abs() + 0.01 for name, weight in named.items()}
    size = size if adaptive else {name: torch.ones_like(one) for name, one in size.items()}
    grads = {n: torch.zeros_like(w) if w.grad is None else w.grad for n, w in named.items()}
    length = torch.cat([(size[name] * grad).flatten() for name, grad in grads.items()]).norm()
    step = {name: size[name] ** 2 * grad / length for name, grad in grads.items()}
    model.zero_grad()
    add(model, rho, step)
    loss = model(**batch).loss
    loss.backward()
    add(model, -rho, step)
    return loss.detach()


def add(model: nn.Module, times: float, difference: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in difference:
                weight.add_(times * difference[name])


def mixed_batch(model: nn.Module, batch: Batch, *, rows: list[int], start: Tensor, **attack):
    """Kurakin et al., ICLR 2017, Algorithm 1: these rows are replaced by adversarial ones."""
    some = {name: value[rows] for name, value in batch.items()}
    found = pgd_attack(model, some, start=start, **attack)
    delta = torch.zeros_like(look_up(model, batch)).detach()
    for place, row in enumerate(rows):
        delta[row] = found[place]
    loss = loss_at(model, batch, delta)
    loss.backward()
    return loss.detach()
