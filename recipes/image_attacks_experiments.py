"""What `image_attacks.py` does to a model and its images; nothing here reads or writes a file."""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from nlp_adv.attacks import (
    APGD,
    FGM,
    FGSM,
    PGD,
    Attack,
    AttackResult,
    CarliniWagner,
    DeepFool,
    Noise,
    OptimizerAttack,
    compare,
)
from nlp_adv.attacks.entering import pixel_rows
from nlp_adv.attacks.quiet import quiet
from nlp_adv.attacks.subject import Subject as Attacked
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball, L1Ball, L2Ball, LInfBall
from nlp_adv.robustness import masking_checks
from nlp_adv.sites.normalisation import Pixels, logits_of

EPSILONS = (0.0, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 0.1, 32 / 255, 0.2)
STEPS, TUNED_STEPS = 100, 10  # of the optimizers, free and in a ball
RATES = tuple(10 ** (k / 2) for k in range(-8, 5))  # 0.0001 to 100
OPTIMIZERS: dict[str, tuple[Any, dict[str, float]]] = {
    "sgd": (torch.optim.SGD, {}),
    "sgd_momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adam": (torch.optim.Adam, {}),
}
Made = dict[str, Any]  # tensors and plain values


@dataclass(frozen=True)
class Subject:
    """A model and what it is attacked on.

    Attributes:
        model: pixels → logits.
        x, y: images (N, C, H, W) in [0, 1] and their right classes (N,).
        right: which of them the model has right.
        names: of its classes.
        title: what the model is called.
    """

    model: Pixels
    x: Tensor
    y: Tensor
    right: Tensor
    names: tuple[str, ...]
    title: str


def signed_steps(subject: Subject, rows: Tensor, *, inverse: bool) -> list[AttackResult]:
    """FGSM at every ε from one gradient; inverse: towards the right class."""
    x, y = subject.x[rows], subject.y[rows]
    with quiet(subject.model):
        batch = pixel_rows(subject.model, x, y, target=y if inverse else None)
        return FGSM(0.0).sweep(batch, EPSILONS)


def over_epsilon(subject: Subject, args: argparse.Namespace) -> Made:
    """Answers and probabilities of the right class, (N, R) each, both ways."""
    made: Made = {}
    for name in ("fgsm", "inverse"):
        parts = torch.arange(len(subject.x)).split(args.batch_size)
        found = [signed_steps(subject, part, inverse=name == "inverse") for part in tqdm(parts)]
        for key, attribute in (("probability", "label_confidences"), ("answers", "answers")):
            lines = [torch.stack([getattr(one, attribute) for one in part], 1) for part in found]
            made[f"{name} {key}"] = torch.cat(lines)
    return made


class Watched(nn.Module):
    """A model that writes down its answer at every image that it is asked a gradient for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.answers = model, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of pixels."""
        logits = logits_of(self.model(x))
        if x.requires_grad:
            self.answers.append(logits.detach().argmax(1))
        return logits


def first_steps(name: str, model: nn.Module, x: Tensor, target: Tensor, lr: float) -> Tensor:
    """‖Δx‖∞ of an optimizer's first step as its formula gives it, clamped to the box; (B,)."""
    leaf = x.clone().requires_grad_()
    loss = cross_entropy(logits_of(model(leaf)), target, reduction="sum")
    (g,) = torch.autograd.grad(loss, leaf)
    step = {
        "sgd": lr * g,
        "sgd_momentum": lr * g,
        "rmsprop": lr * g / ((0.01 * g.square()).sqrt() + 1e-8),  # 1 − ρ = 0.01
        "adagrad": lr * g / (g.abs() + 1e-10),
        "adam": lr * g / (g.abs() + 1e-8),
    }[name]
    return ((x - step).clamp(0, 1) - x).flatten(1).abs().amax(1)


def targets(subject: Subject, rows: Tensor, args: argparse.Namespace) -> Tensor:
    """--target, or of each image the class after its own."""
    classes = len(subject.names)
    following = (subject.y[rows] + 1) % classes
    return following if args.target is None else torch.full_like(following, args.target)


def descend(
    subject: Subject, rows: Tensor, attacks: dict[str, OptimizerAttack], target: Tensor
) -> dict[str, Made]:
    """By attack: losses, ‖δ‖₂ and "the target is reached", (S+1, B) each, and how it ended."""
    watched = Watched(subject.model)
    results = compare(attacks, watched, subject.x[rows], target=target).results
    made, seen = {}, iter(watched.answers)
    for name, result in results.items():
        answers = [next(seen) for _ in range(attacks[name].steps)]
        made[name] = {
            "losses": -result.losses,  # attacks climb: towards a target, −cross entropy
            "norms": result.norms_along,
            "reached": torch.stack([*answers, result.answers]) == target,
            "first": result.first_steps,
            "linf": result.norm(torch.inf),
        }
    return made


def optimizer_rows(
    subject: Subject, args: argparse.Namespace, *, most: int
) -> tuple[Tensor, Tensor]:
    """Right images to report on, and as many others to choose learning rates with."""
    right = subject.right
    if args.target is not None:
        right = right[subject.y[right] != args.target]
    count = min(most, len(right) // 2)
    if count < 1:
        raise UserError("There are fewer than two right images of other classes than --target.")
    return right[:count], right[count : 2 * count]


def at_one_rate(subject: Subject, rows: Tensor, args: argparse.Namespace) -> Made:
    """All optimizers, the same learning rate, no bound but the pixels' range."""
    lr, target = args.learning_rate, targets(subject, rows, args)
    attacks = {k: OptimizerAttack(o, lr, STEPS, options=v) for k, (o, v) in OPTIMIZERS.items()}
    made = descend(subject, rows, attacks, target)
    for name in OPTIMIZERS:
        formula = first_steps(name, subject.model, subject.x[rows], target, lr)
        made[name]["formula"] = formula
    return made


def at_best_rate(
    subject: Subject, attack: Callable[[float], OptimizerAttack], args: argparse.Namespace
) -> Made:
    """The learning rate that brings most of some images to the target, on other images."""
    rows, others = optimizer_rows(subject, args, most=args.tuning_examples)
    target, shares, losses = targets(subject, others, args), [], []
    for lr in tqdm(RATES, leave=False):
        tried = descend(subject, others, {"": attack(lr)}, target)[""]
        shares.append(tried["reached"][-1].double().mean().item())
        losses.append(tried["losses"][-1].double().mean().item())
    best = max(range(len(RATES)), key=lambda k: (shares[k], -losses[k]))
    chosen = {"": attack(RATES[best])}
    found = descend(subject, rows, chosen, targets(subject, rows, args))[""]
    return found | {"shares": shares, "rate": RATES[best]}


def in_ball(args: argparse.Namespace) -> dict[str, Callable[[float], OptimizerAttack]]:
    """Learning rate → attack; last SGD on the sign of the gradient, which is BIM."""
    ball = LInfBall(args.epsilon_target)

    def of(optimizer: Any, options: dict[str, float], **more: Any) -> Any:
        return lambda lr: OptimizerAttack(optimizer, lr, TUNED_STEPS, ball, options=options, **more)

    made = {name: of(*given) for name, given in OPTIMIZERS.items()}
    return made | {"sgd_sign": of(torch.optim.SGD, {}, normalize=True)}


def all_attacks(args: argparse.Namespace) -> dict[str, Attack]:
    """By the name that they have in the table."""
    linf, l2, l1 = LInfBall(args.epsilon_linf), L2Ball(args.epsilon_l2), L1Ball(args.epsilon_l1)
    steps = args.steps

    def pgd(ball: Ball, **more: Any) -> PGD:
        return PGD(ball, 2.5 * float(ball.epsilon) / steps, steps, seed=args.seed, **more)

    return {
        "noise-linf": Noise(linf, seed=args.seed),
        "noise-l2": Noise(l2, seed=args.seed),
        "fgsm": FGSM(args.epsilon_linf),
        "fgm-l2": FGM(l2),
        "bim-linf": pgd(linf, random_start=False),
        "pgd-linf": pgd(linf),
        "pgd-linf-stop": pgd(linf, until_fooled=True),
        "pgd-linf-margin": pgd(linf, loss="margin"),
        "pgd-l2": pgd(l2),
        "pgd-l1": pgd(l1),
        "mi-fgsm-linf": PGD(linf, args.epsilon_linf / steps, steps, False, momentum=1.0),
        "apgd-linf": APGD(linf, steps),
        "apgd-linf-margin": APGD(linf, steps, loss="margin"),
        "apgd-linf-dlr": APGD(linf, steps, loss="dlr"),
        "adam-linf": OptimizerAttack(torch.optim.Adam, 0.01, steps, linf),
        "deepfool-linf": DeepFool("linf"),
        "deepfool-l2": DeepFool(),
        "cw-l2": CarliniWagner(),
    }


def fooled(subject: Subject, attack: Attack, shown: Sequence[int], batch_size: int) -> Made:
    """One attack on every right image: a number an image, CPU seconds, and the images to show."""
    seconds, parts, made = 0.0, [], {"adv": [], "answers": [], "confidences": []}
    for rows in tqdm(subject.right.split(batch_size), attack.name, leave=False):
        start = time.process_time()
        result = attack(subject.model, subject.x[rows], subject.y[rows])
        seconds += time.process_time() - start
        norms = result.norm(2), result.norm(torch.inf)
        kept = result.success & result.survives_8_bit
        passes = result.gradient_passes
        parts.append(torch.stack([result.success, kept, *norms, passes]).float())
        for key, values in made.items():
            values.append(getattr(result, key)[torch.isin(rows, torch.tensor(shown))])
    columns = ("success", "success_8_bit", "l2", "linf", "passes")
    numbers = dict(zip(columns, torch.cat(parts, 1), strict=True))
    return numbers | {key: torch.cat(values) for key, values in made.items()} | {"cpu": seconds}


def masking(subject: Subject, args: argparse.Namespace) -> Made:
    """The checks against masking, by PGD in the L∞ ball: name, verdict, finding."""
    attack = PGD(LInfBall(args.epsilon_linf), 2.5 * args.epsilon_linf / args.steps, args.steps)
    parts = [part.split(args.batch_size) for part in (subject.x, subject.y)]
    found = masking_checks(
        Attacked(subject.model), zip(*parts, strict=True), attack, progress="checks"
    )
    return {"checks": [[check.name, check.passed, check.finding] for check in found]}
